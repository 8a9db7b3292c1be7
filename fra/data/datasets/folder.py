"""Classes of your own: pictures of faces in one folder per class.

folder/train/glad/any.jpg …    folder/test/glad/any.jpg …    and if you like folder/val/glad/any.jpg …

or without a split, of which a fifth of each class then tests:

folder/glad/any.jpg …          folder/sad/any.jpg …

Pictures may lie in further folders below their class. Each is one face, cut as `fra crop` cuts, and is shown whole.
Beside the folders may lie labels.yaml, all of it optional:

name: mood                what the classes are; without it `class`
classes: [glad, sad]      their order; without it the alphabet's
group: '^(person\\d+)_'    what in a file's path below its class says who it is: a drawn split keeps groups together
seed: 0                   another one draws another split
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fra.data.labelled import Dataset, LabelledFaces, splits_of
from fra.data.own import (
    DESCRIPTION,
    SPLITS,
    doubts,
    draw_split,
    drawn_note,
    groups_by_pattern,
    read_description,
    refuse_absent_classes,
    refuse_empty,
    refuse_no_classes,
    shared_groups_note,
)
from fra.pools.listing import Account, image_names
from fra.recipe import Seed, Settings
from fra.system.text import shown
from fra.tasks.expression import Expression

LIKE_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
"""Names of folders that hold classes and are none."""


@dataclass(frozen=True)
class FolderLabels(Settings):
    """What labels.yaml may say."""

    name: str = "class"
    """What the classes are, the word of a task and of its answers."""
    classes: tuple[str, ...] | None = None
    """Their order; None is the alphabet's."""
    group: str | None = None
    """A regular expression for a file's path below its class; its first parenthesis, or all of it, is the group."""
    seed: Seed = 0
    """Of a drawn split."""


@dataclass(frozen=True)
class Found:
    """A picture."""

    split: str
    """Empty where none is given."""
    label: str
    below: str
    """Its path below its class."""

    @property
    def file(self) -> str:
        return "/".join(filter(None, (self.split, self.label, self.below)))


def read(folder: Path) -> LabelledFaces:
    """One task, called `class` unless labels.yaml says otherwise.

    Images come in the order of their names whatever their class, so that classes may be renamed. Raises ValueError
    when there is no picture, a split or one of its classes is missing, or there is only one class.
    """
    said, account = read_description(folder, FolderLabels), Account()
    found = sorted(
        _pictures(folder, account), key=lambda one: (SPLITS.index(one.split or "train"), one.below, one.label)
    )
    if not found:
        raise ValueError(f"{folder} has no folders of classes (`fra data layout folder` shows what is read)")
    labels, files = [one.label for one in found], [one.file for one in found]
    classes = _classes(said, labels, folder / DESCRIPTION)
    refuse_no_classes(labels, where=str(folder))
    below = [one.below for one in found]
    groups = groups_by_pattern(below, said.group, where=str(folder / DESCRIPTION)) if said.group else below
    words, notes = [one.split for one in found], []
    if not words[0]:
        words = draw_split(groups if said.group else files, labels, seed=said.seed)
        notes.append(drawn_note(words, seed=said.seed, by="groups" if said.group else ""))
    elif said.group:
        notes += shared_groups_note(groups, words, "group")
    refuse_empty(words, where=str(folder))
    refuse_absent_classes(labels, words, where=str(folder))
    notes += [f"passed over: {part}" for part in account.parts()]
    return LabelledFaces(
        name="folder",
        root=folder,
        files=files,
        splits=splits_of(words),
        tasks={said.name: Expression(classes, asks=said.name)},
        targets={said.name: torch.tensor([classes.index(label) for label in labels])},
        title=folder.resolve().name,
        main=said.name,
        notes=(*notes, *doubts(folder, files, words)),
    )


def _classes(said: FolderLabels, labels: list[str], where: Path) -> tuple[str, ...]:
    there = tuple(sorted(set(labels)))
    if said.classes is None:
        return there
    if sorted(said.classes) != list(there):
        raise ValueError(f"{where} lists the classes {shown(said.classes)}, but the folders are {shown(there)}")
    return said.classes


def _pictures(folder: Path, account: Account) -> Iterator[Found]:
    """All pictures of all classes. Raises ValueError for a folder whose part is not clear."""
    names = _folders(folder)
    splits = [split for split in SPLITS if split in names]
    if not splits and names and {name.lower() for name in names} <= LIKE_SPLITS:
        raise ValueError(
            f"{folder} has {' and '.join(f'{shown(name)}/' for name in names)}, which look like splits: call them "
            "train/ and test/ (and val/)"
        )
    if not splits:
        yield from _below(folder, "", account)
        return
    for split in ("train", "test"):
        if split not in splits:
            raise ValueError(
                f"{folder} has {splits[0]}/ but no {split}/: both are needed, or classes alone for a drawn split"
            )
    others = [name for name in names if name not in SPLITS]
    if others:
        raise ValueError(
            f"{folder} has {shown(others[0])}/ beside train/ and test/: move it elsewhere, or call it val/ if it is "
            "for validation"
        )
    for split in splits:
        yield from _below(folder / split, split, account)


def _below(place: Path, split: str, account: Account) -> Iterator[Found]:
    for label in _folders(place):
        try:
            root, files = image_names(place / label, account=account)
            for file in files:
                yield Found(split, label, Path(root, file).relative_to(place / label).as_posix())
        except ValueError as error:
            raise ValueError(f"{error}: every folder in {place} is a class") from error


def _folders(place: Path) -> list[str]:
    return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))


DATASET = Dataset(read, layout=__doc__ or "", own=True)
