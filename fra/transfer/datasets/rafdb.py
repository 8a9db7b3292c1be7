"""RAF-DB basic: seven expressions, pictures aligned by its providers. Official layout:

basic/EmoLabel/list_patition_label.txt      "train_00001.jpg 5", this spelling; labels 1 to 7
basic/Image/aligned/train_00001_aligned.jpg
"""

from pathlib import Path

import torch

from fra.transfer.dataset import LabelledFaces, find_layout
from fra.transfer.expression import Expression

LABELS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # 1 to 7 in the list


def read(folder: Path) -> LabelledFaces:
    """Read `basic/` or the folder that holds it. Train 12,271 and test 3,068 images when complete; no validation.

    Raises ValueError when the list is not there, or a line of it cannot be understood.
    """
    root = find_layout(folder, holds="EmoLabel/list_patition_label.txt", below="basic", name="rafdb")
    names, labels = [], []
    with open(root / "EmoLabel/list_patition_label.txt") as lines:
        for number, line in enumerate(filter(str.strip, lines), 1):
            name, _, label = line.strip().partition(" ")
            if not name.startswith(("train_", "test_")) or label not in tuple("1234567"):
                raise ValueError(
                    f"line {number} of {lines.name} is '{line.strip()}': expected 'train_00001.jpg 5', labels 1 to 7"
                )
            names.append(name)
            labels.append(int(label) - 1)
    train = torch.tensor([name.startswith("train_") for name in names])
    return LabelledFaces(
        name="rafdb",
        root=root / "Image/aligned",
        files=[f"{Path(name).stem}_aligned.jpg" for name in names],
        splits={
            "train": train.nonzero().flatten(),
            "val": torch.empty(0, dtype=torch.long),
            "test": (~train).nonzero().flatten(),
        },
        tasks={"expression": Expression(LABELS)},
        targets={"expression": torch.tensor(labels)},
    )
