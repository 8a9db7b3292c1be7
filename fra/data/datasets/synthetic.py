"""Drawn faces with known ground truth, in our own layout and, from the same images, in four official ones:

images/000000.jpg …   labels.csv: file, split, expression, one column per attribute (0 or 1)
regions/000000.png …  8-bit grey, value = index into fra.drawing.drawn_face.REGION_NAMES
landmarks.npz         files, points68 (N, 68, 2), points98 (N, 98, 2), five_points (N, 5, 2): pixels, from 0
rafdb/basic/…         celeba/…         300w/…         wflw/…
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fra.data.labelled import Dataset, LabelledFaces, splits_of
from fra.data.layout import find_layout
from fra.drawing.drawn_face import ATTRIBUTES, EXPRESSIONS, DrawnFace, draw_face
from fra.faces.image import read_header, write_image
from fra.faces.points import place_in_image
from fra.files import MARK, claim_file, claim_folder, one_writer, read_arrays, read_rows, reading, write_rows
from fra.runtime import Runtime
from fra.system.processes import available_cores, helper_pool
from fra.tasks.attributes import Attributes
from fra.tasks.expression import Expression
from fra.tasks.landmarks import Landmarks

SPLITS = ("train",) * 7 + ("val",) + ("test",) * 2  # of each ten faces in a row: 70, 10 and 20 %
FACES_PER_SEED = 10_000_000  # faces of two seeds are never the same
CHUNK = 64
DRAW_AGAIN = "draw the faces again with `fra data synthetic --out DIR --count 2000`"

CELEBA_NAMES = (  # all forty, in CelebA's order
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair "
    "Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male "
    "Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
    "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace "
    "Wearing_Necktie Young"
)


def read(folder: Path) -> LabelledFaces:
    """Read what `write` wrote: tasks `expression`, `attributes`, `landmarks` (68) and `landmarks98`."""
    root = find_layout(folder, holds="labels.csv", below="synthetic", name="synthetic")
    rows = read_rows(root / "labels.csv", DRAW_AGAIN)
    known = ("file", "split", "expression")
    if not rows or not all(name in rows[0] for name in known):
        raise ValueError(f"{root / 'labels.csv'} lists no drawn faces: {DRAW_AGAIN}")
    names = tuple(name for name in rows[0] if name not in known)
    points = _read_points(root / "landmarks.npz")
    size = read_header(root / "images" / rows[0]["file"]).width
    return LabelledFaces(
        name="synthetic",
        root=root / "images",
        files=[row["file"] for row in rows],
        splits=splits_of([row["split"] for row in rows]),
        tasks={
            "expression": Expression(tuple(EXPRESSIONS)),
            "attributes": Attributes(names),
            "landmarks": Landmarks(68),
            "landmarks98": Landmarks(98),
        },
        targets={
            "expression": torch.tensor([_expression(row, root) for row in rows]),
            "attributes": torch.tensor([[row[name] == "1" for name in names] for row in rows]),
            "landmarks": place_in_image(points["points68"], size),
            "landmarks98": place_in_image(points["points98"], size),
        },
    )


def _read_points(path: Path) -> dict[str, Float[Tensor, "N P 2"]]:
    with reading(path, DRAW_AGAIN):
        arrays = read_arrays(path)
        return {name: torch.from_numpy(arrays[name]) for name in ("points68", "points98")}


def _expression(row: dict[str, str], root: Path) -> int:
    if row["expression"] not in EXPRESSIONS:
        raise ValueError(
            f"{root / 'labels.csv'} says that {row['file']} shows '{row['expression']}': expected one of "
            f"{', '.join(EXPRESSIONS)}"
        )
    return EXPRESSIONS.index(row["expression"])


@one_writer
def write(out: Path, count: int, *, size: int = 128, seed: int = 0, runtime: Runtime = Runtime()) -> None:
    """Draw `count` faces of `size` pixels into the new folder `out`, in the layouts above.

    The same arguments write the same bytes, and a larger `count` only adds faces: face i depends on (seed, i), its
    split on i alone. `out` appears when all is written: a run that was interrupted begins again, and a resumed one
    leaves an `out` alone that already holds these faces. Raises ValueError when it holds anything else.
    """
    if count < len(SPLITS):
        raise ValueError(f"{count} drawn faces are too few for three splits: draw at least {len(SPLITS)}")
    if runtime.resume and (out / MARK).exists():
        claim_folder(out, command="data synthetic", resume=True)
        if not _holds(out, count, size, seed):
            raise ValueError(
                f"{out} was drawn with a different count, size or seed: use the same, or choose another --out"
            )
        return
    claim_file(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty: choose another --out")
    building = out.with_name(f".{out.name}-unfinished")
    shutil.rmtree(building, ignore_errors=True)  # left by a run that was killed
    claim_folder(building, command="data synthetic", resume=False, shared=True)
    try:
        for name in ("images", "regions"):
            (building / name).mkdir()
        faces = list(_draw_all(building, count, size, seed, runtime.workers))
        _write_labels(building, faces)
        _write_rafdb(building, faces)
        _write_celeba(building, faces)
        _write_300w(building, faces)
        _write_wflw(building, faces)
        os.replace(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _holds(root: Path, count: int, size: int, seed: int) -> bool:
    """Whether the last of these faces is the last one in `root`."""
    last = draw_face(seed * FACES_PER_SEED + count - 1, size=size).points68
    points = _read_points(root / "landmarks.npz")["points68"]
    return len(points) == count and torch.allclose(points[-1], last)


Truth = dict[str, np.ndarray]
"""A drawn face without its pixels: expression, attributes, points68, points98, five_points."""


def _draw_all(root: Path, count: int, size: int, seed: int, workers: int | None) -> Iterator[Truth]:
    """Write every picture and region map; give the truths in order."""
    chunks = [(root, range(first, min(first + CHUNK, count)), size, seed) for first in range(0, count, CHUNK)]
    # Starting a process takes about as long as four chunks.
    processes = min(workers or available_cores(), len(chunks) // 4)
    if processes < 2:
        for chunk in chunks:
            yield from _draw_chunk(chunk)
        return
    with helper_pool(processes) as pool:
        for truths in pool.map(_draw_chunk, chunks):
            yield from truths


def _draw_chunk(chunk: tuple[Path, range, int, int]) -> list[Truth]:
    root, numbers, size, seed = chunk
    truths = []
    for number in numbers:
        face = draw_face(seed * FACES_PER_SEED + number, size=size)
        write_image(root / f"images/{number:06d}.jpg", face.image)
        Image.fromarray(face.regions.numpy()).save(root / f"regions/{number:06d}.png")
        truths.append(_truth(face))
    return truths


def _truth(face: DrawnFace) -> Truth:
    return {
        "expression": np.array(face.expression),
        "attributes": face.attributes.numpy(),
        "points68": face.points68.numpy(),
        "points98": face.points98.numpy(),
        "five_points": face.five_points.numpy(),
    }


def _split(number: int) -> str:
    return SPLITS[number % len(SPLITS)]


def _write_labels(root: Path, faces: Sequence[Truth]) -> None:
    files = [f"{number:06d}.jpg" for number in range(len(faces))]
    rows = []
    for number, (file, face) in enumerate(zip(files, faces, strict=True)):
        row = {"file": file, "split": _split(number), "expression": EXPRESSIONS[int(face["expression"])]}
        rows.append(row | {name: int(has) for name, has in zip(ATTRIBUTES, face["attributes"], strict=True)})
    write_rows(root / "labels.csv", rows)
    points68, points98, five_points = (
        np.stack([face[name] for face in faces]) for name in ("points68", "points98", "five_points")
    )
    np.savez(
        root / "landmarks.npz", files=np.array(files), points68=points68, points98=points98, five_points=five_points
    )


def _write_rafdb(root: Path, faces: Sequence[Truth]) -> None:
    """RAF-DB knows train and test only: our validation faces train."""
    base = root / "rafdb/basic"
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for number, face in enumerate(faces):
        split = "test" if _split(number) == "test" else "train"
        place = len(lines[split]) + 1
        name = f"train_{place:05d}" if split == "train" else f"test_{place:04d}"
        _link(root / f"images/{number:06d}.jpg", base / f"Image/aligned/{name}_aligned.jpg")
        lines[split].append(f"{name}.jpg {int(face['expression']) + 1}")
    _write_lines(base / "EmoLabel/list_patition_label.txt", lines["train"] + lines["test"])


def _write_celeba(root: Path, faces: Sequence[Truth]) -> None:
    """CelebA counts its pictures from 1; an attribute that is not drawn is -1 everywhere."""
    base = root / "celeba"
    attributes, partition = [str(len(faces)), CELEBA_NAMES], []
    for number, face in enumerate(faces):
        name = f"{number + 1:06d}.jpg"
        _link(root / f"images/{number:06d}.jpg", base / f"img_align_celeba/{name}")
        has = dict(zip(ATTRIBUTES, face["attributes"], strict=True))
        values = (" 1" if has.get(attribute, False) else "-1" for attribute in CELEBA_NAMES.split())
        attributes.append(f"{name} {' '.join(values)}")
        partition.append(f"{name} {('train', 'val', 'test').index(_split(number))}")
    _write_lines(base / "list_attr_celeba.txt", attributes)
    _write_lines(base / "list_eval_partition.txt", partition)


def _write_300w(root: Path, faces: Sequence[Truth]) -> None:
    """300-W counts pixels from 1. Our validation faces train; every second one lies in `afw`."""
    for number, face in enumerate(faces):
        train = "afw" if number % 2 else "helen/trainset"
        base = root / "300w" / ("helen/testset" if _split(number) == "test" else train)
        _link(root / f"images/{number:06d}.jpg", base / f"{number:06d}.jpg")
        points = [f"{x:.6f} {y:.6f}" for x, y in face["points68"] + 1]
        _write_lines(base / f"{number:06d}.pts", ["version: 1", "n_points: 68", "{", *points, "}"])


def _write_wflw(root: Path, faces: Sequence[Truth]) -> None:
    """WFLW counts pixels from 0. Our validation faces train; the flags tell of expression, make-up and blur only."""
    base = root / "wflw"
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for number, face in enumerate(faces):
        name = f"drawn/{number:06d}.jpg"
        _link(root / f"images/{number:06d}.jpg", base / "WFLW_images" / name)
        has = dict(zip(ATTRIBUTES, face["attributes"], strict=True))
        flags = (0, int(face["expression"]) != EXPRESSIONS.index("neutral"), 0, has["Heavy_Makeup"], 0, has["Blurry"])
        points = face["points98"]
        numbers = [f"{value:.6f}" for value in points.ravel()]
        numbers += [f"{value:.0f}" for value in (*np.floor(points.min(0)), *np.ceil(points.max(0)))]
        split = "test" if _split(number) == "test" else "train"
        lines[split].append(" ".join([*numbers, *(str(int(flag)) for flag in flags), name]))
    for split, rows in lines.items():
        folder = base / "WFLW_annotations/list_98pt_rect_attr_train_test"
        _write_lines(folder / f"list_98pt_rect_attr_{split}.txt", rows)


def _link(source: Path, target: Path) -> None:
    """The same picture again without its bytes, or a copy where the disk has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


DATASET = Dataset(read, layout=__doc__ or "", terms="free to use")
