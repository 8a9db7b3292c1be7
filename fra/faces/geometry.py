"""Boxes, points and crops.

Pixel (0, 0) has its centre at the point (0, 0); an image of width W reaches from -0.5 to W - 0.5. A matrix (2, 3)
maps points (x, y) of one image to another: `matrix @ (x, y, 1)`. Images are uint8 or float and keep their type.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor

Padding = Literal["reflect", "edge", "zero"]
"""What lies outside an image: its mirror image (as often as needed, the border pixel twice), its border, or black."""

ARCFACE_FIVE_POINTS = torch.tensor(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Eyes, nose tip and mouth corners of the ArcFace crop of 112 x 112 pixels; the eye on the image's left comes first."""


def flip_order(count: int, pairs: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """For each of `count` points the one whose place it takes in the mirrored image; unpaired points stay."""
    order = list(range(count))
    for left, right in pairs:
        order[left], order[right] = right, left
    return tuple(order)


FLIP_5 = flip_order(5, [(0, 1), (3, 4)])
"""Five detector points."""

FLIP_68 = flip_order(
    68,
    [(i, 16 - i) for i in range(8)]  # contour
    + [(i, 43 - i) for i in range(17, 22)]  # brows
    + [(31, 35), (32, 34)]  # nose
    + [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]  # eyes
    + [(48, 54), (49, 53), (50, 52), (59, 55), (58, 56)]  # outer lips
    + [(60, 64), (61, 63), (67, 65)],  # inner lips
)
"""iBUG's 68 points (300-W), counted from 0."""

FLIP_98 = flip_order(
    98,
    [(i, 32 - i) for i in range(16)]  # contour
    + [(33, 46), (34, 45), (35, 44), (36, 43), (37, 42), (38, 50), (39, 49), (40, 48), (41, 47)]  # brows
    + [(55, 59), (56, 58)]  # nose
    + [(60, 72), (61, 71), (62, 70), (63, 69), (64, 68), (65, 75), (66, 74), (67, 73)]  # eyes
    + [(76, 82), (77, 81), (78, 80), (87, 83), (86, 84)]  # outer lips
    + [(88, 92), (89, 91), (95, 93)]  # inner lips
    + [(96, 97)],  # pupils
)
"""WFLW's 98 points."""


def flip_points(points: Float[Tensor, "*N P 2"], width: float, order: Sequence[int]) -> Float[Tensor, "*N P 2"]:
    """The points of the mirrored image, in their published order again: x becomes width - 1 - x."""
    mirrored = points[..., list(order), :]
    return torch.stack((width - 1 - mirrored[..., 0], mirrored[..., 1]), -1)


def whole_box(height: int, width: int) -> Float[Tensor, "4"]:
    """The box of a whole image, from the outer edge of its first pixel to that of its last."""
    return torch.tensor([-0.5, -0.5, width - 0.5, height - 0.5])


def square_box(box: Float[Tensor, "4"], margin: float = 0.0) -> Float[Tensor, "4"]:
    """The square of side max(width, height) * (1 + margin) about the centre of `box`; it may leave the image."""
    centre = (box[:2] + box[2:]) / 2
    half = (box[2:] - box[:2]).max() * (1 + margin) / 2
    return torch.cat((centre - half, centre + half))


def box_matrix(box: Float[Tensor, "4"], size: int) -> Float[Tensor, "2 3"]:
    """Maps points of an image to points of its crop `crop_box(image, box, size)`."""
    scale = size / (box[2:] - box[:2])
    return torch.cat((torch.diag(scale), (-box[:2] * scale - 0.5)[:, None]), 1)


def transform_points(points: Float[Tensor, "*N 2"], matrix: Float[Tensor, "2 3"]) -> Float[Tensor, "*N 2"]:
    """The points (x, y) mapped by the matrix."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def resized_points(points: Float[Tensor, "*N"], factor: float | Float[Tensor, "2"]) -> Float[Tensor, "*N"]:
    """Points, or a box, in an image `factor` times as large (along x and y); x and y take turns in the last axis."""
    return ((points.reshape(-1, 2) + 0.5) * factor - 0.5).reshape(points.shape)


def invert_matrix(matrix: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
    """The matrix of the way back."""
    back = torch.linalg.inv(matrix[:, :2].double())
    return torch.cat((back, -back @ matrix[:, 2:].double()), 1).to(matrix.dtype)


def similarity_transform(source: Float[Tensor, "P 2"], target: Float[Tensor, "P 2"]) -> Float[Tensor, "2 3"]:
    """Rotation, one scale and shift that take `source` closest to `target` (least squares; Umeyama 1991).

    Never a reflection. In the plane the solution is closed: with centred points as complex numbers it is the
    regression coefficient of target on source. ValueError when all source points coincide.
    """
    start, end = source.double(), target.double()
    start_mean, end_mean = start.mean(0), end.mean(0)
    (x, y), (u, v) = (start - start_mean).T, (end - end_mean).T
    spread = (x * x + y * y).sum()
    if not spread > 0:
        raise ValueError("all points coincide: they define no rotation or scale")
    cosine, sine = (x * u + y * v).sum() / spread, (x * v - y * u).sum() / spread
    turn = torch.stack((torch.stack((cosine, -sine)), torch.stack((sine, cosine))))
    return torch.cat((turn, (end_mean - turn @ start_mean)[:, None]), 1).to(source.dtype)


def five_point_template(size: int, margin: float = 0.0) -> Float[Tensor, "5 2"]:
    """Where the five points lie in an aligned crop of `size` x `size` pixels.

    Margin 0 is ArcFace's crop; a margin shows 1 + margin times as much in both directions, about the same centre.
    ArcFace's side is 1.01 times the longer side of RetinaFace's box (median over the faces of 55 photos; 0.95 to
    1.09 for eight in ten), so a margin means the same here as in `square_box`.
    """
    share = (ARCFACE_FIVE_POINTS + 0.5) / 112 - 0.5  # of the side, from the crop's centre
    return (share / (1 + margin) + 0.5) * size - 0.5


def crop_box(
    image: Num[Tensor, "C H W"], box: Float[Tensor, "4"], size: int, padding: Padding = "reflect", *, margin: int = 0
) -> Num[Tensor, "C S S"]:
    """Cut `box` (also outside the image, also between pixels) and resize it to `size` x `size`, anti-aliased.

    With a `margin` the result shows more of the image, so many pixels on every side; those in the middle are the same.

    The filter is the triangle of Pillow's BILINEAR, widened by the factor of shrinking; it is exact for boxes that
    do not fall on whole pixels.
    """
    x1, y1, x2, y2 = box.tolist()
    rows, top = _resampling(y1, y2, size, image.shape[1], padding, margin)
    columns, left = _resampling(x1, x2, size, image.shape[2], padding, margin)
    part = image[:, top : top + rows.shape[1], left : left + columns.shape[1]].float()
    return _like(image, rows @ part @ columns.T)


def _resampling(low: float, high: float, size: int, length: int, padding: Padding, margin: int) -> tuple[Tensor, int]:
    """Weights for `size` samples of [low, high] and `margin` more at either end, one row each, and the first of the
    pixels that they weigh."""
    step = (high - low) / size
    reach = max(step, 1.0)  # half the width of the triangle
    centres = low + (torch.arange(-margin, size + margin, dtype=torch.float64) + 0.5) * step
    first = (centres - reach).ceil()
    taps = first[:, None] + torch.arange(math.floor(2 * reach) + 1)
    weights = (1 - (taps - centres[:, None]).abs() / reach).clamp(min=0)
    weights = weights / weights.sum(1, keepdim=True)
    pixels = taps.long()
    if padding == "zero":
        weights = weights * ((pixels >= 0) & (pixels < length))
    if padding == "reflect":
        pixels = pixels % (2 * length)  # a mirror at either border repeats every 2 * length pixels
        pixels = torch.minimum(pixels, 2 * length - 1 - pixels)
    pixels = pixels.clamp(0, length - 1)
    start = int(pixels.min())
    table = torch.zeros(len(pixels), int(pixels.max()) - start + 1, dtype=torch.float64)
    return table.scatter_add_(1, pixels - start, weights).float(), start


def warp(
    image: Num[Tensor, "C H W"], matrix: Float[Tensor, "2 3"], size: int, padding: Padding = "zero"
) -> Num[Tensor, "C S S"]:
    """Draw the image as `matrix` (image points to result points) says, `size` x `size`, bilinear.

    Where the result is smaller than the image, each of its pixels is the mean of n x n samples, n the factor of
    shrinking rounded up, so that fine patterns fade instead of aliasing. Black outside by default, as STAR does.
    """
    back = invert_matrix(matrix)
    shrink = float(torch.linalg.matrix_norm(back[:, :2].double(), 2))
    samples = max(1, math.ceil(shrink - 1e-3))
    image_part, back = _needed_part(image, back, size)
    source = image_part.float()[None]
    height, width = source.shape[-2:]
    mode = {"reflect": "reflection", "edge": "border", "zero": "zeros"}[padding]
    pixels = torch.arange(size, dtype=back.dtype)
    middles = transform_points(torch.stack(torch.meshgrid(pixels, pixels, indexing="xy"), -1), back)
    total = torch.zeros(source.shape[1], size, size)
    for i in range(samples):
        for j in range(samples):
            aside = back[:, :2] @ (torch.tensor([j + 0.5, i + 0.5]) / samples - 0.5).to(back.dtype)
            grid = (2 * (middles + aside) + 1) / torch.tensor([width, height]) - 1
            drawn = F.grid_sample(source, grid[None].float(), "bilinear", padding_mode=mode, align_corners=False)
            total += drawn[0]
    return _like(image, total / samples**2)


def _needed_part(image: Tensor, back: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The part of the image that a warp reads, and the matrix that leads there: a large photo stays uint8."""
    edge = size - 0.5
    corners = transform_points(torch.tensor([[-0.5, -0.5], [edge, -0.5], [-0.5, edge], [edge, edge]]), back)
    left, top = (int(value) for value in corners.amin(0).floor() - 2)
    right, bottom = (int(value) for value in corners.amax(0).ceil() + 3)
    if left < 0 or top < 0 or right > image.shape[2] or bottom > image.shape[1]:
        return image, back  # what lies outside depends on the whole image
    shift = torch.tensor([[0.0, 0.0, left], [0.0, 0.0, top]])
    return image[:, top:bottom, left:right], back - shift


def _like(image: Tensor, values: Tensor) -> Tensor:
    if image.dtype == torch.uint8:
        return values.round().clamp(0, 255).to(torch.uint8)
    return values.to(image.dtype)
