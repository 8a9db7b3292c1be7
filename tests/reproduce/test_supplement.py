"""`fra reproduce`: from tables to runs, from finished runs to tables, whatever interrupts them."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_paper import records

from fra import cli
from fra.files import MARK
from fra.pretrain.run import load_pretrain_recipe
from fra.recipe import recipe_hash
from fra.report.run import write_report
from fra.reproduce.plan import Planner
from fra.reproduce.runs import Place, Pretraining, Run, Setting, Timing, Transfer
from fra.reproduce.supplement.scales import SCALES, Scale
from fra.reproduce.supplement.tables import TABLES, Table, in_order
from fra.reproduce.write import write_table
from fra.shipped import shipped_recipes
from fra.transfer.recipes import former_hash, load_transfer_recipe


def plant(table: Table, place: Place, value: Callable[[Run], float]) -> None:
    """Finished transfers and timings, without anything having run."""
    for run in table.runs():
        folder = run.folder(place)
        if isinstance(run, Transfer):
            folder.mkdir(parents=True, exist_ok=True)
            metric = {"expression": "accuracy", "attributes": "attribute_accuracy", "landmarks": "nme"}[run.recipe.task]
            values = [value(run) + 0.5 * (seed - run.seeds // 2) for seed in range(run.seeds)]
            results = {
                "seeds": list(range(run.seeds)),
                "metrics": {metric: {"values": values}},
                "confidence": {} if metric == "nme" else {metric: {"form": "wilson"}},
                "train_images": 1000,
                "test_images": 100,
            }
            (folder / "results.json").write_text(json.dumps(results))
        elif isinstance(run, Timing):
            folder.mkdir(parents=True, exist_ok=True)
            times = {"byol": {"ratio": 1, "low": 1, "high": 1}, "fra": {"ratio": 1.25, "low": 1.2, "high": 1.3}}
            (folder / "timing.json").write_text(json.dumps({"with_loading": times, "without_loading": times}))


# Tables and the runs they need


@pytest.mark.parametrize("scale", SCALES)
def test_every_cell_of_every_table_knows_its_run(scale: str) -> None:
    for table in TABLES.values():
        made = table(SCALES[scale], None)
        for part, row, _, _ in made.cells():
            assert any(cell.published or cell.source for cell in row.cells), (made.name, part.title, row.label)
        for run in made.runs():
            assert run.name
            if isinstance(run, Transfer):
                assert run.recipe.protocol != "linear"


def test_published_numbers_are_the_supplements() -> None:
    # results.md, section 1: each number that is printed in two tables is the same in both
    found: dict[str, list[str]] = {}
    for make in TABLES.values():
        for part, row, _, cell in make(SCALES["paper"], None).cells():
            if cell.published:
                found.setdefault(f"{row.label} {part.title}", []).append(cell.published)
    assert found["FRA (a) AffectNet: accuracy, % ↑"] == ["34.81", "55.48", "66.16"]
    assert found["3FabRec (b) WFLW: NME, % of the distance of the eyes ↓"] == ["7.68", "6.73", "6.51", "5.62"]
    assert found["He et al. (b) WFLW: NME, % of the distance of the eyes ↓"] == ["6.22", "5.61", "5.38"]
    assert found["FRA 300W: NME, % of the distance of the eyes ↓"] == ["3.14", "2.99", "2.91"]
    assert found["FRA Time/Epoch, relative to BYOL"] == ["1.05"]
    assert found["LEWEL AffectNet: accuracy, % ↑"] == ["61.20"]
    assert Counter(number for numbers in found.values() for number in numbers)["66.16"] == 3  # tables 1, 3 and 5


def test_tables_share_their_runs() -> None:
    tables = [make(SCALES["laptop"], None) for make in TABLES.values()]
    runs = in_order([run for table in tables for run in table.runs()])
    names = [run.name for run in runs]
    assert len(names) == len(set(names)) < sum(len(table.runs()) for table in tables)
    for place, run in enumerate(runs):
        assert {need.name for need in run.needs} <= set(names[:place])
    # table 2's longest FRA is that of tables 1, 3 and 5, and 50 and 200 epochs are an eighth and a half of it
    full = SCALES["laptop"].encoder("fra").recipe.schedule.epochs
    lengths = sorted(
        r.recipe.schedule.epochs for r in runs if isinstance(r, Pretraining) and r.recipe.method.name == "fra"
    )
    assert lengths == sorted({max(1, int(full / 8 + 0.5)), int(full / 2 + 0.5), full})


def test_the_paper_scale_trains_50_200_and_400_epochs_with_one_warm_up() -> None:
    scale = SCALES["paper"]
    recipes = [scale.encoder("fra", length).recipe for length in (1 / 8, 1 / 2, 1)]
    assert [(r.schedule.epochs, r.schedule.warmup_epochs) for r in recipes] == [(50, 10), (200, 10), (400, 10)]
    shipped = load_pretrain_recipe("paper/resnet50.fra_vggface2_50ep", [])
    assert recipe_hash(recipes[0]) == recipe_hash(shipped)
    lengths = {method: scale.encoder(method).recipe.schedule.epochs for method in scale.methods}
    assert lengths == dict.fromkeys(("fra", "byol", "swav", "lewel"), 400) | {"fabrec": 50}


def test_a_short_pretraining_warms_up_for_half_of_it_at_most() -> None:
    scale = replace(SCALES["smoke"], methods={"fra": ("smoke/resnet10_half.fra",)})  # two epochs, one of them warm-up
    schedule = scale.encoder("fra", 1 / 8).recipe.schedule
    assert (schedule.epochs, schedule.warmup_epochs) == (1, 0.5)


def test_a_run_is_known_by_its_recipe_not_by_its_seeds() -> None:
    scale = SCALES["smoke"]
    fra = scale.encoder("fra")
    one, more = (scale.transfer("RAF-DB", fra, 0.1, seeds=seeds) for seeds in (1, 3))
    assert one.name == more.name
    others = [
        scale.transfer("RAF-DB", fra, 0.2),
        scale.transfer("RAF-DB", fra, 0.1, random=True),
        scale.transfer("RAF-DB", scale.encoder("byol"), 0.1),
        scale.transfer("RAF-DB", scale.encoder("fra", 1 / 2), 0.1),
        scale.transfer("CelebA", fra, 0.1),
    ]
    assert len({run.name for run in [one, *others]}) == 6
    assert recipe_hash(fra.recipe) in fra.name


def test_a_run_that_an_earlier_version_named_is_found(tmp_path: Path) -> None:
    run, place = SCALES["laptop"].transfer("RAF-DB", SCALES["laptop"].encoder("fra"), 0.1), Place(*[tmp_path] * 3)
    assert former_hash(load_transfer_recipe("laptop/rafdb.finetune")) == "6d26bd21e820"  # as it was before
    assert run.folder(place) == place.runs / run.name
    earlier = place.runs / run._named(former_hash(run.recipe))
    earlier.mkdir(parents=True)
    assert run.folder(place) == earlier != place.runs / run.name
    (place.runs / run.name).mkdir()
    assert run.folder(place) == place.runs / run.name


# From finished runs to tables


def test_published_and_measured_numbers_stand_apart(tmp_path: Path) -> None:
    scale, place = SCALES["laptop"], Place(tmp_path, tmp_path, tmp_path)
    table = TABLES["table1"](scale, None)
    plant(table, place, lambda run: 50 + run.fraction if run.recipe.task == "expression" else 7)
    page = write_table(table, scale, place).read_text()
    head = page.splitlines()[2]
    assert "FairFace for VGGFace2" in head
    assert "RAF-DB for AffectNet" in head
    assert "300-W for WFLW" in head
    assert "| FRA | *published* | *34.81* | *55.48* | *66.16* |" in page
    assert "| FRA | **ours**, RAF-DB | **50.01 ± 0.50** | **50.10 ± 0.50** | **51.00 (41.35 – 60.58)** |" in page
    assert "| 3FabRec | *published* | – | *7.68* | *6.73* | *6.51* | *5.62* |" in page
    assert "| 3FabRec | **ours**, 300-W | **7.00 ± 0.50** |" in page
    assert "| He et al. | **ours**" not in page
    rows = records(place.out, "table1")
    published = {(r["part"], r["row"], r["column"]): r["value"] for r in rows if r["source"] == "published"}
    assert len(published) == 6 + 4 + 3 + 3 + 3  # (a) two rows of three; (b) 3FabRec, He et al., Bulat et al., FRA
    ours = [r for r in rows if r["source"] == "ours, laptop"]
    assert len(ours) == 9 + 4 * 5  # (a) three rows of three; (b) 3FabRec, Bulat et al., FRA, random weights
    assert {(r["seeds"], r["std"]) for r in ours} == {("3", "0.5"), ("1", "")}
    assert all((tmp_path / "runs" / r["run"]).is_dir() for r in ours)


def test_seeds_that_another_table_wanted_change_nothing(tmp_path: Path) -> None:
    scale, place = SCALES["laptop"], Place(tmp_path, tmp_path, tmp_path)
    plant(TABLES["table1"](scale, 3), place, lambda run: 50)
    one, three, four = (scale.transfer("AffectNet", scale.encoder("fra"), seeds=seeds) for seeds in (1, 3, 4))
    assert one.finished(place)
    assert three.finished(place)
    assert not four.finished(place)
    value = one.value(place, "accuracy")
    assert value is not None
    assert (value.mean, value.std, value.seeds) == (49.5, None, 1)
    value = three.value(place, "accuracy")
    assert value is not None
    assert (value.mean, value.std, value.seeds) == (50, 0.5, 3)


def test_the_paper_scale_has_no_stand_ins(tmp_path: Path) -> None:
    scale, place = SCALES["paper"], Place(tmp_path, tmp_path, tmp_path)
    table = TABLES["table3"](scale, None)
    plant(table, place, lambda run: 60)
    page = write_table(table, scale, place).read_text()
    assert "on the same data" in page
    assert " for AffectNet" not in page
    assert "| FRA | *published* | *1.05* | – |" in page
    assert "| FRA | **ours** | **1.250 (1.200 – 1.300)** | **1.250 (1.200 – 1.300)** |" in page


def test_table4_is_the_recipes(tmp_path: Path) -> None:
    # no faces and no data are needed for it, at any scale
    assert cli.main(["reproduce", "table4", "--scale", "paper", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    rows = records(tmp_path / "out", "table4")
    both = {(r["row"], r["column"]): [] for r in rows}
    for row in rows:
        both[row["row"], row["column"]].append(float(row["value"]))
    assert len(both) == 8
    assert all(published == ours for published, ours in both.values())


@pytest.mark.parametrize(("line", "changed", "what"), [
    ("backbone_rate: 0.0001", "backbone_rate: 0.0002", "backbone of AffectNet (7 classes) is 1e-4"),
    ("learning_rate: 0.002", "learning_rate: 0.0021", "head of AffectNet (7 classes) is 2e-3"),
])  # fmt: skip
def test_table4_fails_when_a_recipe_is_altered(
    line: str, changed: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    text = shipped_recipes("transfer")["paper/affectnet7.finetune"].text()
    assert line in text
    altered = tmp_path / "altered.yaml"
    altered.write_text(text.replace(line, changed))
    plain = Setting.value
    monkeypatch.setattr(
        Setting, "value",
        lambda self, *rest: plain(Setting(str(altered)) if "affectnet7" in self.recipe_name else self, *rest),
    )  # fmt: skip
    assert cli.main(["reproduce", "table4", "--scale", "smoke", "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert what in capsys.readouterr().err
    assert (tmp_path / "out/table4.md").exists()  # so that one can see where


def test_the_report_shows_the_tables(tmp_path: Path) -> None:
    scale, place = SCALES["laptop"], Place(tmp_path, tmp_path, tmp_path)
    for name in ("table1", "table3"):
        table = TABLES[name](scale, None)
        plant(table, place, lambda run: 41.5)
        write_table(table, scale, place)
    page = write_report([tmp_path], tmp_path).read_text()
    assert "Table 1. Transfer learning with limited data" in page
    assert "<em>34.81</em>" in page
    assert "<strong>41.50 ± 0.50</strong>" in page
    assert "RAF-DB for AffectNet" in page
    assert "|---" not in page


# Doing what is missing


def test_a_plan_lists_runs_and_does_nothing(few_faces: Path, small_scale: Scale, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    words = [
        "reproduce",
        "table1",
        "table3",
        "--scale",
        "smoke",
        "--faces",
        str(few_faces / "images"),
        "--data",
        str(few_faces),
    ]
    assert cli.main([*words, "--out", str(out), "--plan"]) == 0
    said = capsys.readouterr().out
    assert not out.exists()
    given = replace(small_scale, drawing=None)
    runs = in_order([*TABLES["table1"](given, None).runs(), *TABLES["table3"](given, None).runs()])
    assert f"{len(runs)} runs at scale smoke" in said
    assert f"{len(runs)} left" in said
    assert f"--faces {few_faces / 'images'} --out {out / 'runs'}" in said
    assert "modelled, not measured" in said


def test_a_plan_is_as_long_as_the_runs(few_faces: Path, small_scale: Scale, tmp_path: Path) -> None:
    place = Place(tmp_path, few_faces / "images", few_faces)
    planner = Planner(place)
    whole, half = (planner.estimate(small_scale.encoder("fra", length)) for length in (1, 1 / 2))
    assert whole.seconds == pytest.approx(2 * half.seconds)  # four epochs and two
    assert whole.gpu_hours == pytest.approx(2 * half.gpu_hours)
    assert whole.disk == half.disk > 1e5
    few, all_labels = (
        planner.estimate(small_scale.transfer("RAF-DB", small_scale.encoder("fra"), f, seeds=1)) for f in (0.5, 1)
    )
    # 32 training images in batches of 8: 2 epochs; none validates; 8 test images cost a third each
    assert few.seconds / all_labels.seconds == pytest.approx((2 * 16 + 8 / 3) / (2 * 32 + 8 / 3))


def test_faces_that_will_be_drawn_are_planned_as_such(small_scale: Scale, few_faces: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "not yet"
    coming = Planner(Place(tmp_path, nothing / "images", nothing), small_scale.drawing)
    there = Planner(Place(tmp_path, few_faces / "images", few_faces))
    for data in ("RAF-DB", "CelebA", "300W"):  # the second has a validation split
        recipe = small_scale.transfer(data, small_scale.encoder("fra")).recipe
        assert coming._split(recipe)[:3] == there._split(recipe)[:3]
    assert coming.faces(replace(small_scale.encoder("fra").recipe, max_faces=None)) == 40


def test_faces_and_data_are_asked_for(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["reproduce", "table2", "--scale", "laptop", "--out", str(tmp_path / "out")]) == 2
    assert "--faces" in capsys.readouterr().err
    faces = ["--faces", str(tmp_path)]
    assert cli.main(["reproduce", "table2", "--scale", "laptop", *faces, "--out", str(tmp_path / "out")]) == 2
    assert "--data" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_data_is_said_before_anything_is_trained(
    few_faces: Path, small_scale: Scale, tmp_path: Path, capsys: Any
) -> None:
    words = [
        "reproduce",
        "table2",
        "--scale",
        "smoke",
        "--faces",
        str(few_faces / "images"),
        "--data",
        str(few_faces / "regions"),
    ]
    assert cli.main([*words, "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert "fra data layout" in capsys.readouterr().err
    assert not (tmp_path / "out/runs").exists()


def test_a_folder_belongs_to_one_scale_and_one_set_of_faces(
    few_faces: Path, small_scale: Scale, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / MARK).write_text('{"command": "reproduce"}')
    (out / "reproduce.json").write_text('{"scale": "smoke", "faces": 7}')
    words = ["reproduce", "figure1", "--scale", "smoke", "--faces", str(few_faces / "images"), "--data", str(few_faces)]
    assert cli.main([*words, "--out", str(out), "--quiet"]) == 2
    assert "was started with 7 faces at scale smoke, not 40 faces" in capsys.readouterr().err
