"""300-W: 68 landmarks (https://ibug.doc.ic.ac.uk/resources/300-W/), NAME.pts beside each picture NAME.jpg or NAME.png.

300w/afw/ 337      300w/helen/trainset/ 2,000   300w/lfpw/trainset/ 811     train: 3,148 faces, the usual split
300w/ibug/ 135     300w/helen/testset/ 330      300w/lfpw/testset/ 224      test: 689 faces, the full set

Folders that are not there are left out. Give 300w/ or the folder that holds it. There is no validation split.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fra.faces.geometry import square_box
from fra.transfer.dataset import Dataset, LabelledFaces, Published, find_layout
from fra.transfer.landmarks import Landmarks

FOLDERS = {"train": ("afw", "helen/trainset", "lfpw/trainset"), "test": ("helen/testset", "lfpw/testset", "ibug")}
MARGIN = 1.0  # the image is twice as wide as the landmarks' box (ours: shows hair, chin and ears)
ENDINGS = (".jpg", ".png", ".jpeg")


def read(folder: Path) -> LabelledFaces:
    """Read the folder that holds `afw/`, `helen/` and so on, or the one above it called `300w`.

    The image of a face is a square around its landmarks, twice as wide as their box, with the edges repeated where
    the photo ends. So the crop comes from the annotation, in the test split too, as in HRNet, ADNet and STAR.
    Raises ValueError when no train or no test folder is there, or a .pts file cannot be understood.
    """
    root = find_layout(folder, holds="helen", below="300w", name="300w")
    files: list[str] = []
    points: list[Tensor] = []
    splits = {"val": torch.empty(0, dtype=torch.long)}
    for split, folders in FOLDERS.items():
        found = sorted(path for name in folders for path in (root / name).glob("*.pts"))
        if not found:
            raise ValueError(f"no .pts file for the {split} split: expected them in {root}/ {', '.join(folders)}")
        splits[split] = torch.arange(len(files), len(files) + len(found))
        files += [str(picture_of(path).relative_to(root)) for path in found]
        points += [read_pts(path) for path in found]
    landmarks = torch.stack(points)
    boxes = square_around(landmarks)
    return LabelledFaces(
        name="300w",
        root=root,
        files=files,
        splits=splits,
        tasks={"landmarks": Landmarks(68)},
        targets={"landmarks": place_in(boxes, landmarks)},
        boxes=boxes,
    )


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


def square_around(points: Float[Tensor, "N 68 2"]) -> Float[Tensor, "N 4"]:
    """Boxes x1 y1 x2 y2 about the landmarks' boxes, with room around them."""
    tight = torch.cat([points.amin(1), points.amax(1)], 1)
    return torch.stack([square_box(box, MARGIN) for box in tight])


def place_in(boxes: Float[Tensor, "N 4"], points: Float[Tensor, "N P 2"]) -> Float[Tensor, "N P 2"]:
    """Points of the picture as x, y in [-1, 1] of their box."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return 2 * (points - low) / (high - low) - 1


DATASET = Dataset(read, layout=__doc__ or "", published=Published({"train": 3_148, "test": 689}))
