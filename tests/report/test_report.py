"""The report: every number arrives, nothing comes from the network, missing pieces are said in plain words."""

import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fra.cli import main
from fra.crop.cut import COLUMNS
from fra.crop.journal import Journal
from fra.drawing.drawn_face import draw_face
from fra.faces import pictures
from fra.faces.image import write_image
from fra.files import write_rows
from fra.pretrain.columns import HealthColumn
from fra.pretrain.run import METHODS
from fra.regions import draw
from fra.regions import heatmaps as measure
from fra.report import charts, tables, words
from fra.report.folders import CompareRun, PretrainRun, read_runs
from fra.report.run import _beside_random, write_report
from fra.system.printable import duration
from fra.transfer import compare

FRA = "resnet18.fra_drawn_3ep"


def pretrain_run(folder: Path, *, snapshots: bool = True, warning: str = "") -> Path:
    """What `fra pretrain` leaves, three epochs of ten steps, four regions."""
    folder.mkdir(parents=True)
    log = [
        {"step": s, "epoch": s // 10, "loss": 4.25 - s / 20, "same_face": 2 - s / 40, "clusters": 1.4 - s / 60,
             "learning_rate": 0.5, "pairs_per_second": 200.0, "waiting": 0.05}
        for s in range(0, 31, 2)
    ]  # fmt: skip
    write_rows(folder / "log.csv", log)
    health = [
        {"epoch": e, "step": 10 * e, "feature_std": 0.02 + 0.01 * e, "effective_rank": 4.0 + e, "teacher_gap": 0.1,
             "mask_cosine": 0.5 - 0.2 * e, "assignment_entropy": 1.3 - 0.2 * e, "usage_0": 0.25, "usage_1": 0.25,
             "usage_2": 0.3, "usage_3": 0.2, "warning": warning if e == 3 else ""}
        for e in range(4)
    ]  # fmt: skip
    write_rows(folder / "health.csv", health)
    summary = {"method": "fra", "encoder": "resnet18", "faces": 6000, "epochs": 3, "steps": 30, "seconds": 212.4,
                   "parameters": 13_400_000, "multiply_adds_per_pair": 1.2e9, "pairs_per_second": 211.3}  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "recipe.yaml").write_text("method:\n  name: fra\n  note: <b>4 & 5</b>\n")
    if snapshots:
        (folder / "snapshots").mkdir()
        images = torch.stack([draw_face(seed, size=32).image for seed in range(2)])
        np.savez(folder / "snapshots/faces.npz", images=images.numpy())
        for epoch in range(4):
            maps = (epoch * torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(epoch))).softmax(1)
            np.savez(folder / f"snapshots/epoch_{epoch:04d}.npz", heatmaps=maps.half().numpy())
    return folder


def transfer_run(folder: Path, encoder: str, values: dict[str, list[float]], **more: Any) -> Path:
    folder.mkdir(parents=True)
    metrics = {
        name: {"mean": float(np.mean(v)), "std": float(np.std(v, ddof=1)) if len(v) > 1 else 0.0, "values": v}
        for name, v in values.items()
    }
    seeds = list(range(len(next(iter(values.values())))))
    about = {"task": "expression", "dataset": "rafdb", "protocol": "linear", "fraction": 0.1, "seeds": seeds}
    about |= {"train_images": 1200, "test_images": 3068, "encoder": encoder, "metrics": metrics}
    (folder / "results.json").write_text(json.dumps(about | more))
    return folder


def regions_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    maps = torch.rand(8, 4, 3, 3).softmax(1)
    faces = [draw_face(seed, size=32).image for seed in range(8)]
    write_image(folder / "regions.png", draw.faces_with_heatmaps(faces, maps, measure.ranking(maps)))
    np.savez(folder / "heatmaps.npz", heatmaps=maps.numpy())
    numbers = {"faces": 8, "regions": 4, "drawn": 8, "shares": [0.1, 0.2, 0.3, 0.4], "map_cosine": 0.123}
    numbers |= {"entropy": 0.456, "skipped": [["broken.jpg", "cut off"]]}
    (folder / "regions.json").write_text(json.dumps(numbers))
    return folder


def score_run(folder: Path, **changed: object) -> Path:
    """What `fra regions --score` leaves."""
    folder.mkdir(parents=True)
    found: dict[str, object] = {"landmark_nme": 14.55, "mean_face_nme": 17.2, "usage": [0.1, 0.2, 0.3, 0.4]}
    found |= {"entropy": 0.84, "mask_cosine": 0.18, "flip_consistency": 0.85} | changed
    (folder / ".fra-run").write_text(json.dumps({"command": "regions"}))
    (folder / "score.json").write_text(json.dumps(found))
    return folder


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    landmarks = {"task": "landmarks", "baseline": {"name": "mean face", "metrics": {"nme": 14.9}}}
    majority = {"baseline": {"name": "majority class (neutral)", "metrics": {"accuracy": 38.65}}}
    return [
        pretrain_run(root / FRA),
        regions_run(root / "regions"),
        transfer_run(root / "a", FRA, {"accuracy": [70.11, 71.33, 72.02]}, **majority),
        transfer_run(root / "b", "random", {"accuracy": [60.5, 61.25, 59.75]}, **majority),
        transfer_run(root / "c", FRA, {"nme": [7.37, 7.41], "auc@10": [30.5, 31.5]}, **landmarks),
        transfer_run(root / "d", "random", {"nme": [6.9, 6.92], "auc@10": [35.5, 35.7]}, **landmarks),
    ]


@pytest.fixture(scope="module")
def page(story: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(story, tmp_path_factory.mktemp("out")).read_text()


def text_of(page: str) -> str:
    """What a reader sees: no styles, scripts or tags, spaces collapsed."""
    page = re.sub(r"<(style|script|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_every_number_of_the_tables_is_on_the_page(page):
    shown = text_of(page)
    for number in ("71.15", "0.97", "60.50", "0.75", "38.65", "7.39", "6.91", "31.00", "35.60", "14.90"):
        assert number in shown, number  # means and deviations of the runs above, to two decimals
    assert "random weights" in shown
    assert "majority class (neutral)" in shown
    assert "mean face" in shown


def test_the_page_says_where_ours_is_better_and_where_it_is_worse(page):
    shown = text_of(page)
    assert "Accuracy: 10.7 points better than random weights" in shown  # 71.153 - 60.5
    assert "Landmark error (NME): 0.5 points worse than random weights" in shown  # 7.39 - 6.91, lower is better
    assert "On 2 tasks, its features are better than random weights on 1, worse on 1" in shown


def test_the_page_needs_nothing_but_itself(page):
    assert "http://" not in page
    assert "https://" not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert len(re.findall(r'<img [^>]*src="data:image/webp;base64,', page)) >= 3


def test_the_page_shows_what_was_trained_and_what_it_cost(page):
    shown = text_of(page)
    for part in ("FRA on 6,000 faces", "3 min 32 s", "13.4 million", "1.2 billion multiply-adds", "211 pairs/s"):
        assert part in shown, part
    assert "&lt;b&gt;4 &amp; 5&lt;/b&gt;" in page  # the recipe is text, never markup


def test_the_same_folders_give_the_same_bytes(story, page, tmp_path):
    assert write_report(story, tmp_path / "again.html").read_text() == page
    assert [file.name for file in tmp_path.iterdir()] == ["again.html"]


def test_a_parent_folder_stands_for_the_runs_below_it(story, tmp_path):
    runs = read_runs([story[0].parent])
    assert (len(runs.pretrain), len(runs.transfer), len(runs.regions)) == (1, 4, 1)
    with pytest.raises(ValueError, match="no run found"):
        read_runs([tmp_path])
    with pytest.raises(ValueError, match="is not a folder"):
        read_runs([tmp_path / "nowhere"])


@pytest.mark.parametrize("gone", ["log.csv", "health.csv", "summary.json", "recipe.yaml", "snapshots/faces.npz"])
def test_a_missing_piece_is_left_out_with_a_plain_sentence(tmp_path, gone):
    run = pretrain_run(tmp_path / "run", snapshots=gone.startswith("snapshots"))
    (run / gone).unlink()
    shown = text_of(write_report([run], tmp_path / "out").read_text())
    expected = {"snapshots/faces.npz": "No heatmaps were given", "summary.json": "This run has no summary.json"}
    assert expected.get(gone, f"This run has no {gone}") in shown
    assert "No transfer run was given" in shown


def test_an_unfinished_run_and_a_strange_folder_are_named(tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half/.fra-run").write_text('{"command": "transfer"}')
    (tmp_path / "photos").mkdir()
    run = transfer_run(tmp_path / "a", FRA, {"accuracy": [50.0]})
    shown = text_of(write_report([run, tmp_path / "half", tmp_path / "photos"], tmp_path / "out").read_text())
    assert "half (an unfinished transfer run: no results.json)" in shown
    assert "photos could not be read as a run" in shown
    assert "No run of this task from random weights" in shown


def test_region_scores_stand_beside_each_other_with_what_they_mean(tmp_path):
    runs = [score_run(tmp_path / "aligned"), score_run(tmp_path / "dull", landmark_nme=17.3, iou=21.04)]
    page = write_report(runs, tmp_path / "out").read_text()
    shown = text_of(page)
    assert "aligned 14.55 % 17.20 % 0.85 0.18 0.84 – 10 to 40 %" in shown
    assert "dull 17.30 % 17.20 % 0.85 0.18 0.84 21.0 % 10 to 40 %" in shown
    assert "aligned: landmarks predicted from its regions are 15 % closer to the truth than the mean face." in shown
    assert "dull: landmarks predicted from its regions are no closer to the truth" in shown
    assert "No heatmaps were given" in shown
    assert "regions.png" not in shown


def test_a_region_score_of_an_older_version_is_shown_as_far_as_it_goes(tmp_path):
    run = score_run(tmp_path / "old")
    (run / "score.json").write_text('{"landmark_nme": 15.0}')
    assert "old 15.00 % –" in text_of(write_report([run], tmp_path / "out").read_text())


def test_crops_are_counted_and_shown(tmp_path):
    folder = tmp_path / "crops"
    folder.mkdir()
    with Journal(folder) as journal:  # the second name is not UTF-8
        for name, reason in (("a.jpg", ""), (os.fsdecode(b"caf\xe9.jpg"), "no face")):
            journal.append([(name, *[""] * (len(COLUMNS) - 2), reason)], photos=1)
    write_image(folder / "contact_sheet.jpg", pictures.contact_sheet([draw_face(0, size=32).image]))
    page = write_report([folder], tmp_path / "out").read_text()
    assert "1 face cropped, 1 left out" in text_of(page)
    assert 'alt="contact sheet' in page


def test_crops_that_were_never_begun_are_none(tmp_path):
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops/crops.csv").touch()
    page = write_report([tmp_path / "crops"], tmp_path / "out").read_text()
    assert "0 faces cropped" in text_of(page)


def test_a_name_that_is_not_utf8_is_shown_as_far_as_it_goes(tmp_path):
    run = score_run(tmp_path / os.fsdecode(b"caf\xe9"))
    assert "caf? 14.55" in text_of(write_report([run], tmp_path / "out").read_text())


def test_only_a_report_is_replaced(tmp_path):
    run = score_run(tmp_path / "run")
    page = write_report([run], tmp_path / "out")
    assert '<meta name="generator" content="fra">' in page.read_text()
    older = page.read_text().replace('<meta name="generator" content="fra">\n', "")
    page.write_text(older)
    assert write_report([run], tmp_path / "out").read_text() != older
    page.write_text("<!doctype html><title>my thesis</title>")
    with pytest.raises(ValueError, match=r"report\.html was not written by `fra report`: choose another --out"):
        write_report([run], tmp_path / "out")
    assert "my thesis" in page.read_text()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt is a file: give a folder"):
        write_report([run], tmp_path / "notes.txt")
    (tmp_path / "site.html").mkdir()
    with pytest.raises(ValueError, match=r"site\.html is a folder"):
        write_report([run], tmp_path / "site.html")


def test_a_collapse_is_said_plainly(tmp_path):
    run = pretrain_run(tmp_path / "run", snapshots=False, warning="Regions 2 and 3 each cover under 2 % of the pixels.")
    rows = [
        {"epoch": e, "feature_std": [0.05, 0.001][e], "effective_rank": [5.0, 1.1][e], "mask_cosine": 0.99,
             "assignment_entropy": math.log(2), "usage_0": [0.5, 0.99][e], "usage_1": [0.5, 0.01][e],
             "warning": ["", "Features are collapsing."][e]}
        for e in range(2)
    ]  # fmt: skip
    write_rows(run / "health.csv", rows)
    shown = text_of(write_report([run], tmp_path / "out").read_text())
    assert "The loss went from 4.25 to 2.75; features collapsed; regions did not form." in shown
    assert "Epoch 1: Features are collapsing." in shown
    assert shown.count("not healthy") == 5


def test_heatmaps_that_say_nothing_are_not_praised(tmp_path):
    run = regions_run(tmp_path / "regions")
    said = "No regions formed; the colours exaggerate negligible differences."
    assert said not in text_of(write_report([run], tmp_path / "out").read_text())
    numbers = json.loads((run / "regions.json").read_text()) | {"entropy": 0.99 * math.log(4)}
    (run / "regions.json").write_text(json.dumps(numbers))
    assert said in text_of(write_report([run], tmp_path / "out").read_text())


def comparison(ours: list[float], theirs: list[float], metric: str, tmp_path: Path) -> compare.Comparison:
    runs = [
        transfer_run(tmp_path / "ours", FRA, {metric: ours}),
        transfer_run(tmp_path / "random", "random:resnet18", {metric: theirs}),
    ]
    return tables.transfer_tables(read_runs(runs).transfer)[0].comparisons[0]


def test_a_difference_is_none_when_the_seeds_scatter_as_much(tmp_path):
    # Standard deviations 2 and 2 over three seeds each: noise of the difference sqrt(4/3 + 4/3) = 1.633.
    found = comparison([69.0, 71.0, 73.0], [67.0, 69.0, 71.0], "accuracy", tmp_path)
    assert found.difference == pytest.approx(2.0)
    assert found.noise == pytest.approx(math.sqrt(8 / 3))
    assert found.verdict == "even"
    assert "no clear difference" in compare.comparison_sentence(found)


def test_lower_is_better_for_errors(tmp_path):
    found = comparison([5.0, 5.0], [8.0, 8.0], "failure_rate@10", tmp_path)
    assert (found.difference, found.verdict) == (3.0, "better")


def test_with_one_seed_the_noise_of_accuracy_comes_from_the_test_faces(tmp_path):
    # Two shares of one half on 3068 faces: 100 * sqrt(2 * .25 / 3068) = 1.2766 points.
    found = comparison([50.0], [50.0], "accuracy", tmp_path)
    assert found.noise == pytest.approx(100 * math.sqrt(0.5 / 3068))
    assert found.noise_of == "3,068 test faces"


def test_with_one_seed_the_noise_of_an_error_is_not_known_and_this_is_said(tmp_path):
    found = comparison([5.0], [8.0], "nme", tmp_path)
    assert found.noise is None
    assert "the noise is not known" in compare.comparison_sentence(found)


def test_runs_of_other_fractions_stand_in_other_tables(tmp_path):
    runs = [
        transfer_run(tmp_path / "a", FRA, {"accuracy": [50.0]}),
        transfer_run(tmp_path / "b", "random", {"accuracy": [40.0]}),
        transfer_run(tmp_path / "c", FRA, {"accuracy": [60.0]}, fraction=1.0),
    ]
    found = tables.transfer_tables(read_runs(runs).transfer)
    assert [[row.kind for row in table.rows] for table in found] == [["ours", "random"], ["ours"]]
    assert "10 % of the labels" in found[0].note


def test_times_and_counts_read_as_people_say_them():
    assert [duration(s) for s in (4.25, 42, 212.4, 7200, 18_720, 183_600)] == [
        "4.2 s", "42 s", "3 min 32 s", "2 h", "5 h 12 min", "2 d 3 h",
    ]  # fmt: skip
    assert [words.count(n) for n in (8, 12345, 23.5e6, 1.2e9)] == ["8", "12,345", "23.5 million", "1.2 billion"]


def test_a_chart_is_a_bare_svg_in_the_colours_of_the_page():
    line = charts.Line(np.arange(1000.0), np.sin(np.arange(1000.0)))
    svg = charts.line_chart([line], x_label="step", reference=(0.5, "level"))
    assert svg is not None
    assert svg.startswith("<svg viewBox=")
    assert svg.endswith("</svg>")
    assert "var(--muted)" in svg
    assert "http" not in svg
    assert "level" in svg
    assert charts.line_chart([charts.Line(np.array([1.0]), np.array([math.nan]))]) is None


def test_a_long_curve_is_thinned_to_the_means_of_its_stretches():
    x, y = charts._thin(np.arange(480.0), np.tile([0.0, 1.0], 240))
    assert len(x) == 240
    assert x[0] == 0.5
    assert (y == 0.5).all()


def test_the_page_opens_in_a_browser_asks_for_nothing_and_its_slider_moves(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here: apt install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    file = tmp_path / "report.html"
    file.write_text(page)
    asked: list[str] = []
    complaints: list[str] = []
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        tab = chromium.new_page(viewport={"width": 1100, "height": 900})
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(file.as_uri())
        pictures = "[...document.images].map(image => image.complete && image.naturalWidth > 0)"
        assert tab.evaluate(pictures)
        assert all(tab.evaluate(pictures))
        # nothing is wider than the page
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        shown = "[...document.images].map(image => image.src + getComputedStyle(image).display).join()"
        slider = tab.locator("input[type=range]").first
        before = tab.evaluate(shown)
        slider.evaluate("s => { s.value = s.value == s.min ? s.max : s.min; s.dispatchEvent(new Event('input')); }")
        assert tab.evaluate(shown) != before
        chromium.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert complaints == []


def health_run(folder: Path, method: str, columns: dict[str, list[float]]) -> PretrainRun:
    """A run folder of an older version: a recipe, and these columns of health.csv."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(f"method: {{name: {method}}}\n")
    lengths = range(len(next(iter(columns.values()))))
    write_rows(folder / "health.csv", [{"epoch": e, **{name: columns[name][e] for name in columns}} for e in lengths])
    return read_runs([folder]).pretrain[0]


@pytest.mark.parametrize(
    ("method", "column", "values", "expected"),
    [
        ("swav", "prototype_usage", [0.01, 0.2, 0.4], ("Prototypes in use", "from 0.01 to 0.4", "good")),
        ("lewel", "map_uniformity", [0.99, 0.99, 0.98], ("Uniformity of the maps", "from 0.99 to 0.98", "watch")),
        ("fra", "mask_cosine", [0.95, 0.5], ("Mask cosine", "from 0.95 to 0.50; the regions differ", "good")),
        ("byol", "teacher_gap", [0.1, 0.05], ("Distance to the teacher", "from 0.1 to 0.05", None)),
        # a method that is gone: its columns are found among those of others, or shown as they are
        ("fra_v0", "mask_cosine", [0.95, 0.95], ("Mask cosine", "from 0.95 to 0.95; the regions are the same", "bad")),
        ("moco", "queue_age", [1.0, 7.0], ("Queue age", "from 1 to 7", None)),
    ],
)
def test_columns_have_the_title_and_state_that_their_method_declares(tmp_path, method, column, values, expected):
    run = health_run(tmp_path / "run", method, {column: values})
    (found,) = words.findings(run)
    assert (found.column.title, found.judgement.observed, found.judgement.state) == expected
    shown = text_of(write_report([tmp_path / "run"], tmp_path / "out").read_text())
    assert f"{expected[0]} " in shown
    assert f"Observed: {expected[1]}." in shown


def test_a_runs_own_method_decides_what_its_column_means(tmp_path, monkeypatch):
    class Own(METHODS["byol"][1]):
        health_columns = (HealthColumn("mask_cosine", "Own title", meaning="mine", good="whatever"),)

    monkeypatch.setitem(METHODS, "own", (object, Own))
    for method, title in (("own", "Own title"), ("fra", "Mask cosine")):
        (found,) = words.findings(health_run(tmp_path / method, method, {"mask_cosine": [0.5, 0.4]}))
        assert found.column.title == title


@pytest.mark.parametrize("recipe", ["method: fra\n", "- a list\n", "{not yaml", ""])
def test_a_recipe_that_names_no_method_leaves_it_to_the_summary(tmp_path, recipe):
    run = pretrain_run(tmp_path / "run", snapshots=False)
    (run / "recipe.yaml").write_text(recipe)
    assert read_runs([run]).pretrain[0].method == "fra"


def test_terms_of_an_unknown_loss_have_a_chart_too(tmp_path):
    run = pretrain_run(tmp_path / "run", snapshots=False)
    rows = [{"step": step, "epoch": 0, "loss": 2.0, "same_face": 1.0, "repulsion": 0.5} for step in (10, 20, 30)]
    write_rows(run / "log.csv", rows)
    shown = text_of(write_report([run], tmp_path / "out").read_text())
    assert "Same face two views of a face agree" in shown
    assert "Repulsion" in shown


def test_one_earlier_warning_is_one(tmp_path):
    run = pretrain_run(tmp_path / "run", snapshots=False)
    rows = [{"epoch": e, "feature_std": 0.05, "warning": "Features are collapsing."} for e in range(5)]
    write_rows(run / "health.csv", rows)
    assert "1 earlier warning is in health.csv" in text_of(write_report([run], tmp_path / "out").read_text())


def test_the_verdict_comes_first_and_says_how_to_measure_what_is_not(
    story: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = text_of(write_report(story, tmp_path / "all").read_text())
    assert "Better than random weights? On some tasks." in measured
    (run,) = (folder for folder in story if (folder / "health.csv").exists())
    monkeypatch.chdir(run.parent.parent)
    page = write_report([run], tmp_path / "alone").read_text()
    shown = text_of(page)
    assert "Better than random weights? Not measured." in shown
    assert f"fra transfer laptop/rafdb.linear --encoder {run.relative_to(Path.cwd())} --data DIR" in shown
    assert page.index("Better than random") < page.index("<section")


@pytest.mark.parametrize(
    ("sources", "known"), [(["laptop", "random:laptop"], True), (["laptop", "laptop_byol"], False), (["random"], False)]
)
def test_a_comparison_with_random_weights_answers_the_first_question(sources: list[str], known: bool) -> None:
    assert _beside_random(CompareRun("pays", {"encoders": [{"source": source} for source in sources]})) is known


def test_warnings_stand_above_pictures_and_curves_are_folded(story: list[Path], tmp_path: Path) -> None:
    page = write_report(story, tmp_path / "out").read_text()
    if 'class="warnings"' in page:
        assert page.index('class="warnings"') < page.index("<img")
    assert "<details><summary>Curves of loss" in page


def test_every_chart_has_its_text(story: list[Path], tmp_path: Path) -> None:
    page = write_report(story, tmp_path / "out").read_text()
    charts = re.findall(r"<svg [^>]*>", page)
    assert len(charts) >= 3
    assert all(re.search(r'aria-label="[^"]{10,}"', chart) for chart in charts)


def test_shares_of_regions_are_told_once_for_each_picture_of_regions(story: list[Path], tmp_path: Path) -> None:
    page = write_report(story, tmp_path / "out").read_text()
    health = page[page.index('id="health"') :]
    assert 'class="legend"' not in health


def test_an_earlier_report_is_replaced_only_when_asked(
    story: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [str(folder) for folder in story]
    for name in ("report.html", "report-2.html"):
        assert main(["report", *runs]) == 0
        assert capsys.readouterr().out == f"wrote {name}\n"
    before = Path("report.html").read_bytes()
    Path("report.html").write_bytes(before + b" ")
    assert main(["report", *runs, "--out", "report.html"]) == 2
    assert "report.html is there already: add --overwrite" in capsys.readouterr().err
    assert main(["report", *runs, "--out", "report.html", "--overwrite"]) == 0
    assert Path("report.html").read_bytes() == before


def test_a_low_rank_is_told_beside_a_bundled_encoder() -> None:
    from fra.pretrain.health import COMMON_COLUMNS, bundled_rank

    rank = next(column for column in COMMON_COLUMNS if column.name == "effective_rank")
    reference, name = bundled_rank({})
    assert name == "bundled laptop"
    low = rank.judge(np.array([4.0, 0.4 * reference]), {})
    assert low.state == "watch"
    assert f"which ended at {reference:.1f}" in low.observed
    assert rank.judge(np.array([4.0, 0.6 * reference]), {}).state == "good"
