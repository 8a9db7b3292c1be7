"""`fra compare` at work: recognised data, runs that are shared and resumed, files, and bad input in one line."""

import shutil
from pathlib import Path
from typing import Any

import hand_labels as own
import pytest

from fra import cli
from fra.files import read_json, read_rows
from fra.report.run import write_report
from fra.transfer import linear
from fra.transfer.comparison.asked import base_recipe, recognise

SMALL = ["random:resnet10_quarter", "random:resnet10_half"]
QUICK = ["--set", "image_size=32", "--set", "epochs=5", "--workers", "0", "--device", "cpu", "--quiet"]
DRAWN = ["--dataset", "synthetic_expression"]


def compare(data: Path, out: Path, *more: str, encoders: list[str] = SMALL, status: int = 0) -> dict[str, Any]:
    words = ["compare", "--data", str(data), "--encoders", *encoders, "--out", str(out), *QUICK, *more]
    assert cli.main(words) == status
    return read_json(out / "compare.json") if (out / "compare.json").exists() else {}


@pytest.fixture(scope="module")
def compared(few_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "out"
    compare(few_faces, out, *DRAWN, "--labels", "10,all", "--seeds", "2")
    return out


def test_everything_is_in_the_files(compared: Path, few_faces: Path) -> None:
    content = read_json(compared / "compare.json")
    assert content["labels"] == [10, content["train_images"]]
    assert [encoder["name"] for encoder in content["encoders"]] == SMALL
    assert len(content["scores"]) == 4
    assert all(row["seconds"] >= 0 and len(row["metrics"]["accuracy"]["values"]) == 2 for row in content["scores"])
    (pair,) = content["pairs"]
    for row in pair["differences"]:
        by_name = {
            score["encoder"]: score["metrics"]["accuracy"]["mean"]
            for score in content["scores"]
            if score["labels"] == row["labels"]
        }
        assert row["difference"] == pytest.approx(by_name[pair["first"]] - by_name[pair["second"]])
        assert row["low"] == pytest.approx(row["difference"] - row["plus_minus"])
    (entry,) = content["sentences"]
    assert len(entry["said"]) == 2
    page = (compared / "compare.md").read_text()
    assert all(sentence in page for sentence in entry["said"])
    assert (compared / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_it_gives_the_numbers_of_fra_transfer(compared: Path, few_faces: Path, tmp_path: Path) -> None:
    words = ["transfer", "laptop/synthetic_expression", "--encoder", SMALL[0], "--data", str(few_faces), "--seeds", "2"]
    assert cli.main([*words, "--no-control", "--out", str(tmp_path / "alone"), *QUICK]) == 0
    alone = read_json(tmp_path / "alone/results.json")["metrics"]["accuracy"]["values"]
    scores = read_json(compared / "compare.json")["scores"]
    together = [row for row in scores if row["encoder"] == SMALL[0]][-1]["metrics"]["accuracy"]["values"]
    assert together == pytest.approx(alone)


def test_subsets_are_nested_and_the_same_for_every_encoder(compared: Path) -> None:
    content = read_json(compared / "compare.json")
    hashes = {}
    for row in content["scores"]:
        results = read_json(compared / row["run"] / "results.json")
        assert results["train_images"] == row["labels"]
        hashes.setdefault(row["labels"], []).append(results["subset_hash"])
    assert all(one == other for one, other in hashes.values())
    assert len(set(hashes[10][0])) == 2  # another draw for another seed


def test_features_are_computed_once_for_all_labels_and_seeds(
    few_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    compute = linear.compute_features

    def counted(*given: Any, split: str, **more: Any) -> Any:
        looked_at.append(split)
        return compute(*given, split=split, **more)

    monkeypatch.setattr(linear, "compute_features", counted)
    out = tmp_path / "out"
    first = compare(few_faces, out, *DRAWN, "--labels", "10,20,all", "--seeds", "2", encoders=SMALL[:1])
    assert sorted(looked_at) == ["test", "train", "val"]
    more = compare(few_faces, out, *DRAWN, "--labels", "10,15,20,all", "--seeds", "3", encoders=SMALL[:1])
    assert sorted(looked_at) == ["test", "train", "val"]  # all images were looked at before
    assert len(more["scores"]) == 4
    values = [row["metrics"]["accuracy"]["values"] for row in first["scores"]]
    again = [row["metrics"]["accuracy"]["values"] for row in more["scores"] if row["labels"] != 15]
    assert [each[:2] for each in again] == values
    assert len(first["sentences"][0]["said"]) == 1


def test_whole_networks_are_compared_too(few_faces: Path, tmp_path: Path) -> None:
    short = ["--set", "min_steps=0", "--set", "epochs=1", "--set", "warmup_epochs=0", "--set", "image_size=32"]
    words = ["compare", "--data", str(few_faces), *DRAWN, "--encoders", *SMALL[:1], *short]
    words += ["--protocols", "finetune", "--labels", "10", "--seeds", "1", "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--device", "cpu", "--quiet"]) == 0
    content = read_json(tmp_path / "out/compare.json")
    assert content["protocols"] == ["finetune"]
    assert content["features"] == []
    assert content["scores"][0]["train_images"] == 10


def test_a_plan_writes_nothing(few_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(few_faces, tmp_path / "out", *DRAWN, "--plan", "--protocols", "linear", "--labels", "10,all")
    said = capsys.readouterr().out
    assert said.count("to do") == 6
    assert not (tmp_path / "out").exists()


def test_the_report_shows_it(compared: Path, tmp_path: Path) -> None:
    page = write_report([compared], tmp_path / "page.html").read_text()
    content = read_json(compared / "compare.json")
    assert content["sentences"][0]["said"][1].replace("`", "") in page
    assert "<svg" in page
    assert "could not be read" not in page
    shutil.copytree(compared, tmp_path / "half", ignore=shutil.ignore_patterns("compare.json", "runs"))
    assert "unfinished comparison" in write_report([compared, tmp_path / "half"], tmp_path / "page.html").read_text()


def test_own_labels_are_recognised(few_faces: Path, tmp_path: Path) -> None:
    assert recognise(own.write_folder(few_faces, tmp_path / "classes")) == "folder"
    table = own.write_table(own.with_images(few_faces, tmp_path / "table"), own.table_rows(few_faces))
    assert recognise(table) == "table"
    assert recognise(own.write_points(few_faces, tmp_path / "points")) == "points"
    assert recognise(few_faces) == "synthetic"
    assert base_recipe(few_faces, "laptop/rafdb.linear") == "laptop/rafdb.linear"
    content = compare(tmp_path / "classes", tmp_path / "out", "--labels", "4", "--seeds", "1", encoders=SMALL[:1])
    assert content["dataset"] == "folder"


def test_what_is_wrong_in_own_labels_is_said_instead_of_another_layout(few_faces: Path, tmp_path: Path) -> None:
    rows = [row | {"age": "old" if number == 5 else row["age"]} for number, row in enumerate(own.table_rows(few_faces))]
    table = own.write_table(own.with_images(few_faces, tmp_path / "table"), rows)
    with pytest.raises(ValueError, match="1 of 40 values of 'age' is not a number"):
        recognise(table)
    classes = own.write_folder(few_faces, tmp_path / "classes")
    shutil.rmtree(classes / "test/sad")
    with pytest.raises(ValueError, match="no test image of 1 class of 2"):
        recognise(classes)


def test_numbers_of_a_table_are_compared_by_their_error(few_faces: Path, tmp_path: Path) -> None:
    data = own.write_table(own.with_images(few_faces, tmp_path / "mine"), own.table_rows(few_faces))
    content = compare(
        data, tmp_path / "out", "--set", "task=age", "--labels", "5,all", "--seeds", "2", "--names", "A", "B"
    )
    assert (content["metric"], content["lower_is_better"]) == ("mae", True)
    assert [encoder["name"] for encoder in content["encoders"]] == ["A", "B"]


def test_other_faces_need_another_folder(
    compared: Path, few_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(few_faces, compared, "--dataset", "synthetic_attributes", status=2)
    assert "compares encoders on other faces (expression on synthetic)" in capsys.readouterr().err


BAD = {
    "--labels is empty": ["--labels", ","],
    "--labels has 'ten'": ["--labels", "10,ten"],
    "--labels has '-3'": ["--labels=-3"],
    "--labels has 3, fewer than the": ["--labels", "3,10"],
    "--protocols is empty": ["--protocols", ""],
    "no protocol named 'liner'; did you mean 'linear'": ["--protocols", "liner"],
    "no dataset named 'rafbd'; did you mean 'rafdb'": ["--dataset", "rafbd"],
    "synthetic has several tasks: add --dataset": ["--dataset", "synthetic"],
    "no model named 'lptop'; did you mean 'laptop'": ["--encoders", "lptop"],
    "has the same weights twice (laptop)": ["--encoders", "laptop", "random", "laptop"],
    "--names has 1 for 2 encoders": ["--names", "mine"],
    "two encoders are called 'mine'": ["--names", "mine", "mine"],
    "--set fraction is what --labels decides": ["--set", "fraction=0.1"],
    "is not a folder": ["--data", "nowhere"],
}


@pytest.mark.parametrize("told", list(BAD))
def test_bad_input_is_one_line(told: str, few_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(few_faces, tmp_path / "out", *DRAWN, *BAD[told], status=2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert told in lines[0]
    assert not (tmp_path / "out").exists()


def test_more_labels_than_there_are_mean_all_and_are_told_once(
    few_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--data", str(few_faces), *DRAWN, "--encoders", SMALL[0], "--labels", "500,900"]
    assert cli.main([*words, "--seeds", "1", "--out", str(tmp_path / "out"), *QUICK[:-1]]) == 0
    assert capsys.readouterr().out.count("so all are used") == 1
    content = read_json(tmp_path / "out/compare.json")
    assert content["labels"] == [content["train_images"]]
    assert len(read_rows(tmp_path / "out" / content["scores"][0]["run"] / "predictions.csv")) == content["test_images"]
