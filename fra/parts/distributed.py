"""Averages over all processes. One process is not a special case: each function is then the identity."""

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """How many processes train together; 1 when alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _MeanOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total / processes()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total / processes()


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of `x` over all processes, with gradients: they are averaged as well on the way back.

    Followed by the usual averaging of parameter gradients this is exact: one process with the whole batch and
    W processes with parts of it get the same gradients (spec, section 9; an in-place all_reduce does not).
    """
    return _MeanOverProcesses.apply(x) if processes() > 1 else x


@torch.no_grad()
def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, without gradient, as a new tensor."""
    if processes() == 1:
        return x
    total = x.clone()
    dist.all_reduce(total)
    return total
