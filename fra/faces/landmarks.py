"""68 landmarks on disk: 300-W's folders and .pts files, and those of drawn faces. N faces, P landmarks."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

FOLDERS_300W = {"train": ("afw", "helen/trainset", "lfpw/trainset"), "test": ("helen/testset", "lfpw/testset", "ibug")}
"""The usual split: 3,148 faces to train, the 689 of the full set to test."""
ENDINGS = (".jpg", ".png", ".jpeg")
OUTER_EYE_CORNERS = (36, 45)  # of the 68, in iBUG's order, from 0 (spec alignment.md, 9)


def pts_files(root: Path) -> dict[str, list[Path]]:
    """The .pts files of 300-W's "train" and "test" split. ValueError when one of them has none."""
    found = {}
    for split, folders in FOLDERS_300W.items():
        found[split] = sorted(path for name in folders for path in (root / name).glob("*.pts"))
        if not found[split]:
            raise ValueError(f"no .pts file for the {split} split: expected them in {root}/ {', '.join(folders)}")
    return found


def picture_of(path: Path) -> Path:
    """The picture beside a .pts file; `.jpg` when there is none, which reading it will then report."""
    beside = (path.with_name(path.stem + ending) for ending in ENDINGS)
    return next((picture for picture in beside if picture.exists()), path.with_suffix(".jpg"))


def read_pts(path: Path) -> Float[Tensor, "68 2"]:
    """Landmarks in pixels, first pixel's centre at (0, 0). The file counts from 1, so 1 is subtracted."""
    text = path.read_text()
    try:
        points = torch.tensor([float(word) for word in text[text.index("{") + 1 : text.index("}")].split()])
        return points.view(68, 2) - 1
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is not a .pts file with 68 points: expected '{{', 68 lines 'x y', '}}'") from error


def tight_boxes(points: Float[Tensor, "N P 2"]) -> Float[Tensor, "N 4"]:
    """The smallest boxes x1 y1 x2 y2 that hold the landmarks."""
    return torch.cat([points.amin(1), points.amax(1)], 1)


def place_in(boxes: Float[Tensor, "N 4"], points: Float[Tensor, "N P 2"]) -> Float[Tensor, "N P 2"]:
    """Points of the picture as x, y in [-1, 1] of their box."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return 2 * (points - low) / (high - low) - 1


def place_out_of(boxes: Float[Tensor, "N 4"], places: Float[Tensor, "N P 2"]) -> Float[Tensor, "N P 2"]:
    """Undo `place_in`."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return low + (places + 1) / 2 * (high - low)


def place_in_image(points: Float[Tensor, "N P 2"], size: int) -> Float[Tensor, "N P 2"]:
    """Pixels of an image of `size` as x, y in [-1, 1] from its edge to its edge."""
    return (points + 0.5) * (2 / size) - 1


def nme(
    points: Float[Tensor, "N P 2"], truth: Float[Tensor, "N P 2"], normaliser: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """Per face: mean distance of its landmarks from the truth, over the length `normaliser`, percent.

    All in the same square frame of any unit, such as the photo's pixels or a square crop: the ratio does not depend on
    it. Points may lie outside.
    """
    return 100 * (points - truth).norm(dim=-1).mean(1) / normaliser


def inter_ocular_error(points: Float[Tensor, "N 68 2"], truth: Float[Tensor, "N 68 2"]) -> Float[Tensor, "N"]:
    """`nme` by the distance of the outer eye corners."""
    left, right = OUTER_EYE_CORNERS
    return nme(points, truth, (truth[:, left] - truth[:, right]).norm(dim=-1))
