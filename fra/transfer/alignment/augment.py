"""Random changes of faces and their landmarks, for whole batches on their device (spec alignment.md, section 7).

B images, S pixels a side, W with the photo around them, P landmarks. Everything random is drawn from torch's global
generator, which the loop seeds for every batch. Where the released code rounds points, kernels and corners to whole
pixels, each step here is exact (ours): a landmark stays on what it marks.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fra.faces.colour import grey
from fra.faces.geometry import flip_points
from fra.tasks.point_tables import PointTable
from fra.transfer.augment import toss

MIRRORED, COVERED, BLURRED, GAMMA, NOISY, GREY = 0.5, 0.4, 0.3, 0.2, 0.2, 0.2
"""Probability of each change; the similarity is always there."""
SHIFT, TURN, SCALE = 0.05, 18.0, 0.1
"""Standard deviations: of the side less a pixel per axis, in degrees, and of the scale about 1."""
REACH = 2.0
"""Side of the square that the similarity may show, in sides of the image. One in 540 draws would show more: it is drawn
again (ours), which leaves the deviations as they are to .7 %; the square costs four times the image's memory."""
HEIGHT, WIDER = (0.2, 0.8), 0.2
"""The rectangle's height over half the side is uniform in the first; its width's is at most WIDER more or less."""
KERNEL = 0.05
"""The widest box of the blur, of the side."""
DARKEST = 4.0
"""The largest exponent; the smallest is its inverse. Half of the images become darker."""
NOISE = 0.5
"""The largest share of noise."""


def vary_landmarks(
    images: UInt8[Tensor, "B 3 W W"], points: Float[Tensor, "B P 2"], table: PointTable, *, margin: int = 0
) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B P 2"]]:
    """Mirror, then shift, turn and scale; then cover, blur, change gamma, mix with noise, turn grey, in this order.

    Points whose `table` does not say how they change places are not mirrored.
    Of each image the middle is what is learned, without `margin` pixels on every side, which are there to come in.
    With a margin nothing else is ever shown; without one, or with less than REACH asks for, what comes in is black.
    Points are x, y in [-1, 1] from edge to edge of the middle, in and out, and may lie outside; images come out as RGB
    in [0, 1].
    """
    side = images.shape[-1] - 2 * margin
    matrix, mirrored = _similarity(len(images), side, reach=images.shape[-1] / side if margin else math.inf)
    faces, points = move(images, points, table, matrix, mirrored, margin=margin)
    for chance, change in (
        (COVERED, _cover),
        (BLURRED, _blur),
        (GAMMA, _change_gamma),
        (NOISY, _add_noise),
        (GREY, _turn_grey),
    ):
        some = toss(len(images), chance).nonzero().flatten().to(faces.device)
        if len(some):
            faces[some] = change(faces[some])
    return faces, points


def move(
    images: UInt8[Tensor, "B 3 W W"],
    points: Float[Tensor, "B P 2"],
    table: PointTable,
    matrix: Float[Tensor, "B 2 3"],
    mirrored: Bool[Tensor, "B"],
    *,
    margin: int = 0,
) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B P 2"]]:
    """Mirror some of the images, then take every place to where its `matrix` says; the points with them.

    Of each image the middle is what is shown, `margin` as in `vary_landmarks`. Places are x, y in [-1, 1] from edge to
    edge of the middle; images come out as RGB in [0, 1], black where nothing is known. Points whose `table` does not
    say how they change places are not mirrored.
    """
    if table.flip:
        points = torch.where(mirrored[:, None, None].to(points.device), flip_points(points, 1, table.flip), points)
    else:  # which point is which in the mirrored face is not known
        mirrored = torch.zeros_like(mirrored)
    turn, shift = matrix[:, :, :2].to(points), matrix[:, :, 2].to(points)
    return _warp(images, matrix, mirrored, images.shape[-1] - 2 * margin), points @ turn.mT + shift[:, None]


def _similarity(count: int, side: int, *, reach: float) -> tuple[Float[Tensor, "B 2 3"], Tensor]:
    """Matrices from points to points about the centre, and which images are mirrored before."""
    mirrored = toss(count, MIRRORED)
    matrix = _draw(count, side)
    while len(wider := (_shown(matrix) > reach).nonzero().flatten()):
        matrix[wider] = _draw(len(wider), side)
    return matrix, mirrored


def _draw(count: int, side: int) -> Float[Tensor, "B 2 3"]:
    shift = 2 * SHIFT * (side - 1) / side * torch.randn(count, 2)  # from edge to edge is 2
    turn = math.radians(TURN) * torch.randn(count)
    scale = 1 + SCALE * torch.randn(count)
    cosine, sine = scale * turn.cos(), scale * turn.sin()
    rows = [torch.stack((cosine, -sine, shift[:, 0]), 1), torch.stack((sine, cosine, shift[:, 1]), 1)]
    return torch.stack(rows, 1)


def _back(matrix: Float[Tensor, "B 2 3"]) -> Float[Tensor, "B 2 3"]:
    """From where in the image each place of the result comes."""
    back = torch.linalg.inv(matrix[:, :, :2])
    return torch.cat((back, -back @ matrix[:, :, 2:]), 2)


def _shown(matrix: Float[Tensor, "B 2 3"]) -> Float[Tensor, "B"]:
    """Side of the smallest upright square about the image's centre that holds all that is shown, in sides of it."""
    back = _back(matrix)
    return (back[:, :, :2].abs().sum(2) + back[:, :, 2].abs()).amax(1)


def _warp(images: UInt8[Tensor, "B 3 W W"], matrix: Float[Tensor, "B 2 3"], mirrored: Tensor, side: int) -> Tensor:
    """The mirrored image drawn as `matrix` says, bilinear, black outside: both in one pass, `side` pixels a side."""
    from_where = _back(matrix) * (side / images.shape[-1])
    from_where[mirrored, 0] *= -1
    grid = F.affine_grid(from_where.to(images.device), [len(images), 3, side, side], align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False).div_(255)


def _cover(faces: Float[Tensor, "n 3 S S"]) -> Tensor:
    """A black rectangle about any place in the image (the place is ours, the specification names none)."""
    count, side = len(faces), faces.shape[-1]
    height = torch.empty(count).uniform_(*HEIGHT)
    width = height + torch.empty(count).uniform_(-WIDER, WIDER)
    inside = []
    for share in (height, width):
        middle, half = side * torch.rand(count) - 0.5, side * share / 4  # the sides are half of the image's at most
        inside.append((torch.arange(side) - middle[:, None]).abs() <= half[:, None])
    covered = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return faces.masked_fill(covered.to(faces.device), 0)


def _blur(faces: Float[Tensor, "n 3 S S"]) -> Tensor:
    """The mean over a square of any width, centred on each pixel; at the border over what is inside of it."""
    side = faces.shape[-1]
    width = torch.empty(len(faces), 1, 1).uniform_(1, max(1.0, KERNEL * side)).to(faces.device)
    place = torch.arange(side, device=faces.device)
    apart = (place[:, None] - place).abs()
    rows = ((width + 1) / 2 - apart).clamp(0, 1)  # the part of a pixel that the box covers
    rows = (rows / rows.sum(2, keepdim=True))[:, None]
    return rows @ faces @ rows.mT


def _change_gamma(faces: Float[Tensor, "n 3 S S"]) -> Tensor:
    lighter = torch.empty(len(faces)).uniform_(1 / DARKEST, 1)
    darker = torch.empty(len(faces)).uniform_(1, DARKEST)
    exponent = torch.where(toss(len(faces), 0.5), lighter, darker)
    return faces ** exponent[:, None, None, None].to(faces.device)


def _add_noise(faces: Float[Tensor, "n 3 S S"]) -> Tensor:
    """Blend with uniform bytes."""
    share = torch.empty(len(faces), 1, 1, 1).uniform_(0, NOISE).to(faces.device)
    noise = torch.randint(256, faces.shape, dtype=torch.uint8).to(faces.device) / 255
    return torch.lerp(faces, noise, share)


def _turn_grey(faces: Float[Tensor, "n 3 S S"]) -> Tensor:
    return grey(faces).expand_as(faces)
