"""Point and edge maps, and Adaptive Wing: published numbers, and the fast way against the plain one."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.interpolate import splev, splprep
from torch import Tensor
from torch.testing import assert_close

from fra.drawing.drawn_face import draw_face
from fra.tasks.point_tables import POINT_TABLES, Edge
from fra.transfer.alignment.maps import (
    SAMPLES,
    adaptive_wing,
    canvas_pixels,
    edge_maps,
    edges_of,
    point_maps,
    smooth_line,
)


def drawn(count: int, name: str = "points68") -> Tensor:
    """Points of drawn faces in [-1, 1] from edge to edge."""
    return torch.stack([(getattr(draw_face(seed), name) + 0.5) * 2 / 128 - 1 for seed in range(count)])


def value(number: float) -> Tensor:
    return torch.full((1, 1, 1, 1), number)


# Adaptive Wing


@pytest.mark.parametrize("found, truth, loss", [(0.7, 1.0, 3.301746), (0.1, 0.0, 0.110766), (0.9, 0.0, 7.383803)])
def test_the_golden_values_of_adaptive_wing(found: float, truth: float, loss: float) -> None:
    assert_close(adaptive_wing(value(found), value(truth), weighted=False), torch.tensor(loss), atol=1e-5, rtol=0)


def test_positions_near_bright_ones_weigh_eleven_times() -> None:
    truth, found = torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.1)
    truth[0, 0, 3, 3], truth[0, 0, 3, 4], found[0, 0, 3, 3] = 1, 0.5, 0.7
    assert_close(adaptive_wing(found, truth), torch.tensor(1.347620), atol=1e-5, rtol=0)
    assert_close(adaptive_wing(found, truth, weighted=False), torch.tensor(0.204327), atol=1e-5, rtol=0)
    # rows 2 to 4 and columns 2 to 5 weigh 11: what they and the others add, each alone
    inside = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    inside[:, :, 2:5, 2:6] = True
    each = [
        adaptive_wing(one.view(1, 1, 1, 1), other.view(1, 1, 1, 1), weighted=False)
        for one, other in zip(found.flatten(), truth.flatten(), strict=True)
    ]
    assert_close(adaptive_wing(found, truth), (torch.stack(each) * (1 + 10 * inside.flatten())).mean())


def test_gradients_of_adaptive_wing_are_those_of_finite_differences_on_both_sides_of_its_corner() -> None:
    truth = torch.tensor([0.0, 0.0, 1.0, 0.5, 1.0]).view(1, 5, 1, 1)
    found = torch.tensor([0.3, 0.8, 0.9, 0.2, 0.1]).view(1, 5, 1, 1).requires_grad_()
    adaptive_wing(found, truth).backward()
    assert found.grad is not None
    for place in range(5):
        around = []
        for sign in (1, -1):
            other = found.detach().clone()
            other[0, place] += sign * 1e-3
            around.append(float(adaptive_wing(other, truth)))
        assert float(found.grad[0, place]) == pytest.approx((around[0] - around[1]) / 2e-3, rel=1e-2)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("truth, slope", [(1.0, 9.797850), (0.0, 11.121422), (0.5, 11.112673)])
@pytest.mark.parametrize("side", [1, -1])
def test_an_error_of_exactly_a_half_is_learned_from(
    precision: torch.dtype, truth: float, slope: float, side: int
) -> None:
    # There the curve meets its tangent: 14 p .5^p / (1 + .5^p) / .5 with p = 2.1 - truth; for truth 1
    # 14 x 1.1 x .466517 / 1.466517 / .5. A mean over two by five by 32 by 32 positions of weight 11 has -.0105 each.
    found = torch.tensor([truth + side * 0.5], dtype=precision).view(1, 1, 1, 1).requires_grad_()
    adaptive_wing(found, value(truth), weighted=False).backward()
    assert found.grad is not None
    assert float(found.grad) == pytest.approx(side * slope, rel=5e-3 if precision.itemsize == 2 else 1e-6)
    if truth == 1 and side == -1:
        many = torch.full((2, 5, 32, 32), 0.5, dtype=precision, requires_grad=True)
        adaptive_wing(many, torch.ones(2, 5, 32, 32)).backward()
        assert many.grad is not None
        assert float(many.grad[0, 0, 3, 3]) == pytest.approx(-0.010525, rel=5e-3)


def test_a_perfect_map_costs_nothing_and_its_gradient_is_finite() -> None:
    found = torch.tensor([0.0, 0.25, 1.0]).view(1, 3, 1, 1).requires_grad_()
    loss = adaptive_wing(found, found.detach().clone())
    loss.backward()
    assert float(loss.detach()) < 1e-6
    assert found.grad is not None
    assert found.grad.isfinite().all()


# Point maps


def test_a_landmark_is_drawn_as_the_mean_of_four_canvas_pixels_around_its_nearest() -> None:
    # Canvas of 32 pixels. Pixel 13.4, 18.6 is nearest to 13, 19.
    points = torch.tensor([[[(13.4 + 0.5) / 16 - 1, (18.6 + 0.5) / 16 - 1]]])
    assert_close(canvas_pixels(points, 8), torch.tensor([[[13.4, 18.6]]]))
    canvas = torch.zeros(32, 32)
    for y in range(19 - 5, 19 + 5):
        for x in range(13 - 5, 13 + 5):
            canvas[y, x] = np.exp(-((x - 13) ** 2 + (y - 19) ** 2) / 4.5)
    small = torch.nn.functional.interpolate(canvas[None, None], size=(8, 8), mode="bilinear", align_corners=False)
    assert_close(point_maps(points, 8), small)


def test_the_peak_stays_at_its_landmark_near_every_border() -> None:
    pixels = torch.tensor([[0.0, 0.0], [1.0, 30.0], [30.0, 1.0], [31.0, 31.0]])
    maps = point_maps(((pixels + 0.5) / 16 - 1)[None], 8)[0]
    peaks = [divmod(int(one.argmax()), 8)[::-1] for one in maps]
    assert peaks == [(0, 0), (0, 7), (7, 0), (7, 7)]


def test_landmarks_outside_are_not_drawn() -> None:
    points = torch.tensor([[[-1.01, 0.0], [0.0, 1.3], [-0.99, 0.0]]])
    assert_close(point_maps(points, 8).amax((2, 3))[0, :2], torch.zeros(2))
    assert float(point_maps(points, 8)[0, 2].max()) > 0.3


# Edges


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("first, count", [(0, 17), (36, 6), (27, 4), (31, 5)])
def test_an_edge_is_scipys_spline(closed: bool, first: int, count: int) -> None:
    points = (drawn(1) * 64)[:, first : first + count]
    line = smooth_line(points, closed=closed)[0]
    knots = torch.cat([points[0], points[0, :1]]) if closed else points[0]
    spline, places = splprep(knots.double().T.numpy(), s=0, per=closed)
    steps = [np.linspace(a, b, SAMPLES, endpoint=False) for a, b in pairwise(places)]
    expected = np.stack(splev(np.concatenate([*steps, places[-1:]]), spline), 1)
    assert_close(line.double(), torch.from_numpy(expected), atol=1e-4, rtol=0)


def test_three_landmarks_are_joined_by_a_parabola_and_two_by_a_line() -> None:
    # Chords of equal length: the parabola through (-1, 1), (0, 0), (1, 1) is y = x * x
    x, y = smooth_line(torch.tensor([[[-1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]]), closed=False)[0].T
    assert_close(y, x * x, atol=1e-5, rtol=0)
    line = smooth_line(torch.tensor([[[0.0, 0.0], [5.0, 10.0]]]), closed=False)[0]
    assert_close(line, torch.arange(6.0)[:, None] * torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("count, name", [(68, "points68"), (98, "points98")])
def test_edge_maps_hold_the_nearest_distance_to_the_line(count: int, name: str) -> None:
    size, table = 16, POINT_TABLES[count]
    points = drawn(2, name) * torch.tensor([1.3, 0.9])  # some are outside
    maps = edge_maps(points, table, size)
    middle = torch.arange(size)[:, None] * 4 + torch.tensor([1, 2])  # the two pixels in the middle of each position
    y, x = torch.meshgrid(middle.flatten().float(), middle.flatten().float(), indexing="ij")
    pixels = torch.stack([x, y], -1).view(1, 1, -1, 2)
    for number, edge in enumerate(table.edges):
        line = smooth_line(canvas_pixels(points[:, list(edge.points)], size), closed=edge.closed)
        start, along = line[:, :-1, None], line.diff(dim=1)[:, :, None]
        share = ((pixels - start) * along).sum(-1) / along.square().sum(-1)
        distance = (pixels - start - share.clamp(0, 1)[..., None] * along).norm(dim=-1).amin(1)
        expected = (1 - distance).clamp(min=0).view(2, size, 2, size, 2).mean((2, 4))
        assert_close(maps[:, number], expected, atol=1e-4, rtol=0)
    assert float(maps.max()) <= 1
    assert (maps.amax((2, 3)) > 0.3).float().mean() > 0.9


def test_maps_of_a_mirrored_face_are_mirrored() -> None:
    points = drawn(2)
    order = list(POINT_TABLES[68].flip)
    mirrored = points[:, order] * torch.tensor([-1.0, 1.0])
    # A Gaussian is drawn from -5 to 4 about its peak, the mirrored one from -4 to 5: exp(-25 / 4.5) is .004.
    assert float((point_maps(mirrored, 16)[:, order] - point_maps(points, 16).flip(-1)).abs().max()) < 0.004
    edges = [0, 2, 1, 3, 4, 6, 5, 7, 8]  # brows and eyes change places
    table = POINT_TABLES[68]
    assert_close(edge_maps(mirrored, table, 16)[:, edges], edge_maps(points, table, 16).flip(-1), atol=1e-3, rtol=0)


def test_landmarks_in_one_place_leave_a_finite_map() -> None:
    points = torch.zeros(1, 68, 2)
    assert edge_maps(points, POINT_TABLES[68], 8).isfinite().all()


def test_which_landmark_is_on_which_edge() -> None:
    on = edges_of(5, (Edge((0, 1, 2), closed=False), Edge((2, 3), closed=True)))
    assert on.tolist() == [[1, 0], [1, 0], [1, 1], [0, 1], [0, 0]]
