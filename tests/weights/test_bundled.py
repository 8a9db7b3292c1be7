"""Weights that come with fra: made from a run on FairFace, checked by the loader, found by name."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

import fra
from fra import cli
from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image
from fra.files import claim_folder, write_rows
from fra.weights import bundled
from fra.weights.card import bundled_card
from fra.weights.load import load_encoder, load_region_model, read_weights

SCRIPT = Path(__file__).parents[2] / "scripts" / "ship_weights.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    found = importlib.util.spec_from_file_location("ship_weights", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fairface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces in FairFace's layout, whose list is its own."""
    folder = tmp_path_factory.mktemp("faces") / "fairface"
    rows = []
    for seed in range(36):
        place = f"{seed // 12:02d}/{seed}.png"
        write_image(folder / place, draw_face(seed, size=48).image)
        rows.append({"path": place, "age": "20-29", "gender": "Male", "race": ("White", "Black")[seed % 2]})
    write_rows(folder / "labels.csv", rows)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, fairface: Path) -> Path:
    """A finished run of FRA on them."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    settings = ("encoder.name=resnet10_quarter", "encoder.image_size=32", "views.size=32", "schedule.epochs=1")
    settings += ("schedule.warmup_epochs=0", "batch_size=12", "method.head.out=64", "method.decoder.width=64")
    arguments = [word for setting in settings for word in ("--set", setting)]
    command = ["pretrain", "smoke/resnet10_half.fra", "--faces", str(fairface), "--out", str(out), "--workers", "0"]
    assert cli.main([*command, "--device", "cpu", "--precision", "32", "--quiet", *arguments]) == 0
    return out


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty place for shipped weights."""
    monkeypatch.setattr(bundled, "SHIPPED", tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def tiny(script: ModuleType, run: Path, fairface: Path, weights: Path, tmp_path: Path) -> Path:
    """The run, shipped as `laptop`."""
    results = tmp_path / "rafdb"
    results.mkdir()
    found = dict(task="expression", dataset="rafdb", protocol="linear", fraction=0.1, train_images=9, test_images=3)
    metrics = {"accuracy": {"mean": 61.25, "std": 0.5, "values": [60.75, 61.75], "selected": "last"}}
    groups = {"pose": {"frontal": {"images": 3, "nme": 6.25}, "profile": {"images": 1, "nme": 9.0}}}
    (results / "results.json").write_text(json.dumps(found | {"seeds": [0, 1], "metrics": metrics, "groups": groups}))
    return script.ship(run, name="laptop", faces=fairface, results=[results])


def test_the_shipped_encoder_and_regions_say_what_the_run_says(tiny, run):
    images = torch.rand(2, 3, 32, 32)
    theirs, ours = load_encoder(run)(images), fra.load_encoder("laptop")(images)
    assert ours.dtype == torch.float32
    assert all(weight.dtype == torch.float32 for weight in fra.load_encoder("laptop").parameters())
    assert not torch.equal(ours, theirs)  # half precision has been there
    assert torch.allclose(ours, theirs, atol=0.01 * float(theirs.detach().abs().max()))
    scores = fra.load_region_model("laptop")(images).scores
    assert torch.allclose(scores, load_region_model(run)(images).scores, atol=0.02)


def test_filters_are_stored_as_half_and_statistics_as_single_precision(tiny):
    tensors, _ = read_weights(tiny / "encoder.safetensors")
    assert tensors["conv1.weight"].dtype == torch.float16
    assert tensors["bn1.running_var"].dtype == torch.float32
    assert tensors["bn1.num_batches_tracked"].dtype == torch.int64


def test_the_manifest_and_the_card_say_where_the_weights_come_from(tiny, run, fairface):
    manifest = bundled.read_manifest("laptop")
    assert manifest.licence == "CC BY 4.0"
    assert manifest.training_data["faces"] == 36
    assert manifest.training["epochs"] == 1
    assert manifest.files["encoder.safetensors"]["bytes"] == (tiny / "encoder.safetensors").stat().st_size
    assert manifest.results[0]["metrics"] == {"accuracy": {"mean": 61.25, "std": 0.5}}
    assert manifest.recipe["method"]["name"] == "fra"
    text = (tiny / "card.md").read_text()
    assert text == bundled_card(manifest)
    for words in (
        "Kärkkäinen and Joo",
        "WACV 2021",
        "resized to 112x112",
        "61.25 ± 0.50",
        "10% of the labels",
        "| frontal | 3 | 6.2 |",
    ):
        assert words in text
    assert str(fairface) not in (tiny / "manifest.json").read_text()
    assert sorted(path.name for path in tiny.parent.iterdir()) == ["laptop"]  # nothing unfinished is left


def test_the_commands_take_the_name(tiny, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    face = tmp_path / "photo.png"
    write_image(face, draw_face(3, size=48).image)
    assert cli.main(["regions", "laptop", "--faces", str(face), "--out", "out", "--device", "cpu", "--quiet"]) == 0
    assert Path("out/regions.png").is_file()
    assert cli.main(["data", "synthetic", "--out", "drawn", "--count", "20", "--size", "48", "--quiet"]) == 0
    words = ["transfer", "smoke/synthetic_expression", "--encoder", "laptop", "--data", "drawn", "--out", "task"]
    assert cli.main([*words, "--device", "cpu", "--quiet"]) == 0
    assert json.loads(Path("task/results.json").read_text())["encoder"] == "laptop"
    monkeypatch.chdir("/")  # the name does not depend on where we are
    assert fra.load_task_model(tmp_path / "task") is not None
    capsys.readouterr()
    assert cli.main(["recipes"]) == 0
    listed = capsys.readouterr().out.split("bundled encoders")[1]
    assert re.search(r"^  laptop +fra, \w+, last_stride \d.*, FairFace$", listed, re.MULTILINE)


@pytest.fixture
def age(script: ModuleType, tiny: Path, fairface: Path, tmp_path: Path) -> Path:
    """A task that was learned from it, shipped as `tiny_age`."""
    run = tmp_path / "age"
    words = [
        "transfer",
        "smoke/fairface_age.finetune",
        "--encoder",
        "laptop",
        "--data",
        str(fairface),
        "--out",
        str(run),
    ]
    assert cli.main([*words, "--device", "cpu", "--precision", "32", "--workers", "0", "--quiet"]) == 0
    assert script.main([str(run), "--name", "tiny_age", "--faces", str(fairface)]) == 0
    return run


def test_a_shipped_task_says_what_its_run_says(age, tmp_path, monkeypatch):
    face = draw_face(3, size=48).image
    ours, theirs = (fra.load_task_model(name).predict(face) for name in ("tiny_age", age))
    assert ours["age"] == theirs["age"]
    assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=0.01)
    write_image(tmp_path / "photo.png", face)
    monkeypatch.chdir(tmp_path)
    words = ["predict", "photo.png", "--task", "tiny_age", "--detector", "none", "--out", "answers"]
    assert cli.main([*words, "--device", "cpu", "--quiet"]) == 0
    assert '"tiny_age"' in Path("answers/predictions.json").read_text()


def test_the_card_of_a_task_says_from_what_it_learned_and_each_groups_result(age, weights, capsys):
    manifest = bundled.read_manifest("tiny_age")
    assert manifest.training["from"] == "laptop"
    assert manifest.training_data["labels"].startswith("age as annotators saw it: 0-2, 3-9")
    text = (weights / "tiny_age/card.md").read_text()
    for words in (
        "--task tiny_age",
        "from `laptop`, protocol finetune",
        "| Black | 6 |",
        "always 20-29 (most frequent in training): 100.00",
        "not facts about a person",
    ):
        assert words in text
    capsys.readouterr()
    assert cli.main(["recipes"]) == 0
    listed = capsys.readouterr().out.split("bundled trained tasks")
    assert "tiny_age" in listed[1]
    assert "tiny_age" not in listed[0]


def test_tasks_and_encoders_are_told_apart_in_one_line(age, fairface, tmp_path, capsys):
    for words in (
        ["regions", "tiny_age", "--faces", str(fairface / "00"), "--out", str(tmp_path / "a")],
        ["transfer", "smoke/fairface_age.linear", "--encoder", "tiny_age", "--data", str(fairface), "--out", "b"],
    ):
        assert cli.main(words) == 2
        assert "'tiny_age' is a trained task, not an encoder" in capsys.readouterr().err
    claim_folder(tmp_path / "run", command="transfer", resume=False)
    for encoder, answer in (
        (str(tmp_path / "run"), "run is a trained task, not an encoder: give the encoder that it was trained with"),
        ("", "no encoder is named: give bundled weights, a run folder"),
    ):
        words = ["transfer", "smoke/fairface_age.linear", "--encoder", encoder, "--data", str(fairface)]
        assert cli.main([*words, "--out", str(tmp_path / "c")]) == 2
        assert answer in capsys.readouterr().err
    photo = str(next(fairface.glob("*/*.png")))
    assert cli.main(["predict", photo, "--task", "laptop"]) == 2
    assert "'laptop' is an encoder, not a trained task" in capsys.readouterr().err
    assert cli.main(["predict", photo, "--task", "nothing"]) == 2
    assert "or a bundled task: tiny_age" in capsys.readouterr().err


def test_a_task_that_may_not_be_shipped_is_refused(script, age, fairface, run, weights, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(fairface, other)
    (other / "labels.csv").write_text((fairface / "labels.csv").read_text().replace("20-29", "30-39"))
    assert script.main([str(age), "--name", "x", "--faces", str(other)]) == 2
    assert "are not those in" in capsys.readouterr().err
    shutil.rmtree(weights / "laptop")
    assert script.main([str(age), "--name", "x", "--faces", str(fairface)]) == 2
    assert "began with laptop: ship that first" in capsys.readouterr().err
    (age / "recipe.yaml").write_text((age / "recipe.yaml").read_text().replace("dataset: fairface", "dataset: rafdb"))
    assert script.main([str(age), "--name", "x", "--faces", str(fairface)]) == 2
    assert "only FairFace's labels can be shipped" in capsys.readouterr().err
    assert sorted(path.name for path in weights.iterdir()) == ["tiny_age"]


@pytest.fixture
def marks(fairface: Path, tmp_path: Path) -> Path:
    """Landmarks on these faces and on drawn ones, as scripts/annotate_landmarks.py writes them."""
    folder = tmp_path / "marks"
    for name in ("00", "01", "02"):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).symlink_to(fairface / name)
    rows = []
    for seed in range(40):
        face = draw_face(seed, size=48)
        place = f"{seed // 12:02d}/{seed}.png" if seed < 36 else f"drawn/{seed:04d}.png"
        if seed >= 36:
            write_image(folder / "images" / place, face.image)
        split = {1: "val", 2: "test"}.get(seed // 12, "train")
        places = {f"p{k}_{axis}": float(face.points68[k, j]) for k in range(68) for j, axis in enumerate("xy")}
        rows.append({"path": place, "split": split, **places})
    write_rows(folder / "points.csv", rows)
    (folder / "labels.yaml").write_text("layout: ibug68\n")
    return folder


@pytest.fixture
def marked(tiny: Path, marks: Path, tmp_path: Path) -> Path:
    """A run that learned them."""
    out = tmp_path / "marked"
    words = ["transfer", "smoke/points.star", "--encoder", "laptop", "--data", str(marks), "--out", str(out), "--quiet"]
    settings = ["--set", "epochs=1", "--set", "falls=[]", "--set", "min_steps=0", "--set", "alignment.stacks=1"]
    assert cli.main([*words, *settings, "--no-control", "--device", "cpu", "--precision", "32", "--workers", "0"]) == 0
    return out


def test_landmarks_that_were_marked_on_fairface_can_be_shipped(script, marked, marks, fairface, weights, tmp_path):
    judged = {"nme": {"mean": 5.25}, "nme with offset": {"mean": 4.5}, "failure_rate@10 nme": 1.5, "faces": 165}
    (tmp_path / "judged.json").write_text(json.dumps(judged))
    words = [str(marked), "--name", "landmarks68", "--faces", str(fairface), "--marks", str(marks)]
    assert script.main([*words, "--results", str(tmp_path / "judged.json")]) == 0
    text = (weights / "landmarks68/card.md").read_text()
    for said in (
        "Kärkkäinen and Joo",
        "Apache-2.0",
        "drawn faces",
        "nme 5.25",
        "68 landmarks as MediaPipe's face mesh",
    ):
        assert said in text
    assert str(tmp_path) not in text + (weights / "landmarks68/manifest.json").read_text()
    face = draw_face(3, size=48).image
    ours, theirs = (
        torch.tensor(fra.load_task_model(one).predict(face)["landmarks"]) for one in ("landmarks68", marked)
    )
    assert ours.shape == (68, 2)
    assert torch.allclose(ours, theirs, atol=0.5)
    assert "MediaPipe's face mesh" in fra.load_task_model("landmarks68").provenance.sentence()


def test_landmarks_on_other_faces_are_refused(script, marked, marks, fairface, capsys):
    words = [str(marked), "--name", "landmarks68", "--faces", str(fairface)]
    assert script.main(words) == 2
    assert "give --marks" in capsys.readouterr().err
    drawn = marks / "images/drawn/0036.png"
    write_image(drawn, draw_face(99, size=48).image)
    assert script.main([*words, "--marks", str(marks)]) == 2
    assert "is not the face that is drawn from its number" in capsys.readouterr().err
    write_image(drawn, draw_face(36, size=48).image)
    (marks / "images/01").unlink()
    shutil.copytree(fairface / "01", marks / "images/01")
    assert script.main([*words, "--marks", str(marks)]) == 2
    assert "is not in the list of FairFace" in capsys.readouterr().err


def test_a_shipped_name_wins_over_a_folder_that_is_called_so(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "laptop").mkdir()
    assert fra.load_encoder("laptop").channels == 128
    with pytest.raises(ValueError, match=r"has no encoder.safetensors"):
        fra.load_encoder("./laptop")


def test_random_weights_of_the_shipped_network(tiny):
    assert fra.load_encoder("random:laptop").config == fra.load_encoder("laptop").config


@pytest.mark.parametrize("file", ["encoder.safetensors", "regions.safetensors"])
def test_a_damaged_file_is_one_clear_line(tiny, file, fairface, tmp_path, capsys):
    content = bytearray((tiny / file).read_bytes())
    content[-1] ^= 1
    (tiny / file).write_bytes(content)
    assert cli.main(["regions", "laptop", "--faces", str(fairface / "00"), "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "damaged" in lines[0]
    assert file in lines[0]
    assert "reinstall fra" in lines[0]
    (tiny / file).write_bytes(content[:-100])
    with pytest.raises(ValueError, match="has bytes"):
        fra.load_region_model("laptop")
    (tiny / file).unlink()
    with pytest.raises(ValueError, match="is missing"):
        fra.load_region_model("laptop")


def test_a_damaged_manifest_is_one_clear_line(tiny):
    (tiny / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"damaged \(manifest.json cannot be read"):
        fra.load_encoder("laptop")


def test_without_shipped_weights_the_name_is_one_clear_line(weights, fairface, tmp_path, capsys):
    arguments = ["regions", "laptop", "--faces", str(fairface / "00"), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    assert "no model named 'laptop'" in (error := capsys.readouterr().err)
    assert "bundled weights: none" in error
    assert len(error.strip().splitlines()) == 1


def test_a_run_on_other_faces_is_refused(script, run, fairface, weights, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(fairface, other)
    for seed, path in enumerate(sorted(other.glob("*/*.png"))):
        write_image(path, draw_face(100 + seed, size=48).image)
    with pytest.raises(ValueError, match="are not those in"):
        script.ship(run, name="laptop", faces=other, results=[])
    (other / "labels.csv").write_text("path,age,gender,race\n00/0.png,adult,Male,Black\n")
    with pytest.raises(ValueError, match="has age 'adult'"):
        script.ship(run, name="laptop", faces=other, results=[])
    unlisted = tmp_path / "unlisted"
    shutil.copytree(fairface, unlisted)
    write_image(unlisted / "01/zzz.png", draw_face(1, size=48).image)
    with pytest.raises(ValueError, match=r"zzz.png is not in the list of FairFace"):
        script.ship(run, name="laptop", faces=unlisted, results=[])
    assert not list(weights.glob("*"))


def test_an_unfinished_run_is_refused(script, fairface, weights, tmp_path, capsys):
    assert script.main([str(tmp_path), "--name", "laptop", "--faces", str(fairface)]) == 2
    assert "give a finished run" in capsys.readouterr().err


def test_weights_that_would_not_fit_are_refused_and_the_old_ones_stay(script, run, fairface, tiny, monkeypatch):
    before = (tiny / "manifest.json").read_text()
    monkeypatch.setattr(bundled, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="more than 1,000"):
        script.ship(run, name="laptop", faces=fairface, results=[])
    assert (tiny / "manifest.json").read_text() == before
    assert sorted(path.name for path in tiny.parent.iterdir()) == ["laptop"]


def test_weights_that_half_precision_would_change_are_refused(script, run, fairface, weights, tmp_path):
    from safetensors.torch import load_file, save_file

    spoiled = tmp_path / "spoiled"
    shutil.copytree(run, spoiled)
    _, notes = read_weights(run / "encoder.safetensors")
    tensors = load_file(run / "encoder.safetensors")
    for name, factor in (("conv1.weight", 1e-6), ("bn1.running_mean", 1e-6), ("bn1.weight", 1e6)):
        tensors[name][0] *= factor  # too small for half precision, and made up for by the batch norm behind it
    save_file(tensors, spoiled / "encoder.safetensors", {key: json.dumps(value) for key, value in notes.items()})
    with pytest.raises(ValueError, match="half precision would change"):
        script.ship(spoiled, name="laptop", faces=fairface, results=[])


def test_what_really_ships_is_whole_small_and_documented():
    total = 0
    for name in bundled.shipped_names():
        manifest = bundled.read_manifest(name)
        assert manifest.name == name
        for file in manifest.files:
            assert bundled.shipped_file(name, file)
            total += manifest.files[file]["bytes"]
        assert "CC BY 4.0" in manifest.licence
        assert (bundled.SHIPPED / name / "card.md").read_text() == bundled_card(manifest)
        images = torch.rand(1, 3, 64, 64)
        model = fra.load_task_model(name) if bundled.TASK in manifest.files else fra.load_encoder(name)
        assert model(images).isfinite().all()
    assert total <= bundled.MOST_BYTES


def test_the_wheel_takes_the_weights_along():
    import tomllib

    project = tomllib.loads((SCRIPT.parents[1] / "pyproject.toml").read_text())
    taken = project["tool"]["setuptools"]["package-data"]["fra"]
    assert {"weights/*/*.json", "weights/*/*.md", "weights/*/*.safetensors"} <= set(taken)
