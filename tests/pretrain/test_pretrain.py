"""Pre-training as training: it learns, it resumes bit for bit, it leaves a run that explains itself."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import FRA_TINY, METHODS, interrupt_step, run, same_bits, weights_of
from torch.testing import assert_close

import fra
from fra.files import read_rows
from fra.pretrain.columns import undeclared
from fra.pretrain.health import COMMON_COLUMNS
from fra.pretrain.run import METHODS as KINDS
from fra.pretrain.run import load_pretrain_recipe, pretrain
from fra.report.run import OF_ALL_METHODS
from fra.runtime import Runtime
from fra.system.stopping import Stopped
from fra.training.checkpoint import load_checkpoint
from fra.training.loop import step_seed
from fra.weights.load import load_region_model, read_weights


@pytest.fixture(scope="module")
def finished(drawn_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of FRA on 40 drawn faces."""
    return run(drawn_faces, tmp_path_factory.mktemp("runs") / "finished")


def test_a_run_folder_holds_what_was_promised(finished: Path) -> None:
    promised = [
        "recipe.yaml",
        "log.csv",
        "health.csv",
        "last.ckpt",
        "encoder.safetensors",
        "model.safetensors",
        "card.md",
    ]
    assert [name for name in promised if not (finished / name).exists()] == []
    assert (finished / "pictures" / "views.jpg").exists()
    assert [row["epoch"] for row in read_rows(finished / "health.csv")] == ["0", "1", "2"]
    assert len(list((finished / "snapshots").glob("epoch_*.npz"))) == 3
    assert_declared(finished, "fra")
    shares = [float(read_rows(finished / "health.csv")[-1][f"usage_{index}"]) for index in range(4)]
    assert sum(shares) == pytest.approx(1, abs=1e-4)


def test_short_epochs_are_measured_but_not_all_told(
    drawn_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fra.training.journal.SECONDS_BETWEEN_EPOCHS", 1000)
    recipe = load_pretrain_recipe("smoke/resnet10_half.fra", [*FRA_TINY, "schedule.epochs=3"])
    out = pretrain(recipe, drawn_faces, tmp_path / "run", runtime=Runtime(workers=0, device="cpu", precision="32"))
    assert re.findall(r"epoch (\d):", capsys.readouterr().out) == ["0", "3"]
    assert [row["epoch"] for row in read_rows(out / "health.csv")] == ["0", "1", "2", "3"]


def test_many_short_epochs_are_not_all_measured(
    drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fra.pretrain.run.MOST_MEASURED", 2)
    out = run(drawn_faces, tmp_path / "run", "schedule.epochs=5", "max_faces=16")
    assert [row["epoch"] for row in read_rows(out / "health.csv")] == ["0", "3", "5"]
    assert torch.load(out / "last.ckpt", weights_only=True)["step"] == 10


def test_exported_encoder_has_torchvisions_keys_and_gives_features(finished: Path) -> None:
    state, metadata = read_weights(finished / "encoder.safetensors")
    assert {"conv1.weight", "bn1.running_mean", "layer4.0.conv1.weight"} <= set(state)
    assert metadata["method"] == "fra"
    assert metadata["encoder"]["image_size"] == 32
    encoder = fra.load_encoder(finished)
    images = torch.rand(2, 3, 32, 32)
    assert encoder(images).shape == (2, 256)
    assert_close(encoder.maps(images).mean((2, 3)), encoder(images))


def test_exported_region_model_says_the_same_as_the_trained_one(finished: Path) -> None:
    model = load_region_model(finished)
    heatmaps = model(torch.rand(2, 3, 32, 32)).heatmaps
    assert heatmaps.shape == (2, 4, 2, 2)
    assert_close(heatmaps.sum(1), torch.ones(2, 2, 2), atol=1e-5, rtol=0)
    state = torch.load(finished / "last.ckpt", weights_only=True)["model"]
    assert_close(model.head.prototypes, state["online.region_head.prototypes"])


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls_on_drawn_faces(method: str, drawn_faces: Path, tmp_path: Path) -> None:
    settings = ["schedule.epochs=8", "optimizer.learning_rate=0.5"]
    more = {
        "swav": ["optimizer.learning_rate=3", "method.queue=0"],
        "fra": ["method.cluster_views=same"],
        "fabrec": [
            "optimizer.learning_rate=1e-3",
            "method.structure_from=1",
            "method.image_from=1",
            "method.last_scale=1",
        ],
    }
    settings += more.get(method, [])
    out = run(drawn_faces, tmp_path / "run", *settings, name=f"smoke/resnet10_half.{method}")
    losses = [float(row["loss"]) for row in read_rows(out / "log.csv")]
    assert sum(losses[-3:]) / 3 < (0.97 if method == "swav" else 0.8) * losses[0]
    assert read_rows(out / "health.csv")[-1]["warning"] == ""


def assert_declared(out: Path, method: str) -> None:
    """Every term and every measure that the run wrote is one that its method declares."""
    kind = KINDS[method][1]
    health = {name: np.array([1.0]) for name in read_rows(out / "health.csv")[-1] if name != "warning"}
    assert undeclared(health, [*COMMON_COLUMNS, *kind.health_columns]) == []
    assert set(read_rows(out / "log.csv")[-1]) - set(OF_ALL_METHODS) == set(kind.loss_terms)


@pytest.mark.parametrize(
    ("method", "column"), [("swav", "prototype_usage"), ("lewel", "map_entropy"), ("fabrec", "code_std")]
)
def test_every_method_leaves_an_encoder_and_its_own_health(
    method: str, column: str, drawn_faces: Path, tmp_path: Path
) -> None:
    out = run(drawn_faces, tmp_path / "run", name=f"smoke/resnet10_half.{method}")
    assert fra.load_encoder(out)(torch.rand(2, 3, 32, 32)).shape == (2, 256)
    assert read_weights(out / "model.safetensors")[1]["method"] == method
    assert all(float(row[column]) > 0 for row in read_rows(out / "health.csv"))
    assert_declared(out, method)
    with pytest.raises(ValueError, match=f"was trained with {method} and has no regions"):
        load_region_model(out)


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_goes_on_bit_for_bit(
    method: str, drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"smoke/resnet10_half.{method}"
    whole = run(drawn_faces, tmp_path / "whole", name=name)
    interrupt_step(monkeypatch, 6)  # in the middle of the second epoch: 40 faces make 5 steps of 8
    with pytest.raises(Stopped, match="step 7 of 10"):
        run(drawn_faces, tmp_path / "parts", name=name)
    monkeypatch.undo()
    assert not same_bits(whole, tmp_path / "parts")
    run(drawn_faces, tmp_path / "parts", name=name, resume=True)
    assert same_bits(whole, tmp_path / "parts")
    if method == "swav":
        assert weights_of(whole)["queue"].abs().sum(-1).all()  # it was full, and part of what went on
    for table in ("log.csv", "health.csv"):
        steps = [row["step"] for row in read_rows(tmp_path / "parts" / table)]
        assert steps == [row["step"] for row in read_rows(whole / table)]


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(drawn_faces: Path, tmp_path: Path) -> None:
    settings = [word for setting in FRA_TINY for word in ("--set", setting)]
    command = [sys.executable, "-m", "fra.cli", "pretrain", "smoke/resnet10_half.fra", "--faces", str(drawn_faces)]
    command += [*settings, "--workers", "1", "--device", "cpu", "--set", "schedule.epochs=6", "--quiet"]
    command += ["--checkpoint-minutes", "0", "--precision", "32"]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True)
    killed = subprocess.Popen([*command, "--out", str(tmp_path / "killed")])
    table = tmp_path / "killed" / "log.csv"
    while not (table.exists() and len(read_rows(table)) > 6):
        assert killed.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    step = torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)["step"]
    assert 0 < step < 30
    subprocess.run([*command, "--out", str(tmp_path / "killed"), "--resume"], check=True)
    assert same_bits(tmp_path / "whole", tmp_path / "killed")


def test_nothing_is_overwritten(finished: Path, drawn_faces: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="already holds a run of `fra pretrain`: add --resume"):
        run(drawn_faces, finished)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and was not made by fra"):
        run(drawn_faces, tmp_path)


def test_a_checkpoint_of_another_recipe_is_refused_by_name(finished: Path, drawn_faces: Path) -> None:
    with pytest.raises(ValueError, match=r"written with optimizer.learning_rate = 1.0, not 0.3"):
        run(drawn_faces, finished, "optimizer.learning_rate=0.3", resume=True)
    with pytest.raises(ValueError, match="was written with"):
        run(drawn_faces, finished, name="smoke/resnet10_half.byol", resume=True)


def test_a_damaged_checkpoint_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="last.ckpt is damaged"):
        load_checkpoint(tmp_path / "last.ckpt", identity={})


def test_a_loss_that_is_not_finite_stops_with_a_diagnosis(
    drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fra.pretrain.fra as method

    monkeypatch.setattr(method, "region_distance", lambda *_, **__: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(ValueError, match="not finite at step 0 .*same_region.*Lower the learning rate"):
        run(drawn_faces, tmp_path / "run")


def test_unreadable_faces_are_skipped_and_listed(drawn_faces: Path, tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    for source in drawn_faces.iterdir():
        (faces / source.name).write_bytes(source.read_bytes())
    (faces / "000.png").write_bytes(b"not a picture")
    out = run(faces, tmp_path / "run", "schedule.epochs=2")
    assert "000.png" in (out / "summary.json").read_text()


def test_the_seed_of_a_batch_depends_on_batch_and_process() -> None:
    assert len({step_seed(0, batch, rank) for batch in range(50) for rank in range(4)}) == 200
    assert step_seed(0, 3, 1) == step_seed(0, 3, 1) != step_seed(1, 3, 1)


@pytest.mark.parametrize("extra", [("--devices", "2"), ("--precision", "bf16")], ids=["two processes", "bf16"])
def test_fabric_trains_with_two_processes_and_in_mixed_precision(
    extra: tuple[str, str], drawn_faces: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "fra.cli", "pretrain", "smoke/resnet10_half.fra", "--faces", str(drawn_faces)]
    command += [word for setting in FRA_TINY for word in ("--set", setting)]
    command += ["--workers", "0", "--device", "cpu", "--quiet", "--out", str(tmp_path / "run"), *extra]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    losses = [float(row["loss"]) for row in read_rows(tmp_path / "run" / "log.csv")]
    assert len(losses) == 10
    assert all(0 < loss < 8 for loss in losses)
    assert fra.load_encoder(tmp_path / "run")(torch.rand(1, 3, 32, 32)).isfinite().all()
