"""COFW: 29 landmarks of occluded faces, images inside MATLAB files (http://www.vision.caltech.edu/xpburgos/ICCV13/).

cofw/[documentation/]COFW_train_color.mat      IsTr (1,345 images), phisTr (29 x, 29 y, 29 occluded), bboxesTr
cofw/[documentation/]COFW_test_color.mat       IsT (507 images), phisT, bboxesT; MATLAB 7.3

Without them, STAR's lists and the images as files, also in images/:

cofw/[annotations/]train.tsv       cofw/[annotations/]test.tsv, or both in annotations/COFW/

--data is cofw/ or the folder that contains it. There is no validation split.
"""

from pathlib import Path

import h5py
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fra.data.crops import AnnotatedFaces, CropRule, label_faces
from fra.data.labelled import Dataset, LabelledFaces, Published, first_there
from fra.data.landmark_lists import on_disk, read_star_tsv, star_lists
from fra.data.layout import find_layout
from fra.faces.image import UnreadableImage
from fra.system.text import decoding
from fra.tasks.landmarks import Landmarks

TABLES = {"train": ("COFW_train_color.mat", "Tr"), "test": ("COFW_test_color.mat", "T")}
PLACES = ("", "documentation/")
LISTS = ("train.tsv", "annotations/train.tsv", "annotations/COFW/train.tsv")
TASK = Landmarks(29, normaliser="inter-pupil")
"""As STAR judges COFW (spec alignment.md, section 9)."""


def read(folder: Path, crop: CropRule = "hrnet") -> LabelledFaces:
    """Read one of the layouts above; the image of a face is a square (see fra.data.crops).

    Coordinates are taken as they are written. Raises ValueError when a file is missing or cannot be understood.
    """
    holds = tuple(place + TABLES["train"][0] for place in PLACES)
    root = find_layout(folder, holds=(*holds, *LISTS), below="cofw", name="cofw")
    if first_there(root, holds):
        tables = {}
        for split, (name, letters) in TABLES.items():
            path = first_there(root, [place + name for place in PLACES])
            if path is None:
                raise ValueError(f"{root / name} is missing: it has the {split} faces")
            tables[split] = PictureTable(path, letters)
        parts = {split: table.faces for split, table in tables.items()}
        pictures = Pictures(tables["train"], tables["test"])
        return label_faces(parts, TASK, crop, name="cofw", root=root, read=pictures)
    star = star_lists(root, "COFW")
    if star is None:
        raise ValueError(f"{root} has no test.tsv beside train.tsv: it has the test faces")
    parts, place = on_disk(root, {split: read_star_tsv(path, 29) for split, path in star.items()})
    return label_faces(parts, TASK, crop, name="cofw", root=place)


class PictureTable:
    """One of the two files: annotations now, pictures when asked for."""

    def __init__(self, path: Path, letters: str) -> None:
        """`letters` end the names of its variables. Raises ValueError when they are not there or do not fit."""
        self.path, self.pictures = path, f"Is{letters}"
        points, boxes = f"phis{letters}", f"bboxes{letters}"
        with decoding(path, "MATLAB 7.3 file"), h5py.File(path) as file:
            absent = [name for name in (self.pictures, points, boxes) if name not in file]
            if absent:
                raise ValueError(f"{path} has no {', '.join(absent)}: use the original file")
            self.count = int(np.prod(file[self.pictures].shape))
            # HDF5 stores MATLAB's arrays transposed.
            values, corners = (torch.from_numpy(file[name][()].T).float() for name in (points, boxes))
        if values.shape != (self.count, 87) or corners.shape != (self.count, 4):
            raise ValueError(
                f"{path} has {self.count} images, landmarks of shape {tuple(values.shape)} and boxes of shape "
                f"{tuple(corners.shape)}: expected 87 and 4 numbers per image"
            )
        if not (values.isfinite().all() and corners.isfinite().all()):
            raise ValueError(f"{path} has landmarks or boxes that are not numbers: use the original file")
        self.faces = AnnotatedFaces(
            [f"{path.name}/{number:04d}" for number in range(1, self.count + 1)],
            torch.stack((values[:, :29], values[:, 29:58]), 2),
            rectangles=torch.cat((corners[:, :2], corners[:, :2] + corners[:, 2:]), 1),  # x, y, width, height
        )

    def __call__(self, index: int) -> UInt8[Tensor, "3 H W"]:
        """The picture at a position, grey ones too as RGB. Raises UnreadableImage when there is none."""
        try:
            with h5py.File(self.path) as file:
                values = np.asarray(file[file[self.pictures][()].ravel()[index]])
        except Exception as error:  # a damaged file raises nearly anything
            raise UnreadableImage(self.path, f"picture {index + 1}: {' '.join(str(error).split())[:120]}") from error
        if values.dtype != np.uint8 or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[0] != 3):
            raise UnreadableImage(self.path, f"picture {index + 1} is {values.dtype} of shape {values.shape}")
        picture = torch.from_numpy(values.swapaxes(-1, -2).copy())
        return picture if picture.ndim == 3 else picture.expand(3, -1, -1).contiguous()


class Pictures:
    """The pictures of both files, train before test."""

    def __init__(self, train: PictureTable, test: PictureTable) -> None:
        self.train, self.test = train, test

    def __call__(self, index: int) -> UInt8[Tensor, "3 H W"]:
        return self.train(index) if index < self.train.count else self.test(index - self.train.count)


DATASET = Dataset(
    read,
    layout=__doc__ or "",
    published=Published({"train": 1_345, "test": 507}),  # as quoted in the literature (spec alignment.md, section 6)
    crops=("hrnet", "star", "rect", "square"),
)
