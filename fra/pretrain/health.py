"""Is it learning? Measured on fixed faces between epochs, without touching the method.

B images, K facial regions, C encoder channels, D embedding channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fra.data.listing import image_files
from fra.faces.image import read_image, to_input
from fra.models.encoder import Encoder
from fra.models.region_head import RegionModel, RegionOutput
from fra.models.similarity import cosines, effective_rank, mean_entropy, mean_pairwise_cosine, unit
from fra.pretrain.method import Method
from fra.text import lines_of, shown


@dataclass(frozen=True)
class Labelled:
    """Faces with a class each, read from a folder with one subfolder per class."""

    images: Float[Tensor, "B 3 S S"]
    labels: Int[Tensor, "B"]


@dataclass(frozen=True)
class Pairs:
    """Pairs of faces, of the same person or not, in LFW's layout."""

    images: Float[Tensor, "B 3 S S"]
    first: Int[Tensor, "N"]
    second: Int[Tensor, "N"]
    same: Bool[Tensor, "N"]


class HealthMonitor:
    """Measures a method on fixed `faces`, and on side sets when given; every process but the first may skip it."""

    def __init__(
        self,
        faces: Float[Tensor, "B 3 S S"],
        *,
        labelled: Labelled | None = None,
        pairs: Pairs | None = None,
        temperature: float = 0.1,
    ) -> None:
        self.faces = faces
        self.labelled = labelled
        self.pairs = pairs
        self.temperature = temperature

    @torch.no_grad()
    def measure(
        self, method: Method, epoch: int, *, earlier_ranks: Sequence[float] = ()
    ) -> tuple[dict[str, Any], RegionOutput | None]:
        """One row of health.csv, and what the method sees in the faces where it knows regions.

        `warning` is a plain sentence, empty when all is well; `earlier_ranks` are the effective ranks so far.
        """
        was_training = method.training
        method.eval()
        features = _in_batches(method.encoder, self.faces)
        row: dict[str, Any] = dict(
            feature_std=float(unit(_in_batches(method.projections, self.faces)).std(0).mean()),
            effective_rank=effective_rank(features),
        )
        teacher = method.teacher_encoder()
        if teacher is not None:
            others = _in_batches(teacher, self.faces)
            row["teacher_gap"] = float(1 - (unit(features) * unit(others)).sum(-1).mean())
        row |= method.own_health(self.faces)
        region_model = method.region_model()
        regions = None if region_model is None else look_at(region_model, self.faces)
        if regions is not None:
            row |= region_health(regions, temperature=self.temperature)
        if self.labelled is not None:
            features = _in_batches(method.encoder, self.labelled.images)
            row["neighbour_accuracy"] = neighbour_accuracy(features, self.labelled.labels)
        if self.pairs is not None:
            row["pair_auc"] = pair_auc(method.encoder, self.pairs)
        highest_rank = max([*earlier_ranks, row["effective_rank"]])
        warnings = diagnose(row, epoch=epoch, highest_rank=highest_rank)
        row["warning"] = " ".join(warnings + (method.own_warnings(row) if epoch else []))
        method.train(was_training)
        return row, regions


def look_at(model: RegionModel, faces: Float[Tensor, "B 3 S S"]) -> RegionOutput:
    """The regions of faces by their own mean mask embeddings: the running ones are empty before the first step."""
    maps = _in_batches(model.encoder.maps, faces)
    return model.head(maps, embeddings=_in_batches(model.head.decoder, maps).float().mean(0))


def region_health(regions: RegionOutput, *, temperature: float) -> dict[str, float]:
    """Mask cosine, mean entropy of a pixel's assignment (nats; log K when uniform), share of pixels per region."""
    scores = regions.scores
    entropy = mean_entropy((scores / temperature).softmax(1), dim=1)
    usage = torch.bincount(scores.argmax(1).flatten(), minlength=scores.shape[1]) / scores[:, 0].numel()
    row = dict(mask_cosine=float(mean_pairwise_cosine(regions.embeddings)), assignment_entropy=entropy)
    return row | {f"usage_{index}": float(share) for index, share in enumerate(usage)}


def diagnose(row: dict[str, Any], *, epoch: int, highest_rank: float) -> list[str]:
    """What is wrong, in plain sentences. Nothing is said before training has begun."""
    found: list[str] = []
    if epoch == 0:
        return found
    if row["effective_rank"] < 0.3 * highest_rank and row["effective_rank"] < 3:
        found.append(
            "Features are collapsing: their effective rank"
            f" fell from {highest_rank:.1f} to {row['effective_rank']:.1f}."
            " Lower the learning rate or raise the batch size."
        )
    usage = [value for name, value in row.items() if name.startswith("usage_")]
    if usage and row["mask_cosine"] > 0.95 and row["assignment_entropy"] > 0.99 * math.log(len(usage)):
        found.append(
            "Regions are still equal: the cluster loss sits at log K and FRA works as BYOL."
            " They may wake later; recipes with decoder.content = queries start alive."
        )
    elif usage and min(usage) < 0.02:
        dead = [str(index) for index, value in enumerate(usage) if value < 0.02]
        found.append(f"Regions {', '.join(dead)} own less than 2 % of the pixels.")
    return found


def neighbour_accuracy(features: Float[Tensor, "N C"], labels: Int[Tensor, "N"], *, neighbours: int = 10) -> float:
    """Percent of faces whose class wins the vote of their nearest others by cosine (leave one out)."""
    likeness = cosines(features, features).fill_diagonal_(-2)
    nearest = labels[likeness.topk(min(neighbours, len(labels) - 1)).indices]
    votes = F.one_hot(nearest, int(labels.max()) + 1).sum(1)
    return 100 * float((votes.argmax(1) == labels).float().mean())


@torch.no_grad()
def pair_auc(encoder: Encoder, pairs: Pairs) -> float:
    """How well the cosine of two faces' features tells whether they are one person: area under the ROC, percent."""
    features = unit(_in_batches(encoder, pairs.images))
    return area_under_curve((features[pairs.first] * features[pairs.second]).sum(-1), pairs.same)


def area_under_curve(scores: Float[Tensor, "N"], positive: Bool[Tensor, "N"]) -> float:
    """Percent of (positive, negative) pairs in which the positive scores higher; ties count half."""
    above = (scores[positive][:, None] > scores[~positive][None]).float()
    ties = (scores[positive][:, None] == scores[~positive][None]).float()
    return 100 * float((above + ties / 2).mean())


def read_labelled(folder: Path, size: int, *, limit: int = 2000) -> Labelled:
    """At most `limit` faces of a folder with one subfolder per class, evenly spread. ValueError when there are none."""
    files = image_files(folder)
    classes = sorted({path.relative_to(folder).parts[0] for path in files if path.parent != folder})
    if len(classes) < 2:
        raise ValueError(f"{folder} has fewer than two class folders with images: expected {folder}/CLASS/*.jpg")
    files = [path for path in files if path.parent != folder]
    files = [files[int(index)] for index in np.linspace(0, len(files) - 1, min(limit, len(files)))]
    labels = torch.tensor([classes.index(path.relative_to(folder).parts[0]) for path in files])
    return Labelled(_read_all(files, size), labels)


def read_pairs(folder: Path, size: int) -> Pairs:
    """Pairs in LFW's layout: a pairs*.txt and Name/Name_0001.jpg below it. ValueError says what is missing."""
    lists = sorted(folder.glob("pairs*.txt"))
    if not lists:
        raise ValueError(f"{folder} has no pairs*.txt: expected LFW's layout, pairsDevTest.txt and Name/Name_0001.jpg")
    where = {path.stem: path for path in image_files(folder)}
    indices: dict[Path, int] = {}
    first, second, same = [], [], []
    for number, line in enumerate(lines_of(lists[0]), 1):
        words = line.split()
        if number == 1 or not words:
            continue
        if len(words) not in (3, 4) or not all(word.isdecimal() for word in (words[1], words[-1])):
            expected = "expected 'Name 1 2', or 'Name 1 Other_Name 2'"
            raise ValueError(f"line {number} of {lists[0]} is '{shown(line)}': {expected}")
        ends = [words[:2], [words[0], words[2]]] if len(words) == 3 else [words[:2], words[2:]]
        names = [f"{name}_{int(number):04d}" for name, number in ends]
        if any(name not in where for name in names):
            raise ValueError(f"{folder} lacks {names[0]}.jpg or {names[1]}.jpg, which {lists[0].name} names")
        positions = [indices.setdefault(where[name], len(indices)) for name in names]
        first.append(positions[0])
        second.append(positions[1])
        same.append(len(words) == 3)
    return Pairs(_read_all(list(indices), size), torch.tensor(first), torch.tensor(second), torch.tensor(same))


def _read_all(files: list[Path], size: int) -> Tensor:
    return torch.stack([to_input(read_image(path, least_side=size), size) for path in files]).float() / 255


def _in_batches(network: Any, inputs: Tensor, *, batch: int = 128) -> Tensor:
    """`network` over all inputs, `batch` at a time; inputs and weights are on one device."""
    return torch.cat([network(part) for part in inputs.split(batch)]).float()
