"""How alike two sets of vectors are. Always computed in float32: half precision is too coarse for cosines."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """Rows of `x` (last axis) scaled to length one, in float32; a zero row stays zero."""
    return F.normalize(x.float(), dim=-1)


def cosines(a: Float[Tensor, "*B N D"], b: Float[Tensor, "*B M D"]) -> Float[Tensor, "*B N M"]:
    """Cosine of every row of `a` with every row of `b`."""
    with torch.autocast(a.device.type, enabled=False):
        return unit(a) @ unit(b).mT


def cosine_distance(a: Float[Tensor, "... D"], b: Float[Tensor, "... D"]) -> Float[Tensor, ""]:
    """2 - 2 * mean cosine of paired rows, in [0, 4] (BYOL, eq. 2: the squared distance of unit vectors)."""
    return 2 - 2 * (unit(a) * unit(b)).sum(-1).mean()


def mean_pairwise_cosine(x: Float[Tensor, "K D"]) -> Float[Tensor, ""]:
    """Mean cosine over all pairs of different rows; 1 when all rows point the same way."""
    pairs, count = cosines(x, x), len(x)
    return (pairs.sum() - pairs.diagonal().sum()) / (count * (count - 1))


def mean_entropy(shares: Float[Tensor, "..."], *, dim: int) -> float:
    """Mean entropy, in nats, of the distributions that run along `dim`; log of its length when they are uniform."""
    return float(-torch.special.xlogy(shares, shares).sum(dim).mean())


def effective_rank(features: Float[Tensor, "N C"]) -> float:
    """exp of the entropy of the normalised squared singular values of the centred features, from 1 to min(N, C).

    Roy and Vetterli's effective rank on the spectrum of variances: how many directions the features really use.
    """
    features = features.cpu().double()  # Apple's GPUs have no float64
    centred = features - features.mean(0)
    variances = torch.linalg.svdvals(centred) ** 2
    shares = variances / variances.sum().clamp_min(1e-30)
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))
