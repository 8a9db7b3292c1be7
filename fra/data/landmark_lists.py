"""Lists of faces with landmarks in the two forms that many projects share. N faces, P landmarks.

HRNet's .csv, with a heading:  image_name, scale, [box_size,] center_w, center_h, x0, y0, x1, y1 ...
STAR's and ADNet's .tsv:       image_path, 5 points, P points, scale, center_w, center_h, [flags]; no heading, the
                               numbers of a column parted by commas
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from fra.data.crops import HRNET_MARGIN, SCALE_UNIT, AnnotatedFaces, squares_about
from fra.data.labelled import first_there
from fra.system.printable import counted
from fra.system.text import lines_of, rows_of, shown

PICTURES = ("images", "image", "WFLW_images", "data/flickr", "flickr", "data")
HRNET_COLUMNS = ("image_name", "scale", "center_w", "center_h")
STAR_FLAGS = 6
"""Of WFLW; STAR's lists of other sets may have any or none."""
BLANK = ("image_092_01.", "image_092 _01.")
"""300-W's one file with a blank in its name, and what some lists and copies make of it."""


def read_hrnet_csv(path: Path, count: int, *, shift: float = 0.0) -> AnnotatedFaces:
    """A list of HRNet; `shift` is added to all coordinates. Its own squares serve the preset hrnet.

    With box_size (AFLW) the face rectangle is the square of that side about the centre (ours: the list gives no more).
    Raises ValueError naming the line that cannot be understood.
    """
    files, rows, points = [], [], []
    table = rows_of(path)
    heading = [word.strip() for word in next(table, (1, []))[1]]
    sized = "box_size" in heading
    first = len(HRNET_COLUMNS) + sized
    if not set(HRNET_COLUMNS) <= set(heading[:first]) or len(heading) != first + 2 * count:
        raise ValueError(
            f"{path} begins with '{shown(heading)}': expected {', '.join(HRNET_COLUMNS)} "
            f"and then x and y of {count} landmarks"
        )
    place = {name: heading.index(name) for name in heading[:first]}
    for number, row in table:
        if len(row) != len(heading):
            raise ValueError(
                f"line {number} of {path} has {counted(len(row), 'column')} where its heading has {len(heading)}"
            )
        files.append(row[place["image_name"]].strip().replace("\\", "/"))
        wanted = ("scale", "center_w", "center_h", *(["box_size"] if sized else []))
        rows.append(numbers([row[place[name]] for name in wanted], path, number))
        points.append(numbers(row[first:], path, number))
    values = torch.tensor(rows).view(len(files), 3 + sized)
    centres, sides = values[:, 1:3] + shift, SCALE_UNIT * values[:, 0]
    return AnnotatedFaces(
        files,
        torch.tensor(points).view(len(files), count, 2) + shift,
        rectangles=squares_about(centres, values[:, 3]) if sized else None,
        squares={"hrnet": squares_about(centres, HRNET_MARGIN * sides)},
    )


def read_star_tsv(path: Path, count: int) -> AnnotatedFaces:
    """A list of STAR or ADNet. Its own squares serve the preset star; flags are read where there are six.

    Raises ValueError naming the line that cannot be understood.
    """
    files, rows, points, flags = [], [], [], []
    for number, line in enumerate(lines_of(path), 1):
        row = line.rstrip("\n").split("\t")
        if not line.strip():
            continue
        if len(row) < 6:
            raise ValueError(
                f"line {number} of {path} is '{shown(line)}': expected 6 or 7 columns with tabs between them, not "
                f"{len(row)}"
            )
        where = numbers(row[2].strip(",").split(","), path, number)
        if len(where) != 2 * count:
            raise ValueError(f"line {number} of {path} has {counted(len(where), 'coordinate')}: expected {2 * count}")
        files.append(row[0].replace("\\", "/").rpartition("rawImages/")[2].removeprefix("./"))
        rows.append(numbers(row[3:6], path, number))
        points.append(where)
        words = row[6].strip().strip(",").split(",") if len(row) > 6 else []
        flags.append([word.strip() not in ("", "0", "0.0") for word in words])
    values = torch.tensor(rows).view(len(files), 3)
    complete = bool(files) and all(len(row) == STAR_FLAGS for row in flags)
    return AnnotatedFaces(
        files,
        torch.tensor(points).view(len(files), count, 2),
        squares={"star": squares_about(values[:, 1:], SCALE_UNIT * values[:, 0])},
        flags=torch.tensor(flags) if complete else None,
    )


def numbers(words: Sequence[str], path: Path, line: int) -> list[float]:
    """The words as finite numbers. Raises ValueError naming the line and the word that is none."""
    found = []
    for word in words:
        try:
            found.append(float(word))
        except ValueError:
            found.append(float("nan"))
        if not abs(found[-1]) < float("inf"):
            raise ValueError(f"line {line} of {path} has '{shown(word)}' where a number was expected")
    return found


def star_lists(root: Path, name: str) -> dict[str, Path] | None:
    """The train and test list of STAR's layouts below `root`, or None when one of them is not there."""
    found = {
        split: first_there(root, [f"{folder}{split}.tsv" for folder in ("", "annotations/", f"annotations/{name}/")])
        for split in ("train", "test")
    }
    return {split: path for split, path in found.items() if path} if all(found.values()) else None


def hrnet_lists(root: Path, stem: str, splits: Sequence[str]) -> list[Path] | None:
    """HRNet's lists `face_landmarks_STEM_SPLIT.csv` below `root`, or None when one of them is not there."""
    found = [first_there(root, [f"{where}face_landmarks_{stem}_{split}.csv" for where in ("", "annotations/")])
             for split in splits]  # fmt: skip
    return [path for path in found if path] if all(found) else None


def lines_also_in(part: Path, whole: Path) -> Bool[Tensor, "N"]:
    """Which faces of the list `whole` are in the list `part` of some of them, word by word."""
    some = {line.strip() for line in lines_of(part)}
    return torch.tensor([line.strip() in some for line in list(lines_of(whole))[1:] if line.strip()], dtype=torch.bool)


def join(parts: Sequence[AnnotatedFaces]) -> AnnotatedFaces:
    """The faces of several lists of one form, one list after another."""
    first, *_ = parts
    rectangles = [part.rectangles for part in parts if part.rectangles is not None]
    return AnnotatedFaces(
        [file for part in parts for file in part.files],
        torch.cat([part.points for part in parts]),
        rectangles=torch.cat(rectangles) if rectangles else None,
        squares={crop: torch.cat([part.squares[crop] for part in parts]) for crop in first.squares},
    )


def on_disk(root: Path, splits: Mapping[str, AnnotatedFaces]) -> tuple[dict[str, AnnotatedFaces], Path]:
    """The faces with their files' names as they are on disk, and the folder below `root` that these start from.

    That folder is the first one that has the first file of a split.
    """
    folders = [root, *(root / name for name in PICTURES)]
    firsts = [faces.files[0] for faces in splits.values() if faces.files]
    folder = next((place for place in folders if any((place / file).exists() for file in firsts)), folders[1])
    return {
        split: dataclasses.replace(faces, files=_spelt(folder, faces.files)) for split, faces in splits.items()
    }, folder


def _spelt(folder: Path, files: Sequence[str]) -> list[str]:
    """With or without the blank of 300-W's one such name, whichever is there."""
    one, other = BLANK
    found = []
    for file in files:
        spellings = (file, file.replace(one, other), file.replace(other, one))
        found.append(
            next((name for name in spellings if (folder / name).exists()), file) if len(set(spellings)) > 1 else file
        )
    return found
