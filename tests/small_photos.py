"""Photos of noise, and a detector that finds two faces in each."""

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fra.crop.detectors import Face


def photo(path: Path, *, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    """Smooth noise; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def face(x: float, y: float, side: float, score: float = 0.9) -> Face:
    five_points = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    corner = torch.tensor([float(x), float(y)])
    return Face(torch.cat((corner, corner + side)), corner + five_points * side, score)


class TwoFaces:
    """Finds a small sure face and a large unsure one, and none in a photo that is 50 pixels wide."""

    def __init__(self, *, min_score: float, model: str | None = None) -> None:
        pass

    def find_faces(self, image: torch.Tensor) -> list[Face]:
        return [] if image.shape[2] == 50 else [face(2, 3, 10, 0.95), face(15, 5, 20, 0.7)]


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "crops.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def contents(out: Path) -> dict[str, bytes]:
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}
