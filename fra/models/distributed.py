"""Averages over all processes. One process is not a special case: each function is then the identity."""

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

Gradients = Literal["exact", "released"]
"""How a mean over processes is differentiated; see `mean_over_processes`."""


def processes() -> int:
    """How many processes train together; 1 when alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _MeanOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gradients: Gradients) -> Tensor:
        ctx.gradients = gradients
        return sum_over_processes(x) / processes()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.gradients == "exact":
            gradient = sum_over_processes(gradient.contiguous())
        return gradient / processes(), None


def mean_over_processes(x: Tensor, *, gradients: Gradients = "exact") -> Tensor:
    """The mean of `x` over all W processes, with gradients.

    exact: gradients are averaged as well on the way back. Followed by the usual averaging of parameter gradients, one
    process with the whole batch and W processes with parts of it get the same gradients (spec fra.md, section 9).
    released: each process keeps its own gradient, divided by W, as the in-place all_reduce of the released code has it.
    """
    return _MeanOverProcesses.apply(x, gradients) if processes() > 1 else x


@torch.no_grad()
def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, without gradient, as a new tensor."""
    if processes() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total


@torch.no_grad()
def gather_from_processes(x: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, without gradient; every process gets all of them."""
    if processes() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(processes())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def share_of_process(x: Tensor) -> Tensor:
    """This process's rows of something that is equal on all; ValueError when it cannot be split evenly."""
    if len(x) % processes():
        raise ValueError(f"{len(x)} rows cannot be split evenly over {processes()} processes: use a multiple")
    return x if processes() == 1 else x.chunk(processes())[dist.get_rank()]
