"""Labelled faces: what a reader in `datasets/` gives. N images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from fra.faces.geometry import crop_box
from fra.faces.image import read_image
from fra.transfer.task import Task


@dataclass(frozen=True)
class Groups:
    """Which group of a kind each image belongs to, as annotators saw it."""

    names: tuple[str, ...]
    of: Int[Tensor, "N"]
    """Index into `names`."""


@dataclass(frozen=True)
class LabelledFaces:
    """A dataset: pictures on disk, their splits, and the tasks it has targets for."""

    name: str
    """Its row in DATASETS."""
    root: Path
    """The folder that `files` are relative to."""
    files: Sequence[str]
    """One picture per image; the names that `predictions.csv` shows."""
    splits: dict[str, Int[Tensor, "_"]]
    """Positions of the images of "train", "val" (may be empty) and "test". The test split never selects anything."""
    tasks: dict[str, Task]
    """What it can be asked, by the word a recipe uses."""
    targets: dict[str, Tensor]
    """Per task, the targets of all N images."""
    boxes: Float[Tensor, "N 4"] | None = None
    """The square part of each picture that is the image; without it the whole picture is, squeezed to a square."""
    groups: dict[str, Groups] = field(default_factory=dict)
    """Kinds of groups (age, gender, race) for which results are told apart, where the dataset knows them."""

    def image(self, index: int, *, size: int) -> UInt8[Tensor, "3 size size"]:
        """The face, read now. Raises UnreadableImage or OSError when its file is damaged or missing."""
        picture = read_image(self.root / self.files[index])
        if self.boxes is None:
            return resize(picture, [size, size], antialias=True)
        return crop_box(picture, self.boxes[index], size, "edge")

    def fingerprint(self, task: str) -> str:
        """A hash of file names, splits and the task's targets: the same data, the same hash."""
        digest = hashlib.sha256("\n".join(self.files).encode())
        for tensor in (*self.splits.values(), self.targets[task]):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def find_layout(folder: Path, *, holds: str, below: str, name: str) -> Path:
    """`folder`, or its subfolder `below`, whichever has the file or folder `holds`.

    Raises ValueError saying what was expected where.
    """
    for root in (folder, folder / below):
        if (root / holds).exists():
            return root
    raise ValueError(f"{folder} does not hold {name}: expected {folder / holds} or {folder / below / holds}")
