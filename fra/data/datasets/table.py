"""Labels of your own in a table: classes, yes or no, numbers; several at once, any of them unknown in some rows.

table/labels.csv        "path,split,mood,smiling,age", then "photos/1.jpg,train,glad,1,34"; or labels.parquet
table/photos/1.jpg …    wherever the paths lead, from the table's folder

path     one picture per row, one face, cut as `fra crop` cuts; it is shown whole
split    train, val or test; without this column a fifth tests, drawn evenly over the first classes or numbers
group    who it is, if you know: a drawn split keeps a person together

Every other column is a label, understood by what is in it; an empty cell is unknown:

all 1, 0 or -1, or true/false    yes or no, together the task `attributes`; beside a -1, which is no, 0 is unknown
all numbers otherwise            a task of that name (mean absolute error); several together also the task `numbers`
no numbers                       classes, a task of that name

Numbers among words are refused. Beside the table may lie labels.yaml, all of it optional:

columns: {mood: class, age: number}    the only columns that are labels, and what they are: class, attribute, number,
                                       or a list of classes in their order, such as [sad, glad]
table: faces.csv                       another table's name
path, split, group: NAME               other names of these columns
seed: 0                                another one draws another split
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Literal

import torch
from torch import Tensor

from fra.data.labelled import Dataset, LabelledFaces, splits_of
from fra.data.own import (
    DESCRIPTION,
    SPLITS,
    doubts,
    draw_split,
    drawn_note,
    read_description,
    refuse_absent_classes,
    refuse_empty,
    refuse_no_classes,
    refuse_repeated,
    shared_groups_note,
)
from fra.data.tables import ENDINGS, Table, number_of, read_table
from fra.recipe import Seed, Settings
from fra.system.printable import counted, did_you_mean
from fra.system.text import shown
from fra.tasks.attributes import Attributes
from fra.tasks.expression import Expression
from fra.tasks.regression import Regression
from fra.tasks.task import Task

Kind = Literal["class", "attribute", "number"]
TABLES = tuple(f"labels{ending}" for ending in ENDINGS)
YES_OR_NO = {"true": 1.0, "false": 0.0}
TOGETHER = ("attributes", "numbers")
"""Tasks made of all columns of a kind."""
RESERVED = ("seed", "file", "any", *TOGETHER)
"""What no label may be called: columns of predictions.csv, and words of recipes."""
FIFTHS = 5
CALLED: dict[Kind, str] = {"class": "classes", "attribute": "yes or no", "number": "numbers"}
MANY = 6


@dataclass(frozen=True)
class TableLabels(Settings):
    """What labels.yaml may say."""

    table: str | None = None
    """The table's name; None is the first of TABLES that is there."""
    path: str = "path"
    """The column of the pictures."""
    split: str = "split"
    """The column of train, val and test, if there is one."""
    group: str = "group"
    """The column of who it is, if there is one."""
    columns: dict[str, Kind | tuple[str, ...]] | None = None
    """The columns that are labels, each with its kind or its classes; None are all other columns."""
    seed: Seed = 0
    """Of a drawn split."""


@dataclass(frozen=True)
class Label:
    """A column of labels."""

    name: str
    kind: Kind
    words: list[str]
    classes: tuple[str, ...] = ()
    """In their order; those that are there in the alphabet's, if it is not given."""


def read(folder: Path) -> LabelledFaces:
    """Tasks as told above. Raises ValueError naming the table, and the line where one is wrong."""
    said = read_description(folder, TableLabels)
    table = read_table(_table(folder, said))
    files = _files(table, said)
    labels = _labels(table, said)
    words, notes = _splits(table, said, files, labels)
    refuse_empty(words, where=str(table.path))
    tasks, targets = _tasks(table, labels, words)
    kinds = {label.kind for label in labels}
    main = next(iter(tasks)) if len(tasks) == 1 else "numbers" if kinds == {"number"} else ""
    return LabelledFaces(
        name="table",
        root=folder,
        files=files,
        splits=splits_of(words),
        tasks=tasks,
        targets=targets,
        title=folder.resolve().name,
        main=main,
        notes=(f"{table.path.name}: {_taken(labels)}", *notes, *doubts(folder, files, words)),
    )


def _table(folder: Path, said: TableLabels) -> Path:
    names = TABLES if said.table is None else (said.table,)
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(
            f"{folder} has no {' or '.join(map(shown, names))} (`fra data layout table` shows what is read)"
        )
    if path.suffix not in ENDINGS:
        raise ValueError(f"{path} is not a table that can be read: expected {' or '.join(ENDINGS)}")
    return path


def _files(table: Table, said: TableLabels) -> list[str]:
    files = [os.path.normpath(word) if word else "" for word in table.column(said.path)]
    if "" in files:
        raise ValueError(f"{table.at(files.index(''))} of {table.path} has no {shown(said.path)}")
    refuse_repeated(files, lambda row: f"{table.at(row)} ({shown(files[row])})", where=str(table.path))
    return files


def _labels(table: Table, said: TableLabels) -> list[Label]:
    """The columns of labels with their kinds."""
    given = said.columns
    if given is None:
        others = [name for name in table.columns if name not in (said.path, said.split, said.group)]
        given = {name: _kind(table, name) for name in others}
    if not given:
        raise ValueError(f"{table.path} has no label: it has only {shown(table.columns)}")
    labels = []
    for name, kind in given.items():
        if name not in table.columns:
            near = did_you_mean(name, table.columns)
            raise ValueError(f"{table.path} has no column '{shown(name)}'{near} (it has {shown(table.columns)})")
        if name in RESERVED:
            raise ValueError(f"{table.path}: a label cannot be called '{name}': rename the column")
        words = table.columns[name]
        if not any(words):
            raise ValueError(f"{table.path}: the column '{shown(name)}' is empty in every row")
        classes = tuple(kind) if not isinstance(kind, str) else tuple(sorted({*words} - {""}, key=_in_order))
        if not isinstance(kind, str) or kind == "class":
            refuse_no_classes(words, where=f"{table.path}, column '{shown(name)}'")
        labels.append(Label(name, kind if isinstance(kind, str) else "class", words, classes))
    return labels


def _in_order(word: str) -> tuple[float, str]:
    """Numbers by their size, before words by the alphabet."""
    number = number_of(word)
    return (math.inf if number is None else number), word


def _kind(table: Table, name: str) -> Kind:
    """What a column is by its words. Raises ValueError when they are of two kinds."""
    known = {word for word in table.columns[name] if word}
    if known and {word.lower() for word in known} <= YES_OR_NO.keys():
        return "attribute"
    numbers = {word for word in known if number_of(word) is not None}
    if not numbers:
        return "class"
    if numbers != known:
        _refuse_words(table, name, f"or say `columns: {{{name}: class}}` in {DESCRIPTION} if they are classes")
    return "attribute" if {number_of(word) for word in known} <= {-1.0, 0.0, 1.0} else "number"


def _refuse_words(table: Table, name: str, otherwise: str) -> None:
    """ValueError when some labels are not the numbers they should be."""
    words = table.columns[name]
    rows = [row for row, word in enumerate(words) if word and number_of(word) is None]
    if rows:
        raise ValueError(
            f"{table.path}: {len(rows):,} of {counted(len(words), 'value')} of '{shown(name)}' "
            f"{'is not a number' if len(rows) == 1 else 'are not numbers'}, the first is '{shown(words[rows[0]])}' in "
            f"{table.at(rows[0])}: leave a cell empty where the number is unknown, {otherwise}"
        )


def _splits(
    table: Table, said: TableLabels, files: Sequence[str], labels: Sequence[Label]
) -> tuple[list[str], list[str]]:
    """The split of each row, and what there is to say of it."""
    groups = table.columns.get(said.group)
    for name in ("split", "group"):
        column = getattr(said, name)
        if column != name and column not in table.columns:
            raise ValueError(f"{table.path} has no column '{shown(column)}', which {DESCRIPTION} calls the {name}")
    if said.split in table.columns:
        words = [word.lower() for word in table.columns[said.split]]
        strange = next((row for row, word in enumerate(words) if word not in SPLITS), None)
        if strange is not None:
            raise ValueError(
                f"{table.at(strange)} of {table.path} has the split '{shown(table.columns[said.split][strange])}': "
                "expected train, val or test"
            )
        return words, shared_groups_note(groups, words, "group") if groups else []
    # Who is unknown is a group alone.
    units = [group or file for group, file in zip(groups or files, files, strict=True)]
    words = draw_split(units, _strata(labels, len(files)), seed=said.seed)
    return words, [drawn_note(words, seed=said.seed, by="groups" if groups else "")]


def _strata(labels: Sequence[Label], count: int) -> list[str | int]:
    """Classes of the first column that has some, else fifths of the first numbers, else all the same."""
    classes = next((label for label in labels if label.kind == "class"), None)
    if classes:
        return list(classes.words)
    numbers = next((label for label in labels if label.kind == "number"), None)
    if numbers is None:
        return [0] * count
    values = [number_of(word) for word in numbers.words]
    order = sorted(value for value in values if value is not None)
    limits = [order[part * len(order) // FIFTHS] for part in range(1, FIFTHS)]
    return [-1 if value is None else sum(value >= limit for limit in limits) for value in values]


def _tasks(table: Table, labels: Sequence[Label], words: Sequence[str]) -> tuple[dict[str, Task], dict[str, Tensor]]:
    tasks: dict[str, Task] = {}
    targets: dict[str, Tensor] = {}
    numbers: list[tuple[Label, Tensor]] = []
    for label in labels:
        if label.kind == "class":
            tasks[label.name] = Expression(label.classes, asks=label.name)
            targets[label.name] = _class_numbers(table, label, words)
        elif label.kind == "number":
            _refuse_words(table, label.name, "or leave the column out")
            numbers.append(
                (label, torch.tensor([number_of(word) or 0.0 if word else torch.nan for word in label.words]))
            )
    for some in [[one] for one in numbers] + ([numbers] if len(numbers) > 1 else []):
        word = some[0][0].name if len(some) == 1 else "numbers"
        tasks[word], targets[word] = _regression(table, some, words)
    answers = [label for label in labels if label.kind == "attribute"]
    if answers:
        tasks["attributes"] = Attributes(tuple(label.name for label in answers))
        targets["attributes"] = _answers(table, answers, words)
    return tasks, targets


def _class_numbers(table: Table, label: Label, words: Sequence[str]) -> Tensor:
    place = {name: number for number, name in enumerate(label.classes)}
    strange = next((row for row, word in enumerate(label.words) if word and word not in place), None)
    if strange is not None:
        raise ValueError(
            f"{table.at(strange)} of {table.path} has '{shown(label.words[strange])}' for '{shown(label.name)}': "
            f"{DESCRIPTION} lists {shown(label.classes)}"
        )
    refuse_absent_classes(label.words, words, where=f"{table.path}, column '{shown(label.name)}'")
    return torch.tensor([place[word] if word else -1 for word in label.words])


def _regression(table: Table, some: Sequence[tuple[Label, Tensor]], words: Sequence[str]) -> tuple[Regression, Tensor]:
    train, test = (torch.tensor([word == split for word in words]) for split in ("train", "test"))
    centre, spread = [], []
    for label, values in some:
        known = ~values.isnan()
        for split, rows in (("train", train), ("test", test)):
            if not (known & rows).any():
                raise ValueError(f"{table.path}: no {split} image has a value of '{shown(label.name)}'")
        learned = values[known & train].tolist()
        centre.append(fmean(learned))
        spread.append(pstdev(learned))
        if not spread[-1] > 0:
            raise ValueError(f"{table.path}: '{shown(label.name)}' is {learned[0]:g} in every training image")
    targets = (torch.stack([values for _, values in some], 1) - torch.tensor(centre)) / torch.tensor(spread)
    return Regression(tuple(label.name for label, _ in some), tuple(centre), tuple(spread)), targets


def _answers(table: Table, labels: Sequence[Label], words: Sequence[str]) -> Tensor:
    """Booleans, or where some are unknown 1, 0 and NaN. One rule for all columns: with a -1 in any, 0 is unknown."""
    rows = []
    for label in labels:
        found = [YES_OR_NO.get(word.lower(), number_of(word)) if word else torch.nan for word in label.words]
        wrong = next((row for row, value in enumerate(found) if value not in (-1.0, 0.0, 1.0) and value == value), None)
        if wrong is not None:
            raise ValueError(
                f"{table.at(wrong)} of {table.path} has '{shown(label.words[wrong])}' for '{shown(label.name)}': "
                "expected 1, 0, -1 or nothing"
            )
        rows.append(found)
    values = torch.tensor(rows).T
    if (values == -1).any():
        values = torch.where(values == 0, torch.nan, (values > 0).float().masked_fill(values.isnan(), torch.nan))
    learned = values[torch.tensor([word == "train" for word in words])]
    yes, no = ((learned == answer).sum(0) for answer in (1, 0))
    if not ((yes > 0) & (no > 0)).any():
        raise ValueError(f"{table.path}: no attribute is both there and not there in the training images")
    return values if values.isnan().any() else values == 1


def _taken(labels: Sequence[Label]) -> str:
    """What the columns were taken for; many of one kind only by their number."""
    kinds = [label.kind for label in labels]
    many = [kind for kind in dict.fromkeys(kinds) if kinds.count(kind) > MANY]
    parts = [f"{shown(label.name)} ({_told(label)})" for label in labels if label.kind not in many]
    return ", ".join([*(f"{kinds.count(kind)} columns of {CALLED[kind]}" for kind in many), *parts])


def _told(label: Label) -> str:
    """What a column was taken for."""
    unknown = label.words.count("")
    more = f", {unknown:,} unknown" if unknown else ""
    if label.kind == "class":
        return f"{counted(len(label.classes), 'class', 'classes')}{more}"
    if label.kind == "attribute":
        return f"{CALLED['attribute']}{more}"
    values = [value for word in label.words if (value := number_of(word)) is not None]
    return f"number from {min(values):g} to {max(values):g}{more}"


DATASET = Dataset(read, layout=__doc__ or "", own=True)
