"""Temperatures and calibration errors, on outputs whose certainty is known."""

import math

import pytest
import torch

from fra.tasks.attributes import Attributes
from fra.tasks.expression import Expression
from fra.tasks.landmarks import Landmarks
from fra.transfer.calibration import FEWEST, calibration, calibration_error, fit_temperature, tempered

TWO = Expression(("a", "b"))


def coin(stated: float, right: float, count: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs that state a probability for class 0, and classes of which a share is 0."""
    outputs = torch.tensor([math.log(stated), math.log(1 - stated)]).repeat(count, 1)
    return outputs, (torch.arange(count) >= right * count).long()


def test_the_error_is_the_distance_of_stated_and_true_certainty() -> None:
    assert calibration_error(TWO, *coin(0.9, 0.6)) == pytest.approx(30, abs=0.01)
    assert calibration_error(TWO, *coin(0.7, 0.7)) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("stated, right", [(0.99, 0.75), (0.6, 0.9)])
def test_the_temperature_makes_stated_certainty_true_and_changes_no_decision(stated: float, right: float) -> None:
    outputs, targets = coin(stated, right)
    temperature = fit_temperature(TWO, outputs, targets)
    assert temperature == pytest.approx(math.log(stated / (1 - stated)) / math.log(right / (1 - right)), rel=1e-3)
    found = calibration(TWO, outputs, targets, temperature=temperature, held_out=7)
    assert found is not None
    assert found["error"] == pytest.approx(0, abs=0.1)
    assert found["error_uncalibrated"] == pytest.approx(100 * abs(stated - right), abs=0.1)
    assert found["held_out_images"] == 7
    assert TWO.answer(tempered(outputs[0], temperature), width=1, height=1)["expression"] == "a"


def test_attributes_have_one_temperature_and_unknown_answers_do_not_count() -> None:
    task = Attributes(("hat", "beard"))
    sure = torch.full((400, 2), 3.0)
    targets = torch.tensor([[1.0, math.nan]]).repeat(400, 1)
    targets[:100, 0] = 0
    assert fit_temperature(task, sure, targets) == pytest.approx(3 / math.log(3), rel=1e-3)
    assert calibration_error(task, sure, targets) == pytest.approx(100 * (1 / (1 + math.exp(-3)) - 0.75), abs=0.01)


def test_no_temperature_without_probabilities_or_faces() -> None:
    assert fit_temperature(Landmarks(68), torch.zeros(99, 136), torch.zeros(99, 68, 2)) is None
    assert fit_temperature(TWO, *coin(0.9, 0.5, count=FEWEST - 2)) is None
    outputs, unknown = coin(0.9, 0.5)[0], torch.full((1000,), -1)
    assert fit_temperature(TWO, outputs, unknown) is None
    assert calibration(TWO, outputs, unknown, temperature=None, held_out=0) is None
    assert torch.equal(tempered(outputs, None), outputs)
