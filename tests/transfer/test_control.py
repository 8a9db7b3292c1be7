"""`fra transfer` says what pre-training adds: the same with random weights, run once, and a sentence that is right."""

from pathlib import Path
from typing import Any

import pytest

from fra import cli
from fra.files import read_json
from fra.system.stopping import Stopped
from fra.transfer import control
from fra.transfer.control import cache_folder, verdict

WORDS = ["transfer", "smoke/synthetic_expression", "--encoder", "laptop", "--workers", "0", "--set", "epochs=2"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


def evaluate(data: Path, out: Path, *more: str) -> dict[str, Any]:
    assert cli.main([*WORDS, "--data", str(data), "--out", str(out), *more]) == 0
    return read_json(out / "results.json")


def test_random_weights_are_evaluated_beside_and_a_sentence_says_what_it_means(
    few_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(few_faces, tmp_path / "run", "--seeds", "2")
    said = capsys.readouterr().out
    words = [word if word != "laptop" else "random:laptop" for word in WORDS]
    assert cli.main([*words, "--data", str(few_faces), "--out", str(tmp_path / "random"), "--seeds", "2"]) == 0
    alone = read_json(tmp_path / "random/results.json")
    assert "control" not in alone
    assert found["control"]["metrics"] == alone["metrics"] != found["metrics"]
    assert said.splitlines()[-1] == verdict(found)
    assert verdict(found).startswith("Better than random weights? ")
    assert (tmp_path / "run/control/results.json").exists()


def test_it_is_run_once_for_the_same_setting_and_again_for_another(
    few_faces: Path, tmp_path: Path, cache: Path
) -> None:
    first = evaluate(few_faces, tmp_path / "first", "--quiet")
    again = evaluate(few_faces, tmp_path / "again", "--quiet")
    assert again["control"] == first["control"]
    assert not (tmp_path / "again/control").exists()
    evaluate(few_faces, tmp_path / "seed", "--quiet", "--seed", "1")
    evaluate(few_faces, tmp_path / "share", "--quiet", "--fraction", "0.5")
    assert all((tmp_path / name / "control").is_dir() for name in ("first", "seed", "share"))
    assert len(list(cache.glob("*.json"))) == 3
    assert not any("png" in path.name or "csv" in path.name for path in cache.iterdir())  # numbers, no faces
    for damaged in cache.iterdir():
        damaged.write_text("{")
    assert evaluate(few_faces, tmp_path / "damaged", "--quiet")["control"] == first["control"]


def test_it_is_left_out_when_asked_and_for_random_weights(few_faces: Path, tmp_path: Path, cache: Path) -> None:
    assert "control" not in evaluate(few_faces, tmp_path / "run", "--quiet", "--no-control")
    assert not (tmp_path / "run/control").exists()
    assert not cache.exists()


def test_stopped_in_the_control_it_goes_on_there(
    few_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(few_faces, tmp_path / "whole", "--quiet")
    for kept in cache_folder().iterdir():
        kept.unlink()
    own = control.transfer

    def stop_at_random(*given: Any, **named: Any) -> Any:
        if named["out"].name == control.FOLDER:
            raise Stopped()
        return own(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(control, "transfer", stop_at_random)
        words = [*WORDS, "--data", str(few_faces), "--out", str(tmp_path / "stopped"), "--quiet"]
        assert cli.main(words) != 0
    assert "control" not in read_json(tmp_path / "stopped/results.json")
    assert evaluate(few_faces, tmp_path / "stopped", "--quiet", "--resume") == whole


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(
    few_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file")
    assert "control" in evaluate(few_faces, tmp_path / "run")
    assert "not kept for other encoders" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ours", "theirs", "answer"),
    [
        ([66.8, 66.7, 66.9], [49.7, 49.5, 49.9], "Yes. Accuracy: 17.1 points better than random weights."),
        ([49.0, 49.4, 48.6], [53.0, 53.1, 52.9], "No. Accuracy: 4.0 points worse than random weights."),
        ([50.0, 54.0, 52.0], [51.0, 53.0, 51.5], "Not clearly. Accuracy: no clear difference from random weights"),
        ([60.0], [50.0], "Yes. Accuracy: 10.0 points better"),
        ([53.0], [50.0], "Not clearly. Accuracy: no clear difference from random weights (3.0 points better, within"),
        ([60.0] * 3, [50.0] * 3, "Yes. Accuracy: 10.0 points better than random weights, and no better than a trivial"),
    ],
)
def test_the_sentence_is_right(ours: list[float], theirs: list[float], answer: str) -> None:
    def metrics(values: list[float]) -> dict[str, Any]:
        mean = sum(values) / len(values)
        std = (sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5
        return {"accuracy": {"mean": mean, "std": std, "values": values}}

    constant = 65.0 if "trivial" in answer else 20.0
    results = {
        "encoder": "mine",
        "test_images": 500,
        "metrics": metrics(ours),
        "control": {"metrics": metrics(theirs)},
        "baseline": {"metrics": {"accuracy": constant}},
    }
    assert verdict(results).startswith(f"Better than random weights? {answer}")


def test_the_report_takes_the_control_where_no_other_run_is_given(few_faces: Path, tmp_path: Path) -> None:
    from fra.report.folders import read_runs
    from fra.report.tables import transfer_tables

    evaluate(few_faces, tmp_path / "runs/mine", "--quiet")
    (table,) = transfer_tables(read_runs([tmp_path / "runs/mine"]).transfer)
    assert [row.kind for row in table.rows] == ["ours", "random", "baseline"]
    assert table.comparisons
    assert table.missing is None
    (table,) = transfer_tables(read_runs([tmp_path / "runs"]).transfer)  # the control's own folder is found as well
    assert [row.kind for row in table.rows] == ["ours", "random", "baseline"]
