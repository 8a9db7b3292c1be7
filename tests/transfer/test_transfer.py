"""The linear protocol on planted features with a known answer, and end to end on drawn faces."""

import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from planted import FILES, LABELS, plant
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

import fra
from fra.data.datasets import DATASETS, synthetic
from fra.data.labelled import LabelledFaces
from fra.faces.geometry import FLIP_68
from fra.faces.image import write_image
from fra.files import read_json
from fra.models.encoder import Encoder, EncoderConfig
from fra.predict.task_model import TaskModel, load_task_model
from fra.runtime import Runtime
from fra.shipped import shipped_recipes
from fra.tasks import TASKS
from fra.tasks.attributes import Attributes
from fra.tasks.expression import Expression
from fra.tasks.landmarks import Landmarks
from fra.transfer import linear, run
from fra.transfer.linear import PENALTIES, LinearRecipe, Standardiser, TrainingViews, batch_for, ridge, train_head
from fra.transfer.protocol import TransferRecipe
from fra.transfer.recipes import PROTOCOLS, load_transfer_recipe
from fra.transfer.run import NamedEncoder, transfer
from fra.weights.load import encoder_fingerprint, read_weights

COLOURS = torch.tensor([[200, 40, 40], [40, 200, 40], [40, 40, 200]], dtype=torch.uint8)
RECIPE = LinearRecipe(name="planted", task="expression", dataset="planted", epochs=10)


class MeanColour(nn.Module):
    """An encoder whose three features are the mean colour: the planted labels can be read off it."""

    channels, image_size = 3, 8

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))
        self.norm = nn.BatchNorm1d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(images.mean((2, 3)) * self.gain)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread, above all where other tests run beside them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabelledFaces:
    """60 plain pictures in one of three noisy colours; the class is the colour, the landmarks follow it linearly."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(-30, 30, (60, 3), generator=draw)
    colours = (COLOURS[LABELS].int() + noise).to(torch.uint8)
    for file, colour in zip(FILES, colours, strict=True):
        write_image(tmp_path / "faces" / file, colour[:, None, None].expand(3, 8, 8))
    slopes = torch.randn(68, 2, 3, generator=draw)
    # Symmetric, so that the mirror image, which has the same colour, has the same landmarks.
    landmarks = slopes @ (colours.float() / 255).T
    points = landmarks.permute(2, 0, 1)
    points = (points + Landmarks(68).mirror(points)) / 2
    points[:, 36] += torch.tensor([1.0, 0.0])
    points[:, 45] -= torch.tensor([1.0, 0.0])
    return plant(monkeypatch, tmp_path / "faces", landmarks=points)


def judge(
    recipe: TransferRecipe,
    faces: LabelledFaces,
    out: Path,
    *,
    encoder: nn.Module | None = None,
    resume: bool = False,
    quiet: bool = True,
    **options: int,
) -> dict:
    named = NamedEncoder(encoder or MeanColour(), source="x", label="colour")
    runtime = Runtime("cpu", resume=resume, quiet=quiet)
    return transfer(recipe, encoder=named, data=faces.root, out=out, runtime=runtime, **options)


@pytest.mark.parametrize(
    "task, metric, best", [("expression", "accuracy", 100), ("attributes", "attribute_accuracy", 100)]
)
def test_a_label_that_is_in_the_features_is_read_off(
    planted: LabelledFaces, tmp_path: Path, task: str, metric: str, best: float
) -> None:
    results = judge(replace(RECIPE, task=task, epochs=100), planted, tmp_path / "run")
    assert results["metrics"][metric]["mean"] == best
    assert results["metrics"][metric]["best_on_validation"]["mean"] == best


def test_landmarks_that_are_linear_in_the_features_are_read_off(planted: LabelledFaces, tmp_path: Path) -> None:
    results = judge(replace(RECIPE, task="landmarks"), planted, tmp_path / "run")
    assert results["metrics"]["nme"]["mean"] < 0.1 < 5 < results["baseline"]["metrics"]["nme"]
    assert results["metrics"]["nme"]["normaliser"] == "inter-ocular"


def test_the_rate_of_a_linear_probe_may_rise_first_and_end_above_zero() -> None:
    data = TrainingViews(torch.randn(1, 16, 3), torch.randint(2, (1, 16)))
    task = Expression(("a", "b"))
    recipe = replace(RECIPE, epochs=10, learning_rate=2.0, warmup_epochs=5, last_rate=0.5)
    log, _ = train_head(task, task.head(3), data, None, torch.empty(0), recipe, seed=0)
    # After each epoch the rate of the next step: in fifths of 2, then half a cosine from 2 to .5 in five epochs.
    down = [0.5 + 1.5 * 0.5 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(6)]
    assert [row["learning_rate"] for row in log] == pytest.approx([0.4, 0.8, 1.2, 1.6, *down])
    usual = train_head(
        task, task.head(3), data, None, torch.empty(0), replace(recipe, warmup_epochs=0, last_rate=0), seed=0
    )[0]
    assert [row["learning_rate"] for row in usual] == pytest.approx(
        [1 + math.cos(math.pi * epoch / 10) for epoch in range(1, 11)], abs=1e-9
    )


def test_the_literal_linear_recipes_have_the_released_warm_up_and_floor() -> None:
    for name in ("rafdb", "affectnet7", "affectnet8", "ferplus", "celeba", "lfwa"):
        literal = load_transfer_recipe(f"paper/{name}.linear_adamw")
        assert (literal.warmup_epochs, literal.last_rate, literal.epochs) == (5, 1e-6, 100)
        usual = load_transfer_recipe(f"paper/{name}.linear")
        assert (usual.warmup_epochs, usual.last_rate) == (0, 0)


def test_the_encoder_is_frozen_with_its_batch_norm(planted: LabelledFaces, tmp_path: Path) -> None:
    encoder = MeanColour().train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    judge(RECIPE, planted, tmp_path / "run", encoder=encoder)
    assert not encoder.training
    for name, tensor in encoder.state_dict().items():
        assert_close(tensor, before[name], rtol=0, atol=0)


def test_the_results_hold_what_the_contract_promises(planted: LabelledFaces, tmp_path: Path) -> None:
    out = tmp_path / "run"
    results = judge(replace(RECIPE, fraction=0.5), planted, out, seeds=2)
    assert read_json(out / "results.json") == results
    promised = {"task": "expression", "dataset": "planted", "protocol": "linear", "fraction": 0.5, "train_images": 15}
    promised |= {"test_images": 24, "encoder": "colour", "recipe": "planted", "seeds": [0, 1]}
    assert promised.items() <= results.items()
    accuracy = results["metrics"]["accuracy"]
    low, high = accuracy["values"]
    assert accuracy["mean"] == pytest.approx((low + high) / 2)
    assert accuracy["selected"] == "last"
    assert accuracy["std"] == pytest.approx(abs(high - low) / 2**0.5)
    assert results["baseline"]["metrics"]["accuracy"] == pytest.approx(100 / 3)
    assert sum(map(sum, results["confusion"])) == 2 * 24
    assert len(set(results["subset_hash"])) == 2
    assert (
        results["confidence"]["accuracy"]["low"] < accuracy["mean"] <= results["confidence"]["accuracy"]["high"] + 1e-9
    )
    assert (out / "expression.png").stat().st_size > 0


def test_every_number_can_be_recomputed_from_the_predictions(planted: LabelledFaces, tmp_path: Path) -> None:
    results = judge(replace(RECIPE, epochs=1, fraction=0.1), planted, tmp_path / "run", seeds=2)
    with open(tmp_path / "run/predictions.csv") as stream:
        rows = list(csv.DictReader(stream))
    for seed, value in enumerate(results["metrics"]["accuracy"]["values"]):
        mine = [row for row in rows if row["seed"] == str(seed)]
        assert [row["file"] for row in mine] == planted.files[36:]
        assert value == pytest.approx(100 * sum(row["label"] == row["predicted"] for row in mine) / 24)
        for row in mine:
            assert sum(float(row[f"p_{name}"]) for name in ("red", "green", "blue")) == pytest.approx(1, abs=1e-5)


def test_the_saved_head_gives_the_predictions_again(planted: LabelledFaces, tmp_path: Path) -> None:
    judge(RECIPE, planted, tmp_path / "run")
    weights, notes = read_weights(tmp_path / "run/task.safetensors")
    task = TASKS[notes["task"]](**{k: tuple(v) if isinstance(v, list) else v for k, v in notes["settings"].items()})
    assert task == planted.tasks["expression"]
    assert notes["image_size"] == 8
    with torch.no_grad():
        features = MeanColour().eval()(planted.image(36, size=8)[None] / 255)
    logits = ((features - weights["features.mean"]) / weights["features.scale"]) @ weights["head.weight"].T
    stored = load_file(tmp_path / "run/seeds/seed_0.safetensors")["outputs"][0]
    assert_close((logits + weights["head.bias"])[0], stored)


def test_a_run_that_was_killed_goes_on_to_the_same_files(
    planted: LabelledFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, fraction=0.3, epochs=3)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    judge(recipe, planted, whole, seeds=3)

    class Killed(BaseException):
        pass

    save = run.save_seed

    def dies_at_seed_1(out: Path, seed: int, *rest: object) -> None:
        if seed == 1:
            (out / "seeds/.seed_1-half.safetensors").write_bytes(b"half")
            raise Killed
        save(out, seed, *rest)

    monkeypatch.setattr(run, "save_seed", dies_at_seed_1)
    with pytest.raises(Killed):
        judge(recipe, planted, killed, seeds=3)
    monkeypatch.setattr(run, "save_seed", save)
    assert not (killed / "results.json").exists()
    first = (killed / "seeds/seed_0.safetensors").stat().st_mtime_ns
    with pytest.raises(ValueError, match="--resume"):
        judge(recipe, planted, killed, seeds=3)
    judge(recipe, planted, killed, seeds=3, resume=True)
    for name in ("results.json", "predictions.csv", "log.csv", "recipe.yaml"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    heads = [load_file(folder / "task.safetensors") for folder in (killed, whole)]
    assert_close(heads[0], heads[1], rtol=0, atol=0)
    assert (killed / "seeds/seed_0.safetensors").stat().st_mtime_ns == first


def test_a_finished_run_is_not_computed_again(
    planted: LabelledFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = judge(RECIPE, planted, tmp_path / "run")
    monkeypatch.setattr(linear, "compute_features", None)
    assert judge(RECIPE, planted, tmp_path / "run", resume=True) == before


def test_a_seed_alone_gives_what_it_gives_among_others(planted: LabelledFaces, tmp_path: Path) -> None:
    recipe = replace(RECIPE, fraction=0.5, epochs=1)
    both = judge(recipe, planted, tmp_path / "both", seeds=2)
    alone = judge(recipe, planted, tmp_path / "alone", first_seed=1)
    assert alone["seeds"] == [1]
    for name, values in alone["metrics"].items():
        assert values["values"] == both["metrics"][name]["values"][1:]
    assert alone["subset_hash"] == both["subset_hash"][1:]


def test_resuming_with_other_settings_is_refused(planted: LabelledFaces, tmp_path: Path) -> None:
    judge(RECIPE, planted, tmp_path / "run")
    with pytest.raises(ValueError, match="a different recipe"):
        judge(replace(RECIPE, fraction=0.5), planted, tmp_path / "run", resume=True)
    encoder = MeanColour()
    nn.init.constant_(encoder.gain, 2)
    with pytest.raises(ValueError, match="a different encoder"):
        judge(RECIPE, planted, tmp_path / "run", encoder=encoder, resume=True)


@pytest.mark.parametrize("change", [{"last_stride": 1}, {"mean": (0.485, 0.456, 0.406)}, {"image_size": 48}])
def test_equal_weights_that_see_the_face_another_way_are_another_encoder(change: dict) -> None:
    config = EncoderConfig("resnet10_quarter", image_size=32)
    first, other = Encoder(config), Encoder(replace(config, **change))
    other.load_state_dict(first.state_dict())
    assert encoder_fingerprint(other) != encoder_fingerprint(first)
    other.config = config
    assert encoder_fingerprint(other) == encoder_fingerprint(first)


def test_training_images_that_cannot_be_read_are_left_out_and_listed(planted: LabelledFaces, tmp_path: Path) -> None:
    (planted.root / "03.png").unlink()
    (planted.root / "31.png").write_bytes(b"not an image")
    results = judge(RECIPE, planted, tmp_path / "run")
    assert results["train_images"] == 29
    assert results["unreadable"] == 2
    with open(tmp_path / "run/unreadable.csv") as stream:
        assert [(row["file"], row["split"]) for row in csv.DictReader(stream)] == [
            ("03.png", "train"),
            ("31.png", "val"),
        ]


def test_a_test_image_that_cannot_be_read_stops_the_run(planted: LabelledFaces, tmp_path: Path) -> None:
    (planted.root / "40.png").unlink()
    with pytest.raises(ValueError, match=r"40\.png cannot be read .*not be comparable"):
        judge(RECIPE, planted, tmp_path / "run")


@pytest.mark.parametrize("task", ["expression", "attributes", "landmarks"])
def test_a_single_label_is_enough_to_run(planted: LabelledFaces, tmp_path: Path, task: str) -> None:
    results = judge(replace(RECIPE, task=task, fraction=0.001), planted, tmp_path / "run")
    assert results["train_images"] == 1
    assert all(torch.tensor(values["mean"]).isfinite() for values in results["metrics"].values())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dataset": "mine"}, "no dataset named 'mine' \\(known: synthetic, rafdb"),
        ({"task": "pose"}, "planted has no task 'pose' \\(it has expression, attributes, landmarks\\)"),
        ({"fraction": 2.0}, "fraction"),
    ],
)
def test_what_does_not_fit_together_is_one_clear_error(
    planted: LabelledFaces, tmp_path: Path, change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        judge(replace(RECIPE, **change), planted, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_that_explodes_stops_with_the_way_out(planted: LabelledFaces, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use a learning_rate below 1e"):
        judge(replace(RECIPE, learning_rate=1e38), planted, tmp_path / "run")


@pytest.mark.parametrize("setting", ["epochs", "batch_size"])
def test_no_epochs_or_no_images_a_step_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} is 0"):
        replace(RECIPE, **{setting: 0})


# The pieces


def test_standardised_features_have_length_one_and_a_dead_channel_is_zero() -> None:
    features = torch.tensor([[1.0, 5.0, -3.0, 0.2], [3.0, 5.0, -9.0, 0.6]])
    # Each live channel becomes -1 and 1, divided by the root of four channels.
    expected = torch.tensor([[-0.5, 0.0, 0.5, -0.5], [0.5, 0.0, -0.5, 0.5]])
    assert_close(Standardiser.of(features)(features), expected)


def test_a_channel_that_hardly_fires_is_not_blown_up() -> None:
    # Deviations 4 and 0 have the mean 2, so the quiet channel is divided by .2; both then by the root of two channels.
    scale = Standardiser.of(torch.tensor([[0.0, 7.0], [8.0, 7.0]]))
    assert_close(scale(torch.tensor([[8.0, 8.0]])), torch.tensor([[1.0, 5.0]]) / 2**0.5)


@pytest.mark.parametrize("count", [6, 40])
def test_ridge_solves_its_normal_equations_with_few_and_with_many_images(count: int) -> None:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, 10, generator=draw, dtype=torch.float64) + 3
    y = torch.randn(count, 4, generator=draw, dtype=torch.float64)
    for (weight, bias), penalty in zip(ridge(x, y), PENALTIES, strict=True):
        residual = x @ weight + bias - y
        # Half the gradients of |residual|² / N + penalty |weight|² with respect to weight and bias vanish.
        assert_close(x.T @ residual / count + penalty * weight, torch.zeros_like(weight), atol=1e-8, rtol=0)
        assert_close(residual.mean(0), torch.zeros_like(bias), atol=1e-9, rtol=0)


def test_few_labels_keep_thirty_two_steps_an_epoch() -> None:
    # 12,271 / 256 = 48 steps; 2,839 / 32 = 88; 100 / 32 < 8; 3 images are one step
    assert [batch_for(count, RECIPE) for count in (12_271, 2_839, 100, 3)] == [256, 88, 8, 3]


def test_mirrored_landmarks_change_sides_and_come_back() -> None:
    points = torch.rand(2, 68, 2) * 2 - 1
    mirrored = Landmarks(68).mirror(points)
    # iBUG 36 is the outer corner of the eye on the image's left, 45 that on its right.
    assert FLIP_68[36] == 45
    assert_close(mirrored[:, 36], points[:, 45] * torch.tensor([-1.0, 1.0]))
    assert_close(Landmarks(68).mirror(mirrored), points)


def test_baselines_learn_from_the_training_labels_alone() -> None:
    train, test = torch.tensor([1, 1, 0]), torch.tensor([0, 0, 0, 1])
    baseline = Expression(("a", "b")).baseline(train, test)
    assert baseline.name == "always b (most frequent in training)"
    assert baseline.metrics["accuracy"] == 25
    # Attribute 0 is mostly there and attribute 1 mostly not: 3 of 4 answers are right.
    train = torch.tensor([[True, False], [True, False], [False, True]])
    test = torch.tensor([[True, False], [True, True]])
    assert Attributes(("a", "b")).baseline(train, test).metrics["attribute_accuracy"] == 75


def test_the_mean_face_has_no_error_on_itself() -> None:
    faces = torch.rand(1, 68, 2).repeat(3, 1, 1)
    assert Landmarks(68).baseline(faces, faces[:2]).metrics["nme"] == pytest.approx(0, abs=1e-4)


def test_answers_are_for_people() -> None:
    answer = Expression(("sad", "glad")).answer(torch.tensor([0.0, 3.0]).log(), width=8, height=8)
    assert answer == {"expression": "glad", "probabilities": {"sad": 0, "glad": 1}}
    answer = Attributes(("hat", "beard")).answer(torch.tensor([0.0, -1.0]), width=8, height=8)
    assert answer["attributes"] == ["hat"]
    # The left edge lies at -0.5 and the bottom edge of an image 20 high at 19.5; its middle at (4.5, 9.5).
    points = Landmarks(68).answer(torch.tensor([-1.0, 1.0, 0.0, 0.0] + [0.0] * 132), width=10, height=20)["landmarks"]
    assert points[:2] == [[-0.5, 19.5], [4.5, 9.5]]


# Recipes, and everything together

RECIPES = sorted(shipped_recipes("transfer"))


def test_recipes_are_found() -> None:
    files = list((Path(fra.__file__).parent / "recipes").glob("*/transfer/*.yaml"))
    assert len([name for name in RECIPES if not name.startswith("smoke/")]) == len(files) >= 12


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_names_itself_a_dataset_and_its_command(name: str) -> None:
    recipe = load_transfer_recipe(name)
    assert recipe.name == name.partition("/")[2]
    assert recipe.dataset in DATASETS
    assert recipe.protocol in PROTOCOLS
    text = shipped_recipes("transfer")[name].text()
    assert f"# fra transfer {name} --encoder" in text
    assert "Measured here" in text or name.startswith("smoke/")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "drawn"
    synthetic.write(folder, 200, size=64)
    return folder


@pytest.mark.parametrize(
    "name, folder",
    [
        ("smoke/synthetic_expression", "."),
        ("smoke/synthetic_attributes", "."),
        ("smoke/synthetic_landmarks", "."),
        ("smoke/rafdb.linear", "rafdb"),
        ("smoke/celeba.linear", "celeba"),
        ("smoke/300w.linear", "300w"),
        ("smoke/rafdb.finetune", "rafdb"),
        ("smoke/synthetic_expression.eac", "."),
    ],
)
def test_a_random_encoder_is_judged_from_start_to_end(drawn: Path, tmp_path: Path, name: str, folder: str) -> None:
    recipe = replace(load_transfer_recipe(name), image_size=32)
    results = transfer(
        recipe,
        encoder="random:resnet10_half",
        data=drawn / folder,
        out=tmp_path / "run",
        fraction=1.0,
        runtime=Runtime(quiet=True),
    )
    assert results["test_images"] == 40
    assert results["encoder"] == "random"
    if results["task"] == "landmarks":  # the pose, at least, can be seen in random features
        assert results["metrics"]["nme"]["mean"] < results["baseline"]["metrics"]["nme"]
    model = load_task_model(tmp_path / "run")
    faces = DATASETS[recipe.dataset](drawn / folder)
    first = faces.image(int(faces.splits["test"][0]), size=32)
    stored = load_file(tmp_path / "run/seeds/seed_0.safetensors")["outputs"][0]
    assert_close(model(first[None] / 255)[0], stored, atol=1e-4, rtol=1e-4)
    assert model.predict(first) == model.predict(Image.fromarray(first.permute(1, 2, 0).numpy()))
    files = {"results.json", "log.csv", "predictions.csv", "task.safetensors", "recipe.yaml", f"{results['task']}.png"}
    assert files <= {path.name for path in (tmp_path / "run").iterdir()}


def test_the_table_at_the_end_shows_the_baseline(
    planted: LabelledFaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge(replace(RECIPE, fraction=0.5), planted, tmp_path / "run", quiet=False)
    shown = capsys.readouterr().out
    assert "always" in shown
    assert "33.33" in shown
    assert "15 training images: batch size 8 instead of 256, so that an epoch has 2 steps" in shown


def test_probabilities_are_calibrated_on_faces_that_taught_nothing(
    planted: LabelledFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the validation split, or where there is none a tenth of the training faces, by a second head."""
    recipe = replace(RECIPE, epochs=20)
    assert "calibration" not in judge(recipe, planted, tmp_path / "few")
    for module in ("calibration", "linear"):
        monkeypatch.setattr(f"fra.transfer.{module}.FEWEST", 2)
    run = tmp_path / "run"
    results = judge(recipe, planted, run, seeds=2)
    assert results["metrics"] == judge(recipe, planted, tmp_path / "again", seeds=2)["metrics"]
    assert results["calibration"]["held_out_images"] == len(planted.splits["val"])
    assert judge(recipe, planted, run, seeds=2, resume=True)["calibration"] == results["calibration"]
    notes = read_weights(run / "task.safetensors")[1]
    assert notes["learned"]["temperature"] == results["calibration"]["temperature"]
    assert notes["learned"]["score"] == results["metrics"]["accuracy"]["values"][0]
    monkeypatch.setitem(planted.splits, "val", torch.tensor([], dtype=torch.long))
    alone = judge(recipe, planted, tmp_path / "alone")
    assert alone["calibration"]["held_out_images"] == round(len(planted.splits["train"]) / 10)
    assert alone["metrics"]["accuracy"]["values"][0] == results["metrics"]["accuracy"]["values"][0]


def test_pictures_of_any_size_are_answered_together_as_one_by_one(planted: LabelledFaces, tmp_path: Path) -> None:
    model = TaskModel(
        Landmarks(68), MeanColour().eval(), Standardiser(torch.zeros(3), torch.ones(3)), nn.Linear(3, 136), size=8
    )
    wide, tall = torch.full((3, 8, 20), 50, dtype=torch.uint8), torch.full((3, 31, 9), 200, dtype=torch.uint8)
    together = model.predict([wide, Image.fromarray(tall.permute(1, 2, 0).numpy()), tall / 255])
    assert [len(answer["landmarks"]) for answer in together] == [68, 68, 68]
    for answer, image in zip(together, (wide, tall, tall), strict=True):
        assert_close(torch.tensor(answer["landmarks"]), torch.tensor(model.predict(image)["landmarks"]))
    assert together[0] != together[1]
    assert model.predict([]) == []
    assert model.predict(torch.stack([wide, wide])) == model.predict([wide, wide])
