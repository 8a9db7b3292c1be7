"""`fra pretrain` on few faces: the batch can be filled, there are steps enough, and what to expect is said before."""

from pathlib import Path

import pytest

from fra import cli
from fra.pretrain.run import load_pretrain_recipe
from fra.pretrain.small_pools import FEW, LEAST_STEPS, adapted

LAPTOP, SMOKE = "laptop/resnet10_half.fra", "smoke/resnet10_half.fra"


@pytest.mark.parametrize(
    ("faces", "batch", "epochs", "lines"),
    [
        (50, 50, 1000, ["batch size 50 instead of 64", "1,000 epochs instead of 15", "50 faces are few"]),
        (600, 64, 112, ["112 epochs instead of 15, so that there are 1,000 steps", "600 faces are few"]),
        (4900, 64, 15, ["4,900 faces are few"]),
        (24000, 64, 15, []),
        (1, 1, 1000, ["batch size 1 instead of 64, because there is 1 face", "1,000 epochs", "1 face is few"]),
    ],
)
def test_a_recipe_meets_few_faces(faces: int, batch: int, epochs: int, lines: list[str]) -> None:
    recipe, told = adapted(load_pretrain_recipe(LAPTOP, []), faces, name=LAPTOP, given=[])
    assert recipe.batch_size == batch
    assert recipe.schedule.epochs == epochs
    assert recipe.schedule.warmup_epochs / epochs == pytest.approx(1 / 15)
    assert len(told) == len(lines)
    for line, start in zip(told, lines, strict=True):
        assert line.startswith(start)
    assert epochs * (faces // batch) >= LEAST_STEPS
    assert bool(told) is (faces < FEW)


def test_what_was_given_stays_and_processes_share_the_batch() -> None:
    recipe = load_pretrain_recipe(LAPTOP, [])
    kept, told = adapted(recipe, 50, name=LAPTOP, given=["batch_size", "schedule.epochs"])
    assert kept == recipe
    assert len(told) == 1
    shared, _ = adapted(recipe, 51, name=LAPTOP, given=[], processes=4)
    assert shared.batch_size == 48


def test_who_starts_from_weights_is_not_told_to() -> None:
    recipe = load_pretrain_recipe(LAPTOP, [])
    assert "--from" in adapted(recipe, 600, name=LAPTOP, given=[])[1][-1]
    (*_, told) = adapted(recipe, 600, name=LAPTOP, given=[], started=True)[1]
    assert told.startswith("600 faces are few: they may spoil the weights that you start from")
    assert "--from" not in told


def test_the_scale_smoke_stays_short() -> None:
    recipe, told = adapted(load_pretrain_recipe(SMOKE, []), 10, name=SMOKE, given=[])
    assert recipe.schedule.epochs == 2
    assert recipe.batch_size == 10
    assert told == ["batch size 10 instead of 16, because there are 10 faces"]


def test_the_command_says_it_before_it_plans(drawn_faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "laptop/demo.fra", "--faces", str(drawn_faces), "--plan", "--set", "max_faces=20"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "batch size 20 instead of 32, because there are 20 faces"
    assert "20 faces are few" in said[2]
    assert "1,000 epochs, 1 step each, batch 20" in said[3]
    assert cli.main([*words, "--set", "batch_size=64"]) == 2
    assert "20 faces cannot fill a step of 64" in capsys.readouterr().err
