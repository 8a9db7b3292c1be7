"""Encoders judged by the project's own protocols, with 95 % intervals by bootstrap over test images. N test images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from benchmarks.peers.encoders import PEERS, Remembered
from fra.files import MARK, read_json, write_json
from fra.models.encoder import in_batches
from fra.models.similarity import unit
from fra.pretrain.health import Pairs, read_pairs
from fra.runtime import Runtime
from fra.transfer.recipes import load_transfer_recipe
from fra.transfer.results import load_seed
from fra.transfer.run import NamedEncoder, read_dataset, transfer

BASE = "laptop"
"""The encoder of ours that the others are compared with."""
DRAWS = 1000
"""Bootstrap samples of the test images."""


@dataclass(frozen=True)
class Exam:
    """A labelled dataset, a recipe of ours, and how many labels are used."""

    recipe: str
    folder: str
    metrics: tuple[str, ...]
    """The main one first; all are percent, higher is better."""
    fraction: float = 1.0
    seeds: int = 1


CLASSES = ("accuracy", "mean_class_accuracy")
ATTRIBUTES = ("attribute_accuracy", "balanced_attribute_accuracy")
EXAMS = {
    "rafdb_quarter": Exam("laptop/rafdb.linear", "rafdb", CLASSES, fraction=0.25),
    "fairface_gender": Exam("laptop/fairface_gender.linear", "fairface", CLASSES, fraction=0.1),
    "fairface_age": Exam("laptop/fairface_age.linear", "fairface", CLASSES, fraction=0.1),
    "celeba": Exam("laptop/celeba.linear", "celeba", ATTRIBUTES, fraction=0.4),
    "rafdb": Exam("laptop/rafdb.linear", "rafdb", CLASSES, seeds=3),
}
"""Fewer labels than there are, so that large networks can be measured on one core; fewer are part of more."""
LFW = "lfw"
QUIET = Runtime(device="cpu", quiet=True, workers=1, threads=1)


def remembered(name: str, folder: str, work: Path) -> Remembered:
    """The encoder, with its features of one dataset kept in `work`."""
    peer = PEERS[name]
    return Remembered(
        lambda: peer.build(work), work / "features" / name / folder, name=name, image_size=peer.image_size
    )


def has_sat(name: str, exam: str, *, work: Path) -> bool:
    """Whether there are answers of this encoder."""
    return (work / "runs" / exam / name / "results.json").exists()


def sit(name: str, exam: str, *, work: Path, faces: Path) -> None:
    """Take one exam; what is finished already is not done again."""
    if has_sat(name, exam, work=work):
        return
    if exam == LFW:
        take_pairs(name, work=work, faces=faces)
        return
    wanted, out = EXAMS[exam], work / "runs" / exam / name
    recipe = load_transfer_recipe(wanted.recipe)
    if PEERS[name].own_size:
        recipe = replace(recipe, image_size=None)
    network = remembered(name, wanted.folder, work)
    try:
        transfer(
            recipe,
            encoder=NamedEncoder(network, name, name),
            data=faces / wanted.folder,
            out=out,
            fraction=wanted.fraction,
            seeds=wanted.seeds,
            runtime=replace(QUIET, resume=(out / MARK).exists()),
        )
    finally:
        network.save()


def take_pairs(name: str, *, work: Path, faces: Path) -> None:
    """The cosine of the features of each of LFW's pairs, into a file."""
    network = remembered(name, LFW, work)
    pairs = read_pairs(faces / LFW, network.image_size)
    likeness = likeness_of(network, pairs)
    network.save()
    write_json(
        work / "runs" / LFW / name / "results.json", {"likeness": likeness.tolist(), "same": pairs.same.tolist()}
    )


@torch.no_grad()
def likeness_of(network: torch.nn.Module, pairs: Pairs) -> Tensor:
    """Cosine of the two faces of each pair."""
    features = unit(in_batches(network, pairs.images, batch=64))
    return (features[pairs.first] * features[pairs.second]).sum(-1)


def answers(name: str, exam: str, *, work: Path, faces: Path) -> tuple[int, Callable[[Tensor], dict[str, float]]]:
    """How many test images (pairs) there are, and the scores, mean over seeds, of any choice of them."""
    if exam == LFW:
        kept = read_json(work / "runs" / LFW / name / "results.json")
        likeness, same = torch.tensor(kept["likeness"]).double(), torch.tensor(kept["same"]).long()
        return len(same), lambda rows: {"auc": 100 * float(binary_auroc((1 + likeness[rows]) / 2, same[rows]))}
    wanted = EXAMS[exam]
    data, task = read_dataset(load_transfer_recipe(wanted.recipe), faces / wanted.folder)
    (word,) = {load_transfer_recipe(wanted.recipe).task}
    targets = data.targets[data.word(word)][data.splits["test"]]
    seeds = [load_seed(work / "runs" / exam / name, seed).outputs for seed in range(wanted.seeds)]

    def score(rows: Tensor) -> dict[str, float]:
        found = [task.metrics(outputs[rows], targets[rows]) for outputs in seeds]
        return {metric: sum(values[metric] for values in found) / len(found) for metric in wanted.metrics}

    return len(targets), score


def bootstrap(count: int, scores: list[Callable[[Tensor], dict[str, float]]]) -> list[dict[str, Tensor]]:
    """Scores of several encoders on the same DRAWS samples of `count` test images; the first of each is of all."""
    draw = torch.Generator().manual_seed(0)
    samples = [torch.arange(count), *(torch.randint(count, (count,), generator=draw) for _ in range(DRAWS))]
    found = [[score(rows) for rows in samples] for score in scores]
    return [{metric: torch.tensor([one[metric] for one in many]) for metric in many[0]} for many in found]


def interval(values: Tensor) -> dict[str, float]:
    """The value on all images, and the middle 95 % of the samples."""
    low, high = values[1:].double().quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return {"mean": float(values[0]), "low": low, "high": high}


def weigh(exam: str, *, work: Path, faces: Path) -> dict[str, dict[str, Any]]:
    """Per encoder that sat the exam and metric: value and interval, and as `METRIC over laptop` the paired difference.

    Empty until BASE has sat it.
    """
    file = work / "scores" / f"{exam}.json"
    known = read_json(file) if file.exists() else {}
    there = [name for name in PEERS if has_sat(name, exam, work=work)]
    new = [name for name in there if name not in known and name != BASE]
    if BASE in there and (new or BASE not in known):
        given = [answers(name, exam, work=work, faces=faces) for name in (BASE, *new)]
        base, *others = bootstrap(given[0][0], [score for _, score in given])
        known[BASE] = {metric: interval(found) for metric, found in base.items()}
        for name, values in zip(new, others, strict=True):
            known[name] = {metric: interval(found) for metric, found in values.items()}
            known[name] |= {f"{metric} over {BASE}": interval(found - base[metric]) for metric, found in values.items()}
        write_json(file, known, indent=1)
    return {name: known[name] for name in there if name in known}
