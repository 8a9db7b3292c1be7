"""FairFace: age, gender and race as annotators saw them, on faces balanced over seven races. Layout:

labels.csv                 path,age,gender,race; "00/25272.jpg,3-9,Male,East Asian"
00/25272.jpg …             folders 00, 01, …; there is no official split
"""

from pathlib import Path

import torch

from fra.faces.layout import find_layout
from fra.files import read_rows
from fra.transfer.dataset import Dataset, Groups, LabelledFaces, splits_of
from fra.transfer.expression import Expression

NAMES = {
    "age": ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"),
    "gender": ("Male", "Female"),
    "race": ("White", "Black", "Indian", "East Asian", "Southeast Asian", "Middle Eastern", "Latino_Hispanic"),
}


def read(folder: Path) -> LabelledFaces:
    """Read the folder that holds labels.csv: tasks `age`, `gender` and `race`, and the same as groups.

    The split is ours: in the order of their names the last eighth of the folders tests and the sixteenth before it
    validates, at least one each. Raises ValueError for a label that FairFace does not have, or fewer than 3 folders.
    """
    root = find_layout(folder, holds="labels.csv", below="fairface", name="fairface")
    rows = read_rows(root / "labels.csv")
    groups = {}
    for kind, names in NAMES.items():
        numbers = {name: number for number, name in enumerate(names)}
        wrong = next((row for row in rows if row.get(kind) not in numbers), None)
        if wrong:
            raise ValueError(
                f"{root / 'labels.csv'}: {wrong.get('path')} has {kind} '{wrong.get(kind)}', "
                f"expected one of {', '.join(names)}"
            )
        groups[kind] = Groups(names, torch.tensor([numbers[row[kind]] for row in rows]))
    places = [row["path"].rpartition("/")[0] for row in rows]
    folders = sorted(set(places))
    if len(folders) < 3:
        raise ValueError(f"{root} has {len(folders)} folders of faces: training, validation and test need 3")
    test, val = max(1, len(folders) // 8), max(1, len(folders) // 16)
    split = dict.fromkeys(folders[:-test], "val") | dict.fromkeys(folders[-test:], "test")
    split |= dict.fromkeys(folders[: -test - val], "train")
    return LabelledFaces(
        name="fairface",
        root=root,
        files=[row["path"] for row in rows],
        splits=splits_of([split[place] for place in places]),
        tasks={kind: Expression(names, asks=kind) for kind, names in NAMES.items()},
        targets={kind: groups[kind].of for kind in NAMES},
        groups=groups,
    )


DATASET = Dataset(read, layout=__doc__ or "")
