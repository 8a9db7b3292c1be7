"""How a task is learned from labelled faces: the recipe, and the contract of a protocol."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from fra.data.crops import CropRule
from fra.models.encoder import Encoder
from fra.recipe import LATER, Count, NotNegative, Pixels, Range, Settings, Share, Whole
from fra.tasks.task import Task
from fra.training.optimizers import LayerDecay, OptimizerConfig
from fra.training.schedules import CosineFromZero, Exponential, Schedule, Stairs
from fra.training.trainable import Loss, Part, Progress
from fra.transfer.sampling import class_balance
from fra.transfer.subsets import SubsetRule


@dataclass(frozen=True)
class TransferRecipe(Settings):
    """The settings that all protocols share; a recipe is one row of a table of results. Abstract: each protocol adds
    its own."""

    name: str
    """The recipe's name, as in its file name."""
    task: str
    """A task that the dataset offers (`expression`, `attributes`, `landmarks`), or `any`: the only one."""
    dataset: str
    """A dataset in DATASETS."""
    protocol: str
    """A protocol in PROTOCOLS: how the task is trained; `linear` if the file does not say."""
    crop: CropRule | None = None
    """How faces are cropped, if the dataset offers several ways (`fra.data.crops`); None is its default."""
    epochs: Count = 100
    """Passes over the training images (supplement 5.3.1)."""
    batch_size: Count = 256
    """Images per step (supplement 5.3.1); fewer with few labels."""
    optimizer: Literal["sgd", "adamw", "adam"] = "sgd"
    """SGD is MoCo's for linear probing and the released code's default; the supplement names AdamW; Adam is EAC's."""
    learning_rate: NotNegative = 1.0
    """Peak learning rate of the head, and of the encoder unless `backbone_rate` is set (supplement 5.3.1, linear
    probing)."""
    warmup_epochs: NotNegative = 0.0
    """Epochs of linear warm-up from 0 (released code of linear probing and fine-tuning: 5)."""
    last_rate: NotNegative = 0.0
    """Learning rate at the end of the cosine (released code of linear probing and fine-tuning: 1e-6)."""
    momentum: Share = 0.9
    """Momentum of SGD (MoCo's linear protocol)."""
    weight_decay: NotNegative = 0.0
    """Weight decay, on all trained weights (MoCo's linear protocol 0; supplement 5.3.1 for fine-tuning .05)."""
    hold_out: bool = False
    """Without an official validation split, hold out a tenth of the training images as one (ours)."""
    image_size: Pixels | None = None
    """Side of the encoder's input images in pixels; None is the size it was trained at (ours)."""
    fraction: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Share of the training images, and so of the labels, that are used."""
    subset: SubsetRule = "random"
    """Which ones: sampled anew for each seed (supplement), or the first of the list for all seeds (3FabRec's
    authors)."""
    fewest_steps: ClassVar[int]
    """Steps that an epoch of few labels still has, in smaller batches (`batch_for`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs is {self.warmup_epochs}, but epochs is {self.epochs}: give fewer warm-up epochs"
            )

    def optimizer_config(self) -> OptimizerConfig:
        """Its optimiser, with weight decay on every tensor."""
        return OptimizerConfig(
            name=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
        )

    def side(self, encoder: nn.Module) -> int:
        """Of the encoder's input images, in pixels."""
        return self.image_size or int(encoder.image_size)  # type: ignore[arg-type]

    def prepare(self, task: Task, targets: Tensor) -> Task:
        """The task as this recipe asks it. Raises ValueError for settings that have no use in it."""
        return task

    def draw_weights(self, targets: Tensor) -> Float[Tensor, "N"] | None:
        """How often an epoch draws each of N images, relative to the others; None shows each of them once."""
        return None

    def epochs_of(self, steps: int) -> int:
        """Epochs when one of them has so many steps."""
        return self.epochs


@dataclass(frozen=True)
class BalancedRecipe(TransferRecipe):
    """Abstract: adds what the protocols have that learn classes."""

    balanced: bool = False
    """Sample every class equally often, with replacement (released code for AffectNet)."""

    def prepare(self, task: Task, targets: Tensor) -> Task:
        if self.balanced and targets.ndim != 1:
            raise ValueError(f"balanced needs classes, and {self.task} has none: leave it out")
        return super().prepare(task, targets)

    def draw_weights(self, targets: Tensor) -> Float[Tensor, "N"] | None:
        return class_balance(targets) if self.balanced else None


@dataclass(frozen=True)
class NetworkRecipe(TransferRecipe):
    """Abstract: adds what the protocols have that train encoder and head together."""

    min_steps: Whole = 0
    """With few labels, add epochs until there are this many steps (ours; 0 keeps the supplement's epochs)."""
    backbone_rate: NotNegative | None = None
    """Peak learning rate of the encoder (supplement, Table 4)."""
    layer_decay: LayerDecay = field(default=1.0, metadata=LATER)
    """Factor on that rate for the encoder's last layer, once more for each layer before it; below 1 vectors, position
    embeddings and class tokens are not decayed either (BEiT; MAE's fine-tuning: .75)."""
    decay: Annotated[float, Range(0, 1, above=True)] | None = None
    """Instead of warm-up and cosine, multiply the learning rates by this after every epoch (EAC's released code:
    .9)."""
    falls: tuple[Count, ...] = ()
    """Instead of warm-up and cosine, divide the learning rates by ten at these epochs (supplement 5.3.3: 80 and 90)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.falls and self.decay is not None:
            raise ValueError("falls and decay are two schedules: give only one")

    def epochs_of(self, steps: int) -> int:
        return max(self.epochs, math.ceil(self.min_steps / steps))

    @property
    def encoder_rate(self) -> float:
        """Peak rate of the encoder's weights."""
        return self.learning_rate if self.backbone_rate is None else self.backbone_rate

    def schedule(self, epochs: int) -> Schedule:
        """The rates over so many epochs, warm-up and falls at the same share of them."""
        if self.decay is not None:
            return Exponential(epochs, self.decay)
        if self.falls:
            return Stairs(epochs, tuple(fall * epochs / self.epochs for fall in self.falls))
        return CosineFromZero(epochs, self.warmup_epochs * epochs / self.epochs, self.last_rate)


SMALLEST_BATCH = 8


def batch_for(count: int, recipe: TransferRecipe) -> int:
    """Images per step: the recipe's, or fewer so that an epoch of few labels still has the protocol's `fewest_steps`.

    Ours. Linear (32): 100 epochs were chosen for 48 steps and more each (RAF-DB); with one step each the head stays far
    from its optimum: on 100 to 1,000 drawn faces smaller batches gave 2 to 5 points more. A whole network (8) keeps the
    supplement's 256 down to 2,048 images, which includes 1 % of AffectNet. Alignment (1) takes all images at once when
    they are fewer than a batch (spec alignment.md, section 5).
    """
    return min(count, recipe.batch_size, max(SMALLEST_BATCH, count // recipe.fewest_steps))


def first_head(build: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """A seed's head before training; torch's random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


class LabelledBatch(NamedTuple):
    """What the loop hands to a Learner; B images."""

    images: UInt8[Tensor, "B 3 W W"]
    """S pixels a side and `margin` more of their photo on every side."""
    targets: Tensor
    """Places in them are those in the S x S pixels in the middle."""
    weight: float = 1.0
    """Of the loss (`fra.transfer.sampling.Part`)."""
    margin: int = 0
    shown: Float[Tensor, "B 2"] | None = None
    """Height and width of the S x S pixels in pixels of the pictures that they were made from; None for S."""


class Learner(nn.Module, ABC):
    """Abstract: a Trainable made of the encoder and a task's head; a concrete one is final and adds the loss."""

    reach: ClassVar[float] = 1.0
    """Side of the square that its random changes may show, in sides of the image, where the photo goes on around it."""

    def __init__(self, recipe: Any, task: Task, encoder: Encoder, head: nn.Module) -> None:
        """`recipe` is the protocol's own."""
        super().__init__()
        self.recipe, self.task, self.encoder, self.head = recipe, task, encoder, head
        self.average: nn.Module | None = None
        """A running average of the network, which answers as it does, if the learner keeps one."""

    @staticmethod
    def new_head(recipe: Any, task: Task, encoder: Encoder) -> nn.Module:
        """The head that learns with this encoder, initialised from torch's global generator."""
        return task.head(encoder.channels)

    @staticmethod
    def prepare(encoder: Encoder, source: str) -> dict[str, Any]:
        """Fetch what heads need beside the encoder, `encoder.beside`, from where it is from (`EncoderSource`).

        Returns what must be equal when a run is resumed. ValueError when something is missing.
        """
        return {}

    def rates(self) -> Sequence[tuple[nn.Module, float]]:
        """What is trained, and the peak learning rate of each part."""
        return (self.encoder, self.recipe.encoder_rate), (self.head, self.recipe.learning_rate)

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B T"]:
        """The head's T outputs for images in [0, 1]."""
        return self.head(self.encoder(images))

    def parts(self, batch: LabelledBatch, progress: Progress) -> Sequence[Part]:
        """The loss, which has one part."""
        return [partial(self.loss, batch, progress)]

    def loss(self, batch: LabelledBatch, progress: Progress) -> Loss:
        """What is minimised, and its terms."""
        found = self.judge(batch)
        return Loss(found.total * batch.weight, found.terms)

    @abstractmethod
    def judge(self, batch: LabelledBatch) -> Loss:
        """The mean loss of a batch, on faces that it changes at random first."""

    def after_step(self, progress: Progress) -> None:
        """Nothing follows a step."""


@dataclass(frozen=True)
class Fitted:
    """What one seed leaves."""

    outputs: Tensor
    """The head's outputs on the test split after the last epoch."""
    best_outputs: Tensor | None
    """The same after the epoch that was best on the validation split, if there is one."""
    tensors: dict[str, Tensor]
    """Weights that `task.safetensors` keeps."""
    log: list[dict[str, Any]]
    """Rows of `log.csv`."""
    train_images: int
    averaged_outputs: Tensor | None = None
    """The outputs of a running average of the network after the last epoch, if the protocol keeps one."""
    temperature: float | None = None
    """What makes the outputs' probabilities right on labelled faces that taught nothing, if there are such."""
    held_out: int = 0
    """The number of those faces."""
    certainty: dict[str, float] | None = None
    """Of landmarks from heatmaps: what makes them say how sure they are (`fra.transfer.alignment.certainty`), from the
    same faces, and `error`, how far that is from the truth on the test split."""


class Protocol(ABC):
    """Abstract or final. Built once per run, then asked once per seed; the same seed gives the same numbers."""

    unreadable: tuple[Any, ...]
    """Training and validation pictures that could not be used."""

    @abstractmethod
    def fit(
        self, train: Int[Tensor, "n"], *, val: Int[Tensor, "m"], seed: int, folder: Path, calibrate: bool = False
    ) -> Fitted | None:
        """Learn from these training images (positions in the dataset) and answer for the test split.

        `val` may be empty, and never teaches: it chooses the best epoch and the temperature. `folder` is for what the
        seed needs to be resumed, and goes when it is finished. `calibrate` asks for a temperature even if that takes
        more training. None from all processes but the first.
        """
