"""Gradients of a loss made of parts, one part after the other, so that only one part's activations are ever kept."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fra.training.trainable import Loss


def sum_of_parts(parts: Sequence[Callable[[], Loss]], weights: Sequence[Tensor] = ()) -> Loss:
    """The sum of the parts' totals, and of their terms by name.

    With `weights` the gradients of each part with respect to them are computed at once and handed out when the sum's
    backward pass comes: the same gradients, the memory of the largest part instead of all (ours). Not for fp16, whose
    scale is only known later, nor for several processes, which would no longer exchange gradients during that pass.
    """
    losses = [_with_early_gradients(part, weights) if weights and torch.is_grad_enabled() else part() for part in parts]
    total = torch.stack([loss.total for loss in losses]).sum()
    return Loss(total, {name: torch.stack([loss.terms[name] for loss in losses]).sum() for name in losses[0].terms})


def _with_early_gradients(part: Callable[[], Loss], weights: Sequence[Tensor]) -> Loss:
    terms: dict[str, Tensor] = {}

    def total() -> Tensor:
        loss = part()
        terms.update((name, term.detach()) for name, term in loss.terms.items())
        return loss.total

    return Loss(_EarlyGradients.apply(total, *weights), terms)


class _EarlyGradients(torch.autograd.Function):
    """A scalar whose gradients were computed in the forward pass already."""

    @staticmethod
    def forward(ctx: Any, total: Callable[[], Tensor], *weights: Tensor) -> Tensor:
        with torch.enable_grad():
            value = total()
        with torch.autocast(value.device.type, enabled=False):  # as backward passes run, outside autocast
            ctx.gradients = list(torch.autograd.grad(value, weights, allow_unused=True))
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        scaled: list[Tensor | None] = []
        while ctx.gradients:  # each goes when its scaled copy is there, as weights may share one, so not in place
            gradient = ctx.gradients.pop()
            scaled.append(None if gradient is None else gradient * scale)
        return None, *reversed(scaled)
