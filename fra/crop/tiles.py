"""Small faces in large photos: a detector looks at overlapping tiles besides the whole.

A detector sees a photo reduced to LONGER_SIDE: a face of 64 pixels in a photo of 4000 is then 10 pixels wide. A tile of
SIDE pixels is reduced by two only.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.ops import nms

from fra.crop.detectors import LONGER_SIDE, NO_FACE, SMALLEST_FACE, Detector, Face, make_detector, why_not_whole
from fra.crop.retinaface import OVERLAP

Detail = Literal["auto", "whole", "tiles"]
"""Tiles never, always for large photos, or when the whole one shows no face or a small one."""
SIDE, SHARED = 1280, 320
"""Of a tile in pixels, and what it shares with its neighbour: a face that fits in the latter is whole in one tile."""
LARGE = 1600
"""Longer side in pixels from which a photo is large (ours: smaller ones are reduced by no more than 2.5)."""
SMALL = 40
"""Side of a face in the reduced photo below which there may be smaller ones that were not found (ours)."""
CUT = 4
"""Pixels from a tile's edge at which a face is taken for cut off there."""


class Tiled:
    """Any detector, looking more closely."""

    def __init__(self, detector: Detector, detail: Detail) -> None:
        self.detector, self.detail = detector, detail

    def find_faces(self, image: UInt8[Tensor, "3 H W"]) -> list[Face]:
        faces = self.detector.find_faces(image)
        longer = max(image.shape[1:])
        if longer <= LARGE or self.detail == "whole":
            return faces
        sides = [float((face.box[2:] - face.box[:2]).max()) * LONGER_SIDE / longer for face in faces]
        if self.detail == "auto" and min(sides, default=0.0) >= SMALL:
            return faces
        return _merged([*faces, *(face for tile in tiles(*image.shape[1:]) for face in self._inside(image, *tile))])

    def _inside(self, image: UInt8[Tensor, "3 H W"], top: int, left: int) -> Iterator[Face]:
        """The faces of a tile that its edges do not cut, in pixels of the photo."""
        height, width = image.shape[1:]
        corner = torch.tensor([left, top])
        far = float("inf")
        right, bottom = left + SIDE, top + SIDE
        low = torch.tensor([left + CUT if left else -far, top + CUT if top else -far])
        high = torch.tensor([right - CUT if right < width else far, bottom - CUT if bottom < height else far])
        for face in self.detector.find_faces(image[:, top:bottom, left:right]):
            box = face.box + corner.repeat(2)
            if (box[:2] >= low).all() and (box[2:] <= high).all():
                points = None if face.five_points is None else face.five_points + corner
                yield replace(face, box=box, five_points=points)


def tiles(height: int, width: int) -> list[tuple[int, int]]:
    """Top and left of each tile: as few as cover the photo, evenly spread, SHARED pixels at least in common."""
    return [(top, left) for top in _starts(height) for left in _starts(width)]


def _starts(length: int) -> list[int]:
    steps = max(0, -(-(length - SIDE) // (SIDE - SHARED)))
    return [round(step * (length - SIDE) / steps) for step in range(steps + 1)] if steps else [0]


def _merged(faces: list[Face]) -> list[Face]:
    """The surest of each that overlap, the surest first."""
    if not faces:
        return []
    kept = nms(torch.stack([face.box for face in faces]), torch.tensor([face.score for face in faces]), OVERLAP)
    return [faces[place] for place in kept.tolist()]


def close_detector(name: str, *, min_score: float, detail: Detail) -> Detector:
    """`make_detector`'s, looking as closely as `detail` says."""
    found = make_detector(name, min_score=min_score)
    return found if name == "none" else Tiled(found, detail)


@cache
def shared_detector(name: str, min_score: float, detail: Detail = "auto") -> Detector:
    """`close_detector`, once per process: for what is called again and again."""
    return close_detector(name, min_score=min_score, detail=detail)


def why_no_face(height: int, width: int, *, detail: Detail = "auto") -> str:
    """The reason why a photo of this size has no face: NO_FACE, and what could not be seen where it was reduced."""
    if detail == "whole" or max(height, width) <= LARGE:
        return why_not_whole(height, width)
    return (
        f"{NO_FACE}: the photo of {width}x{height} was searched in parts of {SIDE} pixels, "
        f"so faces smaller than about {SMALLEST_FACE * SIDE // LONGER_SIDE} pixels cannot be found"
    )
