"""Is it learning? Measured on fixed faces between epochs, without touching the method.

B images, C encoder channels, S their size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fra.faces.image import read_image, to_input
from fra.models.encoder import Encoder, in_batches
from fra.models.region_head import RegionOutput
from fra.models.similarity import cosines, effective_rank, unit
from fra.pools.listing import image_files
from fra.pretrain.columns import HealthColumn, Judgement, Outcome, Table, from_to, should_rise
from fra.pretrain.method import Method
from fra.pretrain.region_health import look_at, region_health
from fra.system.text import lines_of, shown
from fra.weights.bundled import read_manifest

REFERENCE = "laptop"
"""The bundled encoder beside which a run's health is shown: FRA, 24,000 faces, 15 epochs."""
LOW_RANK = 0.5
"""The share of its effective rank below which that of a run is called low (ours)."""


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
        features = in_batches(method.encoder, self.faces)
        row: dict[str, Any] = dict(
            feature_std=float(unit(in_batches(method.projections, self.faces)).std(0).mean()),
            effective_rank=effective_rank(features),
        )
        teacher = method.teacher_encoder()
        if teacher is not None:
            others = in_batches(teacher, self.faces)
            row["teacher_gap"] = float(1 - (unit(features) * unit(others)).sum(-1).mean())
        row |= method.own_health(self.faces)
        region_model = method.region_model()
        regions = None if region_model is None else look_at(region_model, self.faces)
        if regions is not None:
            row |= region_health(regions, temperature=self.temperature)
        if self.labelled is not None:
            features = in_batches(method.encoder, self.labelled.images)
            row["neighbour_accuracy"] = neighbour_accuracy(features, self.labelled.labels)
        if self.pairs is not None:
            row["pair_auc"] = pair_auc(method.encoder, self.pairs)
        highest_rank = max([*earlier_ranks, row["effective_rank"]])
        warnings = collapse_warnings(row, highest_rank=highest_rank) + method.own_warnings(row) if epoch else []
        row["warning"] = " ".join(warnings)
        method.train(was_training)
        return row, regions


def collapse_warnings(row: dict[str, Any], *, highest_rank: float) -> list[str]:
    """Whether the features of a row of health.csv are collapsing, in a plain sentence."""
    rank = row["effective_rank"]
    if rank >= 0.3 * highest_rank or rank >= 3:
        return []
    return [
        f"Features are collapsing: their effective rank fell from {highest_rank:.1f} to {rank:.1f}."
        " Lower the learning rate or raise the batch size."
    ]


def _judge_spread(values: np.ndarray, table: Table) -> Judgement:
    share, observed = values[-1] / max(values.max(), 1e-12), from_to(values)
    if share < 0.1 or values[-1] < 1e-4:
        return Judgement(f"{observed}; the features have collapsed", "bad")
    if share < 0.3:
        return Judgement(f"{observed}; it shrank a lot", "watch")
    return Judgement(observed, "good")


def bundled_rank(table: Table) -> tuple[float, str]:
    """The effective rank at which a bundled encoder ended."""
    return float(read_manifest(REFERENCE).training["effective_rank"]), f"bundled {REFERENCE}"


def _judge_rank(values: np.ndarray, table: Table) -> Judgement:
    first, last, observed = values[0], values[-1], from_to(values, ".1f")
    reference, name = bundled_rank(table)
    if last < 1.2 or (last < 3 and last < 0.3 * values.max()):
        return Judgement(f"{observed}; almost one direction is left", "bad")
    if last < 3 or last < 0.5 * first:
        return Judgement(f"{observed}; few directions carry the features", "watch")
    if last < LOW_RANK * reference:
        return Judgement(f"{observed}; low beside the {name}, which ended at {reference:.1f}", "watch")
    return Judgement(observed, "good")


COLLAPSE = Outcome(
    good="features did not collapse",
    watch="features use few directions but did not collapse",
    bad="features collapsed",
)
COMMON_COLUMNS = (
    HealthColumn(
        "feature_std",
        title="Spread of the features",
        meaning="standard deviation over faces of the unit-length embeddings, mean over their channels",
        good="stays well away from 0, where every face gives the same features",
        judge=_judge_spread,
        outcome=COLLAPSE,
    ),
    HealthColumn(
        "effective_rank",
        title="Effective rank",
        meaning="in how many directions the features spread: the exponential of the entropy of their normalised squared"
        " singular values",
        good="stays high; 1 is a collapse",
        judge=_judge_rank,
        outcome=COLLAPSE,
        reference=bundled_rank,
    ),
    HealthColumn(
        "teacher_gap",
        title="Distance to the teacher",
        meaning="1 minus the cosine of a face's features in the encoder and in its momentum encoder (teacher)",
        good="shrinks towards the end, as the teacher catches up",
    ),
    HealthColumn(
        "neighbour_accuracy",
        title="Nearest neighbours",
        meaning="percent of labelled faces whose class wins the vote of their ten nearest others",
        good="rises",
        judge=should_rise,
    ),
    HealthColumn(
        "pair_auc",
        title="Same person or not",
        meaning="area under the ROC curve when the cosine of two faces' features decides, in percent",
        good="rises above 50, which is chance",
        judge=should_rise,
    ),
)
"""Of all methods; some need a teacher or faces of one's own (`--labelled`, `--pairs`)."""


def neighbour_accuracy(features: Float[Tensor, "N C"], labels: Int[Tensor, "N"], *, neighbours: int = 10) -> float:
    """Percent of faces whose class wins the vote of their nearest others by cosine (leave one out)."""
    likeness = cosines(features, features).fill_diagonal_(-2)
    nearest = labels[likeness.topk(min(neighbours, len(labels) - 1)).indices]
    votes = F.one_hot(nearest, int(labels.max()) + 1).sum(1)
    return 100 * float((votes.argmax(1) == labels).float().mean())


@torch.no_grad()
def pair_auc(encoder: Encoder, pairs: Pairs) -> float:
    """How well the cosine of two faces' features tells whether they are one person: area under the ROC, percent.

    Ties count half; NaN when all pairs are of one kind.
    """
    from torchmetrics.functional.classification import binary_auroc

    if pairs.same.unique().numel() < 2:
        return float("nan")
    features = unit(in_batches(encoder, pairs.images))
    likeness = (features[pairs.first] * features[pairs.second]).sum(-1)
    return 100 * float(binary_auroc((1 + likeness.double()) / 2, pairs.same.long().to(likeness.device)))


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
