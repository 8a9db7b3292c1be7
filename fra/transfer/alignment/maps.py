"""Maps that the network's point and edge maps are taught by, and how wrong those are (spec alignment.md, section 3).

B images, P landmarks, E edges, n x n map positions. STAR draws on a canvas of four times the maps' side, 256 for 64,
and shrinks it bilinearly: a map holds the mean of the four canvas pixels in the middle of each position. Here only
those are computed, for a whole batch at once (ours: some hundred faces a second on one core).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fra.tasks.point_tables import Edge, PointTable

CANVAS = 4
"""Canvas pixels per map position, each way."""
WIDTH, REACH = 1.5, (-5, 4)
"""Standard deviation of a landmark's Gaussian, and how far it is drawn, in canvas pixels (STAR, released code)."""
SAMPLES = 5
"""Straight pieces of an edge from landmark to landmark (STAR, released code)."""
OMEGA, THETA, CURVE, ALPHA = 14.0, 0.5, 1.0, 2.1
"""Of Adaptive Wing (Wang et al., ICCV 2019, Sec. 4)."""
HARD, EXTRA = 0.2, 10.0
"""Positions whose neighbourhood reaches HARD weigh 1 + EXTRA (Adaptive Wing, Sec. 4.3)."""


def canvas_pixels(points: Float[Tensor, "*N 2"], size: int) -> Float[Tensor, "*N 2"]:
    """Landmarks in [-1, 1] from edge to edge as pixels of the canvas of maps of `size`, first pixel's centre at 0."""
    return (points + 1) * (CANVAS * size / 2) - 0.5


def point_maps(points: Float[Tensor, "B P 2"], size: int) -> Float[Tensor, "B P n n"]:
    """A Gaussian about each landmark, its peak of 1 on the canvas pixel nearest to it; nothing outside the image."""
    centre = (canvas_pixels(points.float(), size) + 0.5).floor()
    away = _middle_pixels(size, points.device) - centre[..., None, None]  # B P (x, y) n (two pixels)
    drawn = torch.exp(-away.square() / (2 * WIDTH**2)) * ((away >= REACH[0]) & (away <= REACH[1]))
    x, y = drawn.mean(-1).unbind(2)
    inside = ((centre >= 0) & (centre < CANVAS * size)).all(-1)
    return y[..., :, None] * (x * inside[..., None])[..., None, :]


def _middle_pixels(size: int, device: torch.device) -> Float[Tensor, "n 2"]:
    """The two canvas pixels in the middle of each map position, along one axis."""
    first = torch.arange(size, device=device) * float(CANVAS) + CANVAS // 2 - 1
    return torch.stack([first, first + 1], -1)


def edge_maps(points: Float[Tensor, "B P 2"], table: PointTable, size: int) -> Float[Tensor, "B E n n"]:
    """A smooth line of one canvas pixel's width along each edge, anti-aliased.

    A canvas pixel holds how much of it the line covers, taken as one less the distance of its centre from the line.
    """
    if not table.edges:
        return points.new_zeros(len(points), 0, size, size, dtype=torch.float32)
    pixels = canvas_pixels(points.float(), size)
    lines = (smooth_line(pixels[:, list(edge.points)], closed=edge.closed) for edge in table.edges)
    return torch.stack([_drawn(line, size) for line in lines], 1)


def _drawn(line: Float[Tensor, "B L 2"], size: int) -> Float[Tensor, "B n n"]:
    """A map with the straight pieces of a line, each drawn on the map positions near its middle.

    Of every position two by two canvas pixels are drawn. Axes: rows w, their pixels 2, columns w, theirs 2, B and
    pieces L, because arithmetic is fast where the last axes are long.
    """
    start, along = line[:, :-1], line.diff(dim=1)
    half = float(along.abs().max()) / 2
    # A line reaches one pixel beyond its ends, and the pixels of a position are its second and third.
    offset = torch.arange(-int((half + 3) / CANVAS), int(half / CANVAS) + 2, device=line.device)
    middle = ((start + along / 2) / CANVAS).floor().long()
    two = torch.arange(2, device=line.device)[:, None, None]
    column, row = (middle[..., axis] + offset[:, None, None] for axis in (0, 1))  # w B L
    x, y = (
        (place * CANVAS + CANVAS // 2 - 1)[:, None] + two - start[..., axis] for axis, place in enumerate((column, row))
    )
    y = y[:, :, None, None]
    dx, dy = along.unbind(-1)
    share = ((x * dx + y * dy) / (dx * dx + dy * dy).clamp(min=1e-12)).clamp(0, 1)
    covered = (1 - ((x - share * dx).square() + (y - share * dy).square()).sqrt()).clamp(min=0)
    inside = ((column >= 0) & (column < size)) & ((row >= 0) & (row < size))[:, None, None]
    covered = covered * inside[:, :, :, None]
    # Into B maps of n n 2 2 values one after the other.
    face = torch.arange(len(line), device=line.device)[:, None] * (4 * size * size)
    across = 4 * column.clamp(0, size - 1)[:, None] + two
    down = 4 * size * row.clamp(0, size - 1)[:, None] + 2 * two
    index = down[:, :, None, None] + across + face
    maps = line.new_zeros(len(line) * 4 * size * size)
    maps.scatter_reduce_(0, index.flatten(), covered.flatten(), "amax")
    return maps.view(-1, size, size, 4).mean(-1)


def smooth_line(points: Float[Tensor, "B N 2"], *, closed: bool) -> Float[Tensor, "B L 2"]:
    """The cubic spline through the landmarks of an edge, SAMPLES straight pieces from one to the next.

    Its parameter is the length of the chords; a closed line is periodic, an open one has no break in its third
    derivative at the second and the last but one landmark ("not a knot"), as SciPy's `splprep` with s=0.
    """
    knots = torch.cat([points, points[:, :1]], 1) if closed else points
    chords = knots.diff(dim=1)
    step = chords.norm(dim=-1).clamp(min=1e-3)
    bend = _second_derivatives(chords / step[..., None], step, closed=closed)
    part = torch.arange(SAMPLES, device=points.device) / SAMPLES
    a, b = (1 - part)[:, None], part[:, None]
    square = (step * step)[..., None, None] / 6
    here, there = bend[:, :-1, None], bend[:, 1:, None]
    inner = a * knots[:, :-1, None] + b * knots[:, 1:, None] + square * ((a**3 - a) * here + (b**3 - b) * there)
    return torch.cat([inner.flatten(1, 2), knots[:, -1:]], 1)


def _second_derivatives(
    slopes: Float[Tensor, "B M 2"], step: Float[Tensor, "B M"], *, closed: bool
) -> Float[Tensor, "B K 2"]:
    """Of the spline at its M + 1 knots, from the slopes and lengths of its M chords."""
    count = step.shape[1] + 1
    if count == 2:
        return slopes.new_zeros(len(slopes), 2, 2)
    matrix, right = step.new_zeros(len(step), count, count), slopes.new_zeros(len(step), count, 2)
    inner = torch.arange(1, count - 1, device=step.device)
    before, after = step[:, :-1], step[:, 1:]
    matrix[:, inner, inner - 1], matrix[:, inner, inner], matrix[:, inner, inner + 1] = (
        before,
        2 * (before + after),
        after,
    )
    right[:, 1:-1] = 6 * slopes.diff(dim=1)
    if closed:
        last, first = step[:, -1], step[:, 0]
        matrix[:, 0, -2], matrix[:, 0, 0], matrix[:, 0, 1] = last, 2 * (last + first), first
        right[:, 0] = 6 * (slopes[:, 0] - slopes[:, -1])
        matrix[:, -1, -1], matrix[:, -1, 0] = 1, -1
    elif count == 3:  # a parabola
        matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, -1, -1], matrix[:, -1, -2] = 1, -1, 1, -1
    else:
        for end, one, two, h1, h2 in ((0, 1, 2, step[:, 0], step[:, 1]), (-1, -2, -3, step[:, -1], step[:, -2])):
            matrix[:, end, end], matrix[:, end, one], matrix[:, end, two] = h2, -(h1 + h2), h1
    exact = torch.float32 if slopes.device.type == "mps" else torch.float64  # which Apple's GPUs do not have
    return torch.linalg.solve(matrix.to(exact), right.to(exact)).to(slopes.dtype)


def edges_of(points: int, edges: tuple[Edge, ...]) -> Float[Tensor, "P E"]:
    """1 where a landmark is on an edge."""
    on = torch.zeros(points, len(edges))
    for number, edge in enumerate(edges):
        on[list(edge.points), number] = 1
    return on


def adaptive_wing(
    maps: Float[Tensor, "B M n n"], truth: Float[Tensor, "B M n n"], *, weighted: bool = True
) -> Float[Tensor, ""]:
    """Adaptive Wing loss, mean over everything; errors near the truth's bright places weigh more (Sec. 4.2, 4.3)."""
    with torch.autocast(maps.device.type, enabled=False):
        error = (maps.float() - truth).abs()
        power = ALPHA - truth
        # Up to THETA the curve, from there on its tangent. ln(1 + x ** power) is softplus(power * ln x), in far fewer
        # passes than with `pow`.
        straight = error >= THETA
        curved = F.softplus(power * (error.clamp(min=1e-12).masked_fill(straight, THETA) / CURVE).log())
        at_theta = (power * math.log(THETA / CURVE)).exp()
        slope = power * at_theta / (1 + at_theta) / THETA
        # No clamp and no relu at THETA: whether their gradient is 0 or 1 there differs between releases of torch.
        loss = OMEGA * (curved + slope * (error - THETA).masked_fill(~straight, 0))
        if weighted:
            loss = loss * (1 + EXTRA * _near(truth >= HARD))
        return loss.mean()


def _near(where: Bool[Tensor, "B M n n"]) -> Float[Tensor, "B M n n"]:
    """1 where a position or one of its eight neighbours is True: max pooling of 3 x 3."""
    rows = where.clone()
    rows[..., 1:, :] |= where[..., :-1, :]
    rows[..., :-1, :] |= where[..., 1:, :]
    near = rows.clone()
    near[..., 1:] |= rows[..., :-1]
    near[..., :-1] |= rows[..., 1:]
    return near.float()
