"""CelebA: forty attributes, images of 178x218 pixels aligned and cropped by its providers.

As https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html distributes it, with or without the folders Anno, Eval and Img:

celeba/[Img/]img_align_celeba/000001.jpg      202,599 images
celeba/[Anno/]list_attr_celeba.txt            a count, the 40 names, then "000001.jpg -1 1 …"
celeba/[Eval/]list_eval_partition.txt         "000001.jpg 0"; 0 train, 1 val, 2 test

As Kaggle's mirror has it:

celeba/img_align_celeba/[img_align_celeba/]000001.jpg
celeba/list_attr_celeba.csv                   "image_id,5_o_Clock_Shadow,…", then "000001.jpg,-1,1,…"
celeba/list_eval_partition.csv                "image_id,partition", then "000001.jpg,0"

--data is celeba/ or the folder that contains it.
"""

from pathlib import Path

import numpy as np
import torch

from fra.data.labelled import Dataset, LabelledFaces, Published, first_there, splits_of
from fra.data.layout import find_layout
from fra.system.printable import counted
from fra.system.text import lines_of, rows_of, shown
from fra.tasks.attributes import Attributes

ATTRIBUTES = ("list_attr_celeba.txt", "list_attr_celeba.csv", "Anno/list_attr_celeba.txt")
PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv", "Eval/list_eval_partition.txt")
SPLITS = {"0": "train", "1": "val", "2": "test"}
PICTURES = ("img_align_celeba/img_align_celeba", "Img/img_align_celeba", "img_align_celeba")


def read(folder: Path) -> LabelledFaces:
    """Read one of the layouts above.

    The aligned picture is squeezed to a square as a whole (released code): the official boxes belong to other
    pictures. Raises ValueError when a list is missing, the two lists disagree or a value cannot be understood.
    """
    root = find_layout(folder, holds=ATTRIBUTES, below="celeba", name="celeba")
    attributes, partition = first_there(root, ATTRIBUTES), first_there(root, PARTITIONS)
    assert attributes  # find_layout has seen it
    if partition is None:
        raise ValueError(f"{root / PARTITIONS[0]} is missing: it assigns the images to training and test")
    names, rows = read_attributes(attributes)
    files = [row[0] for row in rows]
    wrong = next((row for row in rows if len(row) != 1 + len(names)), None)
    if wrong:
        raise ValueError(
            f"{attributes}: {wrong[0]} has {counted(len(wrong) - 1, 'value')} for {counted(len(names), 'name')}"
        )
    values = np.array([row[1:] for row in rows]).reshape(len(rows), len(names))
    strange = np.argwhere((values != "1") & (values != "-1"))
    if len(strange):
        row, column = strange[0]
        raise ValueError(
            f"{attributes}: {files[row]} has '{shown(values[row, column])}' for {names[column]}, expected 1 or -1"
        )
    parts = read_partition(partition)
    absent = next((file for file in files if file not in parts), None)
    if absent:
        raise ValueError(f"{partition} does not list {absent}, which is in {attributes.name}")
    return LabelledFaces(
        name="celeba",
        root=first_there(root, PICTURES) or root / "img_align_celeba",
        files=files,
        splits=splits_of([parts[file] for file in files]),
        tasks={"attributes": Attributes(names)},
        targets={"attributes": torch.from_numpy(values == "1")},
    )


def read_attributes(path: Path) -> tuple[tuple[str, ...], list[list[str]]]:
    """The attributes' names, and of every image its file name and values, as text."""
    rows = _rows(path)
    if len(rows) < 3:
        raise ValueError(f"{path} has {counted(len(rows), 'line')}: is the download complete?")
    if path.suffix == ".csv":
        return tuple(rows[0][1:]), rows[1:]
    return tuple(rows[1]), rows[2:]  # row 0 is a count, which nobody needs


def read_partition(path: Path) -> dict[str, str]:
    """File name → train, val or test."""
    rows = _rows(path)[1:] if path.suffix == ".csv" else _rows(path)
    wrong = next((row for row in rows if len(row) != 2 or row[1] not in SPLITS), None)
    if wrong:
        raise ValueError(f"{path} says '{shown(' '.join(wrong))}': expected a file name, and 0 train, 1 val or 2 test")
    return {name: SPLITS[number] for name, number in rows}


def _rows(path: Path) -> list[list[str]]:
    """The words of each line that has any."""
    if path.suffix == ".csv":
        return [[word.strip() for word in row] for _, row in rows_of(path) if any(map(str.strip, row))]
    return [line.split() for line in lines_of(path) if line.strip()]


DATASET = Dataset(
    read,
    layout=__doc__ or "",
    terms="non-commercial research only",
    # The sum is the published 202,599; the parts are as quoted in the literature (spec attributes.md, section 1).
    published=Published({"train": 162_770, "val": 19_867, "test": 19_962}, size=(178, 218)),
)
