"""People's own labels: folders of classes, tables and points give what they say, and say what is wrong in them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hand_labels as own
import pytest
import torch
from planted_tasks import Told, upright_face
from torch.testing import assert_close

from fra import cli
from fra.crop.detectors import DETECTORS
from fra.data.check import check
from fra.data.datasets import DATASETS, celeba, folder, points, rafdb, table, w300
from fra.data.labelled import WARNING
from fra.data.own import draw_split
from fra.faces.image import read_image, write_image
from fra.faces.points import place_out_of
from fra.files import read_json, read_rows
from fra.predict.task_model import load_task_model
from fra.runtime import Runtime

QUICK = ["--encoder", "random:resnet10_quarter", "--set", "image_size=32", "--workers", "0", "--quiet"]


@pytest.fixture
def drawn(few_faces: Path) -> Path:
    """40 drawn faces of 48 px with all labels: 28 train, 4 validate, 8 test."""
    return few_faces


def transfer(recipe: str, data: Path, out: Path, *more: str) -> dict[str, Any]:
    words = ["transfer", f"laptop/{recipe}", "--data", str(data), "--out", str(out), *QUICK, *more]
    if recipe.endswith("linear") and not recipe.startswith("points"):
        words += ["--set", "epochs=3"]
    assert cli.main(words) == 0
    return read_json(out / "results.json")


def refusal(recipe: str, data: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The one line with which a run ends that is not begun."""
    words = ["transfer", f"laptop/{recipe}", "--data", str(data), "--out", str(out), *QUICK, *more]
    capsys.readouterr()
    assert cli.main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in lines if WARNING not in line]) == 1, lines
    return lines[-1]


# --- splits


def test_a_drawn_split_takes_a_fifth_of_every_class_and_depends_on_names_and_seed_alone() -> None:
    names, labels = [f"{number}.jpg" for number in range(100)], ["a"] * 80 + ["b"] * 20
    words = draw_split(names, labels, seed=0)
    assert [words[:80].count("test"), words[80:].count("test")] == [16, 4]
    backwards = draw_split(names[::-1], labels[::-1], seed=0)
    assert backwards[::-1] == words
    assert draw_split(names, labels, seed=1) != words


def test_a_drawn_split_keeps_groups_together_and_every_class_on_both_sides() -> None:
    groups = [f"person{number // 5}" for number in range(100)]
    labels = ["a" if number < 90 else "b" for number in range(100)]  # two persons are b: one for each side
    words = draw_split(groups, labels, seed=0)
    assert all(len({words[place] for place in range(start, start + 5)}) == 1 for start in range(0, 100, 5))
    assert {words[place] for place in range(90, 100)} == {"train", "test"}
    assert 10 <= words.count("test") <= 30


# --- folders


def test_a_folder_gives_its_classes_and_splits(drawn: Path, tmp_path: Path) -> None:
    faces = folder.read(own.write_folder(drawn, tmp_path / "mine"))
    assert faces.tasks["class"].labels == ("glad", "sad")
    assert {split: len(images) for split, images in faces.splits.items()} == {"train": 32, "val": 0, "test": 8}
    for file, label in zip(faces.files, faces.targets["class"].tolist(), strict=True):
        assert file.split("/")[1] == ("glad", "sad")[label]
    assert faces.missing() == []
    assert faces.notes == ()


def test_a_folder_says_what_its_classes_are_and_who_is_in_it(drawn: Path, tmp_path: Path) -> None:
    mine = own.write_folder(drawn, tmp_path / "mine", splits=False)
    (mine / "labels.yaml").write_text("name: mood\nclasses: [sad, glad]\ngroup: '^(person\\d+)_'\n")
    faces = folder.read(mine)
    assert faces.tasks["mood"].labels == ("sad", "glad")
    assert faces.main == "mood"
    person = [Path(file).name.split("_")[0] for file in faces.files]
    sides = {split: {person[place] for place in faces.splits[split].tolist()} for split in ("train", "test")}
    assert not sides["train"] & sides["test"]
    assert 6 <= len(faces.splits["test"]) <= 10
    assert faces.notes[0].startswith("no split is given: ")


def test_raf_db_as_a_folder_is_the_same_dataset(drawn: Path, tmp_path: Path) -> None:
    known = rafdb.read(drawn / "rafdb")
    for place, (file, label) in enumerate(zip(known.files, known.targets["expression"].tolist(), strict=True)):
        split = "test" if place in known.splits["test"].tolist() else "train"
        target = tmp_path / "mine" / split / rafdb.LABELS[label] / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(known.root.resolve() / file)
    there = sorted(path.name for path in (tmp_path / "mine/test").iterdir())
    for missing in set(rafdb.LABELS) - set(there):  # 8 faces do not have all seven
        shutil.rmtree(tmp_path / "mine/train" / missing, ignore_errors=True)
    classes = [name for name in rafdb.LABELS if name in there]
    (tmp_path / "mine/labels.yaml").write_text(f"classes: {json.dumps(classes)}\nname: expression\n")
    faces = folder.read(tmp_path / "mine")
    kept = [place for place, label in enumerate(known.targets["expression"].tolist()) if rafdb.LABELS[label] in classes]
    assert [Path(file).name for file in faces.files] == [known.files[place] for place in kept]
    names = [faces.tasks["expression"].labels[label] for label in faces.targets["expression"].tolist()]
    assert names == [rafdb.LABELS[known.targets["expression"][place]] for place in kept]


# --- tables


def test_a_table_is_understood_by_what_is_in_it(drawn: Path, tmp_path: Path) -> None:
    mine = own.write_table(own.with_images(drawn, tmp_path / "mine"), own.table_rows(drawn))
    faces = table.read(mine)
    assert list(faces.tasks) == ["mood", "age", "attributes"]
    assert faces.tasks["mood"].labels == ("glad", "sad")
    assert faces.tasks["attributes"].names == ("smiling", "hat")
    assert faces.targets["mood"][:3].tolist() == [0, 1, -1]
    assert faces.targets["attributes"][3].isnan().tolist() == [True, False]
    ages = faces.tasks["age"].numbers(faces.targets["age"])[:, 0]
    assert ages[4].isnan()
    assert_close(ages[[0, 1, 39]], torch.tensor([20.0, 23.0, 137.0], dtype=torch.float64), atol=1e-3, rtol=0)
    known = faces.targets["age"][faces.splits["train"]]
    assert float(known.nanmean()) == pytest.approx(0, abs=1e-5)
    assert faces.notes[0] == (
        "labels.csv: mood (2 classes, 1 unknown), smiling (yes or no, 1 unknown), hat (yes or no), "
        "age (number from 20 to 137, 1 unknown)"
    )
    assert len(faces.labelled("mood").splits["train"]) == len(faces.splits["train"]) - 1


def test_columns_are_what_labels_yaml_says(drawn: Path, tmp_path: Path) -> None:
    rows = [row | {"grade": number % 3, "note": f"n{number}"} for number, row in enumerate(own.table_rows(drawn))]
    mine = own.write_table(own.with_images(drawn, tmp_path / "mine"), rows, "faces.csv")
    (mine / "labels.yaml").write_text("table: faces.csv\ncolumns: {grade: ['2', '0', '1'], hat: class}\n")
    faces = table.read(mine)
    assert list(faces.tasks) == ["grade", "hat"]
    assert faces.tasks["grade"].labels == ("2", "0", "1")
    assert faces.targets["grade"][:4].tolist() == [1, 2, 0, 1]
    assert faces.tasks["hat"].labels == ("0", "1")


def test_zero_is_unknown_where_minus_one_is_no(drawn: Path, tmp_path: Path) -> None:
    rows = [
        {"path": f"images/{row['file']}", "split": row["split"], "hat": (1, -1, 0)[number % 3], "beard": number % 2}
        for number, row in enumerate(own.rows_of(drawn))
    ]
    found = table.read(own.write_table(own.with_images(drawn, tmp_path / "mine"), rows)).targets["attributes"]
    assert found[:3, 0].isnan().tolist() == [False, False, True]
    assert found[:2].tolist()[1] == [0, 1]
    assert found[0, 1].isnan()


def test_celeba_as_a_table_is_the_same_dataset(drawn: Path, tmp_path: Path) -> None:
    known = celeba.read(drawn / "celeba")
    words = {place: split for split, places in known.splits.items() for place in places.tolist()}
    rows = [
        {"path": file, "split": words[place]}
        | {name: 1 if yes else -1 for name, yes in zip(known.tasks["attributes"].names, answers, strict=True)}
        for place, (file, answers) in enumerate(zip(known.files, known.targets["attributes"].tolist(), strict=True))
    ]
    mine = own.write_table(tmp_path / "mine", rows)
    for file in known.files:
        (mine / file).symlink_to(known.root.resolve() / file)
    faces = table.read(mine)
    assert faces.main in faces.tasks
    assert (list(faces.files), faces.tasks["attributes"]) == (list(known.files), known.tasks["attributes"])
    assert torch.equal(faces.targets["attributes"], known.targets["attributes"])
    assert all(torch.equal(faces.splits[split], known.splits[split]) for split in known.splits)


def test_a_parquet_table_says_the_same(drawn: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = own.table_rows(drawn)
    one = table.read(own.write_table(own.with_images(drawn, tmp_path / "one"), rows))
    plain = [{name: None if value == "" else value for name, value in row.items()} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(plain), own.with_images(drawn, tmp_path / "other") / "labels.parquet")
    other = table.read(tmp_path / "other")
    assert other.tasks == one.tasks
    assert all(torch.equal(other.targets[word].nan_to_num(), one.targets[word].nan_to_num()) for word in one.tasks)


def test_a_parquet_table_without_pyarrow_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "labels.parquet").write_bytes(b"PAR1")
    line = refusal("table.linear", tmp_path, tmp_path / "out", capsys)
    assert "pip install -e '.[tables]'" in line


# --- points


def test_points_give_the_places_and_what_their_names_say(drawn: Path, tmp_path: Path) -> None:
    faces = points.read(own.write_points(drawn, tmp_path / "mine"))
    task = faces.tasks["landmarks"]
    assert task.names == tuple(own.FIVE)
    assert (task.pair, task.flip) == ((0, 1), (1, 0, 2, 4, 3))
    assert task.normaliser_of("nme") == "left_eye to right_eye"
    assert faces.boxes is not None
    content = json.loads((tmp_path / "mine/train.json").read_text())["annotations"][0]["keypoints"]
    found = place_out_of(faces.boxes[:1], faces.targets["landmarks"][:1])[0]
    assert_close(found, torch.tensor(content).view(5, 3)[:, :2], atol=1e-3, rtol=0)
    assert len(faces.splits["train"]) == 32


def test_whole_numbers_are_points_too(drawn: Path, tmp_path: Path) -> None:
    mine = own.write_points(drawn, tmp_path / "mine")
    for name in ("train", "test"):
        content = json.loads((mine / f"{name}.json").read_text())
        for one in content["annotations"]:
            one["keypoints"], one["bbox"] = list(map(round, one["keypoints"])), [1, 2, 40, 40]
        (mine / f"{name}.json").write_text(json.dumps(content))
    assert points.read(mine).targets["landmarks"].dtype == torch.float32


def test_points_from_a_table_are_those_from_coco(drawn: Path, tmp_path: Path) -> None:
    one = points.read(own.write_points(drawn, tmp_path / "one"))
    rows = []
    for split in ("train", "test"):
        content = own.coco(drawn, split=split)
        for image, annotation in zip(content["images"], content["annotations"], strict=True):
            values = iter(annotation["keypoints"])
            row = {"path": f"images/{image['file_name']}", "split": split}
            for name in own.FIVE:
                row |= {f"{name}_x": next(values), f"{name}_y": next(values)}
                next(values)
            rows.append(row)
    other = points.read(own.write_table(own.with_images(drawn, tmp_path / "other"), rows, "points.csv"))
    assert other.tasks == one.tasks
    assert_close(other.targets["landmarks"], one.targets["landmarks"])


def test_300_w_as_coco_points_is_the_same_dataset(drawn: Path, tmp_path: Path) -> None:
    known = w300.read(drawn / "300w")
    assert known.boxes is not None
    pixels = place_out_of(known.boxes, known.targets["landmarks"])
    for split in ("train", "test"):
        places = known.splits[split].tolist()
        content = {
            "images": [{"id": place, "file_name": known.files[place]} for place in places],
            "annotations": [
                {
                    "image_id": place,
                    "category_id": 1,
                    "keypoints": torch.cat((pixels[place], torch.ones(68, 1)), 1).flatten().tolist(),
                }
                for place in places
            ],
            "categories": [{"id": 1, "keypoints": [f"point {number}" for number in range(68)]}],
        }
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to((drawn / "300w").resolve())
    (tmp_path / "labels.yaml").write_text("layout: ibug68\n")
    faces = points.read(tmp_path)
    assert faces.tasks == known.tasks
    assert list(faces.files) == list(known.files)
    assert_close(faces.targets["landmarks"], known.targets["landmarks"], atol=1e-4, rtol=0)
    assert_close(faces.boxes, known.boxes, atol=1e-3, rtol=0)


def test_points_without_sides_are_not_mirrored_and_the_run_says_so(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {f"p{number}": number for number in range(0, 68, 4)}
    mine = own.write_points(drawn, tmp_path / "mine", names=names)
    (mine / "labels.yaml").write_text("normaliser: [p36, p44]\n")
    words = ["transfer", "laptop/points.linear", "--data", str(mine), "--out", str(tmp_path / "run"), *QUICK]
    assert cli.main([word for word in words if word != "--quiet"]) == 0
    assert "faces are not mirrored, because no mirror pairs are known" in capsys.readouterr().out
    assert not points.read(mine).tasks["landmarks"].mirrors
    short = [
        word for setting in ("epochs=1", "min_steps=1", "falls=[]", "alignment.width=8") for word in ("--set", setting)
    ]
    assert transfer("points.star", mine, tmp_path / "star", *short, "--fraction", "0.2")["metrics"]["nme"]["mean"] > 0


def test_faces_of_one_photo_stay_together(drawn: Path, tmp_path: Path) -> None:
    content = own.coco(drawn)
    for number, annotation in enumerate(content["annotations"]):
        annotation["image_id"] = content["images"][number // 2]["id"]
    own.with_images(drawn, tmp_path / "mine")
    (tmp_path / "mine/points.json").write_text(json.dumps(content))
    faces = points.read(tmp_path / "mine")
    sides = [{faces.files[place] for place in faces.splits[split].tolist()} for split in ("train", "test")]
    assert not sides[0] & sides[1]
    assert len(faces.splits["test"]) == 8


# --- runs


def test_runs_of_all_three_are_predicted_with_and_reported(drawn: Path, tmp_path: Path) -> None:
    mine = own.write_folder(drawn, tmp_path / "moods")
    listed = own.write_table(own.with_images(drawn, tmp_path / "listed"), own.table_rows(drawn))
    placed = own.write_points(drawn, tmp_path / "placed")
    runs = {name: tmp_path / f"run_{name}" for name in ("mood", "age", "attributes", "points")}
    found = transfer("folder.linear", mine, runs["mood"])
    assert (found["task"], found["dataset"], found["title"]) == ("class", "folder", "moods")
    found = transfer("table.linear", listed, runs["age"], "--set", "task=age")
    assert set(found["metrics"]) == {"mae", "ccc", "pearson"}
    assert found["metrics"]["mae"]["mean"] > 0
    assert found["baseline"]["name"] == "training median"
    assert found["train_images"] == 27  # one age is unknown
    rows = read_rows(runs["age"] / "predictions.csv")
    assert set(rows[0]) == {"seed", "file", "true_age", "predicted_age"}
    transfer("table.linear", listed, runs["attributes"], "--set", "task=attributes")
    found = transfer("points.linear", placed, runs["points"])
    assert found["metrics"]["nme"]["normaliser"] == "left_eye to right_eye"
    words = [word for run in runs.values() for word in ("--task", str(run))]
    photo = str(drawn / "images/000001.jpg")
    assert cli.main(["predict", photo, "--detector", "none", "--out", str(tmp_path / "told"), *words, "--quiet"]) == 0
    (face,) = json.loads((tmp_path / "told/predictions.json").read_text())["photos"][0]["faces"]
    assert len(face["answers"]["run_points"]["landmarks"]) == 5
    assert set(face["answers"]["run_age"]["numbers"]) == {"age"}
    assert face["answers"]["run_mood"]["class"] in ("glad", "sad")
    page = tmp_path / "report.html"
    assert cli.main(["report", *map(str, runs.values()), "--out", str(page), "--quiet"]) == 0
    text = page.read_text()
    assert "Class on moods" in text
    assert "mean absolute error ↓" in text
    assert load_task_model(runs["age"]).task.names == ("age",)


def test_other_pictures_under_the_same_names_are_other_data(drawn: Path, tmp_path: Path) -> None:
    mine = own.write_folder(drawn, tmp_path / "mine")
    before = folder.read(mine).fingerprint("class")
    assert folder.read(mine).fingerprint("class") == before
    write_image(next((mine / "train/glad").iterdir()), torch.zeros(3, 9, 9, dtype=torch.uint8))
    assert folder.read(mine).fingerprint("class") != before


def test_numbers_are_fine_tuned(drawn: Path, tmp_path: Path) -> None:
    listed = own.write_table(own.with_images(drawn, tmp_path / "listed"), own.table_rows(drawn))
    short = ["--set", "epochs=2", "--set", "min_steps=0", "--set", "batch_size=16"]
    found = transfer("table.finetune", listed, tmp_path / "run", "--set", "task=age", *short)
    assert found["metrics"]["mae"]["best_on_validation"]["mean"] > 0


def test_a_test_face_in_training_is_counted(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = own.write_folder(drawn, tmp_path / "mine")
    first = sorted((mine / "test/sad").iterdir())[0]
    shutil.copy(first, mine / "train/glad/copy.jpg")
    found = transfer("folder.linear", mine, tmp_path / "run")
    (note,) = found["notes"]
    assert note.startswith("warning: 1 of 8 test images also used for training or validation (identical bytes)")
    assert f"test/sad/{first.name} = train/glad/copy.jpg" in note
    assert note in capsys.readouterr().err


def test_pictures_that_are_no_crops_are_warned_of(drawn: Path, tmp_path: Path) -> None:
    mine = own.write_folder(drawn, tmp_path / "mine")
    for path in mine.rglob("*.jpg"):
        write_image(path, torch.randint(0, 255, (3, 60, 100)).byte())
    assert any("are not face crops (the first has 100 x 60 pixels)" in note for note in folder.read(mine).notes)


def test_photos_are_cut_on_the_way_and_each_is_accounted_for(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a detector that is told of a face in the right half of wide photos, and of none in others."""
    mine = own.write_folder(drawn, tmp_path / "mine")
    (mine / "labels.yaml").write_text("name: mood\n")
    lost = [sorted((mine / "test/sad").iterdir())[0], *sorted((mine / "train/glad").iterdir())[:2]]
    for path in mine.rglob("*.jpg"):
        face = read_image(path)
        write_image(path, torch.cat((torch.zeros_like(face), face), 1 if path in lost else 2))
    monkeypatch.setattr(Told, "faces", {(96, 48): [upright_face(48, 0, 48)]}, raising=False)
    monkeypatch.setitem(DETECTORS, "told", Told)
    found = transfer("folder.linear", mine, tmp_path / "run", "--crop-with", "told")
    assert (found["task"], found["train_images"], found["test_images"]) == ("mood", 30, 7)
    assert "40 photos cut: 37 used, 3 skipped (no face)" in found["notes"]
    assert "fra: warning: not in the score: 1 test photo without a face" in capsys.readouterr().err
    rows = {row["photo"]: row for row in read_rows(tmp_path / "run.crops/crops.csv")}
    kept = read_image(
        tmp_path / "run.crops" / rows[f"test/glad/{sorted((mine / 'test/glad').iterdir())[0].name}"]["crop"]
    )
    assert kept.shape == (3, 128, 128)
    assert kept.float().mean() > 20  # no black half
    message = refusal("points.linear", own.write_points(drawn, tmp_path / "placed"), tmp_path / "no", capsys,
                      "--crop-with", "told")  # fmt: skip
    assert "cuts faces out of photos itself" in message


# --- what is wrong


Spoil = Callable[[Path, Path], None]


def _table_with(change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Spoil:
    """A table of which every row was changed, given its number."""

    def write(drawn: Path, mine: Path) -> None:
        rows = [change(number, row) for number, row in enumerate(own.table_rows(drawn))]
        own.write_table(own.with_images(drawn, mine), rows)

    return write


def _folder_without(*names: str) -> Spoil:
    def write(drawn: Path, mine: Path) -> None:
        own.write_folder(drawn, mine)
        for name in names:
            shutil.rmtree(mine / name)

    return write


def _points_with(change: Callable[[dict[str, Any]], object], says: str = "") -> Spoil:
    def write(drawn: Path, mine: Path) -> None:
        own.write_points(drawn, mine)
        content = json.loads((mine / "train.json").read_text())
        change(content)
        (mine / "train.json").write_text(json.dumps(content))
        (mine / "labels.yaml").write_text(says)

    return write


def _empty_train(drawn: Path, mine: Path) -> None:
    own.write_folder(drawn, mine)
    for label in ("glad", "sad"):
        shutil.rmtree(mine / "train" / label)


def _move(content: dict[str, Any], x: float) -> None:
    content["annotations"][3]["keypoints"][0] = x


ONE = "only one class, 'glad': at least two are needed"
WRONG: dict[str, tuple[str, Spoil, str]] = {
    "folder, one class": ("folder.linear", _folder_without("train/sad", "test/sad"), ONE),
    "folder, class missing": (
        "folder.linear",
        _folder_without("test/sad"),
        "no test image of 1 class of 2 ('sad'): add some, or remove the class",
    ),
    "folder, no test": ("folder.linear", _folder_without("test"), "has train/ but no test/: both are needed"),
    "folder, empty split": ("folder.linear", _empty_train, "has no train images: both train and test are needed"),
    "folder, a strange split": (
        "folder.linear",
        lambda drawn, mine: (own.write_folder(drawn, mine), (mine / "valid").mkdir(), None)[-1],
        "has valid/ beside train/ and test/",
    ),
    "folder, splits by another name": (
        "folder.linear",
        lambda drawn, mine: (
            own.write_folder(drawn, mine),
            [(mine / name).rename(mine / name.title()) for name in ("train", "test")],
            None,
        )[-1],
        "has Test/ and Train/, which look like splits: call them train/ and test/",
    ),
    "table, one class": ("table.linear", _table_with(lambda _, row: row | {"mood": "glad"}), ONE),
    "table, class missing": (
        "table.linear",
        _table_with(lambda _, row: row | {"mood": "odd" if row["split"] == "test" else row["mood"] or "glad"}),
        "no train image of 1 class of 3 ('odd')",
    ),
    "table, no numbers": (
        "table.linear",
        _table_with(lambda number, row: row | {"age": "n/a" if number in (5, 7) else row["age"]}),
        "2 of 40 values of 'age' are not numbers, the first is 'n/a' in line 7: leave a cell empty",
    ),
    "table, missing paths": (
        "table.linear",
        _table_with(lambda number, row: row | {"path": f"gone/{number}.jpg" if number < 6 else row["path"]}),
        "6 of 40 listed images missing from",
    ),
    "table, duplicates": (
        "table.linear",
        _table_with(lambda number, row: row | {"path": "images/000000.jpg" if number == 9 else row["path"]}),
        "1 duplicate row, the first is line 11 (images/000000.jpg), which repeats line 2 (images/000000.jpg)",
    ),
    "table, empty split": (
        "table.linear",
        _table_with(lambda _, row: row | {"split": "train"}),
        "has no test images: both train and test are needed",
    ),
    "table, a strange split": (
        "table.linear",
        _table_with(lambda _, row: row | {"split": "valid" if row["split"] == "val" else row["split"]}),
        "has the split 'valid': expected train, val or test",
    ),
    "table, paths as labels": (
        "table.linear",
        _table_with(lambda number, row: row | {"mood": f"photos/{number}.jpg"}),
        "40 different labels for 40 images, the first is 'photos/0.jpg': are these names or paths instead of classes?",
    ),
    "table, several tasks": (
        "table.linear",
        _table_with(lambda _, row: row),
        "has several tasks (mood, age, attributes): choose one by --set task=NAME",
    ),
    "table, a number that never changes": (
        "table.linear",
        _table_with(lambda _, row: row | {"age": 30}),
        "'age' is 30 in every training image",
    ),
    "table, semicolons": (
        "table.linear",
        lambda drawn, mine: (own.with_images(drawn, mine) / "labels.csv").write_text(
            "path;mood\nimages/000000.jpg;a\n"
        ),
        "labels.csv has semicolons between its columns: save it with commas",
    ),
    "points, outside": (
        "points.linear",
        _points_with(lambda content: _move(content, 5000.0)),
        "1 face with points far outside of the photo (000003.jpg)",
    ),
    "points, duplicates": (
        "points.linear",
        _points_with(lambda content: content["annotations"].append(content["annotations"][0])),
        "1 duplicate row, the first is face 33 (000000.jpg), which repeats face 1 (000000.jpg)",
    ),
    "points, shares of the photo": (
        "points.linear",
        _points_with(
            lambda content: [
                one.update(keypoints=[value / 100 for value in one["keypoints"]]) for one in content["annotations"]
            ]
        ),
        "the points of 32 faces span less than two pixels, the first is 000000.jpg",
    ),
    "points, not three numbers each": (
        "points.linear",
        _points_with(lambda content: content["annotations"][2]["keypoints"].pop()),
        "annotation 3 of",
    ),
    "points, an unknown normaliser": (
        "points.linear",
        _points_with(lambda _: None, "normaliser: [left_eye, rihgt_eye]\n"),
        "no point is called 'rihgt_eye'; did you mean 'right_eye'?",
    ),
    "points, a list for a file": (
        "points.linear",
        lambda drawn, mine: (own.write_points(drawn, mine) / "train.json").write_text("[]"),
        "train.json is not a file of COCO keypoints (expected images, categories and annotations)",
    ),
    "points, none labelled": (
        "points.linear",
        _points_with(lambda content: [one["keypoints"].__setitem__(2, 0) for one in content["annotations"]]),
        "has no train images (32 faces left out because a point is not labelled): both train and test are needed",
    ),
    "points, an unknown layout": (
        "points.linear",
        _points_with(lambda _: None, "layout: ibug86\n"),
        "layout is 'ibug86': expected ibug68, wflw98, cofw29 or aflw19",
    ),
    "a setting that there is not": (
        "points.linear",
        _points_with(lambda _: None, "normalizer: [a, b]\n"),
        "no setting named 'normalizer'; did you mean 'normaliser'?",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line_and_status_two(
    name: str, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, spoil, expected = WRONG[name]
    mine = tmp_path / "mine"
    spoil(drawn, mine)
    assert expected in refusal(recipe, mine, tmp_path / "out", capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["folder", "table", "points"])
def test_a_folder_without_any_of_it_is_one_clear_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{tmp_path} has no .*`fra data layout {name}` shows what is read"):
        DATASETS[name](tmp_path)


def test_the_first_five_missing_paths_are_named(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    WRONG["table, missing paths"][1](drawn, tmp_path / "mine")
    line = refusal("table.linear", tmp_path / "mine", tmp_path / "out", capsys, "--set", "task=age")
    assert ": gone/0.jpg, gone/1.jpg, gone/2.jpg, gone/3.jpg, gone/4.jpg, ...: correct the paths" in line


def test_data_check_and_layout_know_them(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = own.write_folder(drawn, tmp_path / "mine")
    assert cli.main(["data", "check", "folder", str(mine), "--quiet"]) in (0, 1)
    assert "folder in" in capsys.readouterr().out
    (mine / "train/glad/odd.jpg").write_bytes(b"no picture")
    assert cli.main(["data", "check", "folder", str(mine), "--quiet"]) == 1
    assert "download" not in capsys.readouterr().out  # nobody gave them out
    assert cli.main(["data", "check", "folder", str(mine / "train/glad/odd.jpg")]) == 2
    assert "give the folder that `fra data layout folder` shows" in capsys.readouterr().err
    shutil.rmtree(mine / "test/sad")
    faces, faults = check("folder", mine, runtime=Runtime(quiet=True))
    assert faces is None
    assert "no test image of 1 class" in faults[0].what
    assert faults[0].fix == "`fra data layout folder` shows the tree"
    for name in ("folder", "table", "points"):
        assert DATASETS[name].own
        assert cli.main(["data", "layout", name]) == 0
        assert "labels.yaml" in capsys.readouterr().out
