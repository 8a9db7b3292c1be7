"""A dataset of sixty pictures in three colours that `fra transfer` can be asked about."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fra.data.datasets import DATASETS
from fra.data.labelled import Dataset, Groups, LabelledFaces
from fra.faces.image import read_image
from fra.tasks.attributes import Attributes
from fra.tasks.expression import Expression
from fra.tasks.landmarks import Landmarks

FILES = [f"{number:02d}.png" for number in range(60)]
LABELS = torch.arange(60) % 3


def plant(
    monkeypatch: pytest.MonkeyPatch, root: Path, *, landmarks: Tensor, groups: dict[str, Groups] | None = None
) -> LabelledFaces:
    """The dataset "planted" of the pictures FILES in `root`, whose colours are LABELS."""
    faces = LabelledFaces(
        name="planted",
        root=root,
        files=FILES,
        splits={"train": torch.arange(30), "val": torch.arange(30, 36), "test": torch.arange(36, 60)},
        tasks={
            "expression": Expression(("red", "green", "blue")),
            "attributes": Attributes(("reddish", "bluish")),
            "landmarks": Landmarks(68),
        },
        targets={
            "expression": LABELS,
            "attributes": torch.stack([LABELS == 0, LABELS == 2], 1),
            "landmarks": landmarks,
        },
        groups=groups or {},
        # Asked for one by one, so that a picture may vanish between the lists and the reading.
        read=lambda index: read_image(root / FILES[index]),
    )
    monkeypatch.setitem(DATASETS, "planted", Dataset(lambda _: faces, layout=""))
    return faces
