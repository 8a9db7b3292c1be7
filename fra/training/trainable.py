"""What the loop knows of anything it fits: a loss with named terms, and where training stands."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """Where training stands when a step begins."""

    step: int
    """Optimiser steps done so far."""
    steps: int
    """Optimiser steps of the whole run."""
    epoch: int
    epochs: int

    @property
    def fraction(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.step / self.steps


@dataclass(frozen=True)
class Loss:
    """What is minimised, and the terms it consists of (before their weights), for the journal."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Trainable(Protocol):
    """Methods and tasks alike."""

    def loss(self, batch: Any, progress: Progress) -> Loss: ...

    def after_step(self, progress: Progress) -> None:
        """Called once after every optimiser step; a teacher follows here, others do nothing."""
