"""STAR loss (Zhou et al., CVPR 2023): errors count less in the direction in which a heatmap is wide, that is unsure.

B images, P landmarks, n x n map positions. The 2 x 2 covariances have a closed form, so nothing iterates and nothing
leaves the device. Always in 32 bits.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-5
"""Added to both sums of weights, and to eigenvalues under the root (STAR, released code)."""
SMALLEST_SUM = 1e-6
"""What a map is divided by at least (STAR, released code)."""
SMOOTH = 0.01
"""Where smooth-L1 turns from a parabola to a line, in units of [-1, 1] (STAR, released code)."""
WING, WING_CURVE = 10 * 2 / 256, 2 * 2 / 256
"""Wing's 10 and 2 pixels (Feng et al., 2018) of the 256 that [-1, 1] is in the paper (ours: in units of the loss)."""
ROUND = 0.02
"""A map whose eigenvalues differ by less than this share of their sum has no direction to learn from (ours: the
gradient of an eigenvector grows as one over the difference, so that one round map would outweigh a whole batch)."""

Distance = Literal["smooth_l1", "l1", "l2", "wing"]
Form = Literal["v2", "v1"]


class Spread(NamedTuple):
    """What a map says of its landmark: a place, and how unsure it is along two directions at right angles."""

    mean: Float[Tensor, "B P 2"]
    """x, y in [-1, 1]."""
    variances: Float[Tensor, "B P 2"]
    """Eigenvalues of the covariance, the smaller first."""
    directions: Float[Tensor, "B P 2 2"]
    """Unit vectors, one in each row, of the smaller and of the larger eigenvalue."""


def grid(size: int, *, consistent: bool = False, like: Tensor) -> Float[Tensor, "n"]:
    """Coordinates of `size` map positions: -1 and 1 are the centres of the first and last (STAR, released code).

    With `consistent` they are the outer edges instead, as they are for the landmarks that the maps are compared with.
    """
    last = 1 - 1 / size if consistent else 1.0
    return torch.linspace(-last, last, size, device=like.device, dtype=like.dtype)


def soft_argmax(maps: Float[Tensor, "B P n n"], *, consistent: bool = False) -> Float[Tensor, "B P 2"]:
    """Expected x, y of maps >= 0, each taken as a distribution over the grid."""
    return _mean(_distribution(maps.float()), consistent)


def _distribution(maps: Float[Tensor, "B P n n"]) -> Float[Tensor, "B P n n"]:
    return maps / maps.sum((-2, -1), keepdim=True).clamp(min=SMALLEST_SUM)


def _mean(shares: Float[Tensor, "B P n n"], consistent: bool) -> Float[Tensor, "B P 2"]:
    places = grid(shares.shape[-1], consistent=consistent, like=shares)
    return torch.stack([shares.sum(-2) @ places, shares.sum(-1) @ places], -1)


def spread(maps: Float[Tensor, "B P n n"], *, consistent: bool = False) -> Spread:
    """Mean, and eigenvalues and eigenvectors of the unbiased weighted covariance (STAR, Sec. 3.2)."""
    shares = _distribution(maps.float())
    mean = _mean(shares, consistent)
    places = grid(shares.shape[-1], consistent=consistent, like=shares)
    x, y = (places - mean[..., axis, None] for axis in (0, 1))
    weight, squares = shares.sum((-2, -1)) + EPSILON, shares.square().sum((-2, -1)) + EPSILON
    norm = weight - squares / weight
    xx, yy = (shares.sum(-2) * x * x).sum(-1) / norm, (shares.sum(-1) * y * y).sum(-1) / norm
    xy = ((shares @ x[..., None]).squeeze(-1) * y).sum(-1) / norm
    half = (xx - yy) / 2
    # The tiny term keeps the root's gradient finite where both eigenvalues are equal.
    root = (half * half + xy * xy + 1e-12).sqrt()
    middle = (xx + yy) / 2
    # Of the two formulas for the eigenvector of the larger eigenvalue, the one that subtracts nothing.
    wide = torch.where(half[..., None] < 0, torch.stack([xy, root - half], -1), torch.stack([root + half, xy], -1))
    wide = wide / wide.norm(dim=-1, keepdim=True)
    wide = torch.where((root < ROUND * middle)[..., None], wide.detach(), wide)
    narrow = torch.stack([-wide[..., 1], wide[..., 0]], -1)
    return Spread(mean, torch.stack([middle - root, middle + root], -1), torch.stack([narrow, wide], -2))


def star_loss(
    maps: Float[Tensor, "B P n n"],
    points: Float[Tensor, "B P 2"],
    *,
    form: Form = "v2",
    distance: Distance = "smooth_l1",
    weight: float = 1.0,
    consistent: bool = False,
) -> Float[Tensor, ""]:
    """Mean over landmarks and images of the errors along both directions, each over its standard deviation.

    Plus `weight` times the sum of both variances, without which a map would grow to make its errors small. In the
    earlier form (v1) the errors are divided first: of the pair smooth-L1 and Wing take the length, L1 and L2 the mean
    of both. `points` in [-1, 1]; gradients flow through places, variances and directions.
    """
    with torch.autocast(maps.device.type, enabled=False):
        found = spread(maps, consistent=consistent)
        errors = ((points.float() - found.mean)[..., None, :] * found.directions).sum(-1)
        deviations = (found.variances + EPSILON).sqrt()
        if form == "v2":
            apart = (DISTANCES[distance](errors) / deviations).sum(-1)
        else:
            apart = _of_the_pair(errors / deviations, distance)
        return apart.mean() + weight * found.variances.abs().sum(-1).mean()


def _of_the_pair(errors: Float[Tensor, "B P 2"], distance: Distance) -> Float[Tensor, "B P"]:
    if distance in ("l1", "l2"):
        return DISTANCES[distance](errors).mean(-1)
    return DISTANCES[distance](errors.square().sum(-1).clamp(min=1e-12).sqrt())  # finite gradient of a pair of zeros


def smooth_l1(errors: Tensor) -> Tensor:
    """e² / .02 below .01, and |e| - .005 beyond."""
    size = errors.abs()
    return torch.where(size < SMOOTH, errors * errors * (0.5 / SMOOTH), size - 0.5 * SMOOTH)


def wing(errors: Tensor) -> Tensor:
    """w ln(1 + |e| / c) below w, and |e| less a constant beyond (Feng et al., 2018, eq. 5)."""
    size = errors.abs()
    step = WING - WING * math.log(1 + WING / WING_CURVE)
    return torch.where(size < WING, WING * torch.log1p(size / WING_CURVE), size - step)


DISTANCES: dict[Distance, Callable[[Tensor], Tensor]] = {
    "smooth_l1": smooth_l1,
    "l1": torch.abs,
    "l2": torch.square,
    "wing": wing,
}
"""Element by element."""
