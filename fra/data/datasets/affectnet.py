"""AffectNet: expressions of faces from the web, seven (affectnet7) or eight with contempt (affectnet8).

As http://mohammadmahoor.com/affectnet/ first distributed it, photos with a box around each face:

affectnet/[Manually_Annotated_file_lists/]training.csv, validation.csv
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
affectnet/[Manually_Annotated/][Manually_Annotated_Images/]689/737db2483489….jpg

As distributed now, crops of 224x224 pixels:

affectnet/train_set/images/0.jpg …      affectnet/train_set/annotations/0_exp.npy …
affectnet/val_set/images/0.jpg …        affectnet/val_set/annotations/0_exp.npy …

Expressions: 0 neutral, 1 happiness, 2 sadness, 3 surprise, 4 fear, 5 disgust, 6 anger, 7 contempt; 8 none, 9 uncertain
and 10 no face are left out, and so is 7 in affectnet7. The test images were never released, so the official validation
images are the test split, as in all published work, and there is no validation split: to select anything, use a recipe
with hold_out. --data is affectnet/ or the folder that contains it.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fra.data.labelled import Dataset, LabelledFaces, Published, first_there
from fra.data.layout import find_layout
from fra.system.text import decoding, rows_of, shown
from fra.tasks.expression import Expression

LABELS = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
LEFT_OUT = ("none", "uncertain", "no face")  # 8, 9, 10
HEADING = "subDirectory_filePath face_x face_y face_width face_height facial_landmarks expression valence arousal"
COLUMNS = {name: number for number, name in enumerate(HEADING.split())}
LISTS = ("training.csv", "Manually_Annotated_file_lists/training.csv")
PICTURES = ("Manually_Annotated/Manually_Annotated_Images", "Manually_Annotated_Images", "Manually_Annotated", ".")


class Face(NamedTuple):
    file: str
    label: int
    box: tuple[float, float, float, float] | None
    """x, y, width, height in pixels of the photo, where the picture is a photo."""


def read(folder: Path, *, classes: int) -> LabelledFaces:
    """Read one of the layouts above: the images of the first 7 or 8 expressions.

    The image of a face in a photo is a square about the given box (ours: the released code gets its crops from
    elsewhere). Raises ValueError when a list or an annotation is missing or cannot be understood.
    """
    name = f"affectnet{classes}"
    root = find_layout(folder, holds=(*LISTS, "train_set/annotations"), below="affectnet", name=name)
    lists = first_there(root, LISTS)
    if lists:
        pictures = _folder_of_photos(root, lists)
        parts = [list(read_list(path)) for path in (lists, lists.with_name("validation.csv"))]
    else:
        pictures = root
        parts = [list(read_annotations(root, split)) for split in ("train_set", "val_set")]
    training, validation = ([face for face in part if face.label < classes] for part in parts)
    faces = training + validation
    return LabelledFaces(
        name=name,
        root=pictures,
        files=[face.file for face in faces],
        splits={
            "train": torch.arange(len(training)),
            "val": torch.empty(0, dtype=torch.long),
            "test": torch.arange(len(training), len(faces)),
        },
        tasks={"expression": Expression(LABELS[:classes])},
        targets={"expression": torch.tensor([face.label for face in faces], dtype=torch.long)},
        boxes=_squares(faces) if lists else None,
    )


def read_list(path: Path) -> Iterator[Face]:
    """The rows of training.csv or validation.csv, which some downloads give without its heading."""
    if not path.exists():
        raise ValueError(f"{path} is missing: training.csv and validation.csv belong together")
    for number, row in rows_of(path):
        if number == 1 and row[0] == HEADING.split()[0]:
            if row[: len(COLUMNS)] != HEADING.split():
                raise ValueError(f"{path} begins with '{shown(row)}': expected {HEADING.replace(' ', ',')}")
            continue
        try:
            box = tuple(float(row[COLUMNS[f"face_{word}"]]) for word in ("x", "y", "width", "height"))
            label = int(row[COLUMNS["expression"]])
        except (ValueError, IndexError):
            box, label = (0, 0, 0, 0), -1
        placed = all(map(isfinite, box)) and box[2] > 0 and box[3] > 0
        if (label < len(LABELS) and not placed) or not 0 <= label < len(LABELS) + len(LEFT_OUT):
            raise ValueError(
                f"line {number} of {path} is '{shown(row)}': expected a file, a face's box, landmarks and an "
                "expression from 0 to 10"
            )
        yield Face(row[0], label, (box[0], box[1], box[2], box[3]))


def read_annotations(root: Path, split: str) -> Iterator[Face]:
    """The expressions beside `images`, in the order of their numbers."""
    folder = root / split / "annotations"
    names = [path.name.removesuffix("_exp.npy") for path in folder.glob("*_exp.npy")]
    if not names:
        raise ValueError(f"no *_exp.npy in {folder}: each image has its expression there")
    for name in sorted(names, key=lambda name: (len(name), name)):
        path = folder / f"{name}_exp.npy"
        with decoding(path, "NumPy file with an expression from 0 to 10"), open(path, "rb") as stream:
            label = int(np.load(stream).item())
        if not 0 <= label < len(LABELS) + len(LEFT_OUT):
            raise ValueError(f"{path} says {label}: expected an expression from 0 to 10")
        yield Face(f"{split}/images/{name}.jpg", label, None)


def _folder_of_photos(root: Path, lists: Path) -> Path:
    """Where the first listed photo is."""
    first = next(read_list(lists), None)
    if first is None:
        raise ValueError(f"{lists} is empty: is the download complete?")
    return next((root / place for place in PICTURES if (root / place / first.file).exists()), root / PICTURES[0])


def _squares(faces: Sequence[Face]) -> Float[Tensor, "N 4"]:
    corner, extent = torch.tensor([face.box for face in faces]).view(-1, 2, 2).unbind(1)
    centre = corner + extent / 2 - 0.5  # a box reaches from the outer edge of its first pixel
    half = extent.amax(1, keepdim=True) / 2
    return torch.cat((centre - half, centre + half), 1)


# Of the manually annotated images (3FabRec's README; spec expression.md, section 1).
TRAINING = (74_874, 134_415, 25_459, 14_090, 6_378, 3_803, 24_882, 3_750)
DATASET7, DATASET8 = (
    Dataset(
        partial(read, classes=classes),
        layout=__doc__ or "",
        terms="non-commercial research only",
        published=Published({"train": TRAINING[:classes], "test": (500,) * classes}),
    )
    for classes in (7, 8)
)
