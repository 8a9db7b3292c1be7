"""Learning rate over time: functions of the step alone.

Not torch's schedulers, though their numbers agree where they have these forms (a test compares them): theirs carry a
state that a checkpoint would have to hold, find each rate from the one before, and have neither a cosine in stairs of
an epoch after a warm-up in steps nor first and last rates that are the same for groups of different peaks.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from fra.recipe import Count, NotNegative, Settings


@runtime_checkable
class Schedule(Protocol):
    """What the loop asks."""

    @property
    def epochs(self) -> int: ...

    def rate(self, peak: float, step: int, steps_per_epoch: int) -> float: ...


@dataclass(frozen=True)
class ScheduleConfig(Settings):
    """Length of training and schedule of the learning rate."""

    epochs: Count = 400
    """Passes over all faces (supplement 5.2: 400, ablations 50)."""
    warmup_epochs: NotNegative = 10
    """Epochs of linear warm-up, step by step (released code; not in the supplement)."""
    form: Literal["epochwise", "stepwise", "constant"] = "epochwise"
    """Cosine updated once per epoch (released code) or every step (SwAV; ours, for runs of few epochs), or after the
    warm-up always the peak (3FabRec)."""
    first_rate: NotNegative | None = None
    """Learning rate of the first step, from which the warm-up rises linearly to the peak (SwAV: .3 of 4.8); without it
    the first step takes peak / warm-up steps (released code)."""
    last_rate: NotNegative = 0.0
    """Learning rate at the end of the cosine (SwAV: a thousandth of the peak)."""

    def rate(self, peak: float, step: int, steps_per_epoch: int) -> float:
        """The rate of one optimiser step, counted from 0: up to `peak`, then half a cosine down, or as it is."""
        warmup_steps = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup_steps:
            if self.first_rate is None:
                return peak * (step + 1) / warmup_steps
            return self.first_rate + (peak - self.first_rate) * step / max(warmup_steps - 1, 1)
        if self.form == "constant":
            return peak
        if self.form == "epochwise":
            done, length = step // steps_per_epoch - self.warmup_epochs, self.epochs - self.warmup_epochs
        else:
            done, length = step - warmup_steps, self.epochs * steps_per_epoch - warmup_steps
        above = peak - self.last_rate
        return self.last_rate + above * 0.5 * (1 + math.cos(math.pi * max(done, 0) / max(length, 1)))


@dataclass(frozen=True)
class CosineFromZero:
    """As fine-tuning's released code has it: up from 0 in a straight line, then half a cosine, both smooth."""

    epochs: int
    warmup_epochs: float
    last_rate: float

    def rate(self, peak: float, step: int, steps_per_epoch: int) -> float:
        """The rate of one optimiser step, counted from 0; the very first has none."""
        epoch = step / steps_per_epoch
        if epoch < self.warmup_epochs:
            return peak * epoch / self.warmup_epochs
        done = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.last_rate + (peak - self.last_rate) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Stairs:
    """The rate falls to a tenth at each of the epochs in `falls` (supplement 5.3.3: 80 and 90 of 100)."""

    epochs: int
    falls: tuple[float, ...]

    def rate(self, peak: float, step: int, steps_per_epoch: int) -> float:
        return peak * 0.1 ** sum(step >= fall * steps_per_epoch for fall in self.falls)


@dataclass(frozen=True)
class Exponential:
    """Each epoch has `decay` times the rate of the one before."""

    epochs: int
    decay: float

    def rate(self, peak: float, step: int, steps_per_epoch: int) -> float:
        return peak * self.decay ** (step // steps_per_epoch)
