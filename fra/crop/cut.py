"""From one photo to its face crops: read, detect, choose, cut, write."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fra.crop.detectors import Detector, Face
from fra.crop.tiles import Detail, close_detector, why_no_face
from fra.faces import MARGIN
from fra.faces.geometry import crop_box, five_point_template, similarity_transform, square_box, warp
from fra.faces.image import UnreadableImage, jpeg_bytes, read_image, write_image

Choice = Literal["random", "largest", "all"]
Alignment = Literal["none", "five-point"]
LARGEST, WIDEST = 4096, 10.0  # size and margin; ours, far beyond any use and before the memory ends

POINT_COLUMNS = tuple(f"l{axis}{point}" for point in range(1, 6) for axis in "xy")
COLUMNS = ("photo", "crop", "x1", "y1", "x2", "y2", *POINT_COLUMNS, "score", "reason")
UNREADABLE = "unreadable"

Row = tuple[str, ...]
"""One line of crops.csv: a text for each of COLUMNS."""


@dataclass(frozen=True)
class CropSettings:
    """What decides how crops look. Two runs with equal settings over equal photos write equal files."""

    detector: str = "retinaface"
    """A name in DETECTORS, or name:model (supplement of the paper: RetinaFace)."""
    choose: Choice = "random"
    """Which of the faces of a photo; one at random is the supplement's choice."""
    size: int = 128
    """Side of the crops in pixels (supplement)."""
    margin: float = MARGIN
    """The crop's side is the box's longer side times 1 + margin (ours: the paper does not say)."""
    align: Alignment = "none"
    """`five-point` turns the eyes level (ours, an option: the paper does not rotate)."""
    min_score: float = 0.6
    """Detections below it do not count (visibility threshold of the reference RetinaFace)."""
    detail: Detail = "auto"
    """How closely large photos are looked at (ours)."""
    seed: int = 0
    """Decides, together with a photo's path below the input folder, which face `random` takes."""
    shards: bool = False
    """Pack the crops into .tar shards instead of a tree of files."""
    shard_faces: int = 10_000
    """Faces in a shard (ours: about 100 MB at 128 pixels, so that copying and reading work in large pieces)."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("choose", self.choose, Choice),
            ("align", self.align, Alignment),
            ("detail", self.detail, Detail),
        ):
            if value not in get_args(allowed):
                raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(get_args(allowed))}")
        if not 1 <= self.size <= LARGEST:
            raise ValueError(f"size is {self.size}: give 1 to {LARGEST} pixels (the paper uses 128)")
        if not 0 <= self.margin <= WIDEST:
            raise ValueError(f"margin is {self.margin}: it must be from 0 (the detector's box) to {WIDEST:g}")
        if not 0 < self.min_score <= 1:
            raise ValueError(f"min-score is {self.min_score}: it must be above 0 and at most 1")
        if self.shard_faces < 1:
            raise ValueError(f"shard-faces is {self.shard_faces}: give at least 1 (default 10000)")
        if self.align == "five-point" and self.detector == "none":
            raise ValueError("align five-point needs a detector that finds eyes, nose and mouth: use retinaface")


@dataclass(frozen=True)
class Photo:
    """One photo and the names it has in the tables."""

    path: Path
    name: str
    """Relative to the input folder, with forward slashes."""
    stem: str
    """Its crops are `stem`.jpg, or `stem`_0.jpg, `stem`_1.jpg … when all faces are taken."""
    known: UInt8[np.ndarray, "3 H W"] | None = field(default=None, compare=False, repr=False)
    """Its pixels, where they were read before; an array, which travels to a process by value."""

    def read(self) -> UInt8[Tensor, "3 H W"]:
        """Its pixels. Raises UnreadableImage."""
        return read_image(self.path) if self.known is None else torch.from_numpy(self.known)


@dataclass(frozen=True)
class Made:
    """What became of one face, or of a photo without one."""

    row: Row
    content: bytes = b""
    """The crop as a JPEG that still has to be packed into a shard; its row does not say where yet."""


def choose_faces(faces: Sequence[Face], *, choose: Choice, key: str) -> list[Face]:
    """The faces to cut out; `key` alone decides which one is taken at random, in any process and at any time."""
    if choose == "all" or not faces:
        return list(faces)
    if choose == "largest":
        return [max(faces, key=lambda face: float((face.box[2:] - face.box[:2]).prod()))]
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return [faces[int.from_bytes(digest, "big") % len(faces)]]


def cut_face(image: UInt8[Tensor, "3 H W"], face: Face, settings: CropSettings) -> UInt8[Tensor, "3 S S"]:
    """The square crop of a face; what lies outside the photo is its mirror image.

    A photo that is already a crop (`none`) is shown whole and without a margin; if it is not square, mirrored
    stripes make it so.
    """
    if settings.align == "five-point" and face.five_points is not None:
        template = five_point_template(settings.size, settings.margin)
        return warp(image, similarity_transform(face.five_points, template), settings.size, "reflect")
    margin = 0.0 if settings.detector == "none" else settings.margin
    return crop_box(image, square_box(face.box, margin), settings.size, "reflect")


class Cropper:
    """A detector and the settings, ready for photos; each worker process has one."""

    def __init__(self, settings: CropSettings, out: Path) -> None:
        self.settings, self.out = settings, out
        self.detector: Detector = close_detector(
            settings.detector, min_score=settings.min_score, detail=settings.detail
        )

    def crop(self, photos: Sequence[Photo]) -> list[Made]:
        """Cut the photos; write the crops, or return them for shards. OSError when a crop cannot be written.

        Every photo has at least one row. One thread computes, so that the result does not depend on the number of
        workers.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module="PIL")  # odd metadata in a photo that can be read
                return [made for photo in photos for made in self._crop_one(photo)]
        finally:
            torch.set_num_threads(threads)

    def _crop_one(self, photo: Photo) -> list[Made]:
        try:
            image = photo.read()
        except UnreadableImage as error:
            return [Made(_row(photo.name, reason=f"{UNREADABLE}: {error.reason}"))]
        key = f"{self.settings.seed} {photo.name}"
        faces = choose_faces(self.detector.find_faces(image), choose=self.settings.choose, key=key)
        made = []
        for number, face in enumerate(faces):
            cut = cut_face(image, face, self.settings)
            if self.settings.shards:
                made.append(Made(_row(photo.name, face=face), jpeg_bytes(cut)))
                continue
            crop = f"crops/{photo.stem}_{number}.jpg" if self.settings.choose == "all" else f"crops/{photo.stem}.jpg"
            write_image(self.out / crop, cut)
            made.append(Made(_row(photo.name, crop=crop, face=face)))
        return made or [Made(_row(photo.name, reason=why_no_face(*image.shape[1:], detail=self.settings.detail)))]


def _row(photo: str, *, crop: str = "", face: Face | None = None, reason: str = "") -> Row:
    if face is None:
        return (photo, crop, *[""] * 15, reason)
    box = [f"{value:.2f}" for value in face.box.tolist()]
    points = [""] * 10 if face.five_points is None else [f"{v:.2f}" for v in face.five_points.flatten().tolist()]
    return (photo, crop, *box, *points, f"{face.score:.4f}", reason)
