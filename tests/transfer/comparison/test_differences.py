"""`fra compare`: differences with intervals, times the labels, and the sentences about them, on numbers worked out."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fra.tasks.attributes import Attributes
from fra.tasks.expression import Expression
from fra.tasks.landmarks import Landmarks
from fra.tasks.regression import Regression
from fra.tasks.task import Task
from fra.transfer.comparison.chart import apart
from fra.transfer.comparison.differences import Difference, bootstrap_error, difference, labels_needed
from fra.transfer.comparison.words import Curve, Pair, curve_sentence, pair_sentence
from fra.transfer.subsets import draw_subset, fraction_of

LABELS = (20, 100, 500, 2000)


def test_the_paired_bootstrap_of_two_images() -> None:
    # resampled means are 0, 1, 1 and 2, equally often: their deviation is the root of 1/2
    assert bootstrap_error(np.array([0.0, 2.0])) == pytest.approx(math.sqrt(0.5), rel=0.03)
    # and in general that of the differences over the root of their number
    differences = np.random.default_rng(1).normal(3, 2, 400)
    assert bootstrap_error(differences) == pytest.approx(differences.std() / 20, rel=0.05)


def test_images_that_both_find_equally_hard_add_no_doubt() -> None:
    hard = np.random.default_rng(0).normal(50, 30, (1, 200))
    found = difference(hard + 5, hard)
    assert found.value == pytest.approx(5)
    assert found.half == pytest.approx(0)
    assert found.verdict == "better"
    assert difference(hard + 5, hard, lower_is_better=True).verdict == "worse"


def test_one_seed_gives_the_interval_over_images() -> None:
    gained = np.array([[100.0, 0.0, 0.0, 0.0] * 100])
    found = difference(gained, np.zeros_like(gained))
    # a share of a quarter of 400: 100 * sqrt(.25 * .75 / 400) = 2.165, times 1.96
    assert (found.value, found.seeds) == (25, None)
    assert found.half == pytest.approx(1.96 * 2.165, rel=0.05)
    assert (found.low, found.high) == (pytest.approx(25 - found.half), pytest.approx(25 + found.half))


def test_seeds_that_disagree_widen_the_interval() -> None:
    # gains of 4 and 6 on every image: deviation sqrt(2), error 1, one degree of freedom: 12.706 errors either way
    found = difference(np.stack([np.full(50, 4.0), np.full(50, 6.0)]), np.zeros((2, 50)))
    assert (found.value, found.images, found.seeds) == (5, 0, pytest.approx(1))
    assert found.half == pytest.approx(12.706, abs=0.001)
    assert found.verdict == "level"
    three = difference(np.stack([np.full(50, gain) for gain in (4.0, 5.0, 6.0)]), np.zeros((3, 50)))
    # deviation 1, error 1/sqrt(3), two degrees of freedom: 4.303 errors
    assert three.half == pytest.approx(4.3027 / math.sqrt(3), abs=0.001)
    assert three.verdict == "better"


def test_labels_are_read_off_the_curve_over_their_logarithm() -> None:
    assert labels_needed((10, 1000), (40, 60), 50) == pytest.approx(100)
    assert labels_needed((10, 1000), (40, 60), 60) == pytest.approx(1000)
    assert labels_needed((10, 1000), (40, 60), 30) == 10
    assert labels_needed((10, 1000), (40, 60), 61) is None
    assert labels_needed((10, 1000), (6, 4), 5, lower_is_better=True) == pytest.approx(100)


def pair(
    first: tuple[float, ...], second: tuple[float, ...], *, half: float = 2.0, percent: bool = True, lower: bool = False
) -> Pair:
    """Of encoders with these scores, every difference with the same interval."""
    sign = -1 if lower else 1

    def gains(ours: tuple[float, ...], theirs: tuple[float, ...]) -> tuple[Difference, ...]:
        return tuple(Difference(sign * (a - b), half, half / 2, None) for a, b in zip(ours, theirs, strict=True))

    most_first, most_second = (first[-1],) * len(first), (second[-1],) * len(second)
    return Pair(
        Curve("laptop", first), Curve("ImageNet", second), LABELS, gains(first, second), gains(first, most_second),
        gains(second, most_first), 2000, percent, lower,
    )  # fmt: skip


def test_better_with_few_labels_and_level_later() -> None:
    said = pair_sentence(pair((40, 50, 60, 65), (31, 41, 59, 64.5)))
    # 40 lies .9 of the way from 31 at 20 to 41 at 100: 20 * 5 ** .9 = 85; 50 halfway from 100 to 500: 224
    assert said == (
        "With 20 and 100 labels `laptop` is 9.0 points better than `ImageNet` (± 2.0 at most); from 500 labels on they "
        "are level (at most 1.0 points apart, less than the uncertainty); `ImageNet` needs about 2.2 to 4.3 times the "
        "labels for the same score."
    )


def test_a_single_number_of_labels_has_its_interval() -> None:
    said = pair_sentence(pair((40, 50, 60, 65), (39, 41, 59, 65.5)))
    assert said.startswith(
        "With 20 labels `laptop` and `ImageNet` are level (1.0 ± 2.0 points); with 100 labels `laptop` is 9.0 ± 2.0 "
        "points better; from 500 labels on they are level"
    )


def test_worse_is_said_as_plainly() -> None:
    said = pair_sentence(pair((30, 35, 45, 50), (40, 45, 55, 60)))
    assert said.startswith("With 20 to 2,000 labels `laptop` is 10.0 points worse than `ImageNet` (± 2.0 at most); ")
    # laptop has 40 halfway between 35 at 100 and 45 at 500: 223.6 labels, 11.2 times 20
    assert "`laptop` needs about 5 to 11 times the labels for the same score" in said
    assert "with all 2,000 labels `laptop` is still worse than `ImageNet` with 500" in said


def test_level_everywhere_claims_nothing() -> None:
    said = pair_sentence(pair((40, 50, 60, 65), (39, 50.5, 59, 65)))
    assert said == (
        "With 20 to 2,000 labels `laptop` and `ImageNet` are level (at most 1.0 points apart, less than the "
        "uncertainty)."
    )
    assert "times" not in pair_sentence(pair((40, 50, 60, 65), (31, 41, 51, 56), half=10))


def test_errors_in_another_unit() -> None:
    said = pair_sentence(pair((5, 4, 3, 2), (9, 8, 7, 6), half=0.5, percent=False, lower=True))
    assert said.startswith("With 20 to 2,000 labels `laptop` is 4.00 better than `ImageNet` (± 0.50 at most); ")
    assert "with all 2,000 labels `ImageNet` is still worse than `laptop` with 20" in said


def test_where_a_curve_begins_and_ends() -> None:
    said = curve_sentence(
        Curve("laptop", (40.12, 65)), (20, 2000), metric="accuracy", unit=" %", baseline=("always Happy (most)", 38.6)
    )
    assert said == (
        "Accuracy of `laptop` goes from 40.1 % with 20 labels to 65.0 % with 2,000; the trivial baseline (always Happy,"
        " most) has 38.6 %."
    )


def test_one_number_of_labels_is_a_sentence_too() -> None:
    said = curve_sentence(Curve("laptop", (40.12,)), (20,), metric="accuracy", unit=" %", baseline=None)
    assert said == "Accuracy of `laptop` is 40.1 % with 20 labels."


def test_names_are_moved_apart_in_their_order() -> None:
    assert apart([0.1, 0.5], space=0.1) == [0.1, 0.5]
    assert apart([0.52, 0.5], space=0.1) == [pytest.approx(0.56), pytest.approx(0.46)]
    moved = apart([0.5, 0.5, 0.5, 0.62], space=0.1)
    assert np.allclose(np.diff(moved), 0.1)


@pytest.mark.parametrize("count", [1, 7, 112, 12271])
def test_a_share_draws_the_number_of_labels_that_was_asked_for(count: int) -> None:
    for labels in {1, 2, 7, 20, 100, 500, count // 3, count - 1, count} & set(range(1, count + 1)):
        assert len(draw_subset(count, fraction=fraction_of(labels, count), seed=0)) == labels
    with pytest.raises(ValueError, match="cannot be drawn"):
        fraction_of(count + 1, count)


SOME_UNKNOWN = torch.tensor([[1.0, 0.0], [0.0, math.nan], [1.0, math.nan], [math.nan, 1.0]])
TASKS: list[tuple[Task, Tensor, Tensor]] = [
    (Expression(("a", "b", "c")), torch.randn(12, 3), torch.arange(12) % 3),
    (Attributes(("a", "b")), torch.randn(12, 2), torch.rand(12, 2) > 0.5),
    (Attributes(("a", "b")), torch.randn(4, 2), SOME_UNKNOWN),
    (Landmarks(68), torch.rand(5, 136), torch.rand(5, 68, 2)),
    (Regression(("age", "valence"), (30.0, 0.0), (9.0, 0.5)), torch.randn(4, 2), SOME_UNKNOWN),
]


@pytest.mark.parametrize(("task", "outputs", "targets"), TASKS, ids=[f"{t.name}{n}" for n, (t, *_) in enumerate(TASKS)])
def test_the_mean_over_images_is_the_metric(task: Task, outputs: Tensor, targets: Tensor) -> None:
    scores = task.image_scores(outputs, targets)
    assert len(scores) == len(outputs)
    assert float(scores.double().mean()) == pytest.approx(task.metrics(outputs, targets)[task.selects], rel=1e-5)
