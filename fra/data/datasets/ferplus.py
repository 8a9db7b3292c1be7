"""FERPlus (FER+): eight expressions by ten voters, on FER2013's grey images of 48x48 pixels.

As distributed, votes from https://github.com/microsoft/FERPlus, images from Kaggle's expression challenge of 2013:

ferplus/fer2013new.csv              "Usage,Image name,neutral,…,NF", ten votes per row
ferplus/[fer2013/]fer2013.csv       "emotion,pixels,Usage", 2,304 grey values per row; the same 35,887 rows

Or as Microsoft's script writes the images:

ferplus/FER2013Train/label.csv      "fer0000000.png,"(0, 0, 48, 48)",4,0,0,1,3,2,0,0,0,0", no heading
ferplus/FER2013Train/fer0000000.png …, and the same in FER2013Valid (val) and FER2013Test

The same with the images in ferplus/Images/FER2013Train and the lists in ferplus/Labels/FER2013Train, as the released
code of FRA expects it. --data is ferplus/ or the folder that contains it. Votes become classes by Microsoft's
"majority" rule.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fra.data.labelled import Dataset, LabelledFaces, Published, first_there, splits_of
from fra.data.layout import find_layout
from fra.faces.image import UnreadableImage
from fra.system.text import lines_of, rows_of, shown
from fra.tasks.expression import Expression

LABELS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
VOTES = (*LABELS, "unknown", "NF")  # NF: not a face
FOLDERS = {"train": "FER2013Train", "val": "FER2013Valid", "test": "FER2013Test"}
USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
SIDE = 48
PIXEL_TABLES = ("fer2013.csv", "fer2013/fer2013.csv")
LISTS = ("FER2013Train/label.csv", "Labels/FER2013Train/label.csv")

Voted = tuple[str, str, int, int]
"""File name as in Microsoft's folders, split, class, and number of its line in the table."""


def read(folder: Path) -> LabelledFaces:
    """Read one of the layouts above; both give the same images in the same order, under the same names.

    Raises ValueError when a table is missing, a line of it cannot be understood, or the two tables do not go together.
    """
    root = find_layout(folder, holds=("fer2013new.csv", *LISTS), below="ferplus", name="ferplus")
    pixels = first_there(root, PIXEL_TABLES) if (root / "fer2013new.csv").exists() else None
    if pixels:
        voted = list(read_votes(root / "fer2013new.csv"))
        table = PixelTable(pixels, [split for _, split, _, _ in voted], [line for *_, line in voted])
        return _faces(root, voted, table)
    if first_there(root, LISTS) is None:
        raise ValueError(f"{root / PIXEL_TABLES[0]} is missing: {root / 'fer2013new.csv'} has votes but no images")
    apart = (root / LISTS[1]).exists()
    voted = []
    for split, name in FOLDERS.items():
        path = root / "Labels" / name / "label.csv" if apart else root / name / "label.csv"
        if not path.exists():
            raise ValueError(f"{path} is missing: it has the votes of the {split} images")
        voted += read_folder_list(path, split)
    return _faces(root / "Images" if apart else root, voted, None)


def _faces(root: Path, voted: Sequence[Voted], table: "PixelTable | None") -> LabelledFaces:
    return LabelledFaces(
        name="ferplus",
        root=root,
        files=[file for file, *_ in voted],
        splits=splits_of([split for _, split, _, _ in voted]),
        tasks={"expression": Expression(LABELS)},
        targets={"expression": torch.tensor([label for *_, label, _ in voted], dtype=torch.long)},
        read=table,
    )


def majority(votes: Sequence[int]) -> int | None:
    """The class with more than half of the votes, single ones not counted; None without one, or if it is no class.

    Microsoft's "majority" mode (spec expression.md, section 1): (5, 4, 1, 0 …) is neutral with 5 of 9.
    """
    counted = [count if count > 1 else 0 for count in votes]
    most = max(counted)
    winner = counted.index(most)
    return winner if 2 * most > sum(counted) and winner < len(LABELS) else None


def read_votes(path: Path) -> Iterator[Voted]:
    """The images of fer2013new.csv that have a name and a majority."""
    table = rows_of(path)
    heading = next(table, (1, []))[1]
    if [word.strip() for word in heading] != ["Usage", "Image name", *VOTES]:
        raise ValueError(f"{path} begins with '{shown(heading)}': expected Usage,Image name,{','.join(VOTES)}")
    for number, row in table:
        if len(row) != 2 + len(VOTES) or row[0] not in USAGES:
            raise _damaged(path, number, row, f"{' or '.join(USAGES)}, a name and ten votes")
        label = majority(_counts(path, number, row, row[2:]))
        if row[1] and label is not None:
            split = USAGES[row[0]]
            yield f"{FOLDERS[split]}/{row[1]}", split, label, number


def read_folder_list(path: Path, split: str) -> Iterator[Voted]:
    """The images of a label.csv that have a majority."""
    for number, row in rows_of(path):
        if len(row) != 2 + len(VOTES) or not row[0]:
            raise _damaged(path, number, row, "a file name, a box and ten votes")
        label = majority(_counts(path, number, row, row[2:]))
        if label is not None:
            yield f"{FOLDERS[split]}/{row[0]}", split, label, number


def _counts(path: Path, number: int, row: Sequence[str], words: Iterable[str]) -> list[int]:
    words = [word.strip() for word in words]
    if not all(word.isdecimal() for word in words):
        raise _damaged(path, number, row, "ten counts of votes")
    return [int(word) for word in words]


def _damaged(path: Path, number: int, row: Sequence[str], expected: str) -> ValueError:
    return ValueError(f"line {number} of {path} is '{shown(row)}': expected {expected}")


class PixelTable:
    """The pictures in fer2013.csv (300 MB): where each begins is noted once, its values are read when asked for."""

    def __init__(self, path: Path, splits: Sequence[str], lines: Sequence[int]) -> None:
        """`lines` are the wanted lines, rising, and `splits` what fer2013new.csv says of them.

        Raises ValueError when the table has no pixels or says otherwise.
        """
        self.path, self.lines = path, lines
        self.starts = []
        wanted = zip(lines, splits, strict=True)
        line, split = next(wanted, (0, ""))
        heading = [word.strip(' "\n') for word in next(lines_of(path), "").split(",")]
        if "pixels" not in heading or "Usage" not in heading:
            raise ValueError(f"{path} begins with '{shown(heading)}': expected emotion,pixels,Usage")
        with open(path, "rb") as table:
            table.readline()
            self.column, usage = heading.index("pixels"), heading.index("Usage")
            start, number = table.tell(), 2
            for content in table:
                if number == line:
                    words = content.decode(errors="replace").rstrip().split(",")
                    said = words[usage].strip(' "') if len(words) == len(heading) else ""
                    if USAGES.get(said) != split:
                        raise ValueError(
                            f"line {number} of {path} says '{shown(said)}' where fer2013new.csv says {split}: "
                            "the rows of the two original tables must match"
                        )
                    self.starts.append(start)
                    line, split = next(wanted, (0, ""))
                start, number = start + len(content), number + 1
        if line:
            raise ValueError(f"{path} ends after {number - 2:,} rows, but fer2013new.csv has row {line - 1:,}")

    def __call__(self, index: int) -> UInt8[Tensor, "3 48 48"]:
        """The picture at a position among the wanted. Raises UnreadableImage when it has not 48 x 48 values."""
        with open(self.path, "rb") as table:
            table.seek(self.starts[index])
            words = table.readline().decode(errors="replace").split(",")[self.column].strip(' "').split()
        if len(words) != SIDE * SIDE or not all(word.isdecimal() and int(word) < 256 for word in words):
            reason = f"line {self.lines[index]} does not have {SIDE * SIDE} grey values"
            raise UnreadableImage(self.path, reason)
        grey = torch.from_numpy(np.array(words, dtype=np.uint8)).view(1, SIDE, SIDE)
        return grey.expand(3, -1, -1).contiguous()


DATASET = Dataset(
    read,
    layout=__doc__ or "",
    published=Published(  # counted after the rule (spec expression.md, section 1)
        {
            "train": (8733, 7284, 3136, 3022, 2098, 116, 536, 120),
            "val": (1180, 862, 411, 348, 289, 25, 60, 16),
            "test": (1083, 892, 394, 382, 269, 16, 86, 15),
        },
        size=(SIDE, SIDE),
    ),
)
