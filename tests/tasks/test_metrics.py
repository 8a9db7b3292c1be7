import pytest
import torch
from torch.testing import assert_close

from fra.tasks.metrics import (
    accuracy,
    attribute_accuracy,
    auc,
    balanced_attribute_accuracy,
    confusion_matrix,
    failure_rate,
    mean_class_accuracy,
    nme,
    wilson,
)

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [3.0, 0.0, 1.0], [0.0, 5.0, 1.0], [1.0, 0.0, 0.5], [0.0, 0.1, 0.0]])
LABELS = torch.tensor([0, 0, 1, 1, 1])  # called 0, 0, 1, 0, 1


def test_accuracy_counts_the_highest_logit() -> None:
    assert accuracy(LOGITS, LABELS) == pytest.approx(100 * 4 / 5)


def test_mean_class_accuracy_gives_each_class_that_occurs_the_same_weight() -> None:
    # class 0: 2 of 2, class 1: 2 of 3, class 2 has no image and does not count
    assert mean_class_accuracy(LOGITS, LABELS) == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_confusion_matrix_has_the_truth_in_its_rows() -> None:
    assert confusion_matrix(LOGITS, LABELS).tolist() == [[2, 0, 0], [1, 2, 0], [0, 0, 0]]


def test_attribute_accuracy_of_the_specification_is_five_of_six() -> None:
    probabilities = torch.tensor([[0.35, 0.4, 0.9], [0.2, 0.6, 0.8]])
    targets = torch.tensor([[1, 0, 1], [0, 1, 1]]).bool()
    assert attribute_accuracy(probabilities.logit(), targets) == pytest.approx(83.3333, abs=1e-3)


def test_a_logit_of_zero_says_yes_and_small_positive_logits_are_no_probabilities() -> None:
    # Read as a probability, 0.1 would be below one half.
    assert attribute_accuracy(torch.tensor([[0.0, 0.1, -0.1]]), torch.tensor([[True, True, False]])) == 100


def test_balanced_attribute_accuracy_gives_the_rare_answer_half_of_the_weight() -> None:
    # Attribute 0: found 1 of 1, denied 2 of 3. Attribute 1: all images have it, found 3 of 4.
    logits = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
    targets = torch.tensor([[True, True], [False, True], [False, True], [False, True]])
    assert balanced_attribute_accuracy(logits, targets) == pytest.approx(100 * ((1 + 2 / 3) / 2 + 3 / 4) / 2)


def test_nme_is_the_mean_distance_over_the_normaliser() -> None:
    truth = torch.rand(2, 19, 2) * 300 - 100
    points = truth.clone()
    points[0, 0] += torch.tensor([3.0, 4.0])  # one of 19 landmarks is 5 off
    points[1] += torch.tensor([0.0, 1.0])  # all are a pixel too low, of 40
    expected = torch.tensor([100 * 5 / 19 / 50, 100 / 40])
    assert_close(nme(points, truth, torch.tensor([50.0, 40.0])), expected, rtol=1e-4, atol=0)


def test_failure_rate_and_area_of_the_specification() -> None:
    # NMEs 2, 3, 5, 8, 12 %: over 10 only one; area (8 + 7 + 5 + 2 + 0) / 10 / 5; over 5 two; area (3 + 2) / 5 / 5
    errors = torch.tensor([2.0, 3.0, 5.0, 8.0, 12.0])
    assert [failure_rate(errors, 10), auc(errors, 10)] == pytest.approx([20, 44])
    assert [failure_rate(errors, 5), auc(errors, 5)] == pytest.approx([40, 20])
    # over 8, where one face is exactly, only one; area (6 + 5 + 3 + 0 + 0) / 8 / 5
    assert [failure_rate(errors, 8), auc(errors, 8)] == pytest.approx([20, 35])


def test_wilson_interval_of_nine_in_ten_is_the_published_one() -> None:
    # (0.9 + 0.1921) / 1.3841 ± 1.96 / 1.3841 · sqrt(0.009 + 0.0096)
    interval = wilson(90, 10)
    assert [interval.low, interval.high] == pytest.approx([59.585, 98.212], abs=2e-3)


def test_wilson_interval_stays_inside_0_and_100() -> None:
    assert wilson(0, 20).low == pytest.approx(0)
    assert wilson(100, 20).high == pytest.approx(100)
