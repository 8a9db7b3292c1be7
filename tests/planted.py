"""A dataset of sixty pictures in three colours that `fra transfer` can be asked about."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fra.data.datasets import DATASETS
from fra.data.labelled import Dataset, Groups, LabelledFaces
from fra.drawing.drawn_face import DrawnFace
from fra.faces.image import read_image, write_image
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


def places(faces: list[DrawnFace], points: str = "points68") -> Tensor:
    """Landmarks of drawn faces, in [-1, 1] from edge to edge."""
    size = faces[0].image.shape[-1]
    return torch.stack([(getattr(face, points) + 0.5) * (2 / size) - 1 for face in faces])


def plant_drawn(monkeypatch: pytest.MonkeyPatch, root: Path, drawn: list[DrawnFace]) -> LabelledFaces:
    """60 drawn faces with their landmarks: 30 to train, 6 to validate, 24 to test."""
    for file, face in zip(FILES, drawn, strict=True):
        write_image(root / file, face.image)
    return plant(monkeypatch, root, landmarks=places(drawn))
