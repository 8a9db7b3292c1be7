"""The runs of `fra compare`: the features of each encoder once, and each encoder with each number of labels."""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fra import engine
from fra.engine import AGAIN
from fra.files import read_json, remove_leftovers
from fra.recipe import recipe_hash
from fra.training.devices import begin
from fra.transfer.comparison.asked import Contestant, Question
from fra.transfer.features import FrozenFeatures
from fra.transfer.linear import LinearRecipe, freeze
from fra.transfer.protocol import TransferRecipe
from fra.transfer.results import load_seed
from fra.transfer.run import NamedEncoder, split_labels, transfer
from fra.transfer.subsets import fraction_of

FEATURES = "features.safetensors"


@dataclass(frozen=True)
class Place(engine.Place):
    """Where runs lie, the faces that they share, and how they compute."""

    question: Question


@dataclass(frozen=True)
class Frozen(engine.Run[Place]):
    """What a frozen encoder says of the images, for all numbers of labels and seeds."""

    encoder: Contestant
    recipe: LinearRecipe
    images: str
    """A hash of the images that are looked at, and of their labels."""

    @property
    def name(self) -> str:
        parts = [self.encoder.fingerprint, self.images, self.recipe.image_size, self.recipe.mirror]
        return f"features.{_slug(self.encoder.name)}-{_digest(parts)}"

    def file(self, place: Place) -> Path:
        return self.folder(place) / FEATURES

    def finished(self, place: Place) -> bool:
        return self.file(place).exists()

    def work(self, place: Place) -> None:
        asked = place.question
        remove_leftovers(self.folder(place), alone=True)  # of a process that was killed while it wrote
        runtime = replace(place.runtime, device=begin(place.runtime))
        network = self.encoder.load(runtime)
        train = training_images(asked, self.recipe)
        freeze(self.recipe, asked.task, asked.faces, network, train=train, runtime=runtime).save(self.file(place))


@dataclass(frozen=True)
class Judged(engine.Run[Place]):
    """An encoder with some of the labels, over all seeds."""

    encoder: Contestant
    recipe: TransferRecipe
    """With the fraction."""
    labels: int
    seeds: int
    images: str
    frozen: Frozen | None
    """Where its features are; None for protocols that train the encoder."""

    @property
    def name(self) -> str:
        """Without the number of seeds, so that asking for more of them keeps those that are there."""
        parts = [self.encoder.fingerprint, recipe_hash(self.recipe), self.images]
        return f"{self.recipe.protocol}_{self.labels}.{_slug(self.encoder.name)}-{_digest(parts)}"

    @property
    def needs(self) -> tuple[engine.Run[Place], ...]:
        return (self.frozen,) if self.frozen else ()

    def finished(self, place: Place) -> bool:
        results = self._results(place)
        return results is not None and len(results["seeds"]) >= self.seeds

    def work(self, place: Place) -> None:
        folder = self.folder(place)
        runtime = replace(place.runtime.continuing(folder), device=begin(place.runtime), quiet=True)
        named = NamedEncoder(
            self.encoder.load(runtime),
            str(self.encoder.source),
            self.encoder.name,
            _read_features(self.frozen.file(place)) if self.frozen else None,
        )
        # What is doubtful about the faces is said once, by the command.
        faces = replace(place.question.faces, notes=())
        found = transfer(self.recipe, encoder=named, data=faces, out=folder, seeds=self.seeds, runtime=runtime)
        if not place.runtime.quiet:
            metric = place.question.task.selects
            values = found["metrics"][metric]
            print(f"{metric} {values['mean']:.2f} ± {values['std']:.2f}", flush=True)

    def results(self, place: Place) -> dict[str, Any]:
        """`results.json` of a finished run."""
        found = self._results(place)
        assert found is not None
        return found

    def outputs(self, place: Place) -> list[Tensor]:
        """Of each seed what the head answers for the test images."""
        return [load_seed(self.folder(place), seed).outputs for seed in range(self.seeds)]

    def _results(self, place: Place) -> dict[str, Any] | None:
        file = self.folder(place) / "results.json"
        return read_json(file, AGAIN) if file.exists() else None


def all_runs(asked: Question, encoders: list[Contestant]) -> list[Judged]:
    """Every combination: all numbers of labels of one encoder and protocol after each other, the fewest first."""
    runs = []
    faces = asked.faces.fingerprint(asked.word)
    for recipe in asked.recipes.values():
        for encoder in encoders:
            frozen = None
            if isinstance(recipe, LinearRecipe):
                looked_at = training_images(asked, recipe).tolist()
                frozen = Frozen(encoder, recipe, _digest([faces, looked_at]))
            for labels in asked.labels:
                used = replace(recipe, fraction=fraction_of(labels, asked.train_images))
                runs.append(Judged(encoder, used, labels, asked.seeds, faces, frozen))
    return runs


def in_order(runs: list[Judged], place: Place) -> list[engine.Run[Place]]:
    """The runs, each after the features that it needs; features that no missing run needs are left out."""
    needed = [run.frozen for run in runs if run.frozen and not run.finished(place)]
    return list(dict.fromkeys(one for run in runs for one in (run.frozen, run) if one is run or one in needed if one))


def training_images(asked: Question, recipe: TransferRecipe) -> Tensor:
    """Positions of all training images that any number of labels and any seed will ask for."""
    most = replace(recipe, fraction=fraction_of(asked.labels[-1], asked.train_images))
    parts = [torch.cat(split_labels(most, asked.faces, seed)) for seed in range(asked.seeds)]
    every = torch.cat(parts).unique()
    return every[~torch.isin(every, asked.faces.splits["val"])]


@lru_cache(maxsize=1)
def _read_features(file: Path) -> FrozenFeatures:
    return FrozenFeatures.load(file)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name)


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
