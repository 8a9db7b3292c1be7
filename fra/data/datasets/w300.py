"""300-W: 68 landmarks (https://ibug.doc.ic.ac.uk/resources/300-W/), NAME.pts beside each image NAME.jpg or NAME.png.

300w/afw/ 337      300w/helen/trainset/ 2,000   300w/lfpw/trainset/ 811     train: 3,148 faces, the usual split
300w/ibug/ 135     300w/helen/testset/ 330      300w/lfpw/testset/ 224      test: 689 faces, the full set

Missing folders are skipped. Without .pts files, HRNet's lists of the same images, also in images/:

300w/[annotations/]face_landmarks_300w_train.csv
300w/[annotations/]face_landmarks_300w_valid.csv, or face_landmarks_300w_valid_common.csv and ..._valid_challenge.csv

or STAR's, also in annotations/300W/:

300w/[annotations/]train.tsv       300w/[annotations/]test.tsv

--data is 300w/ or the folder that contains it. There is no validation split. The subset `challenging` is ibug/,
`common` the other test faces. One file name contains a space: ibug/image_092 _01.jpg.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fra.data.crops import CROPS, AnnotatedFaces, CropRule, label_faces
from fra.data.labelled import Dataset, Groups, LabelledFaces, Published
from fra.data.landmark_lists import (
    hrnet_lists,
    join,
    on_disk,
    read_hrnet_csv,
    read_star_tsv,
    star_lists,
)
from fra.data.layout import find_layout
from fra.system.text import text_of
from fra.tasks.landmarks import Landmarks

HRNET_SHIFT = -2.0
"""From HRNet's coordinates and centres to pixels from 0; other sets need none (FaRL; spec alignment.md, section 6)."""
LISTS = tuple(
    where + name
    for where in ("", "annotations/", "annotations/300W/")
    for name in ("face_landmarks_300w_train.csv", "train.tsv")
)
FOLDERS_300W = {"train": ("afw", "helen/trainset", "lfpw/trainset"), "test": ("helen/testset", "lfpw/testset", "ibug")}
"""The usual split: 3,148 faces to train, the 689 of the full set to test."""
ENDINGS = (".jpg", ".png", ".jpeg")
TASK = Landmarks(68, thresholds=(10.0, 5.0))
"""STAR's threshold for 300-W is 5 %, others' 10 (spec alignment.md, section 9)."""


def read(folder: Path, crop: CropRule = "square") -> LabelledFaces:
    """Read one of the layouts above.

    The image of a face is a square around its landmarks (see fra.data.crops). Raises ValueError when no train or no
    test faces are there, or a file cannot be understood.
    """
    root = find_layout(folder, holds=("helen", *LISTS), below="300w", name="300w")
    parts, pictures = find_faces(root)
    subset = torch.full((len(parts["train"].files) + len(parts["test"].files),), -1)
    subset[len(parts["train"].files) :] = torch.tensor(["ibug/" in file for file in parts["test"].files]).long()
    groups = {"subset": Groups(("common", "challenging"), subset)}
    return label_faces(parts, TASK, crop, name="300w", root=pictures, groups=groups)


def find_faces(root: Path) -> tuple[dict[str, AnnotatedFaces], Path]:
    """The faces of both splits and the folder of their pictures. The original .pts files come before other lists."""
    any_pts = any(next((root / name).glob("*.pts"), None) for names in FOLDERS_300W.values() for name in names)
    if not any_pts:
        train = hrnet_lists(root, "300w", ["train"])
        test = hrnet_lists(root, "300w", ["valid"]) or hrnet_lists(root, "300w", ["valid_common", "valid_challenge"])
        star = star_lists(root, "300W")
        if train and test:
            lists = {"train": train, "test": test}
            parts = {
                split: join([read_hrnet_csv(path, 68, shift=HRNET_SHIFT) for path in paths])
                for split, paths in lists.items()
            }
            return on_disk(root, parts)
        if star:
            return on_disk(root, {split: read_star_tsv(path, 68) for split, path in star.items()})
    return {split: _read_pts_files(root, found) for split, found in pts_files(root).items()}, root


def _read_pts_files(root: Path, found: Sequence[Path]) -> AnnotatedFaces:
    files = [str(picture_of(path).relative_to(root)) for path in found]
    return AnnotatedFaces(files, torch.stack([read_pts(path) for path in found]))


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
    text = text_of(path)
    try:
        points = torch.tensor([float(word) for word in text[text.index("{") + 1 : text.index("}")].split()])
        return points.view(68, 2) - 1
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is not a .pts file with 68 points: expected '{{', 68 lines 'x y', '}}'") from error


DATASET = Dataset(
    read,
    layout=__doc__ or "",
    terms="research only",
    published=Published({"train": 3_148, "test": 689}, groups={"subset": {"common": 554, "challenging": 135}}),
    crops=CROPS[:3],
)
