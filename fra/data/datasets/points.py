"""Points of your own on faces, any number of them, several faces per photo if you like. As COCO keypoints:

points/train.json, points/test.json [, points/val.json], or points.json alone, of which a fifth then tests
                      images, annotations (keypoints, bbox), one category with the points' names

or as a table, CSV or Parquet:

points/points.csv     "path,split,left_eye_x,left_eye_y,right_eye_x,…", a row per face; `split` may be missing

Photos lie where their names lead from points/ or points/images/. Coordinates are pixels of the photo, the centre of the
first one at (0, 0). A face of which a point is not labelled is left out. Beside them may lie labels.yaml:

normaliser: [left_eye, right_eye]    errors are divided by the distance of these two; needed unless two points are
                                     called so
mirror: [[left_eye, right_eye]]      points that change places in the mirrored face; needed unless their names begin or
                                     end with left and right; without any, or `none`, faces are not mirrored
layout: ibug68                       instead of both, for points in the order of ibug68, wflw98, cofw29 or aflw19
group: '^([^_]+)_'                   what in a photo's name says who it is: a drawn split keeps groups together
seed: 0                              another one draws another split

What is cut out of a photo is a recipe's `crop`: about the points (square, hrnet, star), about the box (rect), or the
photo as it is (whole).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from fra.data.crops import CROPS, AnnotatedFaces, CropRule, label_faces
from fra.data.labelled import NAMED, Dataset, LabelledFaces
from fra.data.own import (
    DESCRIPTION,
    SPLITS,
    doubts,
    draw_split,
    drawn_note,
    groups_by_pattern,
    read_description,
    refuse_empty,
    refuse_repeated,
    shared_groups_note,
)
from fra.data.tables import ENDINGS, number_of, read_table
from fra.faces.geometry import flip_order, square_box, whole_box
from fra.faces.image import UnreadableImage, read_header, read_image
from fra.recipe import Seed, Settings
from fra.system.printable import counted, did_you_mean
from fra.system.text import decoding, shown, text_of
from fra.tasks.landmarks import Landmarks

LAYOUTS = {"ibug68": 68, "wflw98": 98, "cofw29": 29, "aflw19": 19}
THRESHOLDS = (10.0, 5.0)
"""Failure rates and areas at each, percent of the normaliser, as 300-W's."""
FAR = 0.25
"""A point that lies farther outside of its photo, in parts of its longer side, is a mistake (ours)."""
LEFT, RIGHT = "left", "right"


@dataclass(frozen=True)
class PointsLabels(Settings):
    """What labels.yaml may say."""

    normaliser: tuple[str, str] | None = None
    """The two points whose distance errors are divided by."""
    mirror: tuple[tuple[str, str], ...] | Literal["none"] | None = None
    """Points that change places in the mirrored face; None asks their names, `none` mirrors no face."""
    layout: Literal["ibug68", "wflw98", "cofw29", "aflw19"] | None = None
    """A known layout, which says both."""
    group: str | None = None
    """A regular expression for a photo's name; its first parenthesis, or all of it, is the group."""
    seed: Seed = 0
    """Of a drawn split."""


@dataclass(frozen=True)
class Annotations:
    """Faces as a file gives them, those with an unlabelled point left out."""

    path: Path
    names: tuple[str, ...]
    files: list[str]
    points: list[list[float]]
    """x0 y0 x1 y1 … of each face."""
    boxes: list[list[float] | None]
    words: list[str]
    """The split of each; empty where none is given."""
    left_out: int


def read(folder: Path, crop: CropRule = "square") -> LabelledFaces:
    """One task, `landmarks`. Raises ValueError naming the file, and the face where one is wrong."""
    said = read_description(folder, PointsLabels)
    parts = _parts(folder)
    names = parts[0].names
    other = next((part for part in parts if part.names != names), None)
    if other:
        raise ValueError(f"{other.path} has the points {shown(other.names)}, but {parts[0].path} {shown(names)}")
    task, notes = _task(said, names, folder / DESCRIPTION)
    files = [file for part in parts for file in part.files]
    if not files:
        raise ValueError(f"{parts[0].path} has no face with all {len(names)} points labelled")
    points = torch.tensor([face for part in parts for face in part.points], dtype=torch.float32)
    points = points.view(len(files), len(names), 2)
    boxes = [box for part in parts for box in part.boxes]
    root = next((place for place in (folder, folder / "images") if (place / files[0]).exists()), folder)
    where = str(folder)
    refuse_repeated(
        [(file, tuple(face)) for file, face in zip(files, points.flatten(1).tolist(), strict=True)],
        lambda face: f"face {face + 1} ({shown(files[face])})",
        where=where,
    )
    words, more = _words(said, [word for part in parts for word in part.words], files, folder)
    left_out = sum(part.left_out for part in parts)
    omitted = f"{counted(left_out, 'face')} left out because a point is not labelled" if left_out else ""
    refuse_empty(words, where=where, omitted=omitted)
    sizes = _sizes(root, files, points, exact=crop == "whole")
    notes += [*more, *_outside(points, sizes, files, where=where)]
    _refuse_flat(task, points, files, where=where)
    if omitted:
        notes.append(omitted)
    splits = {
        split: _faces(points, boxes, sizes, files, [place for place, word in enumerate(words) if word == split])
        for split in SPLITS
    }
    found = label_faces(splits, task, crop, name="points", root=root)
    ordered = [word for split in SPLITS for word in [split] * words.count(split)]
    notes += doubts(root, found.files, ordered, crops=crop == "whole")
    return replace(found, title=folder.resolve().name, notes=tuple(notes))


# --- files


def _parts(folder: Path) -> list[Annotations]:
    """What each file holds. Raises ValueError when there is none, or train without test."""
    by_split = {split: folder / f"{split}.json" for split in SPLITS if (folder / f"{split}.json").is_file()}
    if by_split:
        for split in ("train", "test"):
            if split not in by_split:
                raise ValueError(f"{folder} has {next(iter(by_split))}.json but no {split}.json: both are needed")
        return [_coco(path, split) for split, path in by_split.items()]
    if (folder / "points.json").is_file():
        return [_coco(folder / "points.json", "")]
    for ending in ENDINGS:
        if (folder / f"points{ending}").is_file():
            return [_table(folder / f"points{ending}")]
    raise ValueError(
        f"{folder} has no train.json and test.json, points.json or points.csv (`fra data layout points` shows what is "
        "read)"
    )


def _coco(path: Path, split: str) -> Annotations:
    """A file of COCO's keypoints."""
    with decoding(path, "JSON file"):
        content = json.loads(text_of(path))
    try:
        images = {image["id"]: str(image["file_name"]) for image in content["images"]}
        described = [category for category in content["categories"] if category.get("keypoints")]
        annotations = list(content["annotations"])
    except (KeyError, TypeError, AttributeError) as error:
        lacks = f": it has no {error}" if isinstance(error, KeyError) else ""
        raise ValueError(
            f"{path} is not a file of COCO keypoints{lacks} (expected images, categories and annotations)"
        ) from error
    if len(described) != 1:
        raise ValueError(f"{path} has {counted(len(described), 'category', 'categories')} with keypoints: expected one")
    names = _names(path, list(map(str, described[0]["keypoints"])))
    files, points, boxes, left_out = [], [], [], 0
    for number, one in enumerate(annotations, 1):
        if not isinstance(one, dict) or one.get("category_id", described[0].get("id")) != described[0].get("id"):
            continue
        if not isinstance(one.get("image_id"), int | str) or one["image_id"] not in images:
            raise ValueError(f"annotation {number} of {path} is of image {one.get('image_id')}, which is not listed")
        values = one.get("keypoints")
        if not _are_numbers(values, 3 * len(names)):
            raise ValueError(
                f"annotation {number} of {path} does not have 3 numbers for each of the {len(names)} keypoints"
            )
        if not all(values[2::3]) or one.get("iscrowd"):
            left_out += 1
            continue
        box = one.get("bbox")
        files.append(images[one["image_id"]])
        points.append([value for place in range(len(names)) for value in values[3 * place : 3 * place + 2]])
        boxes.append([box[0], box[1], box[0] + box[2], box[1] + box[3]] if _are_numbers(box, 4) else None)
    return Annotations(path, names, files, points, boxes, [split] * len(files), left_out)


def _are_numbers(values: Any, count: int) -> TypeGuard[list[float]]:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int | float) and abs(value) < float("inf") for value in values)
    )


def _table(path: Path) -> Annotations:
    """Columns NAME_x and NAME_y, or x0, y0, x1, y1 …"""
    table = read_table(path)
    columns = list(table.columns)
    pairs = {name[:-2]: (name, f"{name[:-2]}_y") for name in columns if name.endswith("_x")}
    pairs = pairs or {name[1:]: (name, f"y{name[1:]}") for name in columns if name[:1] == "x" and name[1:].isdigit()}
    lacking = next((y for _, y in pairs.values() if y not in table.columns), None)
    if lacking or not pairs:
        expected = f"it has no {shown(lacking)}" if lacking else f"it has {shown(columns)}"
        raise ValueError(f"{path}: expected a column NAME_x and one NAME_y for each point, or x0, y0, x1 …; {expected}")
    files, words = table.column("path"), table.columns.get("split")
    kept, points = [], []
    for row, file in enumerate(files):
        if not file:
            raise ValueError(f"{table.at(row)} of {path} has no path")
        cells = [table.columns[column][row] for pair in pairs.values() for column in pair]
        if not all(cells):
            continue
        values = [number_of(cell) for cell in cells]
        if None in values:
            raise ValueError(
                f"{table.at(row)} of {path} has '{shown(cells[values.index(None)])}' where a number was expected"
            )
        kept.append(row)
        points.append([value for value in values if value is not None])
    return Annotations(
        path,
        _names(path, list(pairs)),
        [files[row] for row in kept],
        points,
        [None] * len(kept),
        [words[row].lower() if words else "" for row in kept],
        len(files) - len(kept),
    )


def _names(path: Path, names: list[str]) -> tuple[str, ...]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has several points called '{shown(twice)}': give each a name of its own")
    return tuple(names)


# --- what the points mean


def _task(said: PointsLabels, names: tuple[str, ...], where: Path) -> tuple[Landmarks, list[str]]:
    """The task and what to say of it."""
    if said.layout:
        count = LAYOUTS[said.layout]
        if len(names) != count:
            raise ValueError(
                f"{where} says that the layout is {said.layout}, but there are {counted(len(names), 'point')}"
            )
        return Landmarks(count, thresholds=THRESHOLDS), []
    if len(names) < 2:
        raise ValueError(f"{where.parent} has one point per face, '{shown(names[0])}': at least two are needed")
    pair = said.normaliser
    if pair is None:
        pair = ("left_eye", "right_eye")
        if not set(pair) <= set(names):
            raise ValueError(
                f"{where.parent}: say by which distance errors are divided, `normaliser: [{names[0]}, {names[-1]}]` or "
                f"the like in {where.name} (points: {shown(names)})"
            )
    left, right = (_place(name, names, where) for name in pair)
    if left == right:
        raise ValueError(f"{where}: the normaliser is the distance of '{shown(pair[0])}' from itself: name two points")
    pairs = _pairs(said, names, where)
    flip = () if pairs is None else flip_order(len(names), pairs)
    notes = [f"errors are divided by the distance from {pair[0]} to {pair[1]}"]
    if pairs is None:
        notes.append(
            f"faces are not mirrored, because no mirror pairs are known (`mirror: [[A, B], ...]` in {where.name})"
            if said.mirror is None
            else "faces are not mirrored"
        )
    task = Landmarks(len(names), normaliser="pair", thresholds=THRESHOLDS, pair=(left, right), flip=flip, names=names)
    return task, notes


def _pairs(said: PointsLabels, names: tuple[str, ...], where: Path) -> list[tuple[int, int]] | None:
    """Points that change places in the mirrored face, None where that is not known."""
    if said.mirror == "none":
        return None
    if said.mirror is not None:
        return [(_place(one, names, where), _place(other, names, where)) for one, other in said.mirror]
    lefts = [name for name in names if LEFT in _ends(name)]
    rights = {name for name in names if RIGHT in _ends(name)}
    partners = {name: _other_side(name) for name in lefts}
    alone = (set(lefts) - {name for name, other in partners.items() if other in rights}) | (
        rights - set(partners.values())
    )
    if alone:
        raise ValueError(
            f"{where.parent}: '{shown(min(alone))}' has no counterpart on the other side: give mirror pairs, "
            f"`mirror: [[A, B], ...]` or `mirror: none` in {where.name}"
        )
    return [(names.index(name), names.index(other)) for name, other in partners.items()] or None


def _ends(name: str) -> tuple[str, str]:
    """The first and the last word of a point's name."""
    words = name.lower().replace("-", "_").replace(" ", "_").split("_")
    return words[0], words[-1]


def _other_side(name: str) -> str:
    """The name with right for its left."""
    lower = name.lower()
    place = 0 if lower.startswith(LEFT) else len(name) - len(LEFT)
    side = name[place : place + len(LEFT)]
    return (
        name[:place] + ("Right" if side == "Left" else "RIGHT" if side.isupper() else RIGHT) + name[place + len(LEFT) :]
    )


def _place(name: str, names: tuple[str, ...], where: Path) -> int:
    if name not in names:
        raise ValueError(
            f"{where}: no point is called '{shown(name)}'{did_you_mean(name, names)} (points: {shown(names)})"
        )
    return names.index(name)


# --- faces in their photos


def _words(said: PointsLabels, words: list[str], files: Sequence[str], folder: Path) -> tuple[list[str], list[str]]:
    """The split of each face, and what there is to say of it."""
    groups = groups_by_pattern(files, said.group, where=str(folder / DESCRIPTION)) if said.group else list(files)
    if not any(words):
        drawn = draw_split(groups, [0] * len(files), seed=said.seed)
        by = "groups" if said.group else "faces of one photo" if len(set(files)) < len(files) else ""
        return drawn, [drawn_note(drawn, seed=said.seed, by=by)]
    strange = next((place for place, word in enumerate(words) if word not in SPLITS), None)
    if strange is not None:
        raise ValueError(
            f"{folder}: face {strange + 1} ({shown(files[strange])}) has the split '{shown(words[strange])}': expected "
            "train, val or test"
        )
    return words, shared_groups_note(groups, words, "group") if said.group else []


def _sizes(
    root: Path, files: Sequence[str], points: Float[Tensor, "N P 2"], *, exact: bool
) -> Mapping[str, tuple[int, int]]:
    """Width and height of each photo that can be read, turned upright where points would be outside, or all `exact`."""
    reach: dict[str, tuple[float, float]] = {}
    for file, (x, y) in zip(files, points.amax(1).tolist(), strict=True):
        before = reach.get(file, (x, y))
        reach[file] = max(x, before[0]), max(y, before[1])
    sizes = {}
    for file, (x, y) in reach.items():
        try:
            header = read_header(root / file)
            sizes[file] = header.width, header.height
            if exact or x > header.width - 0.5 or y > header.height - 0.5:
                height, width = read_image(root / file).shape[1:]
                sizes[file] = width, height
        except UnreadableImage:  # said when it is missing, or read for the run
            continue
    return sizes


def _outside(
    points: Float[Tensor, "N P 2"], sizes: Mapping[str, tuple[int, int]], files: Sequence[str], *, where: str
) -> list[str]:
    """What to say of points outside of their photos. ValueError when some are far outside, or most of a face's are."""
    size = torch.tensor([sizes.get(file, (torch.inf, torch.inf)) for file in files])[:, None]
    far = torch.maximum(-0.5 - points, points - (size - 0.5)).amax(2)
    out = far > 0
    wrong = (far > FAR * size.amax(2)).any(1) | (out.sum(1) > points.shape[1] / 2)
    faces = wrong.nonzero().flatten().tolist()
    if faces:
        named = ", ".join(shown(files[face]) for face in faces[:NAMED]) + (", ..." if len(faces) > NAMED else "")
        raise ValueError(
            f"{where}: {counted(len(faces), 'face')} with points far outside of the photo ({named}): were the photos "
            "resized, or are these not pixels?"
        )
    if not out.any():
        return []
    return [f"{counted(int(out.sum()), 'point')} of {counted(int(out.any(1).sum()), 'face')} just outside of the photo"]


def _refuse_flat(task: Landmarks, points: Float[Tensor, "N P 2"], files: Sequence[str], *, where: str) -> None:
    """ValueError when errors cannot be divided, or coordinates are no pixels."""
    flat = (~(task.length(points, task.normaliser) > 0)).nonzero().flatten().tolist()
    if flat:
        raise ValueError(
            f"{where}: the normaliser of {counted(len(flat), 'face')} is 0, the first is {shown(files[flat[0]])}: "
            "errors cannot be divided by it"
        )
    small = ((points.amax(1) - points.amin(1)).amax(1) < 2).nonzero().flatten().tolist()
    if small:
        raise ValueError(
            f"{where}: the points of {counted(len(small), 'face')} span less than two pixels, the first is "
            f"{shown(files[small[0]])}: coordinates are pixels of the photo, not shares of it"
        )


def _faces(
    points: Float[Tensor, "N P 2"],
    boxes: Sequence[list[float] | None],
    sizes: Mapping[str, tuple[int, int]],
    files: Sequence[str],
    places: Sequence[int],
) -> AnnotatedFaces:
    """The faces at some places."""
    some = [boxes[place] for place in places]
    known = [box for box in some if box is not None]
    squares = []
    for place in places:
        width, height = sizes.get(files[place], (1, 1))
        squares.append(square_box(whole_box(height, width)))
    return AnnotatedFaces(
        [files[place] for place in places],
        points[list(places)],
        rectangles=torch.tensor(known, dtype=torch.float32).view(-1, 4) if len(known) == len(some) else None,
        squares={"whole": torch.stack(squares) if squares else torch.empty(0, 4)},
    )


DATASET = Dataset(read, layout=__doc__ or "", crops=CROPS, own=True)
