"""The runs that tables are made of. Each has a folder of its own, named by what it is and the hash of its recipe."""

import hashlib
import shlex
from abc import ABC, abstractmethod
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fra import engine
from fra.data.datasets.synthetic import write as write_drawn_faces
from fra.engine import AGAIN
from fra.files import read_json, reading, write_json
from fra.pretrain.run import PretrainRecipe, faces_of, load_pretrain_recipe, pretrain
from fra.recipe import recipe_hash
from fra.reproduce.timing import time_per_step
from fra.tasks.metrics import wilson
from fra.transfer.protocol import NetworkRecipe, TransferRecipe
from fra.transfer.recipes import former_hash, load_transfer_recipe
from fra.transfer.results import spread
from fra.transfer.run import transfer

FOLDERS = {"affectnet7": "affectnet", "affectnet8": "affectnet"}
"""Below --data, where it is not the dataset's own name."""


@dataclass(frozen=True)
class Place(engine.Place):
    """Where runs lie, what they are given, and how they compute."""

    faces: Path
    data: Path

    def dataset(self, name: str) -> Path:
        """The dataset's folder: below --data, or --data itself where only one dataset was downloaded."""
        below = self.data / FOLDERS.get(name, name)
        return below if below.is_dir() else self.data


@dataclass(frozen=True)
class Value:
    """A number in a table: mean over seeds, and how sure it is."""

    mean: float
    std: float | None = None
    """Over seeds (n - 1); None for one seed."""
    low: float | None = None
    """95 % interval over the test images, where the metric is a share of decisions."""
    high: float | None = None
    seeds: int = 1
    train_images: int = 0
    test_images: int = 0


class Source(ABC):
    """Abstract: what a cell of a table shows."""

    @abstractmethod
    def value(self, place: Place, metric: str) -> Value | None:
        """None while it is not there yet."""


class Run(engine.Run[Place]):
    """Abstract: a run that a person can also start elsewhere."""

    @property
    def needs(self) -> tuple["Run", ...]:
        return ()

    @abstractmethod
    def command(self, place: Place) -> str:
        """The same for a person who wants to start it elsewhere, on more devices; empty when there is none."""


@dataclass(frozen=True)
class Drawing(Run):
    """Drawn faces, when no others are given."""

    count: int

    @property
    def name(self) -> str:
        return f"drawn_faces-{self.count}"

    def finished(self, place: Place) -> bool:
        return (self.folder(place) / "labels.csv").exists()

    def work(self, place: Place) -> None:
        write_drawn_faces(self.folder(place), self.count, runtime=place.runtime)

    def command(self, place: Place) -> str:
        return _words("data", "synthetic", "--count", self.count, "--out", self.folder(place))


@dataclass(frozen=True)
class Pretraining(Run):
    """An encoder."""

    recipe_name: str
    overrides: tuple[str, ...] = ()
    drawing: Drawing | None = None

    @property
    def recipe(self) -> PretrainRecipe:
        return _pretrain_recipe(self.recipe_name, self.overrides)

    @property
    def name(self) -> str:
        recipe = self.recipe
        return f"{recipe.encoder.name}.{recipe.method.name}_{recipe.schedule.epochs}ep-{recipe_hash(recipe)}"

    @property
    def needs(self) -> tuple[Run, ...]:
        return (self.drawing,) if self.drawing else ()

    def finished(self, place: Place) -> bool:
        return (self.folder(place) / "card.md").exists()  # what a run writes last

    def work(self, place: Place) -> None:
        folder = self.folder(place)
        pretrain(self.recipe, place.faces, folder, runtime=place.runtime.continuing(folder))

    def command(self, place: Place) -> str:
        settings = (word for setting in self.overrides for word in ("--set", setting))
        return _words("pretrain", self.recipe_name, *settings, "--faces", place.faces, "--out", self.folder(place))


@dataclass(frozen=True)
class Transfer(Run, Source):
    """An encoder judged on a task."""

    recipe_name: str
    encoder: Pretraining
    fraction: float = 1.0
    seeds: int = 1
    random: bool = False
    """The encoder's network with random weights instead."""

    @property
    def recipe(self) -> TransferRecipe:
        return _transfer_recipe(self.recipe_name, self.fraction)

    @property
    def name(self) -> str:
        """Without the number of seeds, so that asking for more of them keeps those that are there."""
        return self._named(recipe_hash(self.recipe))

    def folder(self, place: Place) -> Path:
        """Where an earlier version left this run, or the folder `name`."""
        now, earlier = super().folder(place), place.runs / self._named(former_hash(self.recipe))
        return earlier if earlier.exists() and not now.exists() else now

    def _named(self, recipe: str) -> str:
        who = "random" if self.random else self.encoder.name.rpartition("-")[0]
        parts = [recipe, recipe_hash(self.encoder.recipe), str(self.random)]
        return f"{self.recipe.name}_{100 * self.fraction:g}pc.{who}-{_digest(parts)}"

    @property
    def needs(self) -> tuple[Run, ...]:
        return (self.encoder,)

    def finished(self, place: Place) -> bool:
        results = self._results(place)
        return results is not None and len(results["seeds"]) >= self.seeds

    def work(self, place: Place) -> None:
        folder = self.folder(place)
        transfer(
            self.recipe,
            encoder=self.source(place),
            data=place.dataset(self.recipe.dataset),
            out=folder,
            seeds=self.seeds,
            runtime=place.runtime.continuing(folder),
        )

    def command(self, place: Place) -> str:
        data = place.dataset(self.recipe.dataset)
        more = ("--fraction", self.fraction, "--seeds", self.seeds, "--out", self.folder(place))
        return _words("transfer", self.recipe_name, "--encoder", self.source(place), "--data", data, *more)

    def source(self, place: Place) -> str:
        return f"{'random:' if self.random else ''}{self.encoder.folder(place)}"

    def value(self, place: Place, metric: str) -> Value | None:
        results = self._results(place)
        if results is None:
            return None
        # Another table may have asked for more seeds; its numbers must not change ours.
        found = spread(results["metrics"][metric]["values"][: self.seeds])
        mean, seeds, test_images = found["mean"], len(found["values"]), results["test_images"]
        std = found["std"] if seeds > 1 else None
        low, high = astuple(wilson(mean, test_images)) if metric in results["confidence"] else (None, None)
        return Value(mean, std, low, high, seeds, results["train_images"], test_images)

    def _results(self, place: Place) -> dict[str, Any] | None:
        file = self.folder(place) / "results.json"
        return read_json(file, AGAIN) if file.exists() else None


@dataclass(frozen=True)
class Timing(Run, Source):
    """Seconds per step of several methods, measured in turn."""

    encoders: tuple[Pretraining, ...]

    @property
    def name(self) -> str:
        methods = "_".join(encoder.recipe.method.name for encoder in self.encoders)
        return f"time_per_step.{methods}-{_digest([recipe_hash(encoder.recipe) for encoder in self.encoders])}"

    @property
    def needs(self) -> tuple[Run, ...]:
        return tuple({need: None for encoder in self.encoders for need in encoder.needs})

    def finished(self, place: Place) -> bool:
        return (self.folder(place) / "timing.json").exists()

    def work(self, place: Place) -> None:
        recipes = {encoder.recipe.method.name: encoder.recipe for encoder in self.encoders}
        pool = faces_of(self.encoders[0].recipe, place.faces)
        measured = time_per_step(recipes, pool, runtime=place.runtime)
        write_json(self.folder(place) / "timing.json", measured, indent=1)

    def command(self, place: Place) -> str:
        return ""

    def value(self, place: Place, metric: str) -> Value | None:
        """`metric` is METHOD.with_loading or .without_loading: time relative to the first method, with quartiles."""
        if not self.finished(place):
            return None
        method, _, kind = metric.partition(".")
        file = self.folder(place) / "timing.json"
        with reading(file, AGAIN):
            found = read_json(file)[kind][method]
            return Value(found["ratio"], low=found["low"], high=found["high"])


@dataclass(frozen=True)
class Setting(Source):
    """A learning rate of a transfer recipe; nothing has to run for it."""

    recipe_name: str

    def value(self, place: Place, metric: str) -> Value:
        """`metric` is `backbone` or `head`."""
        recipe = _transfer_recipe(self.recipe_name, 1.0)
        assert isinstance(recipe, NetworkRecipe)
        return Value(recipe.encoder_rate if metric == "backbone" else recipe.learning_rate)


@cache
def _pretrain_recipe(name: str, overrides: tuple[str, ...]) -> PretrainRecipe:
    return load_pretrain_recipe(name, list(overrides))


@cache
def _transfer_recipe(name: str, fraction: float) -> TransferRecipe:
    return load_transfer_recipe(name, [f"fraction={fraction}"])


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:12]


def _words(*words: object) -> str:
    return shlex.join(["fra", *map(str, words)])
