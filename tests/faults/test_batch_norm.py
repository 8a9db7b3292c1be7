"""A batch of which batch norm cannot learn is refused in the recipe's words, before anything is written."""

from pathlib import Path

import pytest
import torch
from tiny_runs import SETTINGS
from torch import nn

from fra import cli
from fra.pretrain.run import load_pretrain_recipe, plan
from fra.runtime import Runtime
from fra.training.batch_norm import require_enough_images

NORMED, PLAIN = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))


@pytest.mark.parametrize("method", ["fra", "byol", "swav", "lewel"])
@pytest.mark.parametrize("batch", [["batch_size=1"], ["batch_size=4", "accumulate=4"]])
def test_pretraining_refuses_single_images(
    method: str, batch: list[str], drawn_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [word for setting in [*SETTINGS[method], *batch] for word in ("--set", setting)]
    out = tmp_path / "o"
    words = ["pretrain", f"smoke/resnet10_half.{method}", "--faces", str(drawn_faces), "--out", str(out), *settings]
    assert cli.main([*words, "--device", "cpu", "--workers", "0"]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith(f"fra: batch_size {batch[0][-1]} shows the network one image at a time")
    assert len(found.err.splitlines()) == 1
    assert not out.exists()


def test_a_plan_refuses_them_too(drawn_faces: Path) -> None:
    with pytest.raises(ValueError, match="divided over 1 process x 2 passes.* at least 4"):
        plan(
            load_pretrain_recipe("smoke/resnet10_half.byol", ["batch_size=2", "accumulate=2"]),
            drawn_faces,
            runtime=Runtime(device="cpu"),
        )


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [
        ("smoke/synthetic_expression.finetune", []),
        ("smoke/synthetic_expression.eac", []),
        ("smoke/synthetic_attributes.finetune", ["neck=true"]),
        ("star.yaml", []),
    ],
)
def test_transfer_refuses_single_images_where_the_network_learns(
    recipe: str, settings: list[str], few_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    if recipe == "star.yaml":
        recipe = str(tmp_path / recipe)
        Path(recipe).write_text("{name: star, task: landmarks, dataset: synthetic, protocol: star}")
    changes = [word for setting in ["batch_size=1", *settings] for word in ("--set", setting)]
    words = ["transfer", recipe, "--encoder", "random:resnet10_quarter", "--data", str(few_faces), "--out", str(out)]
    assert cli.main([*words, *changes, "--device", "cpu"]) == 2
    assert "fra: batch_size 1 shows the network one image at a time" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("batch_size", "processes", "passes", "synchronised", "least"),
    [(1, 1, 1, False, 2), (3, 2, 1, False, 4), (7, 2, 2, False, 8), (2, 2, 2, True, 4), (1, 1, 2, False, 4)],
)
def test_the_least_batch_is_two_images_a_pass_and_process(
    batch_size: int, processes: int, passes: int, synchronised: bool, least: int
) -> None:
    how = dict(processes=processes, passes=passes, synchronised=synchronised)
    with pytest.raises(ValueError, match=f"batch_size {batch_size} .*give a batch_size of at least {least}"):
        require_enough_images(NORMED, batch_size=batch_size, **how)
    require_enough_images(NORMED, batch_size=least, **how)
    require_enough_images(PLAIN, batch_size=batch_size, **how)


def test_two_images_are_really_enough_and_one_is_not() -> None:
    NORMED.train()(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        NORMED(torch.zeros(1, 2))
