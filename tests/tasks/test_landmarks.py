"""The landmark task: normalisers, thresholds, mirrored targets and face boxes beside them."""

import pytest
import torch
from torch.testing import assert_close

from fra.tasks.landmarks import Landmarks
from fra.tasks.point_tables import POINT_TABLES

EYES = {98: [60, 72], 68: [36, 45], 29: [8, 9], 19: [6, 11]}
PUPILS = {98: [[96], [97]], 68: [range(36, 42), range(42, 48)], 29: [[16], [17]], 19: [[7], [10]]}


@pytest.mark.parametrize("count", POINT_TABLES)
def test_lengths_of_the_published_normalisers(count: int) -> None:
    targets = torch.rand(3, count + 1, 2) * 0.1
    left, right = EYES[count]
    for points in (left, right, *PUPILS[count][0], *PUPILS[count][1]):
        targets[:, points] = 0
    targets[:, count] = torch.tensor([0.9, 0.4])  # width and height of the face box
    task = Landmarks(count)
    assert_close(task.length(targets, "diag"), torch.full((3,), (0.81 + 0.16) ** 0.5))
    assert_close(task.length(targets, "box"), torch.full((3,), 0.6))
    targets[:, right] = torch.tensor([-0.3, 0.4])
    assert_close(task.length(targets, "inter-ocular"), torch.full((3,), 0.5))
    targets[:, left], targets[:, right] = 0, 0
    first, second = PUPILS[count]
    for point in second:
        targets[:, point] = torch.tensor([0.6, -0.8])
    assert_close(task.length(targets, "inter-pupil"), torch.ones(3))
    for point in first:
        targets[:, point] = torch.tensor([0.6, 0.0])
    assert_close(task.length(targets, "inter-pupil"), torch.full((3,), 0.8))


def test_a_face_box_is_asked_for_only_where_there_is_one() -> None:
    targets = torch.rand(2, 68, 2)
    with pytest.raises(ValueError, match="'diag' needs face boxes"):
        Landmarks(68, normaliser="diag").metrics(targets.flatten(1), targets)


def test_a_shift_by_one_pixel_is_one_over_the_distance() -> None:
    # on 256 pixels a pixel is 2 / 256; outer corners 64 pixels apart: 100 / 64 percent, wherever the landmarks lie
    targets = torch.rand(5, 98, 2) * 3 - 1.5
    targets[:, 72] = targets[:, 60] + torch.tensor([2 * 64 / 256, 0.0])
    found = Landmarks(98).metrics((targets + torch.tensor([0.0, 2 / 256])).flatten(1), targets)
    assert found == {
        "nme": pytest.approx(100 / 64, abs=1e-4),
        "failure_rate@10": 0,
        "auc@10": pytest.approx(100 - 1000 / 64, abs=1e-3),
    }


def test_errors_outside_the_image_count_in_full() -> None:
    targets = torch.zeros(1, 19, 2)
    targets[0, 11, 0] = 0.5
    targets[0, 18] = torch.tensor([0.0, 1.8])  # the chin is cut off
    outputs = targets.clone()
    outputs[0, 18, 1] = 1.0
    assert_close(Landmarks(19).errors(outputs.flatten(1), targets), torch.tensor([100 * 0.8 / 19 / 0.5]))


def test_every_threshold_and_normaliser_is_reported_by_name() -> None:
    task = Landmarks(19, normaliser="diag", thresholds=(7.0, 2.5))
    targets = torch.rand(4, 20, 2)
    targets[:, 19] = torch.tensor([1.2, 0.9])  # diagonal 1.5
    outputs = task.places(targets) + torch.tensor([0.06, 0.0])
    found = task.metrics(outputs.flatten(1), targets)
    assert list(found) == ["nme", "failure_rate@7", "auc@7", "failure_rate@2.5", "auc@2.5"]
    assert found["nme"] == pytest.approx(4, abs=1e-4)
    assert [found["failure_rate@7"], found["failure_rate@2.5"]] == [0, 100]
    told = task.details(outputs.flatten(1), targets)["normalisers"]
    assert told["diag"] == found
    assert told["box"]["nme"] == pytest.approx(100 * 0.06 / (1.2 * 0.9) ** 0.5, abs=1e-4)
    assert set(told) == {"inter-ocular", "inter-pupil", "diag", "box"}


def test_areas_and_failures_may_be_by_another_length_than_errors_are() -> None:
    task = Landmarks(19, normaliser="diag", thresholds=(7.0,), threshold_normaliser="box")
    targets = torch.rand(2, 20, 2)
    targets[:, 19] = torch.tensor([1.2, 0.9])  # diagonal 1.5, root of the area 1.0392
    apart = torch.tensor([0.06, 0.09])  # 4 and 6 % of the diagonal, 5.7735 and 8.6603 of the root
    outputs = task.places(targets) + torch.stack((apart, torch.zeros(2)), 1)[:, None]
    found = task.metrics(outputs.flatten(1), targets)
    assert list(found) == ["nme", "failure_rate@7", "auc@7", "failure_rate@7_diag", "auc@7_diag"]
    assert found["nme"] == pytest.approx(5, abs=1e-3)
    assert found["failure_rate@7"] == 50
    assert found["auc@7"] == pytest.approx(100 * (7 - 5.7735) / 7 / 2, abs=1e-2)
    assert found["failure_rate@7_diag"] == 0
    assert found["auc@7_diag"] == pytest.approx(100 * (3 / 7 + 1 / 7) / 2, abs=1e-2)
    assert [task.normaliser_of(name) for name in found] == ["diag", "box", "box", "diag", "diag"]
    told = task.details(outputs.flatten(1), targets)["normalisers"]
    assert told["box"]["auc@7"] == found["auc@7"]
    assert told["diag"]["auc@7"] == found["auc@7_diag"]
    columns = task.columns(outputs.flatten(1), targets)
    assert (columns["normaliser"], columns["box"]) == (["1.500000"] * 2, ["1.039230"] * 2)
    # The same length named twice is one.
    assert list(Landmarks(19, normaliser="box", threshold_normaliser="box").metrics(outputs.flatten(1), targets)) == [
        "nme", "failure_rate@10", "auc@10"
    ]  # fmt: skip


def test_a_mirrored_face_keeps_its_box() -> None:
    task, targets = Landmarks(19), torch.rand(2, 20, 2)
    mirrored = task.mirror(targets)
    assert_close(mirrored[:, 19], targets[:, 19])
    assert_close(mirrored[:, 6], targets[:, 11] * torch.tensor([-1.0, 1.0]))
    assert_close(task.mirror(mirrored), targets)


def test_a_prediction_row_recomputes_the_error() -> None:
    task, targets = Landmarks(29, normaliser="inter-pupil"), torch.rand(3, 29, 2)
    outputs = torch.rand(3, 58)
    table = task.columns(outputs, targets)
    for face in range(3):
        value = {name: float(column[face]) for name, column in table.items()}
        total = sum(
            ((value[f"x{i}"] - value[f"predicted_x{i}"]) ** 2 + (value[f"y{i}"] - value[f"predicted_y{i}"]) ** 2) ** 0.5
            for i in range(29)
        )
        assert 100 * total / 29 / value["normaliser"] == pytest.approx(value["nme"], abs=2e-3)
