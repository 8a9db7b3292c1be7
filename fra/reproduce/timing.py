"""How long a training step takes, methods in turn, so that a machine that changes its mind disturbs all alike."""

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from fra.pools.unlabelled import Pool
from fra.pretrain.loader import Batch, EpochBatches, FaceLoader, default_workers
from fra.pretrain.run import PretrainRecipe, build_method
from fra.pretrain.views import ViewMaker
from fra.runtime import Runtime
from fra.training.devices import begin, make_fabric
from fra.training.loop import PartByPart, forward_and_backward
from fra.training.optimizers import build_optimizer
from fra.training.trainable import Progress

LARGEST_BATCH = 512
"""Pairs; the share of one of the supplement's two GPUs of a batch of 1024 (5.2)."""
ROUNDS, STEPS = 7, 3
"""Ours: the median of seven rounds of three steps settles within a percent or two on an idle machine."""


def time_per_step(
    recipes: Mapping[str, PretrainRecipe],
    pool: Pool,
    *,
    runtime: Runtime = Runtime(),
    rounds: int = ROUNDS,
    steps: int = STEPS,
) -> dict[str, Any]:
    """`with_loading` and `without_loading`, each with {method: {seconds, ratio, low, high}}.

    Seconds of a whole optimiser step, median of the rounds; ratios to the first method are those of the same round,
    their median and quartiles. All methods take the same number of steps of one size for an epoch, so ratios of steps
    are ratios of epochs. With loading, workers read and augment faces beside the training; without, the same views come
    again and again. In each round the steps in which a worker's queue is still full from waiting are not counted.
    """
    found: dict[str, Any] = {}
    workers = runtime.workers
    if workers is None:
        workers = default_workers(on_gpu=begin(runtime) == "cuda")
    for kind in ("without_loading", "with_loading"):
        trainers = {}
        for name, recipe in recipes.items():
            batch = min(recipe.batch_size // recipe.accumulate, LARGEST_BATCH, len(pool))
            order = EpochBatches(len(pool), batch_size=batch, seed=recipe.seed)
            loader = FaceLoader(pool, ViewMaker(recipe.views, seed=recipe.seed), order, workers=workers)
            batches = loader if kind == "with_loading" else itertools.repeat(next(loader))
            trainers[name] = _Trainer(recipe, batches, runtime)
        unmeasured = 2 * workers + 1 if kind == "with_loading" else 1
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        for _ in range(rounds):
            for name, trainer in trainers.items():
                trainer.steps(unmeasured)
                started = time.perf_counter()
                trainer.steps(steps)
                seconds[name].append((time.perf_counter() - started) / steps)
        found[kind] = {name: _compare(each, next(iter(seconds.values()))) for name, each in seconds.items()}
    return found


class _Trainer:
    """One method with its optimiser, ready to step."""

    def __init__(self, recipe: PretrainRecipe, batches: Iterator[Batch], runtime: Runtime) -> None:
        self.fabric = make_fabric(runtime)
        method = build_method(recipe)
        self.method, self.batches = method, batches
        self.wrapped, self.optimizer = self.fabric.setup(PartByPart(method), build_optimizer(recipe.optimizer, method))
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0  # the same work, and the weights stay healthy however many steps are measured
        method.train()

    def steps(self, count: int) -> None:
        """Returns when the device has done them."""
        progress = Progress(0, 1, 0, 1)
        for _ in range(count):
            forward_and_backward(self.fabric, self.wrapped, next(self.batches).views_on(self.fabric.device), progress)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.method.after_step(progress)
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize()


def _compare(mine: list[float], theirs: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"seconds": statistics.median(mine), "ratio": middle, "low": low, "high": high}
