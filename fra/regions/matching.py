"""Which region stands for which, and for which part.

N faces, K regions, R parts, h x w positions, T the side of a map of parts.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fra.regions.heatmaps import BATCH


def best_partners(owners: Int[Tensor, "N h w"], others: Int[Tensor, "N h w"], *, count: int) -> Int[Tensor, "count"]:
    """For each region of `others` the one of `owners` that it stands for: one to one, with the most common positions.

    A model with a region for the left eye and one for the right calls each by the other's name in the mirrored face,
    which is right. One matching for the whole set: regions that swap from face to face are not forgiven.
    """
    from scipy.optimize import linear_sum_assignment

    common = torch.bincount((others * count + owners).flatten(), minlength=count * count).view(count, count)
    _, columns = linear_sum_assignment(common.numpy(), maximize=True)
    return torch.from_numpy(columns)


def agreement(owners: Int[Tensor, "N h w"], others: Int[Tensor, "N h w"], *, count: int) -> float:
    """Share of positions with the same owner, corrected for chance: Cohen's kappa.

    1 = everywhere, 0 = as often as two unrelated maps with these shares would, or one region owns everything: the
    plain share would be perfect for a model that has collapsed into one region.
    """
    from torchmetrics.functional.classification import multiclass_cohen_kappa

    found = float(multiclass_cohen_kappa(owners.flatten(), others.flatten(), num_classes=count))
    return found if math.isfinite(found) else 0.0  # one region owns everything: 0 / 0


def part_ious(
    maps: Float[Tensor, "N K h w"],
    parts: UInt8[Tensor, "N T T"],
    names: Sequence[str],
    *,
    train: Int[Tensor, "_"],
    test: Int[Tensor, "_"],
) -> dict[str, float]:
    """For each part the IoU, in percent, with the region that fits it best on the `train` faces.

    `parts` numbers them in the order of `names`; what is numbered higher is none of them.
    The maps are upsampled bilinearly to the size of the truth, and each pixel goes to the region that wins it. Pixels
    of all `test` faces are counted together. A region may stand for several parts, so that K need not be their number.
    """
    chosen = _ious(maps[train], parts[train], len(names)).argmax(0)
    found = _ious(maps[test], parts[test], len(names))[chosen, torch.arange(len(names))]
    return dict(zip(names, (100 * found).tolist(), strict=True))


def _ious(maps: Float[Tensor, "N K h w"], parts: UInt8[Tensor, "N T T"], count: int) -> Float[Tensor, "K R"]:
    """IoU of every region with each of `count` parts; what is numbered higher is none of them."""
    regions, labels = maps.shape[1], count + 1
    counts = torch.zeros(regions, labels, dtype=torch.float64)
    for some, truth in zip(maps.split(BATCH), parts.split(BATCH), strict=True):
        owners = F.interpolate(some, size=truth.shape[1:], mode="bilinear").argmax(1)
        pairs = (owners * labels + truth).flatten()
        counts += torch.bincount(pairs, minlength=regions * labels).view(regions, labels)
    union = counts.sum(1, keepdim=True) + counts.sum(0, keepdim=True) - counts
    return (counts / union.clamp(min=1))[:, :count]
