"""WFLW: 98 landmarks, a face box and six attributes (https://wywu.github.io/projects/LAB/WFLW.html).

wflw/WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt     7,500 faces
wflw/WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt      2,500 faces
wflw/WFLW_images/0--Parade/0_Parade_marchingband_1_116.jpg ...

A line has 196 coordinates, xmin ymin xmax ymax of the box, six flags and the image's name. Without these lists,
HRNet's lists of the same images, also in images/:

wflw/[annotations/]face_landmarks_wflw_train.csv       wflw/[annotations/]face_landmarks_wflw_test.csv
wflw/[annotations/]face_landmarks_wflw_test_largepose.csv, ..._expression, _illumination, _makeup, _occlusion, _blur

or STAR's, also in annotations/WFLW/:

wflw/[annotations/]train.tsv       wflw/[annotations/]test.tsv

--data is wflw/ or the folder that contains it. There is no validation split.
"""

import dataclasses
from pathlib import Path

import torch

from fra.data.crops import AnnotatedFaces, CropRule, label_faces, yes_or_no
from fra.data.labelled import Dataset, LabelledFaces, Published
from fra.data.landmark_lists import (
    hrnet_lists,
    lines_also_in,
    numbers,
    on_disk,
    read_hrnet_csv,
    read_star_tsv,
    star_lists,
)
from fra.data.layout import find_layout
from fra.system.text import lines_of, shown
from fra.tasks.landmarks import Landmarks

TABLES = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{}.txt"
LISTS = (
    TABLES.format("train"),
    *(
        where + name
        for where in ("", "annotations/", "annotations/WFLW/")
        for name in ("face_landmarks_wflw_train.csv", "train.tsv")
    ),
)
ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")  # in this order in both forms
HRNET_NAMES = ("largepose", "expression", "illumination", "makeup", "occlusion", "blur")
TASK = Landmarks(98)
POINTS, RECTANGLE = TASK.points, 4


def read(folder: Path, crop: CropRule = "hrnet") -> LabelledFaces:
    """Read one of the layouts above; the image of a face is a square (see fra.data.crops).

    Raises ValueError when a list is missing or a line of it cannot be understood.
    """
    root = find_layout(folder, holds=LISTS, below="wflw", name="wflw")
    parts, pictures = find_faces(root)
    groups = yes_or_no(parts, ATTRIBUTES) if parts["test"].flags is not None else None
    return label_faces(parts, TASK, crop, name="wflw", root=pictures, groups=groups)


def find_faces(root: Path) -> tuple[dict[str, AnnotatedFaces], Path]:
    """The faces of both splits and the folder of their pictures. The original lists come before others."""
    tables = {split: root / TABLES.format(split) for split in ("train", "test")}
    if not any(path.exists() for path in tables.values()):
        csv, star = hrnet_lists(root, "wflw", ["train", "test"]), star_lists(root, "WFLW")
        if csv:
            train, test = (read_hrnet_csv(path, POINTS) for path in csv)
            subsets = hrnet_lists(root, "wflw", [f"test_{name}" for name in HRNET_NAMES])
            if subsets:
                flags = torch.stack([lines_also_in(part, csv[1]) for part in subsets], 1)
                test = dataclasses.replace(test, flags=flags)
            return on_disk(root, {"train": train, "test": test})
        if star:
            return on_disk(root, {split: read_star_tsv(path, POINTS) for split, path in star.items()})
    for split, path in tables.items():
        if not path.exists():
            raise ValueError(f"{path} is missing: it has the landmarks of the {split} faces")
    return {split: read_table(path) for split, path in tables.items()}, root / "WFLW_images"


def read_table(path: Path) -> AnnotatedFaces:
    """An original list. Raises ValueError naming the line that cannot be understood."""
    before = 2 * POINTS + RECTANGLE + len(ATTRIBUTES)
    files, rows = [], []
    for number, line in enumerate(lines_of(path), 1):
        words = line.split(maxsplit=before)
        if not words:
            continue
        if len(words) != before + 1 or not set(words[before - len(ATTRIBUTES) : before]) <= {"0", "1"}:
            raise ValueError(
                f"line {number} of {path} is '{shown(line)}': expected 196 coordinates, 4 of a rectangle, 6 flags of 0 "
                "or 1 and a file name"
            )
        files.append(words[before].strip())
        rows.append(numbers(words[:before], path, number))
    values = torch.tensor(rows).view(len(files), before)
    points, rectangles, flags = values.split((2 * POINTS, RECTANGLE, len(ATTRIBUTES)), 1)
    return AnnotatedFaces(files, points.view(-1, POINTS, 2), rectangles=rectangles, flags=flags == 1)


DATASET = Dataset(
    read,
    layout=__doc__ or "",
    # Of the subsets as FaRL's logs have them (spec alignment.md, section 6).
    published=Published(
        {"train": 7_500, "test": 2_500},
        groups={
            attribute: {"yes": images}
            for attribute, images in zip(ATTRIBUTES, (326, 314, 698, 206, 736, 773), strict=True)
        },
    ),
    crops=("hrnet", "star", "rect", "square"),
)
