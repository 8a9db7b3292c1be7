"""Balanced assignment of rows to K clusters (Sinkhorn-Knopp, as in SwAV), over all processes."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fra.models.distributed import processes, sum_over_processes


@torch.no_grad()
def sinkhorn(weights: Float[Tensor, "R K"], *, rounds: int = 3, strength: float = 1.0) -> Float[Tensor, "R K"]:
    """Assign R rows to K clusters so that every cluster receives about the same share of all rows.

    `weights` are positive: exp(scores / epsilon) as in SwAV, or probabilities as the released FRA does. Every
    process must bring the same number of rows. Each row of the result sums to 1 exactly, each column to R / K
    approximately. Computed in float32, without gradient.

    `strength` in (0, 1] is how firmly columns are balanced: each is divided by its sum to this power, so that below 1
    a cluster that few rows want may stay small (unbalanced optimal transport, Chizat et al. 2018, with a
    Kullback-Leibler penalty on the columns alone).
    """
    return _balanced(weights[None], processes(), sum_over_processes, rounds=rounds, strength=strength)[0]


@torch.no_grad()
def sinkhorn_within(
    weights: Float[Tensor, "B R K"], *, rounds: int = 3, strength: float = 1.0
) -> Float[Tensor, "B R K"]:
    """`sinkhorn` for each of B groups of rows by itself: nothing is shared between groups or processes."""
    return _balanced(weights, 1, lambda sums: sums, rounds=rounds, strength=strength)


def _balanced(
    weights: Float[Tensor, "B R K"],
    processes: int,
    over_processes: Callable[[Tensor], Tensor],
    *,
    rounds: int,
    strength: float,
) -> Float[Tensor, "B R K"]:
    rows, clusters = weights.shape[1:]
    total_rows = rows * processes
    shares = weights.float()
    shares = shares / over_processes(shares.sum((1, 2), keepdim=True))
    for _ in range(rounds):
        shares = shares / over_processes(shares.sum(1, keepdim=True)) ** strength / clusters
        shares = shares / shares.sum(2, keepdim=True) / total_rows
    return shares * total_rows
