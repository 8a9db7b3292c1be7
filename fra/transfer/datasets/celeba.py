"""CelebA: forty attributes, pictures aligned and cropped to 178x218 by its providers. Official layout:

celeba/img_align_celeba/000001.jpg
celeba/list_attr_celeba.txt        a count, the 40 names, then "000001.jpg -1 1 …"
celeba/list_eval_partition.txt     "000001.jpg 0", 0 train, 1 val, 2 test
"""

from pathlib import Path

import numpy as np
import torch

from fra.transfer.attributes import Attributes
from fra.transfer.dataset import LabelledFaces, find_layout


def read(folder: Path) -> LabelledFaces:
    """Read `celeba/` or the folder that holds it: train 162,770, val 19,867, test 19,962 images when complete.

    The aligned picture is squeezed to a square as a whole (released code): the official boxes belong to other
    pictures. Raises ValueError when a list is missing or the two lists disagree.
    """
    root = find_layout(folder, holds="list_attr_celeba.txt", below="celeba", name="celeba")
    partition_file = root / "list_eval_partition.txt"
    if not partition_file.exists():
        raise ValueError(f"{partition_file} is missing: it says which images train and which test")
    with open(root / "list_attr_celeba.txt") as lines:
        next(lines)  # a count, which nobody needs
        names = tuple(next(lines).split())
        rows = [line.split() for line in lines if line.strip()]
    files = [row[0] for row in rows]
    wrong = next((row for row in rows if len(row) != 1 + len(names)), None)
    if wrong:
        raise ValueError(f"{root}/list_attr_celeba.txt: {wrong[0]} has {len(wrong) - 1} values for {len(names)} names")
    partition = dict(line.split() for line in partition_file.read_text().splitlines() if line.strip())
    absent = next((file for file in files if file not in partition), None)
    if absent:
        raise ValueError(f"{partition_file} says nothing about {absent}, which list_attr_celeba.txt has")
    part = torch.tensor([int(partition[file]) for file in files])
    return LabelledFaces(
        name="celeba",
        root=root / "img_align_celeba",
        files=files,
        splits={split: (part == number).nonzero().flatten() for number, split in enumerate(("train", "val", "test"))},
        tasks={"attributes": Attributes(names)},
        targets={"attributes": torch.from_numpy(np.array([row[1:] for row in rows]) == "1")},
    )
