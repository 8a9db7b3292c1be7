"""Heatmaps as 3FabRec teaches and reads them, and how it moves faces. B images, P landmarks, n x n map positions."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fra.transfer.augment import toss

TURN, SHIFT, ZOOM, SHEAR = 30.0, 0.04, (0.94, 1.05), 5.0
"""Most degrees, most of the side on an axis, least and largest factor, most degrees; all uniform (3FabRec, code)."""
REACH = 1.75
"""Side of the square that such a change may show, in sides of the image."""
MIRRORED = 0.5
"""Probability of a mirrored face (3FabRec, code)."""


def gaussians(points: Float[Tensor, "B P 2"], size: int, *, sigma: float) -> Float[Tensor, "B P n n"]:
    """A Gaussian about each landmark, 1 at its exact place. `points` in [-1, 1] from edge to edge, `sigma` in map
    positions."""
    centre = (points + 1) * (size / 2) - 0.5
    away = torch.arange(size, device=points.device) - centre[..., None]
    x, y = torch.exp(-away.square() / (2 * sigma**2)).unbind(2)
    return y[..., :, None] * x[..., None, :]


def peaks(maps: Float[Tensor, "B P n n"], *, box: int, between: bool) -> Float[Tensor, "B P 2"]:
    """Where maps are highest after a mean over `box` x `box` positions (odd), with nothing beyond the border.

    x, y in [-1, 1] from edge to edge. `between` positions: at the top of the parabola through the highest one and its
    two neighbours on either axis (ours); otherwise at a position's centre.
    """
    smooth = F.avg_pool2d(maps.float(), box, stride=1, padding=box // 2)
    size = smooth.shape[-1]
    highest = smooth.flatten(2).argmax(-1)
    places = [highest % size, torch.div(highest, size, rounding_mode="floor")]
    found = []
    for axis, place in enumerate(places):
        middle = place.float()
        if between:
            step = 1 if axis == 0 else size
            inside = (place > 0) & (place < size - 1)
            middle = middle + _top(smooth.flatten(2), highest, step * inside) * inside
        found.append((2 * middle + 1) / size - 1)
    return torch.stack(found, -1)


def _top(values: Float[Tensor, "B P m"], highest: Tensor, step: Tensor) -> Float[Tensor, "B P"]:
    """How far the top of a parabola lies from the highest of three values, in steps; none in a plain."""
    before, at, after = (values.gather(2, (highest + sign * step)[..., None])[..., 0] for sign in (-1, 0, 1))
    bend = 2 * at - before - after
    return ((after - before) / (2 * bend.clamp(min=1e-12))).clamp(-0.5, 0.5)


def moves(count: int) -> tuple[Float[Tensor, "B 2 3"], Bool[Tensor, "B"]]:
    """Random matrices from places to places about the image's middle, in [-1, 1], and which faces are mirrored before;
    by torch's global generator."""

    def even(most: float) -> Float[Tensor, "B"]:
        return most * torch.empty(count).uniform_(-1, 1)

    mirrored = toss(count, MIRRORED)
    turn, shear = even(math.radians(TURN)), even(math.radians(SHEAR)).tan()
    zoom, x, y = torch.empty(count).uniform_(*ZOOM), even(2 * SHIFT), even(2 * SHIFT)
    cosine, sine = zoom * turn.cos(), zoom * turn.sin()
    rows = [torch.stack((cosine, shear * cosine - sine, x), 1), torch.stack((sine, shear * sine + cosine, y), 1)]
    return torch.stack(rows, 1), mirrored
