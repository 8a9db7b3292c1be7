"""STAR loss: published numbers, the closed form against an eigenvalue solver, gradients against finite differences."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fra.transfer.alignment.star_loss import DISTANCES, grid, smooth_l1, soft_argmax, spread, star_loss, wing


def gaussian(x: float, y: float, long: float, short: float, degrees: float, size: int = 64) -> Tensor:
    """A Gaussian about (x, y), `long` wide in a direction turned by so many degrees."""
    places = torch.linspace(-1, 1, size)
    dy, dx = torch.meshgrid(places - y, places - x, indexing="ij")
    turn = math.radians(degrees)
    along, across = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
    return torch.exp(-(along.square() / long**2 + across.square() / short**2) / 2)


def two_maps() -> Tensor:
    return torch.stack([gaussian(0.1, -0.2, 0.2, 0.05, 30), gaussian(0.3, 0.3, 0.1, 0.1, 0)])[None]


TRUTH = torch.tensor([[[0.15, -0.15], [0.3, 0.35]]])


def test_the_expected_place_of_two_values_is_between_them() -> None:
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 1, 2], maps[0, 0, 1, 3] = 3, 1
    # the grid is -1, -1/3, 1/3, 1; x = (3 * 1/3 + 1 * 1) / 4, y = -1/3
    assert_close(soft_argmax(maps)[0, 0], torch.tensor([0.5, -1 / 3]))
    # edge to edge it is -3/4, -1/4, 1/4, 3/4
    assert_close(soft_argmax(maps, consistent=True)[0, 0], torch.tensor([0.375, -0.25]))


def test_an_empty_map_answers_the_middle_and_has_a_finite_loss() -> None:
    maps = torch.zeros(1, 1, 8, 8, requires_grad=True)
    assert_close(soft_argmax(maps).detach(), torch.zeros(1, 1, 2))
    star_loss(maps, torch.full((1, 1, 2), 0.5)).backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_the_covariance_of_the_golden_maps() -> None:
    found = spread(two_maps())
    assert_close(found.mean[0], torch.tensor([[0.1, -0.2], [0.3, 0.3]]), atol=1e-5, rtol=0)
    expected = torch.tensor([[0.002520, 0.040323], [0.010081, 0.010081]])
    assert_close(found.variances[0], expected, atol=2e-6, rtol=0)
    # n diag(variances) n^T is the covariance again
    back = found.directions.mT @ found.variances.diag_embed() @ found.directions
    assert_close(back[0, 0], torch.tensor([[0.030873, 0.016369], [0.016369, 0.011971]]), atol=2e-6, rtol=0)


def test_the_golden_loss() -> None:
    maps, truth = two_maps(), TRUTH
    along = [star_loss(maps[:, [k]], truth[:, [k]], weight=0.0) for k in (0, 1)]
    assert_close(along[0], torch.tensor(0.579627), atol=5e-5, rtol=0)
    assert_close(along[1], torch.tensor(0.447970), atol=5e-5, rtol=0)
    variances = [star_loss(maps[:, [k]], truth[:, [k]]) - along[k] for k in (0, 1)]
    assert_close(torch.stack(variances), torch.tensor([0.042844, 0.020162]), atol=5e-5, rtol=0)
    assert_close(star_loss(maps, truth), torch.tensor(0.545301), atol=5e-5, rtol=0)


def test_the_gradient_of_a_map_whose_narrow_axis_is_x_has_the_sign_of_finite_differences() -> None:
    """STAR's program multiplies by rows of eigenvectors there, which turns the sign (spec alignment.md, section 2)."""
    maps, truth = gaussian(0, 0, 0.15, 0.08, 90, 16)[None, None].double(), torch.tensor([[[0.05, 0.1]]])
    for place in [(0, 0, 9, 10), (0, 0, 6, 8), (0, 0, 11, 7), (0, 0, 4, 5)]:
        around = []
        for sign in (1, -1):
            other = maps.clone()
            other[place] += sign * 5e-3
            around.append(float(star_loss(other, truth, weight=0.0)))
        learned = maps.clone().requires_grad_()
        star_loss(learned, truth, weight=0.0).backward()
        assert learned.grad is not None
        assert float(learned.grad[place]) == pytest.approx((around[0] - around[1]) / 1e-2, rel=3e-2, abs=2e-5)


def test_variances_and_directions_are_those_of_an_eigenvalue_solver() -> None:
    maps = torch.rand(4, 5, 12, 12) ** 4
    found = spread(maps)
    covariance = found.directions.mT @ found.variances.diag_embed() @ found.directions
    values, vectors = torch.linalg.eigh(covariance.double())
    assert_close(found.variances.double(), values, atol=1e-6, rtol=1e-5)
    # the same lines, whichever way they point: columns there, rows here
    agreement = (found.directions.double() * vectors.mT).sum(-1).abs()
    assert_close(agreement, torch.ones_like(agreement), atol=1e-4, rtol=0)
    # and the covariance is the weighted one of the map, with the unbiased norm
    shares = maps / maps.sum((2, 3), keepdim=True)
    places = grid(12, like=maps)
    where = torch.stack(torch.meshgrid(places, places, indexing="xy"), -1) - found.mean[:, :, None, None]
    norm = (1 + 1e-5) - (shares.square().sum((2, 3)) + 1e-5) / (1 + 1e-5)
    by_hand = torch.einsum("bphw,bphwi,bphwj->bpij", shares, where, where) / norm[..., None, None]
    assert_close(covariance, by_hand, atol=1e-6, rtol=1e-5)


def test_distances_at_hand() -> None:
    errors = torch.tensor([0.005, 0.01, 0.05, -0.05])
    assert_close(smooth_l1(errors), torch.tensor([0.00125, 0.005, 0.045, 0.045]))
    assert_close(DISTANCES["l1"](errors), torch.tensor([0.005, 0.01, 0.05, 0.05]))
    assert_close(DISTANCES["l2"](errors), torch.tensor([2.5e-5, 1e-4, 2.5e-3, 2.5e-3]))
    # 10 and 2 pixels of 256 are 10 / 128 and 2 / 128: one pixel's error is 10 / 128 * ln 1.5
    assert_close(wing(torch.tensor([1 / 128])), torch.tensor([10 / 128 * math.log(1.5)]))
    # the curve and the line meet at 10 pixels
    assert_close(wing(torch.tensor([10 / 128 + 1e-6])), torch.tensor([10 / 128 * math.log(6)]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "distance, expected",
    [
        ("smooth_l1", 0.49805 - 0.005),  # of the length, which lies beyond .01
        ("wing", 0.49805 - 10 / 128 + 10 / 128 * math.log(6)),  # of the length, which lies beyond ten pixels
        ("l1", (0.36385 + 0.34009) / 2),  # of both, the mean
        ("l2", (0.36385**2 + 0.34009**2) / 2),
    ],
)
def test_the_earlier_form_divides_the_error_first_and_then_measures_the_pair(distance: str, expected: float) -> None:
    # Of the first golden map, wide at 30 degrees, the error is .05 in x and in y:
    # across .05 (cos 30 - sin 30) = .018301, along .05 (cos 30 + sin 30) = .068301.
    # Over the roots of the variances, .002520 and .040323 with 1e-5 each: .36385 and .34009, together .49805 long.
    maps, truth = two_maps()[:, :1], TRUTH[:, :1]
    loss = star_loss(maps, truth, form="v1", distance=distance, weight=0.0)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("distance", list(DISTANCES))
def test_the_earlier_form_has_no_gradient_where_the_map_is_right_and_a_finite_one(distance: str) -> None:
    maps = two_maps().requires_grad_()
    star_loss(maps, spread(maps.detach()).mean, form="v1", distance=distance).backward()  # type: ignore[arg-type]
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize("form", ["v1", "v2"])
@pytest.mark.parametrize("distance", list(DISTANCES))
def test_gradients_are_those_of_finite_differences(form: str, distance: str) -> None:
    maps = torch.stack([gaussian(0.1, -0.2, 0.5, 0.25, 30, 6), gaussian(-0.2, 0.3, 0.6, 0.3, -50, 6)])[None] + 0.05
    truth = torch.tensor([[[0.4, 0.1], [-0.5, -0.2]]])
    maps.requires_grad_()
    star_loss(maps, truth, form=form, distance=distance).backward()  # type: ignore[arg-type]
    assert maps.grad is not None
    step = 1e-2
    for place in [(0, 0, 2, 3), (0, 0, 0, 0), (0, 1, 4, 2), (0, 1, 5, 5)]:
        around = []
        for sign in (1, -1):
            other = maps.detach().clone()
            other[place] += sign * step
            around.append(float(star_loss(other, truth, form=form, distance=distance)))  # type: ignore[arg-type]
        assert float(maps.grad[place]) == pytest.approx((around[0] - around[1]) / (2 * step), rel=2e-2, abs=2e-4)


@pytest.mark.parametrize("form", ["v1", "v2"])
@pytest.mark.parametrize("distance", list(DISTANCES))
def test_gradients_of_round_and_of_flat_maps_are_finite_and_small(form: str, distance: str) -> None:
    single = torch.zeros(64, 64)
    single[20, 30] = 1
    maps = torch.stack([gaussian(0.3, 0.3, 0.1, 0.1, 0), torch.ones(64, 64), single])[None].requires_grad_()
    truth = torch.tensor([[[0.3, 0.35], [0.2, -0.4], [0.1, 0.1]]])
    star_loss(maps, truth, form=form, distance=distance).backward()  # type: ignore[arg-type]
    assert maps.grad is not None
    assert maps.grad.isfinite().all()
    assert float(maps.grad[:, :2].abs().max()) < 5


def test_half_precision_maps_are_taken_in_32_bits() -> None:
    maps = two_maps()
    assert star_loss(maps.bfloat16(), TRUTH).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(star_loss(maps, TRUTH), torch.tensor(0.545301), atol=5e-5, rtol=0)


def test_the_loss_of_a_mirrored_map_is_the_same() -> None:
    mirrored = star_loss(two_maps().flip(-1), TRUTH * torch.tensor([-1.0, 1.0]))
    assert_close(mirrored, star_loss(two_maps(), TRUTH), atol=5e-5, rtol=0)


def test_a_wide_map_forgives_along_its_width_and_not_across() -> None:
    maps = gaussian(0, 0, 0.3, 0.05, 0)[None, None]
    along, across = (float(star_loss(maps, torch.tensor([[place]]), weight=0.0)) for place in ([0.1, 0.0], [0.0, 0.1]))
    assert across > 4 * along


def test_no_nearly_round_map_outweighs_a_batch() -> None:
    norms = []
    for stretch in (1.5, 1.05, 1.021, 1.01, 1.001, 1.0):
        maps = gaussian(0.3, 0.3, 0.1 * stretch, 0.1, 20)[None, None].requires_grad_()
        star_loss(maps, torch.tensor([[[0.33, 0.35]]])).backward()
        assert maps.grad is not None
        norms.append(float(maps.grad.norm()))
    assert max(norms) < 20 * norms[0]  # 17,000 times as much with a guard against division by zero alone
