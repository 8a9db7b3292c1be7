"""What heatmaps are worth looking at, and numbers that say whether regions are alive.

B images, K regions, h x w positions. Heatmaps are the model's: a softmax over the K regions at each position.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from fra.models.region_head import RegionOutput, assignment, region_shares
from fra.models.similarity import mean_entropy

BATCH = 64


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


@torch.inference_mode()
def outputs(model: nn.Module, images: UInt8[Tensor, "B 3 S S"]) -> Iterator[RegionOutput]:
    """What a region model gives for images, BATCH at a time, on its own device and in eval mode."""
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    was_training = model.training
    model.eval()
    for batch in images.split(BATCH):
        yield model(batch.to(device).float() / 255)
    model.train(was_training)


def assignments(model: nn.Module, images: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B K h w"]:
    """The assignment of every position, on the CPU."""
    return torch.cat([assignment(output.scores).cpu() for output in outputs(model, images)])


def middles(length: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "length"]:
    """The middles of so many positions in a row, in [-1, 1] from edge to edge of the image."""
    return (2 * torch.arange(length, dtype=dtype) + 1) / length - 1


def positions(height: int, width: int) -> Float[Tensor, "P 2"]:
    """x, y of the middles of a map's positions, row by row."""
    return torch.stack([middles(width).repeat(height), middles(height).repeat_interleave(width)], -1)
