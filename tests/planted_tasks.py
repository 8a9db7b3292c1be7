"""Learned tasks whose answers are known, and a detector that is told what it finds."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fra.crop.detectors import Face
from fra.tasks.attributes import Attributes
from fra.tasks.expression import Expression
from fra.tasks.task import Task
from fra.weights.load import encoder_fingerprint

SIZE = 32


EXPRESSION = Expression(("sad", "glad", "calm"))


ATTRIBUTES = Attributes(("Wearing_Hat", "Bald", "Smiling"))


def plant(out: Path, task: Task, dataset: str, encoder: Path, *, says: Tensor | None = None) -> Path:
    """A run of `fra transfer` whose head gives `says` for every face, or without it something from the features."""
    from fra.weights.load import load_encoder

    network = load_encoder(encoder)
    head = task.head(network.channels)
    if says is None:
        nn.init.normal_(head.weight, std=0.3)
    else:
        nn.init.zeros_(head.weight)
        head.bias.data.copy_(says.flatten())
    out.mkdir(parents=True)
    tensors = {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    tensors |= {"features.mean": torch.zeros(network.channels), "features.scale": torch.ones(network.channels)}
    notes = {
        "encoder": str(encoder), "encoder_hash": encoder_fingerprint(network), "protocol": "linear",
        "dataset": dataset, "recipe": "planted", "task": task.name, "settings": dataclasses.asdict(task),
        "image_size": SIZE,
    }  # fmt: skip
    save_file(tensors, out / "task.safetensors", {name: json.dumps(value) for name, value in notes.items()})
    return out


def shape(points: Sequence[Sequence[float]]) -> Tensor:
    """68 landmarks in [-1, 1] that begin with these."""
    return torch.cat((torch.tensor(points), torch.zeros(68 - len(points), 2)))


class Told:
    """A detector that has been told which faces a photo of a size has."""

    faces: dict[tuple[int, int], list[Face]]

    def __init__(self, *, min_score: float, model: str | None = None) -> None:
        pass

    def find_faces(self, image: Tensor) -> list[Face]:
        return self.faces.get((image.shape[2], image.shape[1]), [])


def upright_face(x: float, y: float, side: float, score: float = 0.9) -> Face:
    """Its box is such that the square of `fra crop` (1.25 times) is the one from (x, y) with this side."""
    middle = torch.tensor([x + side / 2 - 0.5, y + side / 2 - 0.5])
    box = torch.cat((middle - side / 2.5, middle + side / 2.5))
    return Face(box, middle + torch.tensor([[-9.0, -9], [9, -9], [0, 0], [-6, 9], [6, 9]]), score)


def grey(width: int, height: int) -> Tensor:
    return torch.full((3, height, width), 128, dtype=torch.uint8)
