"""Learning rate over time."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ScheduleConfig:
    """Length of training and form of the learning rate."""

    epochs: int = 400
    """Passes over all faces (supplement 5.2: 400, ablations 50)."""
    warmup_epochs: float = 10
    """The rate rises linearly, step by step (released code; the supplement is silent)."""
    form: Literal["epochwise", "stepwise"] = "epochwise"
    """Cosine in one stair per epoch (released code), or smooth (ours, for runs of few epochs)."""

    def rate(self, peak: float, step: int, steps_per_epoch: int) -> float:
        """The rate of one optimiser step, counted from 0: up to `peak`, then half a cosine towards 0."""
        warmup_steps = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        if self.form == "epochwise":
            done, length = step // steps_per_epoch - self.warmup_epochs, self.epochs - self.warmup_epochs
        else:
            done, length = step - warmup_steps, self.epochs * steps_per_epoch - warmup_steps
        return peak * 0.5 * (1 + math.cos(math.pi * max(done, 0) / max(length, 1)))
