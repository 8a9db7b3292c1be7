"""Drawn faces with labels as people write them down: folders of classes, a table, COCO keypoints."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

FIVE = {"left_eye": 36, "right_eye": 45, "nose": 30, "left_mouth": 48, "right_mouth": 54}
"""Names of a few of the 68 points."""


def rows_of(drawn: Path) -> list[dict[str, str]]:
    with (drawn / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write_folder(drawn: Path, folder: Path, *, splits: bool = True, classes: tuple[str, str] = ("glad", "sad")) -> Path:
    """Two classes, in turn; the drawn split with `splits`, its validation faces in training."""
    for number, row in enumerate(rows_of(drawn)):
        split = ("test" if row["split"] == "test" else "train") if splits else ""
        place = folder / split / classes[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn / "images" / row["file"], place / f"person{number // 2}_{number}.jpg")
    return folder


def table_rows(drawn: Path) -> list[dict[str, Any]]:
    """Columns path, split, mood, smiling, hat and age; each of the labels is unknown somewhere."""
    rows = []
    for number, row in enumerate(rows_of(drawn)):
        rows.append(
            {
                "path": f"images/{row['file']}",
                "split": row["split"],
                "mood": ("glad", "sad")[number % 2] if number != 2 else "",
                "smiling": row["Smiling"] if number != 3 else "",
                "hat": row["Wearing_Hat"],
                "age": 20 + 3 * number if number != 4 else "",
            }
        )
    return rows


def write_table(folder: Path, rows: list[dict[str, Any]], name: str = "labels.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def with_images(drawn: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images").symlink_to(drawn.resolve() / "images")
    return folder


def coco(drawn: Path, *, split: str | None = None, names: dict[str, int] = FIVE) -> dict[str, Any]:
    """Keypoints of the faces of a split (validation faces train), in pixels."""
    with np.load(drawn / "landmarks.npz") as archive:
        points = archive["points68"]
    images, annotations = [], []
    for number, row in enumerate(rows_of(drawn)):
        if split not in (None, "test" if row["split"] == "test" else "train"):
            continue
        images.append({"id": number, "file_name": row["file"]})
        places = points[number][list(names.values())]
        keypoints = [value for x, y in places.tolist() for value in (x, y, 2)]
        low, high = places.min(0), places.max(0)
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "keypoints": keypoints,
                "bbox": [*low.tolist(), *(high - low).tolist()],
            }
        )
    categories = [{"id": 1, "name": "face", "keypoints": list(names)}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_points(drawn: Path, folder: Path, **options: Any) -> Path:
    with_images(drawn, folder)
    for split in ("train", "test"):
        (folder / f"{split}.json").write_text(json.dumps(coco(drawn, split=split, **options)))
    return folder
