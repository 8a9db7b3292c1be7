"""Age in years from annotated groups: ratios, probabilities, quantiles and scores worked out by hand."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from fra import cli
from fra.data.datasets import find_dataset
from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image
from fra.files import write_rows
from fra.predict.task_model import load_task_model
from fra.tasks import TASKS
from fra.tasks.years import Years

TASK = Years(("young", "middle", "old"), (0.0, 10.0, 30.0, 90.0))
# Older than young with 3/4, than middle with 2/3 of these: 1/4, 3/4 * 1/3 = 1/4, 3/4 * 2/3 = 1/2.
OUTPUT = torch.tensor([[math.log(3), math.log(2)]])


def test_products_of_ratios_are_the_groups_probabilities() -> None:
    assert_close(TASK.shares(OUTPUT), torch.tensor([[0.25, 0.25, 0.5]]))
    some = TASK.shares(torch.randn(100, 2, generator=torch.Generator().manual_seed(0)) * 20)
    assert_close(some.sum(1), torch.ones(100))
    assert float(some.min()) >= 0


def test_years_lie_where_the_probability_below_them_is_reached() -> None:
    # .1 is .4 of the first group's .25: 4 years; .5 ends the second: 30; .9 is .8 of the last .5: 30 + .8 * 60 = 78.
    for share, years in ((0.1, 4.0), (0.25, 10.0), (0.5, 30.0), (0.9, 78.0)):
        assert TASK.quantile(OUTPUT, share).item() == pytest.approx(years, abs=1e-4)
    answer = TASK.answer(OUTPUT[0], width=9, height=9)
    assert answer["years"] == pytest.approx({"median": 30.0, "low": 4.0, "high": 78.0}, abs=1e-4)
    assert answer["probabilities"] == pytest.approx({"young": 0.25, "middle": 0.25, "old": 0.5})


@pytest.mark.parametrize("sure, low, high", [(-60.0, 1.0, 9.0), (60.0, 36.0, 84.0)])
def test_a_sure_answer_keeps_within_its_group(sure: float, low: float, high: float) -> None:
    found = torch.full((1, 2), sure)
    assert [TASK.quantile(found, share).item() for share in (0.1, 0.9)] == pytest.approx([low, high])


def test_the_loss_is_minus_the_logarithm_of_the_groups_probability() -> None:
    targets = torch.tensor([0, 1, 2])
    expected = -(math.log(0.25) + math.log(0.25) + math.log(0.5)) / 3
    assert TASK.criterion(OUTPUT.expand(3, -1), targets).item() == pytest.approx(expected)
    outputs = OUTPUT.clone().requires_grad_()
    TASK.criterion(outputs, torch.tensor([0])).backward()
    assert outputs.grad is not None
    assert outputs.grad[0, 1] == 0  # whether a middle face would be old is not asked of a young one
    assert outputs.grad[0, 0].item() == pytest.approx(0.75)


def test_scores_are_in_years_from_the_middle_of_the_group() -> None:
    outputs, targets = OUTPUT.expand(2, -1), torch.tensor([1, 2])  # middles 20 and 60; 30 is said, 4 to 78
    assert TASK.metrics(outputs, targets) == pytest.approx(
        {"mae": 20, "accuracy": 50, "within_interval": 100}, abs=1e-4
    )
    assert TASK.image_scores(outputs, targets).tolist() == pytest.approx([10, 30], abs=1e-4)
    details = TASK.details(outputs, targets)
    assert details["confusion"] == [[0, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert details["per_group"]["young"] == {"answers": 0, "mae": None}
    assert details["per_group"]["old"]["mae"] == pytest.approx(30, abs=1e-4)


def test_the_baseline_is_the_training_distribution() -> None:
    train = torch.tensor([0, 1, 2, 2])  # 1/4, 1/4, 1/2: OUTPUT for everybody
    found = TASK.baseline(train, torch.tensor([1, 2]))
    assert found.metrics == pytest.approx(TASK.metrics(OUTPUT.expand(2, -1), torch.tensor([1, 2])), abs=1e-3)
    never = TASK.baseline(torch.tensor([1]), torch.tensor([1]))  # groups without a face
    assert never.metrics["mae"] == pytest.approx(0, abs=1e-3)


def test_its_settings_rebuild_it() -> None:
    settings = json.loads(json.dumps(asdict(TASK)))
    assert TASKS["years"](**{name: tuple(value) for name, value in settings.items()}) == TASK


@pytest.fixture
def fairface(tmp_path: Path) -> Path:
    """Drawn faces in FairFace's layout."""
    folder, rows = tmp_path / "fairface", []
    for seed in range(48):
        place, age = f"{seed // 12:02d}/{seed}.png", ("3-9", "20-29", "more than 70")[seed % 3]
        write_image(folder / place, draw_face(seed, size=48).image)
        rows.append({"path": place, "age": age, "gender": "Male", "race": "White"})
    write_rows(folder / "labels.csv", rows)
    return folder


def test_fairfaces_groups_are_learned_as_years(fairface: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    faces = find_dataset("fairface")(fairface)
    years = faces.tasks["years"]
    assert isinstance(years, Years)
    assert years.middles(faces.targets["years"][:3]).tolist() == [6.5, 25, 80]
    for protocol in ("finetune", "linear"):
        words = ["transfer", f"smoke/fairface_years.{protocol}", "--encoder", "laptop", "--data", str(fairface)]
        words += ["--out", str(tmp_path / protocol), "--device", "cpu", "--precision", "32", "--workers", "0"]
        assert cli.main([*words, "--no-control", "--quiet"]) == 0
        results = json.loads((tmp_path / protocol / "results.json").read_text())
        assert set(results["metrics"]) == {"mae", "accuracy", "within_interval"}
        assert set(results["groups"]["race"]["White"]) >= {"mae", "images"}
    photo = fairface / "00/0.png"
    answer = load_task_model(tmp_path / "finetune").predict(str(photo))
    assert 0 <= answer["years"]["low"] <= answer["years"]["median"] <= answer["years"]["high"] <= 90
    words = ["predict", str(photo), "--task", str(tmp_path / "finetune"), "--detector", "none"]
    assert cli.main([*words, "--out", str(tmp_path / "answers"), "--device", "cpu"]) == 0
    median = f"{answer['years']['median']:.0f} years ("
    assert median in capsys.readouterr().out
