"""3FabRec's landmarks (Browatzki and Wallraven, CVPR 2020, Sec. 3.3): heatmaps from inside the decoder of faces.

Layers between those of a pre-trained decoder turn what would become a face into heatmaps. First these layers learn
alone, then the encoder with them; the decoder stays as pre-training (`fra pretrain`, method fabrec) left it. B images,
C encoder channels, Z numbers of a code, P landmarks, n x n map positions. "Code" means the authors' published program.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fra.models.distributed import processes
from fra.models.encoder import Encoder
from fra.models.face_decoder import FaceDecoder, initialise
from fra.recipe import LATER, Count, NotNegative, Positive, Settings, Share
from fra.tasks.landmarks import Landmarks
from fra.tasks.task import Task
from fra.training.trainable import Loss, Progress
from fra.transfer.alignment.augment import move
from fra.transfer.fewshot.heatmaps import REACH, gaussians, moves, peaks
from fra.transfer.protocol import LabelledBatch, Learner, NetworkRecipe
from fra.weights.load import MODEL, read_weights
from fra.weights.rebuild import below, fill
from fra.weights.source import EncoderSource

UNIT = 128
"""Widths below are given for heatmaps of this side (code)."""
LEAST_SIDE = 32
"""Pixels a side of the faces of the smallest decoder that has a layer inside."""


@dataclass(frozen=True)
class ReadingConfig(Settings):
    """How landmarks are read from a decoder."""

    sigma: Positive = 7.0
    """Standard deviation of a heatmap's Gaussian, in 128ths of its side (code)."""
    box: Count = 9
    """Side of the mean before the highest place is looked for, in 128ths of the heatmap's side (code)."""
    between: bool = False
    """Look for the highest place between positions too, not only at them (ours, for small heatmaps)."""
    map_weight: NotNegative = 300.0
    """Factor on the mean squared error of heatmaps (code)."""
    alone: Share = 0.5
    """Share of the steps in which the encoder does not learn yet (paper: two phases; the share is ours)."""
    code: Count = 99
    """Numbers of a code, where weights are random; else as in pre-training."""
    width: Count = 512
    """Channels of the decoder's first map, where weights are random; else as in pre-training."""


@dataclass(frozen=True)
class FabRecRecipe(NetworkRecipe):
    """Settings of the fabrec protocol. `learning_rate` is that of the layers between, `backbone_rate` the encoder's."""

    protocol: Literal["fabrec"] = "fabrec"
    fabrec: ReadingConfig = field(default_factory=ReadingConfig, metadata=LATER)
    """How landmarks are read."""
    fewest_steps: ClassVar[int] = 1


@dataclass(frozen=True)
class Shape(Settings):
    """What a head is built from again."""

    code: int
    width: int
    side: int
    """Pixels a side of the faces that the decoder made."""
    sigma: float
    box: int
    between: bool


@dataclass(frozen=True)
class Decoder:
    """What stood behind the encoder when it was pre-trained."""

    shape: dict[str, int]
    """`code`, `width` and `side`."""
    tensors: dict[str, Tensor]
    """Of the layer to the code (`code.`) and of the decoder (`decoder.`); empty for random weights."""


class FabRecHead(nn.Module):
    """From the encoder's features to heatmaps of half the side of the decoder's faces, and to landmarks."""

    def __init__(self, shape: Shape, channels: int, points: int) -> None:
        """Raises ValueError for a decoder of faces that are too small."""
        super().__init__()
        if shape.side < LEAST_SIDE:
            raise ValueError(
                f"protocol fabrec needs a decoder of faces of {LEAST_SIDE} px or more, and these have {shape.side}"
            )
        self.shape, self.size = shape, shape.side // 2
        self.code = nn.Linear(channels, shape.code)
        self.decoder = FaceDecoder(shape.code, side=shape.side, width=shape.width)
        # The last block and the layer to colours are not asked.
        self.decoder.blocks, self.decoder.last = self.decoder.blocks[:-1], nn.Identity()  # type: ignore[assignment]
        self.decoder.requires_grad_(False)
        widths = self.decoder.widths[1:-1]
        self.between = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for width in widths)
        self.heat = nn.ConvTranspose2d(widths[-1], points, 4, 2, 1, bias=False)
        initialise(self.between)
        initialise(self.heat)

    def train(self, mode: bool = True) -> "FabRecHead":
        """The decoder keeps the statistics that it has (code)."""
        super().train(mode)
        self.decoder.eval()
        return self

    def maps(self, codes: Float[Tensor, "B Z"]) -> Float[Tensor, "B P n n"]:
        """A heatmap for each landmark."""
        found = self.decoder.start(codes)
        for block, layer in zip(self.decoder.blocks, self.between, strict=True):
            found = layer(block(found))
        return self.heat(found)

    def forward(self, features: Float[Tensor, "B C"]) -> Float[Tensor, "B P2"]:
        """Landmarks, flat x, y in [-1, 1] of the image."""
        box = max(1, round((self.shape.box * self.size / UNIT - 1) / 2) * 2 + 1)
        return peaks(self.maps(self.code(features)), box=box, between=self.shape.between).flatten(1)

    def take(self, tensors: dict[str, Tensor]) -> None:
        """The pre-trained code layer and decoder. ValueError when they are of another shape."""
        fill(self.code, below("code.", tensors), "the encoder's run does not fit its own description")
        wanted = self.decoder.state_dict().keys()
        kept = {name: tensor for name, tensor in below("decoder.", tensors).items() if name in wanted}
        fill(self.decoder, kept, "the encoder's run does not fit its own description")


class FabRec(Learner):
    """Mean squared error of heatmaps on faces that are moved at random."""

    reach: ClassVar[float] = REACH
    recipe: FabRecRecipe
    task: Landmarks
    head: FabRecHead

    def __init__(self, recipe: FabRecRecipe, task: Task, encoder: Encoder, head: nn.Module) -> None:
        super().__init__(recipe, task, encoder, head)
        self.alone = False

    @staticmethod
    def prepare(encoder: Encoder, source: str) -> dict[str, Any]:
        """Fetch the decoder from the run that the encoder is from. ValueError when there is none."""
        encoder.beside = decoder_of(encoder, EncoderSource.parse(source))
        return {"decoder": encoder.beside.shape}

    @staticmethod
    def new_head(recipe: FabRecRecipe, task: Task, encoder: Encoder) -> FabRecHead:
        if not isinstance(task, Landmarks):
            raise ValueError(f"protocol fabrec is for landmarks, not for {task.name}: use finetune")
        if not isinstance(encoder.beside, Decoder):
            raise ValueError("protocol fabrec needs the folder of a `fra pretrain` run of method fabrec as --encoder")
        power_of_two = 2 ** (encoder.image_size.bit_length() - 1)  # for random weights of a network of any image size
        known = {"side": power_of_two} | asdict(recipe.fabrec) | encoder.beside.shape
        shape = Shape(**{name: known[name] for name in Shape.__dataclass_fields__})
        head = FabRecHead(shape, encoder.channels, task.points)
        if encoder.beside.tensors:
            head.take(encoder.beside.tensors)
        return head

    def rates(self) -> Sequence[tuple[nn.Module, float]]:
        """The layer to the code moves with the encoder."""
        mine = nn.ModuleList([self.head.between, self.head.heat])
        both = nn.ModuleList([self.encoder, self.head.code])
        return (both, self.recipe.encoder_rate), (mine, self.recipe.learning_rate)

    def train(self, mode: bool = True) -> "FabRec":
        """The encoder keeps the statistics that it has (code)."""
        super().train(mode)
        self.encoder.eval()
        return self

    def loss(self, batch: LabelledBatch, progress: Progress) -> Loss:
        self.alone = progress.fraction < self.recipe.fabrec.alone
        return super().loss(batch, progress)

    def judge(self, batch: LabelledBatch) -> Loss:
        with torch.autocast(batch.images.device.type, enabled=False):
            points = self.task.places(batch.targets)
            matrix, mirrored = moves(len(points))
            faces, points = move(batch.images, points, self.task.table, matrix, mirrored, margin=batch.margin)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.alone):
            codes = self.head.code(self.encoder(faces))
        maps = self.head.maps(codes).float()
        wanted = gaussians(points, self.head.size, sigma=self.recipe.fabrec.sigma * self.head.size / UNIT)
        error = (maps - wanted).square().mean()
        total = self.recipe.fabrec.map_weight * error
        if processes() > 1:  # a gradient of zero for the rest: several processes wait for every weight
            trained = [weight for weight in self.parameters() if weight.requires_grad]
            total = total + 0.0 * torch.stack([weight.sum() for weight in trained]).sum()
        return Loss(total, {"heatmaps": error})


def decoder_of(encoder: Encoder, source: EncoderSource) -> Decoder:
    """The decoder of the run that `source` names; without weights for random ones. ValueError when there is none."""
    path = source.path / MODEL if source.path is not None else None
    if path is None or not path.exists():
        if source.random:
            return Decoder({}, {})
        raise ValueError(
            f"protocol fabrec reads landmarks from a decoder of faces, and {source.label} has none: give the folder of "
            "a `fra pretrain` run of method fabrec, or random weights"
        )
    tensors, metadata = read_weights(path)
    if metadata.get("method") != "fabrec":
        if source.random:
            return Decoder({}, {})
        raise ValueError(
            f"protocol fabrec reads landmarks from a decoder of faces, and {path} was trained with "
            f"{metadata.get('method', 'a method')} and has none: give a run of method fabrec, or random weights"
        )
    method = metadata["recipe"]["method"]
    shape = {"code": method["code"], "width": method["decoder_width"], "side": encoder.image_size}
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder.")}
    return Decoder(shape, {} if source.random else kept)
