"""Erasing Attention Consistency (Zhang et al., ECCV 2022; paper, FRA (EAC)).

The class maps of a face with an erased part and those of its mirror image, mirrored back, are to be equal: the network
cannot rest on one small place of the face. B images, S pixels a side, C channels, K classes, h x w positions.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from fra.models.encoder import Encoder, Seen
from fra.recipe import NotNegative, Share
from fra.tasks.expression import Expression
from fra.tasks.task import Task
from fra.training.trainable import Loss
from fra.transfer.augment import erase, toss
from fra.transfer.protocol import BalancedRecipe, LabelledBatch, Learner, NetworkRecipe

ERASED = (0.02, 0.25)
"""Share of the image that random erasing covers (EAC's released code; spec expression.md, section 5)."""
NOISY, NOISE = 0.5, math.sqrt(30) / 255
"""Share of the faces with Gaussian noise, and its standard deviation (EAC's released code: variance 30 of 0..255)."""


def pixel_noise(shown: Float[Tensor, "n 2"], size: int, *, device: torch.device) -> Float[Tensor, "n 3 S S"]:
    """White noise of deviation 1 on pictures of the heights and widths `shown`, resized to `size` as they are.

    So it is smoother and weaker the more a picture is enlarged, as in EAC's released code, which adds it before
    resizing: of 100 pixels made 224, two thirds are left. (Images are kept resized, and resizing is linear.) Pictures
    of more than four times the size have it drawn at four times the size, as weak as it would become.
    """
    noise = torch.empty(len(shown), 3, size, size, device=device)
    sides = shown.round().clamp(min=1)
    for height, width in sides.unique(dim=0).tolist():
        mine = (sides == torch.tensor([height, width])).all(1).nonzero().flatten().to(device)
        rows, columns = (int(min(side, 4 * size)) for side in (height, width))
        drawn = torch.randn(len(mine), 3, rows, columns, device=device) * math.sqrt(rows * columns / (height * width))
        noise[mine] = resize(drawn, [size, size], antialias=True)
    return noise


@dataclass(frozen=True)
class EACRecipe(BalancedRecipe, NetworkRecipe):
    """Settings of the eac protocol, which always shows a face and its mirror image."""

    protocol: Literal["eac"] = "eac"
    erasing: Share = 0.5
    """Probability of random erasing (EAC's released code)."""
    consistency: NotNegative = 5.0
    """Weight of EAC's flip consistency of class maps (EAC, Sec. 3)."""
    fewest_steps: ClassVar[int] = 8


class EAC(Learner):
    """Cross-entropy of the face alone, plus the consistency of its maps with its mirror image's."""

    recipe: EACRecipe

    def __init__(self, recipe: EACRecipe, task: Task, encoder: Encoder, head: nn.Module) -> None:
        """Raises ValueError for anything but classes."""
        if not isinstance(task, Expression):
            raise ValueError(f"protocol eac is for expression, not for {task.name}: use finetune")
        super().__init__(recipe, task, encoder, head)

    def judge(self, batch: LabelledBatch) -> Loss:
        """The mirror image shows the same noise and the same erased part (released code for clean labels)."""
        with torch.autocast(batch.images.device.type, enabled=False):
            faces = batch.images / 255
            some = toss(len(faces), NOISY).nonzero().flatten()
            size = faces.shape[-1]
            shown = torch.full((len(faces), 2), float(size)) if batch.shown is None else batch.shown
            noise = pixel_noise(shown[some], size, device=faces.device)
            some = some.to(faces.device)
            faces[some] = (faces[some] + NOISE * noise).clamp(0, 1)
            faces = erase(faces, self.encoder.mean, chance=self.recipe.erasing, share=ERASED)
        return self.terms(self.encoder.both(faces), self.encoder.maps(faces.flip(-1)), batch.targets)

    def terms(self, seen: Seen, mirrored: Float[Tensor, "B C h w"], targets: Int[Tensor, "B"]) -> Loss:
        """The loss from what the encoder says of the faces, and from its maps of their mirror images."""
        classes = self.task.criterion(self.head(seen.features).float(), targets)
        consistency = F.mse_loss(self.class_maps(seen.maps), self.class_maps(mirrored).flip(-1))
        return Loss(classes + self.recipe.consistency * consistency, {"classes": classes, "consistency": consistency})

    def class_maps(self, maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """What each position adds to each class, without bias; no gradient reaches the head's weights."""
        assert isinstance(self.head, nn.Linear)
        with torch.autocast(maps.device.type, enabled=False):
            return torch.einsum("kc,bchw->bkhw", self.head.weight.detach(), maps.float())
