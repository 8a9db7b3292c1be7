"""Balanced assignment of rows to K clusters (Sinkhorn-Knopp, as in SwAV), over all processes."""

import torch
from jaxtyping import Float
from torch import Tensor

from fra.parts.distributed import processes, sum_over_processes


@torch.no_grad()
def sinkhorn(weights: Float[Tensor, "R K"], *, rounds: int = 3) -> Float[Tensor, "R K"]:
    """Assign R rows to K clusters so that every cluster receives about the same share of all rows.

    `weights` are positive: exp(scores / epsilon) as in SwAV, or probabilities as the released FRA does. Every
    process must bring the same number of rows. Each row of the result sums to 1 exactly, each column to R / K
    approximately. Computed in float32, without gradient.
    """
    rows, clusters = weights.shape
    total_rows = rows * processes()
    shares = weights.float()
    shares = shares / sum_over_processes(shares.sum())
    for _ in range(rounds):
        shares = shares / sum_over_processes(shares.sum(0)) / clusters
        shares = shares / shares.sum(1, keepdim=True) / total_rows
    return shares * total_rows
