"""Labelled faces: what a reader in `datasets/` gives. N images."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fra.faces.geometry import Padding, crop_box
from fra.faces.image import read_image, to_input
from fra.system.printable import did_you_mean
from fra.system.text import command, shown
from fra.tasks.task import Task

ANY = "any"
"""The task of a recipe that takes the only one there is."""
WARNING = "warning: "
"""How a note begins that speaks of something doubtful."""
NAMED = 5
"""Of files that are missing, so many are named."""


@dataclass(frozen=True)
class Groups:
    """Which group of a kind each image belongs to, as annotators saw it."""

    names: tuple[str, ...]
    of: Int[Tensor, "N"]
    """Index into `names`; -1 for an image in none of them."""


PictureReader = Callable[[int], UInt8[Tensor, "3 H W"]]
"""Gives the picture at a position. Raises UnreadableImage or OSError."""


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
    padding: Padding = "edge"
    """What an image shows where its box leaves the picture."""
    crop: str = ""
    """The name of the rule that `boxes` follow, where the dataset is read with one or another."""
    groups: dict[str, Groups] = field(default_factory=dict)
    """Kinds of groups (age, gender, race) for which results are told apart, where the dataset knows them."""
    read: PictureReader | None = None
    """Where pictures are no files of their own and `files` only names them."""
    title: str = ""
    """Of people's own labels, what tells this set from others of the same `name`."""
    main: str = ""
    """Of several tasks the one that a recipe means which asks for `any`; empty when none is more than a part."""
    notes: tuple[str, ...] = ()
    """How labels were understood and what is doubtful about them, a sentence each; warnings begin with "warning: "."""

    def word(self, task: str) -> str:
        """The task that a recipe asks for. Raises ValueError when there is none of that name, or no single one."""
        only = self.main or (next(iter(self.tasks)) if len(self.tasks) == 1 else "")
        found = only if task == ANY else task
        if not found:
            raise ValueError(f"{self.root} has several tasks ({', '.join(self.tasks)}): choose one by --set task=NAME")
        if found not in self.tasks:
            near = did_you_mean(found, list(self.tasks))
            raise ValueError(f"{self.name} has no task '{found}'{near} (it has {', '.join(self.tasks)})")
        return found

    def labelled(self, task: str) -> "LabelledFaces":
        """The same without the images that have no label for the task."""
        known = self.tasks[task].known(self.targets[task])
        return self if bool(known.all()) else replace(self, splits={s: i[known[i]] for s, i in self.splits.items()})

    def image(self, index: int, *, size: int, margin: int = 0) -> UInt8[Tensor, "3 S S"]:
        """The face, read now. Raises UnreadableImage or OSError when its file is damaged or missing.

        It has `size` pixels a side, and `margin` more of its picture on every side.
        """
        return self.cut(index, self.picture(index), size=size, margin=margin)

    def picture(self, index: int) -> UInt8[Tensor, "3 H W"]:
        """What `image` is cut from, with the same errors."""
        return self.read(index) if self.read else read_image(self.root / self.files[index])

    def cut(self, index: int, picture: UInt8[Tensor, "3 H W"], *, size: int, margin: int = 0) -> UInt8[Tensor, "3 S S"]:
        """The image in its picture, `margin` as in `image`."""
        if self.boxes is None:
            assert not margin, "an image that is the whole picture has nothing around it"
            return to_input(picture, size, fit="whole")
        return crop_box(picture, self.boxes[index], size, self.padding, margin=margin)

    def shown(self, index: int, picture: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "2"]:
        """Height and width of the image, without margin, in pixels of its picture."""
        if self.boxes is None:
            return torch.tensor(picture.shape[-2:], dtype=torch.float32)
        x1, y1, x2, y2 = self.boxes[index]
        return torch.stack((y2 - y1, x2 - x1))

    def missing(self) -> list[str]:
        """The `files` that are not there. Every folder is listed once: seconds for 300,000 files."""
        if self.read:
            return []
        there: dict[str, set[str]] = {}
        for folder in {os.path.dirname(file) for file in self.files}:
            there[folder] = set()
            with suppress(OSError):
                there[folder].update(os.listdir(self.root / folder))
        return [file for file in self.files if os.path.basename(file) not in there[os.path.dirname(file)]]

    def mirrored(self, split: str) -> list[str]:
        """The `files` of a split that are called mirrored copies, as some downloads of landmarks have them (300-W)."""
        if "landmarks" not in self.tasks:
            return []
        named = (self.files[image] for image in self.splits[split].tolist())
        return [file for file in named if os.path.splitext(file)[0].lower().endswith("_mirror")]

    def fingerprint(self, task: str) -> str:
        """A hash of file names, splits and the task's targets: the same data, the same hash.

        Of people's own labels also of the files' sizes, because their pictures may change while names stay.
        """
        digest = hashlib.sha256("\n".join(self.files).encode(errors="surrogateescape"))
        for tensor in (*self.splits.values(), self.targets[task]):
            digest.update(tensor.contiguous().numpy().tobytes())
        for file in self.files if self.title else ():
            with suppress(OSError):
                digest.update(f"{os.stat(self.root / file).st_size}/".encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Published:
    """What the complete download holds, as its authors or the paper say."""

    images: Mapping[str, int | tuple[int, ...]]
    """Images of a split, or of each class in it."""
    groups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of some kinds, test images in some of their groups."""
    size: tuple[int, int] | None = None
    """Width and height of every picture, where they are all alike."""

    def total(self, split: str) -> int:
        count = self.images[split]
        return count if isinstance(count, int) else sum(count)


@dataclass(frozen=True)
class Dataset:
    """A row of DATASETS. Calling it reads a folder for a run."""

    read: Callable[..., LabelledFaces]
    """From a folder and, where there are `crops`, one of them as `crop`. Raises ValueError when the folder does not
    hold the dataset, or a line of its lists cannot be understood."""
    layout: str
    """The trees that `read` accepts, for `fra data layout`."""
    published: Published = field(default_factory=lambda: Published({}))
    crops: tuple[str, ...] = ()
    """Ways to cut its faces; the first is taken when none is asked for."""
    terms: str = ""
    """What its images and labels may be used for, where that is known; a model that learned from them inherits it."""
    own: bool = False
    """Not a published dataset, but a way to write down labels of one's own."""

    def __call__(self, folder: Path, *, crop: str | None = None) -> LabelledFaces:
        """`read`, and a ValueError as well for an unknown crop, pictures that its lists name but are not there, and
        mirrored copies among the test images."""
        if crop is None:
            faces = self.read(folder)
        elif crop in self.crops:
            faces = self.read(folder, crop=crop)
        else:
            ways = f"choose {' or '.join(self.crops)}" if self.crops else "it has only one, leave crop out"
            raise ValueError(f"no crop named '{crop}' for this dataset: {ways}")
        all_named = f"({command('fra', 'data', 'check', faces.name, folder, '--all')} lists all)"
        missing = faces.missing()
        if missing:
            named = ", ".join(map(shown, missing[:NAMED])) + (", ..." if len(missing) > NAMED else "")
            remedy = "correct the paths" if self.own else "complete the download"
            raise ValueError(
                f"{len(missing):,} of {len(faces.files):,} listed images missing from {faces.root}: {named}: "
                f"{remedy} {all_named}"
            )
        mirrored = faces.mirrored("test")
        if mirrored:
            raise ValueError(
                f"{len(mirrored):,} of {len(faces.splits['test']):,} test images listed as mirrored copies "
                "of others, the "
                f"first is {faces.root / mirrored[0]}: published scores do not count them, so remove them {all_named}"
            )
        return faces


def splits_of(words: Sequence[str]) -> dict[str, Int[Tensor, "_"]]:
    """The positions of the images of each split, from each image's "train", "val" or "test"."""
    return {
        split: torch.tensor([word == split for word in words], dtype=torch.bool).nonzero().flatten()
        for split in ("train", "val", "test")
    }


def first_there(root: Path, names: Sequence[str]) -> Path | None:
    """The first of several places below `root` that exists."""
    return next((root / name for name in names if (root / name).exists()), None)
