"""AFLW-19: 19 landmarks, all annotated even where hidden, and a face box (Zhu et al., CVPR 2016, on AFLW's photos).

aflw/AFLWinfo_release.mat          nameList, bbox (left, right, top, bottom), data (19 x, 19 y), mask_new, ra; MATLAB 5
aflw/data/flickr/0/image00002.jpg ..., and the same in 2/ and 3/; also flickr/ or images/ instead of data/flickr/

The first 20,000 in the order `ra` are for training, the other 4,386 for testing; `frontal` are the 1,314 whose 19
landmarks are visible. Without that file, HRNet's lists of the same images:

aflw/[annotations/]face_landmarks_aflw_train.csv       aflw/[annotations/]face_landmarks_aflw_test.csv
aflw/[annotations/]face_landmarks_aflw_test_frontal.csv

--data is aflw/ or the folder that contains it. There is no validation split.
"""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from fra.data.crops import AnnotatedFaces, CropRule, label_faces
from fra.data.labelled import Dataset, Groups, LabelledFaces, Published
from fra.data.landmark_lists import hrnet_lists, lines_also_in, on_disk, read_hrnet_csv
from fra.data.layout import find_layout
from fra.system.text import decoding, require_regular
from fra.tasks.landmarks import Landmarks

TABLE = "AFLWinfo_release.mat"
LISTS = ("face_landmarks_aflw_train.csv", "annotations/face_landmarks_aflw_train.csv")
SHAPES = {"nameList": (), "bbox": (4,), "data": (38,), "mask_new": (19,), "ra": ()}
"""Of the variables, after the number of faces."""
TRAINING_FACES = 20_000
LONGEST = 600
"""Seconds that reading the table may take; it takes one."""
TASK = Landmarks(19, normaliser="diag", thresholds=(7.0,), threshold_normaliser="box")
"""As FaRL judges AFLW: errors by the box's diagonal, their area up to 7 % by the root of its area (spec alignment.md,
section 9); each by the other in results.json."""


def read(folder: Path, crop: CropRule = "hrnet") -> LabelledFaces:
    """Read one of the layouts above; the image of a face is a square (see fra.data.crops).

    HRNet's lists have only one length of the face box: it counts as a square there. Raises ValueError when a file is
    missing or cannot be understood.
    """
    root = find_layout(folder, holds=(TABLE, *LISTS), below="aflw", name="aflw")
    if (root / TABLE).exists():
        parts, frontal = read_table(root / TABLE)
    else:
        lists = hrnet_lists(root, "aflw", ["train", "test", "test_frontal"])
        if lists is None:
            raise ValueError(
                f"{root} lacks one or more of face_landmarks_aflw_train.csv, ..._test.csv and ..._test_frontal.csv"
            )
        parts = {split: read_hrnet_csv(path, 19) for split, path in zip(("train", "test"), lists, strict=False)}
        if any(faces.rectangles is None for faces in parts.values()):
            raise ValueError(f"{lists[0]} or {lists[1].name} has no column box_size: use HRNet's lists of AFLW")
        frontal = lines_also_in(lists[2], lists[1])
    parts, pictures = on_disk(root, parts)
    subset = torch.full((len(parts["train"].files) + len(frontal),), -1)
    subset[len(parts["train"].files) :] = torch.where(frontal, 0, 1)
    groups = {"subset": Groups(("frontal", "other"), subset)}
    return label_faces(parts, TASK, crop, name="aflw", root=pictures, groups=groups, face_boxes=True)


_LOAD = """
import sys
import numpy
from scipy.io import loadmat
found = loadmat(sys.argv[1], squeeze_me=True, variable_names=sys.argv[2:])
texts = {name: value.astype(str) if value.dtype == object else value for name, value in found.items() if name[0] != "_"}
numpy.savez(sys.stdout.buffer, **texts)
"""


def load_variables(path: Path) -> dict[str, np.ndarray]:
    """The variables of SHAPES that a file has, read by a process of its own: SciPy crashes at damaged ones."""
    require_regular(path)
    with open(path, "rb"):  # says what is wrong with the path itself
        words = [sys.executable, "-W", "ignore", "-P", "-c", _LOAD, str(path.resolve()), *SHAPES]
    done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=LONGEST)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(lines[-1] if lines and done.returncode > 0 else "its reader crashed")
    with np.load(io.BytesIO(done.stdout)) as arrays:
        return dict(arrays)


def read_table(path: Path) -> tuple[dict[str, AnnotatedFaces], Bool[Tensor, "N"]]:
    """The faces of both splits, and which of the test faces are frontal. Raises ValueError when they do not fit."""
    with decoding(path, "MATLAB 5 file"):
        content = load_variables(path)
        absent = [name for name in SHAPES if name not in content]
        if absent:
            raise ValueError(f"{path} has no {', '.join(absent)}: use the original file")
        count = len(content["nameList"])
        wrong = [
            f"{name} {content[name].shape}" for name, rest in SHAPES.items() if content[name].shape != (count, *rest)
        ]
        if wrong:
            raise ValueError(f"{path} has {count} names but {', '.join(wrong)}: use the original file")
        order = content["ra"].astype(np.int64) - 1  # counted from 1
        if sorted(order.tolist()) != list(range(count)):
            raise ValueError(f"{path}: ra is not a permutation of the {count} faces, counted from 1")
        values = torch.from_numpy(content["data"].astype(np.float64)).float()
        left_right_top_bottom = torch.from_numpy(content["bbox"].astype(np.float64)).float()
        boxes = left_right_top_bottom[:, [0, 2, 1, 3]]
        if not (values.isfinite().all() and boxes.isfinite().all()):
            raise ValueError(f"{path} has landmarks or boxes that are not numbers: use the original file")
        points = torch.stack((values[:, :19], values[:, 19:]), 2)
        parts = {
            split: AnnotatedFaces([str(content["nameList"][face]) for face in chosen], points[chosen], boxes[chosen])
            for split, chosen in (("train", order[:TRAINING_FACES]), ("test", order[TRAINING_FACES:]))
        }
        visible = torch.from_numpy(content["mask_new"] != 0).all(1)
        return parts, visible[order[TRAINING_FACES:]]


DATASET = Dataset(
    read,
    layout=__doc__ or "",
    terms="non-commercial research only",
    # As FaRL's logs have it (spec alignment.md, section 6).
    published=Published({"train": 20_000, "test": 4_386}, groups={"subset": {"frontal": 1_314}}),
    crops=("hrnet", "star", "rect", "square"),
)
