"""Confidence of landmarks: planted heatmap widths whose worth is known."""

import math

import pytest
import torch

from fra.tasks.landmarks import Landmarks
from fra.transfer.alignment.certainty import WITHIN, Certainty, certainty_error, fit_certainty, right

EYES = (0, 1)


def faces(count: int, points: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Found points, variances, true points. A point's error is normal with the stated variance; eyes are .5 apart."""
    noise = torch.Generator().manual_seed(seed)
    truth = torch.rand(count, points, 2, generator=noise)
    truth[:, 0], truth[:, 1] = torch.tensor([-0.25, 0.0]), torch.tensor([0.25, 0.0])
    variances = 10 ** (-5 + 3 * torch.rand(count, points, generator=noise))
    variances[:, :2] = 1e-8
    errors = torch.randn(count, points, 2, generator=noise) * (variances / 2).sqrt()[..., None]
    return truth + errors, variances, truth


def test_what_counts_as_right_is_measured_in_true_eye_distances() -> None:
    truth = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [1.0, 1.0]]])
    off = torch.tensor([[0.0, 0.0], [0.0, 2 * WITHIN * 0.99], [2 * WITHIN * 1.01, 0.0]])
    assert right(truth + off, truth, EYES).tolist() == [[True, True, False]]


def test_stated_certainty_is_true_on_other_faces_and_falls_with_the_width() -> None:
    fitted = fit_certainty(*faces(400, 12), EYES)
    assert fitted is not None
    assert fitted.slope < -1
    points, variances, truth = faces(400, 12, seed=1)
    stated, hit = fitted(points, variances, EYES), right(points, truth, EYES)
    assert certainty_error(stated, hit) < 3
    constant = torch.full_like(stated, float(hit.float().mean()))
    assert ((stated - hit.float()) ** 2).mean() < 0.75 * ((constant - hit.float()) ** 2).mean()


def test_the_unit_of_places_does_not_matter() -> None:
    points, variances, _ = faces(3, 5)
    certainty = Certainty(-3.0, -2.0)
    assert torch.allclose(certainty(points, variances, EYES), certainty(points * 40, variances * 1600, EYES), atol=1e-5)
    expected = 1 / (1 + math.exp(3 + 2 * math.log(0.1)))
    one = certainty(torch.tensor([[[0.0, 0.0], [2.0, 0.0]]]), torch.full((1, 2), 0.04), EYES)
    assert one[0, 0].item() == pytest.approx(expected, rel=1e-5)


def test_nothing_is_claimed_of_few_faces_or_when_all_are_right() -> None:
    assert fit_certainty(*faces(49, 5), EYES) is None
    points, variances, truth = faces(60, 5)
    assert fit_certainty(truth, variances, truth, EYES) is None
    assert fit_certainty(points, variances, truth, EYES) is not None


def test_an_answer_has_the_confidence_of_each_point_behind_the_places() -> None:
    task = Landmarks(2, normaliser="pair", pair=(0, 1), names=("a", "b"))
    output = torch.tensor([-1.0, -1.0, 1.0, 1.0, 0.25, 0.75])
    answer = task.answer(output, width=10, height=20)
    assert answer == {"landmarks": [[-0.5, -0.5], [9.5, 19.5]], "confidence": [0.25, 0.75]}
    assert "confidence" not in task.answer(output[:4], width=10, height=20)
