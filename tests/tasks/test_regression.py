"""Numbers of faces: scores worked out by hand, unknown targets left alone, ridge regression that finds a known line."""

import math

import pytest
import torch
from torch.testing import assert_close

from fra.tasks.attributes import Attributes
from fra.tasks.expression import Expression
from fra.tasks.metrics import attribute_accuracies, concordance, mean_absolute_error, pearson
from fra.tasks.regression import Regression
from fra.transfer.linear import TrainingViews, solve_by_ridge

NAN = math.nan
AGE = Regression(("age",), (40.0,), (10.0,))
TWO = Regression(("age", "valence"), (40.0, 0.0), (10.0, 0.5))


def test_scores_are_those_worked_out_by_hand() -> None:
    answers, truth = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 3.0, 7.0])
    # errors 1, 1, 4; deviations -1, 0, 1 and -2, -1, 3: variances 1 and 7 (n - 1), covariance 5 / 2, means 2 apart
    assert mean_absolute_error(answers, truth) == 2
    assert pearson(answers, truth) == pytest.approx(2.5 / math.sqrt(7))
    assert concordance(answers, truth) == pytest.approx(2 * 2.5 / (1 + 7 + 4))


def test_a_constant_answer_has_no_correlation() -> None:
    constant, truth = torch.full((3,), 0.1), torch.tensor([1.0, 2.0, 3.0])
    assert pearson(constant, truth) == concordance(constant, truth) == 0


def test_outputs_are_told_in_the_unit_of_the_labels() -> None:
    output = torch.tensor([0.5, -1.0])
    assert TWO.answer(output, width=1, height=1) == {"numbers": {"age": 45.0, "valence": -0.5}}
    metrics = AGE.metrics(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5], [0.0]]))
    assert metrics["mae"] == pytest.approx(7.5)  # 5 and 10 years
    columns = TWO.columns(output[None], torch.tensor([[NAN, 0.0]]))
    assert columns == {
        "true_age": [""],
        "predicted_age": ["45"],
        "true_valence": ["0"],
        "predicted_valence": ["-0.5"],
    }


def test_an_unknown_number_neither_teaches_nor_counts() -> None:
    outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    targets = torch.tensor([[NAN, 1.0], [1.0, NAN]])
    loss = TWO.criterion(outputs, targets)
    assert loss.item() == ((2 - 1) ** 2 + (3 - 1) ** 2) / 2
    loss.backward()
    assert_close(outputs.grad, torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    assert TWO.criterion(outputs, torch.full((2, 2), NAN)).item() == 0
    assert TWO.known(torch.tensor([[NAN, NAN], [NAN, 1.0]])).tolist() == [False, True]
    details = TWO.details(outputs.detach(), targets)["per_number"]
    assert details["age"]["answers"] == details["valence"]["answers"] == 1
    assert details["age"]["mae"] == pytest.approx(20)
    assert TWO.metrics(outputs.detach(), targets)["mae"] == pytest.approx((20 + 0.5) / 2)


def test_the_baseline_is_the_median_of_the_known_training_targets() -> None:
    baseline = AGE.baseline(torch.tensor([[0.0], [1.0], [5.0], [NAN]]), torch.tensor([[0.0], [2.0]]))
    assert baseline.metrics == {"mae": 10.0, "ccc": 0.0, "pearson": 0.0}


@pytest.mark.parametrize("unknown", [False, True])
def test_ridge_finds_a_line_from_the_targets_that_are_known(unknown: bool) -> None:
    features = torch.randn(1, 60, 3)
    targets = features[0] @ torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]) + torch.tensor([0.5, -1.0])
    truth = targets.clone()
    if unknown:
        targets[::3, 0] = NAN
        targets[1::5, 1] = NAN
    head = TWO.head(3)
    log = solve_by_ridge(head, TrainingViews(features, targets[None]), seed=0)
    assert_close(head(features[0]), truth, atol=0.01, rtol=0)
    assert sum(row["chosen"] for row in log) == (2 if unknown else 1)


def test_an_output_without_any_target_answers_the_centre() -> None:
    head = TWO.head(3)
    targets = torch.stack((torch.randn(20), torch.full((20,), NAN)), 1)
    solve_by_ridge(head, TrainingViews(torch.randn(1, 20, 3), targets[None]), seed=0)
    assert head.weight[1].tolist() == [0, 0, 0]
    assert head.bias[1].item() == 0


def test_the_picture_shows_each_number(tmp_path) -> None:
    outputs, targets = torch.randn(5, 2), torch.tensor([[NAN, 1.0]] * 5)
    TWO.picture(outputs, targets, []).savefig(tmp_path / "regression.png")


def test_attributes_that_are_not_known_neither_teach_nor_count() -> None:
    task = Attributes(("hat", "beard"))
    logits = torch.tensor([[2.0, -2.0], [2.0, 2.0], [2.0, 2.0]])
    known = torch.tensor([[1.0, 0.0], [NAN, 1.0], [0.0, NAN]])
    assert attribute_accuracies(logits, known).tolist() == [50, 100]
    assert task.metrics(logits, known) == {"attribute_accuracy": 75, "balanced_attribute_accuracy": 75}
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    assert task.criterion(logits, known).item() == pytest.approx((3 * right + wrong) / 4)
    assert task.columns(logits, known)["hat"] == [1, "", 0]
    assert task.known(torch.tensor([[NAN, NAN], [0.0, NAN]])).tolist() == [False, True]
    complete = torch.tensor([[True, False], [False, True], [False, True]])
    assert task.criterion(logits, complete).item() == pytest.approx(task.criterion(logits, complete.float()).item())
    assert task.metrics(logits, complete) == task.metrics(logits, complete.float())


def test_a_class_that_is_not_known_is_minus_one() -> None:
    assert Expression(("a", "b")).known(torch.tensor([0, -1, 1])).tolist() == [True, False, True]
