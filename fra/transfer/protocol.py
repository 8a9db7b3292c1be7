"""How a task is learned from labelled faces: the recipe, and the contract of a protocol."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class TransferRecipe:
    """One row of a table of results."""

    name: str
    """Recipe's name, as in the file's."""
    task: str
    """What is asked: a task that the dataset offers (`expression`, `attributes`, `landmarks`)."""
    dataset: str
    """Row in DATASETS."""
    protocol: Literal["linear", "finetune", "eac", "star"] = "linear"
    """Row in PROTOCOLS."""
    epochs: int = 100
    """Passes over the training images (supplement 5.3.1)."""
    batch_size: int = 256
    """Images per step (supplement 5.3.1); the linear protocol takes fewer when labels are few."""
    learning_rate: float = 1.0
    """At the first step, then a cosine down to 0 (supplement 5.3.1, linear probing; no warm-up: ours)."""
    momentum: float = 0.9
    """Of SGD (MoCo's linear protocol, the released code's default; the supplement names AdamW)."""
    weight_decay: float = 0.0
    """On the head (MoCo's linear protocol)."""
    mirror: bool = True
    """Each epoch shows each training image as it is or mirrored, one in two (released code)."""
    image_size: int | None = None
    """Side of the images the encoder sees; None is what it was trained at (ours)."""
    fraction: float = 1.0
    """Share of the training images whose labels may be used, 0 < fraction <= 1."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")


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


class Protocol(ABC):
    """Abstract or final. Built once per run, then asked once per seed; the same seed gives the same numbers."""

    @abstractmethod
    def fit(self, train: Int[Tensor, "n"], *, seed: int) -> Fitted:
        """Learn from these training images (positions in the dataset) and answer for the test split."""
