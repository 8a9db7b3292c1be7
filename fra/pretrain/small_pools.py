"""Recipes meet few faces: a batch that can be filled, enough steps to learn something, and what to expect of it."""

import math
from collections.abc import Collection
from dataclasses import replace

from fra.pretrain.run import PretrainRecipe
from fra.shipped import SMALL
from fra.system.printable import counted

LEAST_STEPS = 1000
"""Optimiser steps below which regions have not formed and features are hardly better than random ones (ours: the demo's
1,125 steps are about the fewest that showed both, docs/dev/log.md)."""
ALONE = (
    "50 and 600 each taught an encoder 59 % on RAF-DB (linear), where random weights have 50 % and the bundled laptop "
    "67 %; use a bundled encoder, start from one (--from laptop), or give some thousand faces"
)
STARTED = "they may spoil the weights that you start from, so evaluate both, or give some thousand faces"
FEW = 5000
"""Faces below which an encoder of one's own has never beaten the bundled ones here (ours)."""


def adapted(
    recipe: PretrainRecipe, faces: int, *, name: str, given: Collection[str], processes: int = 1, started: bool = False
) -> tuple[PretrainRecipe, list[str]]:
    """The recipe for so many faces, and lines that say what was changed and what to expect.

    The batch is no larger than the pool, and there are LEAST_STEPS steps, unless batch size or epochs are among the
    settings that were `given`, or the recipe, by its `name`, is one of the scale smoke. `started`: from weights.
    """
    told = []
    smoke = name.startswith(f"{SMALL}/")
    parts = recipe.accumulate * processes
    fits = max(1, faces // parts) * parts
    if fits < recipe.batch_size and "batch_size" not in given:
        told.append(f"batch size {fits} instead of {recipe.batch_size}, because there {_are(faces)}")
        recipe = replace(recipe, batch_size=fits)
    steps = max(1, faces // recipe.batch_size)
    epochs = math.ceil(LEAST_STEPS / steps)
    schedule = recipe.schedule
    if epochs > schedule.epochs and not smoke and "schedule.epochs" not in given:
        told.append(f"{counted(epochs, 'epoch')} instead of {schedule.epochs}, so that there are {LEAST_STEPS:,} steps")
        warmup = schedule.warmup_epochs * epochs / schedule.epochs
        recipe = replace(recipe, schedule=replace(schedule, epochs=epochs, warmup_epochs=warmup))
    if faces < FEW and not smoke:
        few = f"{counted(faces, 'face')} {'is' if faces == 1 else 'are'} few"
        told.append(f"{few}: {STARTED if started else ALONE}")
    return recipe, told


def _are(faces: int) -> str:
    return f"{'is' if faces == 1 else 'are'} {counted(faces, 'face')}"
