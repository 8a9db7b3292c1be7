"""What the loop knows of anything it fits: a loss with named terms, and where training stands.

Both are named tuples, because Fabric looks into what a wrapped model takes and gives, and refuses frozen dataclasses.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
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


Part = Callable[[], Loss]
"""A part of a loss, computed when it is called."""


def together(losses: Iterable[Loss]) -> Loss:
    """The sum of the parts of a loss: of their totals, and of their terms by name."""
    losses = list(losses)
    total = torch.stack([loss.total for loss in losses]).sum()
    return Loss(total, {name: torch.stack([loss.terms[name] for loss in losses]).sum() for name in losses[0].terms})


def backward(parts: Iterable[Part]) -> Loss:
    """Add the gradients of every part to the weights, one part after the other; the sum of the parts, detached.

    Only one part's activations are ever kept: the memory of the largest part instead of all (ours).
    """
    done = []
    for part in parts:
        loss = part()
        loss.total.backward()
        done.append(detached(loss))
    return together(done)


def detached(loss: Loss) -> Loss:
    """The same numbers without what their gradients would need."""
    return Loss(loss.total.detach(), {name: term.detach() for name, term in loss.terms.items()})


@runtime_checkable
class Trainable(Protocol):
    """Methods and tasks alike."""

    def parts(self, batch: Any, progress: Progress) -> Sequence[Part]:
        """The loss of a batch as a sum of parts, each with activations of its own."""

    def after_step(self, progress: Progress) -> None:
        """Called once after every optimiser step; a teacher follows here, others do nothing."""
