"""Random changes of labelled faces, for whole batches on their device. B images, S pixels a side.

Everything random is drawn from torch's global generator, which the loop seeds for every batch. Where the released code
changes one picture at a time, rounding to whole pixels and bytes in between, each step here is exact (ours).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fra.faces.colour import brighten, change_contrast, saturate

JITTER, SHIFT, TURN = 0.5, 0.2, 10.0
"""Colour factors uniform in 1 -+ .5, shifts in -+ .2 of the side, turns in -+ 10 degrees (spec expression.md, 2)."""
ASPECT = (0.3, 3.3)
"""Height over width of what is erased (torchvision's RandomErasing)."""


def vary(
    images: UInt8[Tensor, "B 3 S S"], *, mirror: bool = True
) -> tuple[Float[Tensor, "B 3 S S"], Bool[Tensor, "B"]]:
    """Mirror, change colours, shift, turn: each with probability 1/2. Also tells which images are mirrored.

    RGB in [0, 1]; what comes in from outside is black (spec expression.md, section 2).
    """
    count, device = len(images), images.device
    mirrored = (toss(count, 0.5 if mirror else 0.0)).to(device)
    faces = torch.where(mirrored[:, None, None, None], images.flip(-1), images) / 255
    _jitter(faces)
    shift = 2 * SHIFT * _spread(count, 2) * toss(count, 0.5)[:, None]  # in affine_grid's units a side is 2
    turn = math.radians(TURN) * _spread(count) * toss(count, 0.5)
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(count, 2, 2)
    from_where = torch.cat([rotation, shift[:, :, None]], 2).to(device)
    grid = F.affine_grid(from_where, list(faces.shape), align_corners=False)
    return F.grid_sample(faces, grid, align_corners=False), mirrored


def _jitter(faces: Float[Tensor, "B 3 S S"]) -> None:
    """Brightness, contrast and saturation in random order, in place, on every second image."""
    changed = toss(len(faces), 0.5).nonzero().flatten()
    order = torch.rand(len(changed), 3).argsort(1)
    factors = (1 + JITTER * _spread(len(changed), 3))[:, :, None, None, None].to(faces.device)
    for turn in range(3):
        for number, change in enumerate((brighten, change_contrast, saturate)):
            some = (order[:, turn] == number).nonzero().flatten()
            part = faces[changed[some]]
            change(part, factors[some, number])
            faces[changed[some]] = part


def erase(
    faces: Float[Tensor, "B 3 S S"], fill: Float[Tensor, "3 1 1"], *, chance: float, share: tuple[float, float]
) -> Float[Tensor, "B 3 S S"]:
    """Paint a rectangle that covers a `share` of the image, with probability `chance` (random erasing).

    A rectangle longer than the image is cut to it; torchvision would draw another one.
    """
    count, side = len(faces), faces.shape[-1]
    area = torch.empty(count).uniform_(*share)
    aspect = torch.empty(count).uniform_(*map(math.log, ASPECT)).exp()
    edges = []
    for length in ((area * aspect).sqrt(), (area / aspect).sqrt()):
        pixels = (side * length).round().clamp(max=side)
        first = (torch.rand(count) * (side - pixels + 1)).floor()[:, None]
        place = torch.arange(side)
        edges.append((place >= first) & (place < first + pixels[:, None]))
    painted = edges[0][:, :, None] & edges[1][:, None, :] & toss(count, chance)[:, None, None]
    return torch.where(painted[:, None].to(faces.device), fill, faces)


def toss(count: int, chance: float) -> Bool[Tensor, "_"]:
    """True with probability `chance`, each for itself."""
    return torch.rand(count) < chance


def _spread(*shape: int) -> Float[Tensor, "..."]:
    """Uniform in [-1, 1)."""
    return 2 * torch.rand(shape) - 1
