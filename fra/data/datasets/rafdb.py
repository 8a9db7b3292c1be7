"""RAF-DB basic: seven expressions, images of 100x100 pixels aligned by its providers (http://www.whdeng.cn/raf/model1.html).

basic/EmoLabel/list_patition_label.txt        "train_00001.jpg 5", this spelling; labels 1 to 7
basic/Image/aligned/train_00001_aligned.jpg   12,271 train_…, 3,068 test_…

--data is basic/ or the folder that contains it. There is no validation split.
"""

from pathlib import Path

import torch

from fra.data.labelled import Dataset, LabelledFaces, Published, splits_of
from fra.data.layout import find_layout
from fra.system.text import lines_of, shown
from fra.tasks.expression import Expression

LABELS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # 1 to 7 in the list


def read(folder: Path) -> LabelledFaces:
    """Read the layout above. Raises ValueError when the list is not there, or a line of it cannot be understood."""
    root = find_layout(folder, holds="EmoLabel/list_patition_label.txt", below="basic", name="rafdb")
    names, labels = [], []
    path = root / "EmoLabel/list_patition_label.txt"
    for number, line in enumerate(lines_of(path), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or not words[0].startswith(("train_", "test_")) or words[1] not in tuple("1234567"):
            raise ValueError(f"line {number} of {path} is '{shown(line)}': expected 'train_00001.jpg 5', labels 1 to 7")
        names.append(words[0])
        labels.append(int(words[1]) - 1)
    return LabelledFaces(
        name="rafdb",
        root=root / "Image/aligned",
        files=[f"{Path(name).stem}_aligned.jpg" for name in names],
        splits=splits_of([name.partition("_")[0] for name in names]),
        tasks={"expression": Expression(LABELS)},
        targets={"expression": torch.tensor(labels, dtype=torch.long)},
    )


DATASET = Dataset(
    read,
    layout=__doc__ or "",
    terms="non-commercial research only",
    published=Published(  # counted in the official list (spec expression.md, section 1)
        {"train": (1290, 281, 717, 4772, 1982, 705, 2524), "test": (329, 74, 160, 1185, 478, 162, 680)},
        size=(100, 100),
    ),
)
