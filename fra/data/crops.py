"""Which square of a photo is shown for a face with landmarks. N faces, P landmarks.

Every square comes from the annotation, in the test split too, as in HRNet, ADNet, STAR and FaRL: say so beside a score.
A square of side L about c maps c to 127.5 of 256 pixels and scales by 256 / L (spec alignment.md, section 6).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fra.data.labelled import Groups, LabelledFaces, PictureReader
from fra.faces.geometry import Padding
from fra.faces.points import place_in, tight_boxes
from fra.tasks.landmarks import Landmarks

CropRule = Literal["square", "star", "hrnet", "rect", "whole"]
"""square: twice the longer side of the landmarks' box (ours: shows hair, chin and ears).
star: the height of the landmarks' box, as measured on STAR's lists; wide and turned faces lose landmarks.
hrnet: 1.25 times the longer side; no landmark is lost.
rect: the longer side of the annotated face rectangle, about its centre.
whole: the longer side of the picture, about its centre, for pictures that are face crops already.
"""
CROPS: tuple[CropRule, ...] = get_args(CropRule)
SQUARE_SIDE = 2.0
HRNET_MARGIN = 1.25
SCALE_UNIT = 200
"""Pixels of a square's side that a scale of 1 in HRNet's and STAR's lists stands for."""
PADDING: dict[CropRule, Padding] = {
    "square": "edge",
    "star": "zero",
    "hrnet": "zero",
    "rect": "zero",
    "whole": "reflect",  # as `fra crop` pads
}
"""What is shown where the photo ends."""


@dataclass(frozen=True)
class AnnotatedFaces:
    """Faces as a dataset's lists give them, in pixels of the photos, the first one's centre at (0, 0)."""

    files: list[str]
    points: Float[Tensor, "N P 2"]
    rectangles: Float[Tensor, "N 4"] | None = None
    """Face boxes x1 y1 x2 y2."""
    squares: Mapping[CropRule, Float[Tensor, "N 4"]] = field(default_factory=dict)
    """Squares that the lists name themselves, instead of those made from the landmarks."""
    flags: Bool[Tensor, "N F"] | None = None
    """Yes-or-no annotations, in the list's order."""


def squares_about(centres: Float[Tensor, "N 2"], sides: Float[Tensor, "N"]) -> Float[Tensor, "N 4"]:
    """Boxes x1 y1 x2 y2."""
    half = sides[:, None] / 2
    return torch.cat((centres - half, centres + half), 1)


def crop_squares(faces: AnnotatedFaces, crop: CropRule) -> Float[Tensor, "N 4"]:
    """The squares of a preset. Raises ValueError for rectangles that the faces do not have."""
    if crop in faces.squares:
        return faces.squares[crop]
    boxes = tight_boxes(faces.points)
    if crop == "rect":
        if faces.rectangles is None:
            raise ValueError("these lists have no face boxes: set crop to square, star or hrnet")
        boxes = faces.rectangles
    widths, heights = (boxes[:, 2:] - boxes[:, :2]).T
    longer = torch.maximum(widths, heights)
    sides = {"square": SQUARE_SIDE * longer, "star": heights, "hrnet": HRNET_MARGIN * longer, "rect": longer}
    return squares_about((boxes[:, :2] + boxes[:, 2:]) / 2, sides[crop])


def label_faces(
    splits: Mapping[str, AnnotatedFaces],
    task: Landmarks,
    crop: CropRule,
    *,
    name: str,
    root: Path,
    groups: Mapping[str, Groups] | None = None,
    read: PictureReader | None = None,
    face_boxes: bool = False,
) -> LabelledFaces:
    """The dataset of the faces of each split, one split after another, cut as `crop` says.

    With `face_boxes` the targets have the rectangles' sizes in their last row (see Landmarks). Raises ValueError for a
    face whose landmarks leave no square to cut.
    """
    files = [file for faces in splits.values() for file in faces.files]
    points = torch.cat([faces.points for faces in splits.values()])
    boxes = torch.cat([crop_squares(faces, crop) for faces in splits.values()])
    sides = boxes[:, 2] - boxes[:, 0]
    flat = (~(sides > 0)).nonzero().flatten().tolist()
    if flat:
        raise ValueError(f"the landmarks of {files[flat[0]]} span no area to crop: use the original annotation")
    targets = place_in(boxes, points)
    if face_boxes:
        rectangles = torch.cat([_rectangles(faces) for faces in splits.values()])
        size = 2 * (rectangles[:, 2:] - rectangles[:, :2]) / sides[:, None]
        targets = torch.cat((targets, size[:, None]), 1)
    ends = torch.tensor([0] + [len(faces.files) for faces in splits.values()]).cumsum(0).tolist()
    places = {split: torch.arange(*ends[number : number + 2]) for number, split in enumerate(splits)}
    return LabelledFaces(
        name=name,
        root=root,
        files=files,
        splits={split: places.get(split, torch.empty(0, dtype=torch.long)) for split in ("train", "val", "test")},
        tasks={"landmarks": task},
        targets={"landmarks": targets},
        boxes=boxes,
        crop=crop,
        padding=PADDING[crop],
        groups=dict(groups or {}),
        read=read,
    )


def _rectangles(faces: AnnotatedFaces) -> Float[Tensor, "N 4"]:
    assert faces.rectangles is not None
    return faces.rectangles


def yes_or_no(splits: Mapping[str, AnnotatedFaces], kinds: Sequence[str]) -> dict[str, Groups]:
    """Of each kind of flag the groups with and without it. Where a split has none, its faces are in no group."""
    flags = [
        torch.full((len(faces.files), len(kinds)), -1) if faces.flags is None else faces.flags.long()
        for faces in splits.values()
    ]
    return {kind: Groups(("no", "yes"), column) for kind, column in zip(kinds, torch.cat(flags).T, strict=True)}
