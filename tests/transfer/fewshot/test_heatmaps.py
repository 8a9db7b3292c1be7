"""3FabRec's heatmaps: drawn, read, and faces that move, by hand."""

import math

import pytest
import torch
from torch.testing import assert_close

from fra.transfer.fewshot.heatmaps import REACH, SHEAR, SHIFT, TURN, ZOOM, gaussians, moves, peaks


def test_a_gaussian_is_1_at_its_place_and_falls_with_the_distance() -> None:
    # Position 2 of 8 lies at (2 * 2 + 1) / 8 - 1 = -.375, position 5 at .375.
    maps = gaussians(torch.tensor([[[-0.375, 0.375]]]), 8, sigma=1.5)
    assert maps.shape == (1, 1, 8, 8)
    assert maps[0, 0, 5, 2] == 1
    assert_close(maps[0, 0, 5, 4], torch.tensor(math.exp(-(2**2) / (2 * 1.5**2))))
    assert_close(maps[0, 0, 3, 1], torch.tensor(math.exp(-(2**2 + 1) / (2 * 1.5**2))))


def test_peaks_are_found_at_the_centres_of_positions_as_published() -> None:
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 0, 5, 2] = maps[0, 1, 0, 7] = 1.0
    found = peaks(maps, box=1, between=False)
    assert_close(found, torch.tensor([[[-0.375, 0.375], [0.875, -0.875]]]))


def test_the_mean_over_a_box_has_nothing_beyond_the_border() -> None:
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 0, 0] = 1.0  # alone: of the 9 means that hold it the first is taken
    maps[0, 0, 5:7, 4:7] = 0.5  # six of these are more
    assert_close(peaks(maps, box=3, between=False), torch.tensor([[[2 * 5.5 / 8 - 1, 2 * 5.5 / 8 - 1]]]))
    assert_close(peaks(maps, box=1, between=False), torch.tensor([[[-0.875, -0.875]]]))


def test_between_positions_the_top_of_a_parabola_is_taken() -> None:
    # Through (-1, .5), (0, 1), (1, .75): the top is at (.75 - .5) / (2 * (2 - .5 - .75)) = 1/6.
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 4, 2:5] = torch.tensor([0.5, 1.0, 0.75])
    assert_close(peaks(maps, box=1, between=True)[0, 0, 0], torch.tensor((2 * (3 + 1 / 6) + 1) / 8 - 1))
    corner = torch.zeros(1, 1, 8, 8)
    corner[0, 0, 0, 0] = 1.0
    assert_close(peaks(corner, box=1, between=True), torch.tensor([[[-0.875, -0.875]]]))
    assert peaks(torch.ones(1, 1, 8, 8), box=1, between=True).isfinite().all()


def test_places_are_found_again_within_a_twentieth_of_a_position() -> None:
    points = torch.empty(2, 50, 2).uniform_(-0.7, 0.7, generator=torch.Generator().manual_seed(0))
    found = peaks(gaussians(points, 32, sigma=1.75), box=3, between=True)
    assert (found - points).abs().max() < 0.05 * 2 / 32
    coarse = peaks(gaussians(points, 32, sigma=1.75), box=3, between=False)
    assert (coarse - points).abs().max() <= 0.5 * 2 / 32 + 1e-6


def test_moves_stay_within_their_bounds_and_within_reach() -> None:
    torch.manual_seed(0)
    matrix, mirrored = moves(5000)
    inner = matrix[:, :, :2]
    turn = torch.atan2(inner[:, 1, 0], inner[:, 0, 0]).rad2deg()
    zoom = inner[:, :, 0].norm(dim=1)
    assert turn.abs().max() <= TURN + 1e-3
    assert turn.abs().max() > 0.99 * TURN
    assert ZOOM[0] - 1e-4 <= zoom.min() < zoom.max() <= ZOOM[1] + 1e-4
    assert_close(inner.det(), zoom**2)  # a shear keeps areas
    assert matrix[:, :, 2].abs().max() <= 2 * SHIFT
    assert 0.45 < mirrored.float().mean() < 0.55
    shear = math.tan(math.radians(SHEAR))
    worst = math.sqrt(2) * (1 + shear) / ZOOM[0] + 2 * SHIFT / ZOOM[0]
    back = torch.linalg.inv(inner)
    shown = (back.abs().sum(2) + (back @ matrix[:, :, 2:])[..., 0].abs()).amax(1)
    assert shown.max() <= min(worst, REACH)
    assert pytest.approx(1.0, abs=0.02) == inner[:, 0, 0].mean().item() / zoom.mean().item() / 0.955  # mean cosine
