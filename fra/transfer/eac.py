"""Erasing Attention Consistency (Zhang et al., ECCV 2022; paper, FRA (EAC)).

The class maps of a face with an erased part and those of its mirror image, mirrored back, are to be equal: the network
cannot rest on one small place of the face. B images, S pixels a side, C channels, K classes, h x w positions.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fra.models.encoder import Encoder
from fra.tasks.expression import Expression
from fra.tasks.task import Task
from fra.training.trainable import Loss
from fra.transfer.augment import erase
from fra.transfer.protocol import LabelledBatch, Learner, TransferRecipe

ERASED = (0.02, 0.25)
"""Share of the image that random erasing covers (EAC's released code; spec expression.md, section 5)."""
NOISE = math.sqrt(30) / 255
"""Standard deviation of the Gaussian noise on every second face (EAC's released code: variance 30 of 0..255)."""


class EAC(Learner):
    """Cross-entropy of the face alone, plus the consistency of its maps with its mirror image's."""

    def __init__(self, recipe: TransferRecipe, task: Task, encoder: Encoder, head: nn.Module) -> None:
        """Raises ValueError for anything but classes."""
        if not isinstance(task, Expression):
            raise ValueError(f"eac is for expression, not for {task.name}: use finetune")
        super().__init__(recipe, task, encoder, head)

    def judge(self, batch: LabelledBatch) -> Loss:
        """The mirror image shows the same noise and the same erased part (released code for clean labels).

        Noise is added at the size that the network sees, not before resizing (ours: images are kept at that size).
        """
        with torch.autocast(batch.images.device.type, enabled=False):
            noisy = (torch.rand(len(batch.images)) < 0.5).float()[:, None, None, None].to(batch.images.device)
            faces = batch.images / 255
            faces = (faces + NOISE * noisy * torch.randn_like(faces)).clamp(0, 1)
            faces = erase(faces, self.encoder.mean, chance=self.recipe.erasing, share=ERASED)
        return self.terms(self.encoder.maps(faces), self.encoder.maps(faces.flip(-1)), batch.targets)

    def terms(
        self, maps: Float[Tensor, "B C h w"], mirrored: Float[Tensor, "B C h w"], targets: Int[Tensor, "B"]
    ) -> Loss:
        """The loss from the encoder's maps of the faces and of their mirror images."""
        classes = self.task.criterion(self.head(maps.mean((2, 3))).float(), targets)
        consistency = F.mse_loss(self.class_maps(maps), self.class_maps(mirrored).flip(-1))
        return Loss(classes + self.recipe.consistency * consistency, {"classes": classes, "consistency": consistency})

    def class_maps(self, maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        """What each position adds to each class, without bias; no gradient reaches the head's weights."""
        assert isinstance(self.head, nn.Linear)
        with torch.autocast(maps.device.type, enabled=False):
            return torch.einsum("kc,bchw->bkhw", self.head.weight.detach(), maps.float())
