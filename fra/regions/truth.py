"""Faces whose landmarks, and where they are drawn whose regions, are known: what the region score compares with.

N faces, S the side of a face in pixels, T the side of a true map of regions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fra.data.datasets.w300 import picture_of, pts_files, read_pts
from fra.data.layout import find_layout
from fra.drawing.drawn_face import REGION_NAMES
from fra.faces import MARGIN
from fra.faces.geometry import crop_box, square_box, whole_box
from fra.faces.image import read_image, to_input
from fra.faces.points import place_in, place_in_image, place_out_of, tight_boxes
from fra.files import read_rows
from fra.system.printable import counted

DETECTED, HIGHER = 1.25, 0.13
SMALLEST_CUT = 0.6
"""Of the image's side."""
Item = TypeVar("Item")

PARTS = {
    "background": ("background",),
    "skin": ("skin",),
    "brows": ("left_brow", "right_brow"),
    "eyes": ("left_eye", "right_eye"),
    "nose": ("nose",),
    "mouth": ("mouth",),
    "hair": ("hair",),
    "ears": ("ears",),
    "neck": ("neck",),
    "clothes": ("clothes",),
}
"""True regions that every drawn face may show. Left and right are one part (views are mirrored at random, so nothing
in pre-training tells them apart); glasses, hats and occluders are in few pictures and in no part."""


@dataclass(frozen=True)
class Cuts:
    """Faces cut at random size and place inside of their images, so that a part is not where it always is."""

    images: UInt8[Tensor, "N 3 S S"]
    frames: Float[Tensor, "N 4"]
    """Where each lies in its image: x1 y1 x2 y2 in [-1, 1]."""


@dataclass(frozen=True)
class ScoredFaces:
    """Faces with known landmarks, in memory, at a model's input size."""

    images: UInt8[Tensor, "N 3 S S"]
    points: Float[Tensor, "N 68 2"]
    """x, y in [-1, 1] from edge to edge of the image, iBUG's order."""
    train: Int[Tensor, "_"]
    """Positions of the faces that the regression is fitted on; nothing is ever chosen on the others."""
    test: Int[Tensor, "_"]
    parts: UInt8[Tensor, "N T T"] | None = None
    """Index into PARTS of what is visible at each pixel, len(PARTS) for none of them; of drawn faces only."""
    cuts: Cuts | None = None


def read_scored_faces(folder: Path, *, size: int, quiet: bool = True) -> ScoredFaces:
    """Faces of `folder` as squares of `size`: drawn by `fra data synthetic`, or in 300-W's layout.

    300-W: faces are cut as `as_cropped` says; `afw`, `helen/trainset` and `lfpw/trainset` train, `helen/testset`,
    `lfpw/testset` and `ibug` test. Drawn faces keep their splits; "val" is
    left out. At 224 pixels 300-W takes 580 MB. Raises ValueError for another layout or an unreadable image.
    """
    if (folder / "labels.csv").exists() and (folder / "landmarks.npz").exists():
        return _read_drawn(folder, size=size, quiet=quiet)
    root = find_layout(folder, holds="helen", below="300w", name="300w")
    files = pts_files(root)
    every = [*files["train"], *files["test"]]
    points = torch.stack([read_pts(path) for path in every])
    boxes = as_cropped(points)
    frames = random_frames(len(every))
    images, cuts = [], []
    inside = place_out_of(boxes, frames.view(-1, 2, 2)).flatten(1)
    for path, box, inner in zip(_progress(every, quiet), boxes, inside, strict=True):
        photo = read_image(picture_of(path))
        images.append(crop_box(photo, box, size, "edge"))
        cuts.append(crop_box(photo, inner, size, "edge"))
    numbers = torch.arange(len(every))
    train = len(files["train"])
    return ScoredFaces(
        torch.stack(images),
        place_in(boxes, points),
        numbers[:train],
        numbers[train:],
        cuts=Cuts(torch.stack(cuts), frames),
    )


def random_frames(count: int) -> Float[Tensor, "count 4"]:
    """Squares x1 y1 x2 y2 inside of [-1, 1], always the same: sides of SMALLEST_CUT to 1, anywhere."""
    share, left, top = torch.rand(3, count, generator=torch.Generator().manual_seed(0))
    side = SMALLEST_CUT + (1 - SMALLEST_CUT) * share
    x, y = 2 * (1 - side) * left - 1, 2 * (1 - side) * top - 1
    return torch.stack([x, y, x + 2 * side, y + 2 * side], 1)


def as_cropped(points: Float[Tensor, "N 68 2"]) -> Float[Tensor, "N 4"]:
    """The boxes that `fra crop` would cut, from the landmarks: regions are measured on faces framed as in pre-training.

    Landmarks leave out the forehead. Measured on 165 pictures (docs/dev/log.md): RetinaFace's box is 1.25 times the
    longer side of the landmarks' box, and its centre lies higher by .13 of its own side. `fra crop` adds a quarter.
    The crops of `fra transfer` show a face 1.3 times smaller, in which regions have little room.
    """
    boxes = torch.stack([square_box(box, DETECTED * (1 + MARGIN) - 1) for box in tight_boxes(points)])
    higher = HIGHER / (1 + MARGIN) * (boxes[:, 3] - boxes[:, 1])
    return boxes - higher[:, None] * torch.tensor([0.0, 1.0, 0.0, 1.0])


def _read_drawn(root: Path, *, size: int, quiet: bool) -> ScoredFaces:
    rows = read_rows(root / "labels.csv")
    used = [number for number, row in enumerate(rows) if row["split"] in ("train", "test")]
    names = [rows[number]["file"] for number in used]
    with np.load(root / "landmarks.npz") as arrays:
        points = torch.from_numpy(arrays["points68"][used]).float()
    images, cuts, parts = [], [], []
    frames = random_frames(len(used))
    part_of = np.full(256, len(PARTS), np.uint8)
    for index, regions in enumerate(PARTS.values()):
        part_of[[REGION_NAMES.index(region) for region in regions]] = index
    for name, frame in zip(_progress(names, quiet), frames, strict=True):
        image = read_image(root / "images" / name)
        images.append(to_input(image, size))
        whole = whole_box(*image.shape[1:])[None]
        cuts.append(crop_box(image, place_out_of(whole, frame.view(1, 2, 2)).flatten(), size, "edge"))
        drawn = read_image(root / "regions" / f"{Path(name).stem}.png")[0]  # grey: the region's number
        parts.append(torch.from_numpy(part_of[drawn.numpy()]))
    split = np.array([rows[number]["split"] for number in used])
    train, test = (torch.from_numpy(np.flatnonzero(split == word)) for word in ("train", "test"))
    return ScoredFaces(
        torch.stack(images),
        place_in_image(points, parts[0].shape[1]),
        train,
        test,
        torch.stack(parts),
        Cuts(torch.stack(cuts), frames),
    )


def _progress(items: list[Item], quiet: bool) -> Iterator[Item]:
    from rich.progress import track

    yield from track(items, description=f"reading {counted(len(items), 'face')}", disable=quiet)
