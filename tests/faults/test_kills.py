"""`kill -9` at random moments: whatever is killed goes on with --resume and ends as if it had not been."""

import csv
import json
from pathlib import Path

import pytest
from faults.killing import Killer, contents, leftovers, moments
from tiny_runs import FRA_TINY, run, same_bits

from fra.files import read_json, read_rows

pytestmark = pytest.mark.slow
KILLS = 3
SPEED = ("pairs_per_second", "waiting")
"""Columns of log.csv that differ from run to run."""


@pytest.fixture(scope="module")
def killer() -> Killer:
    return Killer()


@pytest.fixture(scope="module")
def trained(drawn_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(drawn_faces, tmp_path_factory.mktemp("trained") / "run", "schedule.epochs=1")


def try_both(killer: Killer, words: list[str], folder: Path, *, seed: int) -> tuple[Path, Path]:
    """A run that was left alone, and one that was killed KILLS times and went on."""
    whole, killed = folder / "whole", folder / "killed"
    seconds = killer.whole(words, whole)
    killer.kills(words, killed, moments=moments(seconds, KILLS, seed=seed))
    killer.whole([*words, "--resume"], killed)
    assert leftovers(whole) == leftovers(killed) == []
    return whole, killed


@pytest.mark.parametrize("shards", [[], ["--shards", "--shard-faces", "7"]], ids=["files", "shards"])
def test_crop(killer: Killer, drawn_faces: Path, tmp_path: Path, shards: list[str]) -> None:
    words = ["crop", str(drawn_faces), "--detector", "none", "--size", "32", "--workers", "1", *shards]
    whole, killed = try_both(killer, words, tmp_path, seed=1)
    assert contents(whole) == contents(killed)


def test_pretrain(killer: Killer, drawn_faces: Path, tmp_path: Path) -> None:
    settings = [*FRA_TINY, "schedule.epochs=3", "max_faces=16", "health_faces=8"]
    words = ["pretrain", "smoke/resnet10_half.fra", "--faces", str(drawn_faces), "--device", "cpu", "--precision", "32"]
    words += ["--workers", "0", "--checkpoint-minutes", "0", *(word for s in settings for word in ("--set", s))]
    whole, killed = try_both(killer, words, tmp_path, seed=2)
    assert same_bits(whole, killed)
    for table in ("log.csv", "health.csv"):
        rows = [
            [{key: value for key, value in row.items() if key not in SPEED} for row in read_rows(out / table)]
            for out in (whole, killed)
        ]
        assert rows[0] == rows[1]
    for name in ("encoder.safetensors", "model.safetensors", "snapshots/epoch_0003.npz"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()


def test_transfer(killer: Killer, few_faces: Path, trained: Path, tmp_path: Path) -> None:
    words = [
        "transfer",
        "laptop/synthetic_expression",
        "--encoder",
        str(trained),
        "--data",
        str(few_faces),
        "--no-control",
    ]
    words += ["--device", "cpu", "--precision", "32", "--protocol", "finetune", "--seeds", "2"]
    words += ["--set", "min_steps=0", "--set", "epochs=2", "--set", "warmup_epochs=0"]
    whole, killed = try_both(killer, words, tmp_path, seed=3)
    for name in ("results.json", "predictions.csv", "task.safetensors"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()


def test_compare(killer: Killer, few_faces: Path, tmp_path: Path) -> None:
    words = ["compare", "--data", str(few_faces), "--dataset", "synthetic_expression", "--labels", "10,all"]
    words += ["--encoders", "random:resnet10_quarter", "random:resnet10_half", "--seeds", "2", "--device", "cpu"]
    words += ["--set", "image_size=32", "--set", "epochs=10", "--workers", "0"]
    whole, killed = try_both(killer, words, tmp_path, seed=7)
    found = [read_json(out / "compare.json") for out in (whole, killed)]
    for content in found:
        for row in [*content["scores"], *content["features"]]:
            for cost in ("seconds", "memory", "gpu_memory"):
                row.pop(cost)
    assert found[0] == found[1]
    assert (whole / "compare.png").read_bytes() == (killed / "compare.png").read_bytes()


def test_predict(killer: Killer, drawn_faces: Path, trained: Path, tmp_path: Path) -> None:
    from planted_tasks import EXPRESSION, plant

    task = plant(tmp_path / "task", EXPRESSION, "rafdb", trained)
    words = ["predict", str(drawn_faces), "--task", str(task), "--detector", "none", "--device", "cpu"]
    whole, killed = try_both(killer, words, tmp_path, seed=4)
    assert contents(whole) == contents(killed)
    answers = json.loads((killed / "predictions.json").read_text())["photos"]
    assert len(answers) == len({answer["photo"] for answer in answers}) == 40
    assert all((killed / answer["picture"]).is_file() for answer in answers)


def test_embed(killer: Killer, drawn_faces: Path, trained: Path, tmp_path: Path) -> None:
    words = ["embed", str(drawn_faces), "--encoder", str(trained), "--detector", "none", "--device", "cpu"]
    whole, killed = try_both(killer, words, tmp_path, seed=5)
    assert contents(whole) == contents(killed)


def test_a_kill_in_the_first_epoch_does_not_double_it(drawn_faces: Path, tmp_path: Path) -> None:
    """Killed when epoch 0 was measured, before and after its checkpoint, and with half a line behind it."""
    whole = run(drawn_faces, tmp_path / "whole", "schedule.epochs=1", "max_faces=16", "health_faces=8")
    out = tmp_path / "killed"
    run(drawn_faces, out, "schedule.epochs=1", "max_faces=16", "health_faces=8")
    lines = (out / "health.csv").read_bytes().splitlines(keepends=True)
    (out / "health.csv").write_bytes(b"".join(lines[:2]) + lines[2][:20])
    with open(out / "log.csv", newline="") as stream:
        logged = list(csv.reader(stream))
    (out / "log.csv").write_text(",".join(logged[0]) + "\r\n" + ",".join(logged[1])[:10])
    for name in ("last.ckpt", "previous.ckpt", "card.md", "summary.json"):
        (out / name).unlink()
    run(drawn_faces, out, "schedule.epochs=1", "max_faces=16", "health_faces=8", resume=True)
    assert [row["epoch"] for row in read_rows(out / "health.csv")] == ["0", "1"]
    assert [row["step"] for row in read_rows(out / "log.csv")] == [row["step"] for row in read_rows(whole / "log.csv")]
    (out / "last.ckpt").unlink()
    run(drawn_faces, out, "schedule.epochs=1", "max_faces=16", "health_faces=8", resume=True)  # from epoch 0
    assert [row["epoch"] for row in read_rows(out / "health.csv")] == ["0", "1"]
    assert same_bits(whole, out)
