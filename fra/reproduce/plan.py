"""What runs would take: a few small steps of each kind are measured here, and scaled up. Nothing is written."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from fra.data.datasets import find_dataset
from fra.data.datasets.synthetic import SPLITS
from fra.data.read import KEPT_BYTES
from fra.engine import state
from fra.models.encoder import Encoder
from fra.pools.unlabelled import open_pool
from fra.pretrain.method import Method
from fra.pretrain.plan import PASSES, REACHED, Plan, make_plan
from fra.pretrain.run import PretrainRecipe, build_method
from fra.recipe import plain, recipe_hash
from fra.reproduce.runs import FOLDERS, Drawing, Place, Pretraining, Run, Timing, Transfer
from fra.reproduce.supplement.scales import Scale
from fra.reproduce.timing import ROUNDS, STEPS
from fra.system.printable import counted, printable
from fra.system.text import command
from fra.tasks.attributes import Attributes
from fra.tasks.expression import Expression
from fra.tasks.landmarks import Landmarks
from fra.tasks.task import Task
from fra.training.devices import begin
from fra.training.schedules import ScheduleConfig
from fra.training.trainable import Part, Progress
from fra.transfer.finetune import FineTuneRecipe
from fra.transfer.protocol import LabelledBatch, Learner, TransferRecipe, batch_for
from fra.transfer.recipes import PROTOCOLS
from fra.transfer.run import read_dataset

VGGFACE2 = 3_141_890
"""Training images of VGGFace2 (Cao et al., Table 1), where --faces is not there yet."""
GPU = "A100"
"""Of the supplement (5.2: two)."""
SECONDS = 1.0
"""For each kind of run to be measured."""
PIXELS = 16 * 64**2
"""Of the first views in a measured step, but two pairs at least: on a CPU more of them are not much faster per pair."""
CHEAP = {
    *("name", "dataset", "crop", "epochs", "learning_rate", "backbone_rate", "warmup_epochs", "last_rate", "decay"),
    *("falls", "momentum", "weight_decay", "min_steps", "balanced", "hold_out", "fraction", "subset"),
}
"""Settings of transfer recipes that a training step takes no longer for."""
FORWARD = 1 / 3
"""Share of a training step that an answer without training takes (the backward pass is twice the forward pass)."""
COPIES_IN_CHECKPOINT = 3
"""Weights, momentum, and the teacher or the optimiser's second moment."""
DRAWING = 0.01
"""Seconds per drawn face."""


@dataclass(frozen=True)
class Estimate:
    """Of one run from its beginning."""

    seconds: float = 0.0
    """On this machine, one process."""
    memory: float = 0.0
    """Bytes."""
    disk: float = 0.0
    """Bytes that stay."""
    gpu_hours: float = 0.0
    """Modelled, not measured."""


class Planner:
    """Estimates runs; each kind of training is measured once, whatever its length and share of labels."""

    def __init__(self, place: Place, drawing: Drawing | None = None) -> None:
        """`drawing` is what will be drawn in place of faces and data that are not there."""
        self.place, self.drawing = place, drawing
        self.device = begin(place.runtime)
        self._measured: dict[str, Plan] = {}
        self._missing: dict[str, str] = {}
        self._splits: dict[str, tuple[int, int, int, Task]] = {}

    def missing(self, run: Run) -> str:
        """What a run needs that is not there and will not be drawn, and how to get it; empty if there is nothing."""
        if self.drawing or isinstance(run, Drawing):
            return ""
        if isinstance(run, Transfer):
            self._split(run.recipe)
            return self._missing.get(run.recipe.dataset, "")
        if self._pool() is not None:
            return ""
        return f"missing: --faces, a folder of face crops; there are none in {self.place.faces}"

    def estimate(self, run: Run) -> Estimate:
        """What is missing counts as published. Raises ValueError where its size was not."""
        if isinstance(run, Pretraining):
            return self._pretraining(run.recipe)
        if isinstance(run, Transfer):
            return self._transfer(run)
        if isinstance(run, Timing):
            plans = [self._plan_of(encoder.recipe) for encoder in run.encoders]
            seconds = sum(
                encoder.recipe.batch_size / plan.pairs_per_second
                for encoder, plan in zip(run.encoders, plans, strict=True)
            )
            return Estimate(2 * ROUNDS * (STEPS + 2) * seconds, sum(plan.memory_bytes for plan in plans))
        assert isinstance(run, Drawing)
        return Estimate(DRAWING * run.count, disk=20_000 * run.count)

    def faces(self, recipe: PretrainRecipe) -> int:
        """How many faces a run sees in an epoch."""
        count = self._pool() or (self.drawing.count if self.drawing else VGGFACE2)
        return min(count, recipe.max_faces or count)

    @cache  # noqa: B019 (a planner lives as long as its command)
    def _pool(self) -> int | None:
        """The number of faces to pre-train on; None where there are none."""
        try:
            return len(open_pool(self.place.faces)) if self.place.faces.exists() else None
        except ValueError:
            return None

    def _pretraining(self, recipe: PretrainRecipe) -> Estimate:
        plan = self._plan_of(recipe)
        steps = recipe.schedule.epochs * (self.faces(recipe) // recipe.batch_size)
        pairs = steps * recipe.batch_size
        weights = 4 * plan.parameters
        return Estimate(
            seconds=pairs / plan.pairs_per_second,
            memory=plan.memory_bytes,
            disk=(COPIES_IN_CHECKPOINT + 1) * weights + 4 * plan.encoder_parameters,
            gpu_hours=pairs / plan.gpu_pairs_per_second(GPU) / 3600,
        )

    def _plan_of(self, recipe: PretrainRecipe) -> Plan:
        key = recipe_hash(replace(recipe, schedule=ScheduleConfig()))

        def build() -> Method:
            return build_method(recipe)

        return self._measure(key, build, recipe.views.sizes, recipe.batch_size // recipe.accumulate)

    def _transfer(self, run: Transfer) -> Estimate:
        recipe = run.recipe
        train, val, test, task = self._split(recipe)
        count = max(1, math.floor(recipe.fraction * train))
        batch = batch_for(count, recipe)
        epochs = recipe.epochs_of(math.ceil(count / batch))
        size = recipe.image_size or run.encoder.recipe.encoder.image_size
        network = run.encoder.recipe.encoder
        settings = {name: value for name, value in plain(recipe, every=True).items() if name not in CHEAP}
        key = json.dumps(
            [settings, getattr(task, "points", 0), network.name, network.third_stride, network.last_stride]
        )

        def build() -> Method:
            encoder = Encoder(run.encoder.recipe.encoder)
            learner = _learner(recipe)
            learner.prepare(encoder, "random")
            head = learner.new_head(recipe, task, encoder)
            return _AsMethod(learner(recipe, task, encoder, head), _targets(task, recipe.batch_size))

        plan = self._measure(key, build, [size], recipe.batch_size)
        images = run.seeds * (epochs * (count + FORWARD * val) + FORWARD * test)
        kept = min(KEPT_BYTES, (count + val + test) * 3 * size**2)
        weights = 4 * plan.parameters
        return Estimate(
            seconds=images / plan.pairs_per_second,
            memory=plan.memory_bytes + kept,
            disk=(run.seeds + 1) * weights,
            gpu_hours=images / plan.gpu_pairs_per_second(GPU) / 3600,
        )

    def _split(self, recipe: TransferRecipe) -> tuple[int, int, int, Task]:
        """Images to train, validate and test with, and the task: of the folder where it is there, else as published."""
        if recipe.dataset not in self._splits:
            self._splits[recipe.dataset] = self._found_split(recipe) or self._coming_split(recipe)
        return self._splits[recipe.dataset]

    def _found_split(self, recipe: TransferRecipe) -> tuple[int, int, int, Task] | None:
        """None, and a word in `_missing`, where the dataset is not there or not whole."""
        name, folder = recipe.dataset, self.place.dataset(recipe.dataset)
        own = self.place.data / FOLDERS.get(name, name)
        self._missing[name] = f"missing: {own}, {command('fra', 'data', 'layout', name)}"
        if not folder.is_dir():
            return None
        try:
            faces, task = read_dataset(recipe, folder)
        except (ValueError, OSError):
            if own.is_dir():
                self._missing[name] = f"not complete: {command('fra', 'data', 'check', name, own)}"
            return None
        del self._missing[name]
        train, val, test = (len(faces.splits[split]) for split in ("train", "val", "test"))
        return train, val, test, task

    def _coming_split(self, recipe: TransferRecipe) -> tuple[int, int, int, Task]:
        """What will be drawn, or else what was published."""
        published = find_dataset(recipe.dataset).published
        if not published.images:
            raise ValueError(f"the size of {recipe.dataset} was not published")
        there = [split for split in ("train", "val", "test") if split in published.images]
        sizes = drawn_splits(self.drawing.count, there) if self.drawing else {s: published.total(s) for s in there}
        train, val, test = (sizes.get(split, 0) for split in ("train", "val", "test"))
        return train, val, test, _usual_task(recipe)

    def _measure(self, key: str, build: Callable[[], Method], sizes: Sequence[int], batch: int) -> Plan:
        """Of one pass over `sizes`; the length of the run is put in later."""
        if key not in self._measured:
            torch.manual_seed(0)
            method = build().to(self.device)
            small = max(2, PIXELS // sizes[0] ** 2)
            self._measured[key] = make_plan(
                method, sizes=sizes, batch=batch, steps=1, pairs=batch, seconds=SECONDS, small=small
            )
        return self._measured[key]


def drawn_splits(count: int, there: Sequence[str]) -> dict[str, int]:
    """About how many of `count` drawn faces each split has; those that validate train where there is no such split."""
    shares = {split: count * SPLITS.count(split) // len(SPLITS) for split in ("train", "val", "test")}
    if "val" not in there:
        shares["train"] += shares.pop("val")
    return shares


class _AsMethod(Method):
    """A learner asked as a pre-training method is, so that the same measurement serves both."""

    def __init__(self, learner: Learner, targets: Tensor) -> None:
        super().__init__()
        self.learner, self.targets = learner, targets

    @property
    def encoder(self) -> Encoder:
        return self.learner.encoder

    def parts(self, views: Sequence[Tensor], progress: Progress) -> Sequence[Part]:
        images = (views[0] * 255).byte()
        return self.learner.parts(LabelledBatch(images, self.targets[: len(images)].to(images.device)), progress)

    def after_step(self, progress: Progress) -> None:
        self.learner.after_step(progress)

    def projections(self, faces: Tensor) -> Tensor:
        return self.encoder(faces)


def _learner(recipe: TransferRecipe) -> type[Learner]:
    """The network that a protocol trains."""
    _, kind = PROTOCOLS[recipe.protocol]
    if not issubclass(kind, Learner):
        raise ValueError(f"protocol {recipe.protocol} trains no network, so its time is not estimated")
    return kind


def _usual_task(recipe: TransferRecipe) -> Task:
    """The task of a dataset that is not here, as wide as it will be."""
    if recipe.task == "expression":
        return Expression(tuple("12345678" if recipe.dataset in ("affectnet8", "ferplus") else "1234567"))
    if recipe.task == "attributes":
        return Attributes(tuple(map(str, range(40))), neck=isinstance(recipe, FineTuneRecipe) and recipe.neck)
    return Landmarks(98 if recipe.dataset == "wflw" else 68)


def _targets(task: Task, count: int) -> Tensor:
    """Targets of the right form; which they are makes no difference to the time."""
    if isinstance(task, Expression):
        return torch.zeros(count, dtype=torch.long)
    if isinstance(task, Attributes):
        return torch.zeros(count, len(task.names), dtype=torch.bool)
    assert isinstance(task, Landmarks)
    return 1.6 * torch.rand(count, task.points, 2) - 0.8


COLUMNS = ("time here", "memory", "disk", f"{GPU} hours")


def print_plan(runs: Sequence[Run], scale: Scale, place: Place) -> None:
    """The runs in their order, each as soon as it is estimated, what is left, and how to start one elsewhere."""
    planner = Planner(place, scale.drawing)
    wide = max(len(run.name) for run in runs) if runs else 0
    print(f"{counted(len(runs), 'run')} at scale {scale.name}, on {scale.faces}; each kind is measured once")
    _print_row("run", wide, COLUMNS, "state")
    left: list[Estimate] = []
    for run in runs:
        standing = state(run, place)
        try:
            estimate, cells = planner.estimate(run), None
        except ValueError as error:
            estimate, cells = Estimate(), ("?",) * len(COLUMNS)
            standing = f"{standing}: {error}"
        if standing != "finished":
            left.append(estimate)
            standing = planner.missing(run) or standing
        _print_row(run.name, wide, cells or _cells(estimate), standing)
    seconds, disk, gpu_hours = (sum(getattr(each, name) for each in left) for name in ("seconds", "disk", "gpu_hours"))
    memory = max((each.memory for each in left), default=0.0)
    _print_row(f"{len(left)} left", wide, _cells(Estimate(seconds, memory, disk, gpu_hours)), "")
    print()
    for line in _assumptions(place, scale):
        print(line)
    print("\nEach run as a command, to start it elsewhere (--devices N for more GPUs); its results are found and used:")
    for run in runs:
        if state(run, place) != "finished" and run.command(place):
            print(f"  {run.command(place)}")


def _cells(estimate: Estimate) -> tuple[str, ...]:
    gpu = f"{estimate.gpu_hours:.3g}" if estimate.gpu_hours else ""
    return _time(estimate.seconds), _bytes(estimate.memory), _bytes(estimate.disk), gpu


def _print_row(name: str, wide: int, cells: Sequence[str], state: str) -> None:
    print(printable(f"{name:<{wide}}  {'  '.join(f'{cell:>10}' for cell in cells)}  {state}").rstrip(), flush=True)


def _assumptions(place: Place, scale: Scale) -> list[str]:
    assumed = f" Without --faces, the {VGGFACE2:,} training images of VGGFace2 are assumed."
    faces = "" if place.faces.exists() or scale.drawing else assumed
    return [
        "Time here: from a few small steps measured now in one process, without loading and health checks.",
        "Memory: of one process in 32 bits; N devices (or accumulate = N) divide what a batch takes, 16 bits halve it.",
        f"{GPU} hours: modelled, not measured: {REACHED:.0%} of the peaks of arithmetic and memory traffic, activations"
        f" moved {PASSES} times in 16 bits, one GPU; two take half the time and the same hours.{faces}",
        f"Missing datasets count as {'drawn' if scale.drawing else 'published'}.",
    ]


def _time(seconds: float) -> str:
    for unit, size in (("years", 31_557_600), ("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
