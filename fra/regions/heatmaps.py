"""What heatmaps are worth looking at, and numbers that say whether regions are alive.

B images, K regions, h x w positions. Heatmaps are the model's: a softmax over the K regions at each position.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fra.models.region_head import assignment, region_shares
from fra.models.similarity import mean_entropy


@dataclass(frozen=True)
class RegionNumbers:
    """Numbers over a set of faces."""

    shares: list[float]
    """Share of all positions that each region wins, 0..1; a dead region has 0, a balanced one 1/K."""
    map_cosine: float
    """Mean cosine between two regions' assignment maps of one face: 1 = the same map, 0 = they never overlap."""
    entropy: float
    """Mean entropy of a position's assignment, in nats: log K = undecided, 0 = certain."""


def spatial_variance(heatmaps: Float[Tensor, "B K h w"]) -> Float[Tensor, "B K"]:
    """Unbiased variance of each map over its positions (Shu et al., as followed by the paper's Figure 1)."""
    return heatmaps.flatten(2).float().var(dim=2, unbiased=True)


def ranking(heatmaps: Float[Tensor, "B K h w"], *, per_image: bool = False) -> Int[Tensor, "B K"]:
    """The regions of each face from the most to the least structured map, by spatial variance.

    By default one order for the whole set, from the variance averaged over the faces (the paper does not say; this is
    what Shu et al. do), repeated for each face. `per_image` ranks each face by itself.
    """
    variance = spatial_variance(heatmaps)
    if not per_image:
        variance = variance.mean(0, keepdim=True).expand_as(variance)
    return variance.argsort(dim=1, descending=True, stable=True)


def map_cosine(heatmaps: Float[Tensor, "B K h w"]) -> Float[Tensor, ""]:
    """Mean cosine over all pairs of different regions and all faces; maps are compared as they are, not centred."""
    count = heatmaps.shape[1]
    if count < 2:
        return torch.tensor(float("nan"))
    rows = F.normalize(heatmaps.flatten(2).float(), dim=2)
    cosines = rows @ rows.transpose(1, 2)
    return (cosines.sum() - cosines.diagonal(dim1=1, dim2=2).sum()) / (len(rows) * count * (count - 1))


def numbers(scores: Float[Tensor, "B K h w"]) -> RegionNumbers:
    """The numbers of a set of faces, from the model's scores."""
    chosen = assignment(scores)
    return RegionNumbers(
        shares=region_shares(chosen).tolist(),
        map_cosine=float(map_cosine(chosen)),
        entropy=mean_entropy(chosen, dim=1),
    )
