"""The contract of a task: what is predicted from a face, and how the prediction is judged.

A task knows no encoder, no dataset and no way of training. A protocol (linear now; fine-tuning, EAC and STAR later)
brings features or feature maps to the task's head and minimises its criterion. N images.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Baseline:
    """The score of who never looks at the image."""

    name: str
    metrics: dict[str, float]


class Task(ABC):
    """Abstract or final: a concrete task is a frozen dataclass whose fields (labels, names) rebuild it.

    Outputs are what the head gives, one row per image; targets have the same first dimension.
    """

    name: ClassVar[str]
    """The word in `results.json` and in TASKS."""
    selects: ClassVar[str]
    """The metric that ranks epochs on a validation split."""
    lower_is_better: ClassVar[bool] = False
    """Of `selects`."""
    proportions: ClassVar[tuple[str, ...]] = ()
    """Metrics that are shares of decisions, and so get a confidence interval."""
    least_squares: ClassVar[bool] = False
    """True when a linear head is fitted by least squares, which has a closed form."""
    moves: ClassVar[bool] = False
    """True when targets are places in the image, which move with it when it is shifted and turned."""
    gives: ClassVar[str]
    """What `values` are: `probabilities`, `landmarks` or `numbers`."""

    @abstractmethod
    def head(self, channels: int) -> nn.Module:
        """A fresh head for features with so many channels, initialised from torch's global generator."""

    @abstractmethod
    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss to minimise, a scalar, mean over the images."""

    @abstractmethod
    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Named scores over a whole split, percent where they are shares (contract's names)."""

    @abstractmethod
    def image_scores(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, "N"]:
        """What each image adds to the metric `selects`, which is their mean; for comparisons image by image."""

    @abstractmethod
    def baseline(self, train_targets: Tensor, test_targets: Tensor) -> Baseline:
        """The constant answer learned from the training targets alone, judged on the test split."""

    @abstractmethod
    def mirror(self, targets: Tensor) -> Tensor:
        """Targets of the left-right mirrored images."""

    @property
    def mirrors(self) -> bool:
        """Whether `mirror` is known; otherwise no image is shown mirrored."""
        return True

    @property
    def ordered(self) -> bool:
        """Whether its classes are steps of a scale, which are shown in their order."""
        return False

    def known(self, targets: Tensor) -> Bool[Tensor, "N"]:
        """Which of the images have a label at all; the others neither teach nor test."""
        return torch.ones(len(targets), dtype=torch.bool)

    @property
    @abstractmethod
    def named(self) -> tuple[str, ...]:
        """What each of the `values` of an image is called; empty if they have numbers only."""

    @abstractmethod
    def values(self, outputs: Tensor, *, width: int | Tensor, height: int | Tensor) -> Tensor:
        """What `answer` says in words, of a batch and in numbers alone (N, ...); exported networks end with it."""

    @abstractmethod
    def answer(self, output: Tensor, *, width: int, height: int) -> dict[str, Any]:
        """What one image's output says, for people and JSON; points are in pixels of an image of that size."""

    def certainties(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Bool[Tensor, "D"]] | None:
        """Of D decisions the probability that is stated for each, and whether it is right; None without such."""
        return None

    @abstractmethod
    def columns(self, outputs: Tensor, targets: Tensor) -> dict[str, list[Any]]:
        """Columns of `predictions.csv`, one value per image: enough to recompute every metric."""

    @abstractmethod
    def details(self, outputs: Tensor, targets: Tensor) -> dict[str, Any]:
        """Further entries of `results.json`, such as a confusion matrix; outputs of all seeds one after another."""

    @abstractmethod
    def picture(self, outputs: Tensor, targets: Tensor, images: Sequence[Tensor]) -> "Figure":
        """A figure of the result; `images` are the first few of the N, uint8 (3, S, S)."""

    def order(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Positions of the N images, those first that `picture` is to show; as they come, if it shows none."""
        return torch.arange(len(outputs))
