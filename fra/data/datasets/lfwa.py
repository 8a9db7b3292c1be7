"""LFWA: CelebA's forty attributes on Labeled Faces in the Wild (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html).

lfwa/[anno/]lfw_att_40.mat              AttrName, label, name ("Aaron_Eckhart\\Aaron_Eckhart_0001.jpg"); MATLAB 7.3
lfwa/[anno/]indices_train_test.mat      indices_img_train (6,263), indices_img_test (6,880), counted from 1
lfwa/lfw/Aaron_Eckhart/Aaron_Eckhart_0001.jpg   13,143 images of 250x250; also lfw_funneled/ or lfw-deepfunneled/

--data is lfwa/ or the folder that contains it. There is no validation split.
"""

from pathlib import Path

import h5py
import numpy as np
import torch

from fra.data.labelled import Dataset, LabelledFaces, Published, first_there
from fra.data.layout import find_layout
from fra.system.text import decoding
from fra.tasks.attributes import Attributes

TABLES = ("lfw_att_40.mat", "anno/lfw_att_40.mat")
PICTURES = ("lfw", "lfw_funneled", "lfw-deepfunneled", "images")
# Ours: the middle 200 of 250 pixels. In deep-funneled LFW the eyes are 43 pixels apart (median of 104 faces), so this
# shows as much about a face as CelebA's 178 pixels for 39 between the eyes.
MIDDLE = (24.5, 24.5, 224.5, 224.5)


def read(folder: Path) -> LabelledFaces:
    """Read the layout above. Raises ValueError when a table is missing, or they do not go together."""
    root = find_layout(folder, holds=TABLES, below="lfwa", name="lfwa")
    table = first_there(root, TABLES)
    assert table  # find_layout has seen it
    parts_file = table.with_name("indices_train_test.mat")
    if not parts_file.exists():
        raise ValueError(f"{parts_file} is missing: it assigns the images to training and test")
    content, parts = read_mat(table), read_mat(parts_file)
    absent = [name for name in ("AttrName", "label", "name") if name not in content]
    absent += [name for name in ("indices_img_train", "indices_img_test") if name not in parts]
    if absent:
        raise ValueError(f"{table.parent} has no {', '.join(absent)} in its two .mat files: use the original ones")
    with decoding(table, "LFWA table"):
        names = tuple(word.strip() for word in content["AttrName"])
        files = [word.strip().replace("\\", "/") for word in content["name"]]
        values = content["label"]
        if values.shape != (len(files), len(names)):
            raise ValueError(
                f"{table} has labels of shape {values.shape} for {len(files)} images of {len(names)} names"
            )
        strange = np.argwhere(~np.isin(values, (0, 1)))
        if len(strange):
            row, column = strange[0]
            raise ValueError(f"{table}: {files[row]} has {values[row, column]:g} for {names[column]}, expected 0 or 1")
    with decoding(parts_file, "table of LFWA"):
        splits = {"val": torch.empty(0, dtype=torch.long)}
        for split in ("train", "test"):
            places = np.sort(parts[f"indices_img_{split}"].astype(np.int64).ravel()) - 1
            if len(places) and not 0 <= places[0] <= places[-1] < len(files):
                ends = f"from {places[0] + 1} to {places[-1] + 1}"
                raise ValueError(f"{parts_file} has {split} images {ends}, but there are {len(files)}")
            splits[split] = torch.from_numpy(places)
    return LabelledFaces(
        name="lfwa",
        root=first_there(root, PICTURES) or root / PICTURES[0],
        files=files,
        splits=splits,
        tasks={"attributes": Attributes(names)},
        targets={"attributes": torch.from_numpy(values == 1)},
        boxes=torch.tensor(MIDDLE).expand(len(files), 4),
    )


def read_mat(path: Path) -> dict[str, np.ndarray]:
    """The variables of a .mat file (MATLAB 7.3), as MATLAB shows them; a cell array of texts is flat.

    Raises ValueError when it is not such a file.
    """
    with decoding(path, "MATLAB 7.3 file"), h5py.File(path) as file:
        return {name: _variable(file, node) for name, node in file.items() if isinstance(node, h5py.Dataset)}


def _variable(file: h5py.File, node: h5py.Dataset) -> np.ndarray:
    """HDF5 stores MATLAB's arrays transposed, and texts as numbers that a cell array points to."""
    if node.dtype != h5py.ref_dtype:
        return node[()].T
    return np.array(["".join(map(chr, file[reference][()].ravel())) for reference in node[()].ravel()])


DATASET = Dataset(
    read,
    layout=__doc__ or "",
    terms="non-commercial research only",
    # As quoted in the literature (spec attributes.md, section 2).
    published=Published({"train": 6_263, "test": 6_880}, size=(250, 250)),
)
