"""How long a comparison would take: a few small steps of each kind are measured here, and scaled up."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from fra.engine import Run, state
from fra.runtime import Runtime
from fra.system.printable import counted, duration
from fra.training.optimizers import build_optimizer
from fra.training.trainable import Progress
from fra.transfer.comparison.asked import Contestant
from fra.transfer.comparison.runs import Frozen, Judged, Place, in_order, training_images
from fra.transfer.linear import LinearRecipe, TrainingViews, solve_by_ridge, train_head
from fra.transfer.network import weight_groups
from fra.transfer.protocol import LabelledBatch, Learner, NetworkRecipe, TransferRecipe, batch_for, first_head
from fra.transfer.recipes import PROTOCOLS

MEASURED = 32
"""Images that are put through an encoder to see how long it takes."""
SOLVED = 1000
"""Images that a closed form is timed with at most."""
STEPS = 2
"""Training steps that are timed, after one that is not."""


def print_plan(runs: Sequence[Judged], place: Place) -> None:
    """The runs in their order, their state, and the time of those that are left."""
    from rich.console import Console
    from rich.table import Table

    every, planner = in_order(list(runs), place), Planner(place)
    table = Table(title=f"{counted(len(every), 'run')}: {place.question.word} on {place.question.faces.name}")
    for column in ("run", "state", "time here"):
        table.add_column(column, justify="right" if column == "time here" else "left", overflow="fold")
    left = 0.0
    for run in every:
        standing, seconds = state(run, place), planner.seconds(run)
        left += seconds if standing != "finished" else 0.0
        table.add_row(run.name, standing, duration(seconds))
    table.add_section()
    table.add_row("left", "", duration(left))
    Console(width=max(Console().width, 100)).print(table)
    print("Time here: from a few small steps measured now in one process, without reading images.")


class Planner:
    """Estimates runs; each kind of work is measured once."""

    def __init__(self, place: Place) -> None:
        self.place, self.asked, self.runtime = place, place.question, place.runtime
        self._measured: dict[tuple[object, ...], float] = {}

    def seconds(self, run: Run[Place]) -> float:
        """About how long a run takes from its beginning."""
        if isinstance(run, Frozen):
            splits = self.asked.faces.splits
            mirrored = 2 if run.recipe.mirror and self.asked.task.mirrors else 1
            train = mirrored * len(training_images(self.asked, run.recipe))
            return (train + len(splits["val"]) + len(splits["test"])) * self._answer(run.encoder, run.recipe)
        assert isinstance(run, Judged)
        return run.seeds * (self._head(run) if isinstance(run.recipe, LinearRecipe) else self._network(run))

    def _head(self, run: Judged) -> float:
        """Seconds of a linear head for one seed: an epoch on noise, times the epochs."""
        asked, recipe = self.asked, run.recipe
        assert isinstance(recipe, LinearRecipe)
        channels = run.encoder.load(replace(self.runtime, device="cpu")).channels
        closed = asked.task.least_squares
        count = min(run.labels, SOLVED) if closed else run.labels
        targets = asked.faces.targets[asked.word][asked.faces.splits["train"][:count]]
        data = TrainingViews(torch.randn(1, count, channels) / math.sqrt(channels), targets[None])
        head = first_head(lambda: asked.task.head(channels), seed=0)
        key = ("head", channels, count)
        if closed:
            solved = self._once(key, lambda: solve_by_ridge(head, data, seed=0))
            return solved * run.labels / count
        once = replace(recipe, epochs=1, warmup_epochs=0.0)
        return recipe.epochs * self._once(key, lambda: train_head(asked.task, head, data, None, targets, once, seed=0))

    def _network(self, run: Judged) -> float:
        """Seconds of a whole network for one seed: a few steps on noise, times the steps, and the answers."""
        recipe, splits = run.recipe, self.asked.faces.splits
        assert isinstance(recipe, NetworkRecipe)
        batch = batch_for(run.labels, recipe)
        steps = math.ceil(run.labels / batch)
        epochs = recipe.epochs_of(steps)
        answers = len(splits["test"]) + epochs * len(splits["val"])
        step = self._step(run.encoder, recipe, max(2, batch))
        return step * steps * epochs + answers * self._answer(run.encoder, recipe)

    def _answer(self, who: Contestant, recipe: TransferRecipe) -> float:
        """Seconds of an encoder for an image that it does not learn from."""
        network = who.load(self.runtime)
        size = recipe.side(network)
        images = torch.zeros(MEASURED, 3, size, size, device=self.runtime.device)
        with torch.inference_mode():
            network(images[:2])
            return self._once(("answer", who.fingerprint, size), lambda: network(images)) / MEASURED

    def _step(self, who: Contestant, recipe: NetworkRecipe, batch: int) -> float:
        """Seconds of a training step."""
        asked, device = self.asked, self.runtime.device
        encoder = who.load(self.runtime)
        _, kind = PROTOCOLS[recipe.protocol]
        assert issubclass(kind, Learner)
        every = asked.faces.targets[asked.word]
        task = recipe.prepare(asked.task, every)
        head = first_head(lambda: kind.new_head(recipe, task, encoder), seed=0)
        learner = kind(recipe, task, encoder, head).to(device).train()
        optimizer = build_optimizer(recipe.optimizer_config(), weight_groups(recipe, learner))
        size = recipe.side(encoder)
        margin = 0 if asked.faces.boxes is None else math.ceil((learner.reach - 1) * size / 2)
        images = torch.randint(256, (batch, 3, size + 2 * margin, size + 2 * margin), dtype=torch.uint8)
        train = asked.faces.splits["train"]
        chosen = train.repeat(math.ceil(batch / len(train)))[:batch]
        shown = torch.full((batch, 2), float(size))
        given = LabelledBatch(images.to(device), every[chosen].to(device), 1.0, margin, shown)

        def steps(count: int = STEPS) -> None:
            for _ in range(count):
                learner.loss(given, Progress(0, 1, 0, 1)).total.backward()
                optimizer.step()
                optimizer.zero_grad()

        key = ("step", who.fingerprint, recipe.protocol, batch)
        if key not in self._measured:
            steps(1)
        return self._once(key, steps) / STEPS

    def _once(self, key: tuple[object, ...], work: Callable[[], object]) -> float:
        if key not in self._measured:
            self._measured[key] = _timed(work, self.runtime)
        return self._measured[key]


def _timed(work: Callable[[], object], runtime: Runtime) -> float:
    started = time.perf_counter()
    work()
    if runtime.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
