"""300-W: 68 landmarks (https://ibug.doc.ic.ac.uk/resources/300-W/), NAME.pts beside each picture NAME.jpg or NAME.png.

300w/afw/ 337      300w/helen/trainset/ 2,000   300w/lfpw/trainset/ 811     train: 3,148 faces, the usual split
300w/ibug/ 135     300w/helen/testset/ 330      300w/lfpw/testset/ 224      test: 689 faces, the full set

Folders that are not there are left out. Give 300w/ or the folder that holds it. There is no validation split.
"""

from pathlib import Path

import torch
from torch import Tensor

from fra.faces.landmarks import picture_of, place_in, pts_files, read_pts, square_around
from fra.faces.layout import find_layout
from fra.transfer.dataset import Dataset, LabelledFaces, Published
from fra.transfer.landmarks import Landmarks


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
    for split, found in pts_files(root).items():
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


DATASET = Dataset(read, layout=__doc__ or "", published=Published({"train": 3_148, "test": 689}))
