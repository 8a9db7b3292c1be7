"""68 landmarks on unlabelled face crops, by MediaPipe's face mesh, as a dataset for `fra transfer SCALE/points.star`.

    python -m scripts.annotate_landmarks FAIRFACE --archives PACKAGES --out marks
    fra transfer laptop/points.star --encoder laptop_fine --data marks

FAIRFACE holds folders of square crops that a face fills, as FairFace's do. A face is kept when
the mesh is sure of it and agrees with its own answer on the mirrored and on a shifted crop. Faces of the last folder
test, those of the one before it validate, drawn faces with exact points join the rest. Folder by folder; a folder that
is done is not done again. Needs the packages that docs/results/peers.md names for the mesh.
"""

import argparse
import csv
import sys
from collections import Counter
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.io import write_png

from benchmarks.peers.mesh import FaceMesh, ibug68
from benchmarks.peers.pins import pinned
from fra.drawing.drawn_face import draw_face
from fra.faces.geometry import flip_points, whole_box
from fra.faces.image import UnreadableImage, read_image
from fra.files import atomic
from fra.tasks.point_tables import POINT_TABLES

SURE = 0.9
"""Score of the mesh from which a face is kept (ours)."""
AGREES = 0.03
"""Of the distance of the outer eye corners: how far the three answers may lie from their mean on average (ours)."""
PASSES = 3
"""Of each look: with two, the first box still shows in the answer (1.7 % of the eye distance between two boxes)."""
SHIFT = 0.04
"""Of the crop's side, by which the box is moved for the third look (ours)."""
BEYOND = 0.2
"""Of the crop's side, by which a point may lie outside of it (ours: the reader refuses faces from .25 on)."""
DRAWN = 1_000
"""Drawn faces among the training faces (ours: a twentieth)."""
COLUMNS = ["path", "split", *(f"p{point}_{axis}" for point in range(68) for axis in "xy")]


def marks(mesh: FaceMesh, crop: UInt8[Tensor, "3 S S"]) -> tuple[Float[Tensor, "68 2"] | None, str]:
    """The points in pixels of the crop, the mean of three looks; None, and why, when they cannot be trusted."""
    side = crop.shape[-1]
    box = whole_box(side, side)
    found = mesh.find(crop, box, passes=PASSES)
    if found.score < SURE:
        return None, "not sure"
    mirrored = mesh.find(crop.flip(-1), box, passes=PASSES)
    shifted = mesh.find(crop, box + torch.tensor([SHIFT, -SHIFT] * 2) * side, passes=PASSES)
    back = flip_points(ibug68(mirrored.points), side, POINT_TABLES[68].flip)
    looks = torch.stack([ibug68(found.points), back, ibug68(shifted.points)])
    mean = looks.mean(0)
    eyes = float(torch.linalg.vector_norm(mean[36] - mean[45]))
    apart = float(torch.linalg.vector_norm(looks - mean, dim=-1).mean(1).max())
    if apart > AGREES * eyes:
        return None, "disagrees"
    beyond = torch.maximum(-mean, mean - (side - 1)).amax(1)
    seen = float(beyond.max()) <= BEYOND * side and float((beyond > 0).float().mean()) < 0.5
    return (mean, "") if seen else (None, "outside")


def annotate(faces: Path, mesh: FaceMesh, out: Path) -> Counter[str]:
    """Writes `out`/points.csv, labels.yaml and images/. Returns how many faces were kept, or left out and why."""
    folders = sorted(path for path in faces.iterdir() if path.is_dir())
    if len(folders) < 3:
        raise SystemExit(f"{faces} has {len(folders)} folders: three are needed, for training, validation and test")
    (out / "parts").mkdir(parents=True, exist_ok=True)
    (out / "images").mkdir(exist_ok=True)
    for folder in folders:
        link = out / "images" / folder.name
        if not link.is_symlink():
            link.symlink_to(folder.resolve())
        part = out / "parts" / f"{folder.name}.csv"
        if not part.exists():
            _write(part, [_row(mesh, path, faces) for path in sorted(folder.glob("*.jpg"))])
            print(folder.name, dict(_counts(part)), flush=True)
    splits = {folder.name: "train" for folder in folders} | {folders[-2].name: "val", folders[-1].name: "test"}
    rows = [
        [row[0], splits[folder.name], *row[2:]]
        for folder in folders
        for row in _read(out / "parts" / f"{folder.name}.csv")
        if not row[1]
    ]
    _write(out / "points.csv", [COLUMNS, *rows, *_drawn(out / "images" / "drawn")])
    with atomic(out / "labels.yaml") as building:
        building.write_text("layout: ibug68\n", encoding="utf-8")
    return sum((_counts(out / "parts" / f"{folder.name}.csv") for folder in folders), Counter())


def _row(mesh: FaceMesh, path: Path, faces: Path) -> list[str]:
    """Path, why it was left out (empty when kept), and the points."""
    name = path.relative_to(faces).as_posix()
    try:
        points, why = marks(mesh, read_image(path))
    except UnreadableImage:
        return [name, "unreadable"]
    return [name, why, *_numbers(points)] if points is not None else [name, why]


def _drawn(folder: Path) -> list[list[str]]:
    folder.mkdir(exist_ok=True)
    rows = []
    for seed in range(DRAWN):
        face, path = draw_face(seed, size=112), folder / f"{seed:04d}.png"
        if not path.exists():
            write_png(face.image, str(path))
        rows.append([f"drawn/{path.name}", "train", *_numbers(face.points68)])
    return rows


def _numbers(points: Float[Tensor, "68 2"]) -> list[str]:
    return [f"{value:.3f}" for value in points.flatten().tolist()]


def _counts(part: Path) -> Counter[str]:
    return Counter(row[1] or "kept" for row in _read(part))


def _read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def _write(path: Path, rows: list[list[str]]) -> None:
    with atomic(path) as building, building.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="68 landmarks on face crops, by MediaPipe's face mesh.")
    parser.add_argument("faces", type=Path, help="folders of crops, such as FairFace's")
    parser.add_argument("--archives", type=Path, required=True, help="folder of fetched packages (benchmarks/peers)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the dataset")
    asked = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    torch.set_num_threads(1)
    print(dict(annotate(asked.faces, FaceMesh(pinned("mesh", asked.archives)), asked.out)))


if __name__ == "__main__":
    main()
