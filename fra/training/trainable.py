"""What the loop knows of anything it fits: a loss with named terms, and where training stands.

Both are named tuples, because Fabric looks into what a wrapped model takes and gives, and refuses frozen dataclasses.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Progress(NamedTuple):
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


class Loss(NamedTuple):
    """What is minimised, and the terms it consists of (before their weights), for the journal."""

    total: Tensor
    terms: dict[str, Tensor]


@runtime_checkable
class Trainable(Protocol):
    """Methods and tasks alike."""

    def loss(self, batch: Any, progress: Progress) -> Loss: ...

    def after_step(self, progress: Progress) -> None:
        """Called once after every optimiser step; a teacher follows here, others do nothing."""
