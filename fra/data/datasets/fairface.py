"""FairFace: age, gender and race as annotators saw them, on faces balanced over seven races.

As https://github.com/joojs/fairface distributes it, images with padding 0.25:

fairface/fairface_label_train.csv     "file,age,gender,race,service_test", then "train/1.jpg,50-59,Male,East Asian,True"
fairface/fairface_label_val.csv       the same of val/1.jpg …
fairface/train/1.jpg …                86,744 images; val/ 10,954

The test images were never released, so the official validation images are the test split, and there is no validation
split: to select anything, use a recipe with hold_out. A subset in one list is read as well, and takes precedence:

fairface/labels.csv                   "path,age,gender,race", then "00/25272.jpg,3-9,Male,East Asian"
fairface/00/25272.jpg …               folders 00, 01, …; the last eighth is the test split, the sixteenth before it val

--data is fairface/ or the folder that contains it. Whether the lists are complete is not checked: compare the counts.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from fra.data.labelled import Dataset, Groups, LabelledFaces, splits_of
from fra.data.layout import find_layout
from fra.system.printable import counted
from fra.system.text import records_of, shown
from fra.tasks.expression import Expression
from fra.tasks.task import Task
from fra.tasks.years import Years

NAMES = {
    "age": ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"),
    "gender": ("Male", "Female"),
    "race": ("White", "Black", "Indian", "East Asian", "Southeast Asian", "Middle Eastern", "Latino_Hispanic"),
}
AGES = (0.0, 3.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 90.0)
"""Years between which the age groups lie; the last group is open, and 90 is ours."""

OFFICIAL = {"fairface_label_train.csv": "train", "fairface_label_val.csv": "test"}


def read(folder: Path) -> LabelledFaces:
    """Read one of the layouts above: tasks `age`, `gender` and `race`, the same as groups, and `years` from age groups.

    The split of a selection is ours: in the order of their names the last eighth of the folders tests and the sixteenth
    before it validates, at least one each. Raises ValueError for a column that is missing, a label that FairFace does
    not have, or fewer than 3 folders.
    """
    root = find_layout(folder, holds=("labels.csv", *OFFICIAL), below="fairface", name="fairface")
    if (root / "labels.csv").exists():
        rows = read_list(root / "labels.csv", "path")
        places = [row["path"].rpartition("/")[0] for row in rows]
        split = split_by_folder(root, places)
        words = [split[place] for place in places]
    else:
        lists = {split: read_list(root / name, "file") for name, split in OFFICIAL.items()}
        rows = [row for part in lists.values() for row in part]
        words = [split for split, part in lists.items() for _ in part]
    groups = {
        kind: Groups(names, torch.tensor([names.index(row[kind]) for row in rows], dtype=torch.long))
        for kind, names in NAMES.items()
    }
    tasks: dict[str, Task] = {kind: Expression(names, asks=kind) for kind, names in NAMES.items()}
    return LabelledFaces(
        name="fairface",
        root=root,
        files=[row["path"] for row in rows],
        splits=splits_of(words),
        tasks=tasks | {"years": Years(NAMES["age"], AGES)},
        targets={kind: groups[kind].of for kind in NAMES} | {"years": groups["age"].of},
        groups=groups,
    )


def read_list(path: Path, file_column: str) -> list[dict[str, str]]:
    """The rows of a list: `path` as it stands in `file_column`, and labels that FairFace has."""
    if not path.exists():
        raise ValueError(f"{path} is missing: the lists of training and validation images belong together")
    rows = []
    for number, row in records_of(path, (file_column, *NAMES)):
        for kind, names in NAMES.items():
            if row[kind] not in names:
                said = f"line {number} of {path}: {shown(row[file_column])} has {kind} '{shown(row[kind])}'"
                raise ValueError(f"{said}, expected one of {', '.join(names)}")
        rows.append({"path": row[file_column], **{kind: row[kind] for kind in NAMES}})
    return rows


def split_by_folder(root: Path, places: Sequence[str]) -> dict[str, str]:
    """Folder → train, val or test."""
    folders = sorted(set(places))
    if len(folders) < 3:
        raise ValueError(f"{root} has {counted(len(folders), 'folder')} of faces: training, validation and test need 3")
    test, val = max(1, len(folders) // 8), max(1, len(folders) // 16)
    split = dict.fromkeys(folders[:-test], "val") | dict.fromkeys(folders[-test:], "test")
    return split | dict.fromkeys(folders[: -test - val], "train")


DATASET = Dataset(read, layout=__doc__ or "", terms="CC BY 4.0")
