"""Fine-tuning and EAC: the loss by hand, what learns at which rate, and whole runs on planted colours."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from planted import FILES, LABELS, plant
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.transforms.v2.functional import resize

from fra.data import read as images_module
from fra.data.datasets import fairface
from fra.data.labelled import Groups, LabelledFaces
from fra.data.read import FaceImages
from fra.faces.image import write_image
from fra.files import read_json, read_rows, write_json, write_rows
from fra.models.encoder import Encoder, EncoderConfig, Seen
from fra.predict.task_model import load_task_model
from fra.recipe import plain
from fra.runtime import Runtime
from fra.tasks.expression import Expression
from fra.training.trainable import Progress
from fra.transfer.augment import SHIFT, erase, vary
from fra.transfer.eac import EAC, NOISE, EACRecipe, pixel_noise
from fra.transfer.finetune import FineTune, FineTuneRecipe
from fra.transfer.linear import LinearRecipe
from fra.transfer.network import weight_groups
from fra.transfer.protocol import LabelledBatch, TransferRecipe, batch_for
from fra.transfer.recipes import RECIPES, load_transfer_recipe, usual_settings
from fra.transfer.run import NamedEncoder, transfer

QUIET = Runtime(quiet=True)

COLOURS = torch.tensor([[220, 30, 30], [30, 220, 30], [30, 30, 220]], dtype=torch.uint8)
COMMON = dict(optimizer="adamw", learning_rate=0.003, weight_decay=0.05, epochs=6, batch_size=8)
FINETUNE = FineTuneRecipe(name="planted", task="expression", dataset="planted", **COMMON)
EAC_RECIPE = EACRecipe(name="planted", task="expression", dataset="planted", **COMMON)
LINEAR = LinearRecipe(name="planted", task="expression", dataset="planted")
TINY = EncoderConfig(name="resnet10_quarter", last_stride=1, image_size=32)
START = Progress(step=0, steps=10, epoch=0, epochs=1)
ABC = Expression(("a", "b", "c"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabelledFaces:
    """60 pictures in one of three colours, the class; light above and dark below, so that no mirror image is equal."""
    draw = torch.Generator().manual_seed(0)
    for file, label in zip(FILES, LABELS.tolist(), strict=True):
        noise = torch.randint(-25, 25, (3, 8, 8), generator=draw)
        write_image(tmp_path / "faces" / file, (COLOURS[label].int()[:, None, None] + noise).clamp(0, 255).byte())
    groups = {"place": Groups(("fourth", "other"), (torch.arange(60) % 4 > 0).long())}
    return plant(monkeypatch, tmp_path / "faces", landmarks=torch.rand(60, 68, 2), groups=groups)


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(TINY)


def judge(recipe: TransferRecipe, faces: LabelledFaces, out: Path, seeds: int = 1, **runtime: Any) -> dict:
    settings = Runtime("cpu", "32", quiet=True, **runtime)
    return transfer(recipe, encoder=tiny(), data=faces.root, out=out, seeds=seeds, runtime=settings)


def tiny() -> NamedEncoder:
    return NamedEncoder(encoder(), source="x", label="tiny")


# EAC, by hand


def flat(*values: float) -> Tensor:
    return torch.tensor(values)


def seen_by(maps: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Seen]:
    """An encoder's answer around its maps."""

    def both(images: Tensor) -> Seen:
        found = maps(images)
        return Seen(found, found.mean((2, 3)))

    return both


def golden_eac() -> EAC:
    head = nn.Linear(4, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0, -1.0, 0.5], [0.2, 0.3, 0.0, -1.0]]))
        head.bias.copy_(flat(0.1, -0.1))
    return EAC(EAC_RECIPE, Expression(("a", "b")), encoder(), head)


def test_g_eac_gives_the_published_numbers() -> None:
    model, steps = golden_eac(), torch.arange(1.0, 17).view(1, 4, 2, 2)
    maps, mirrored = steps.sin(), steps.cos()
    assert_close(model.head(maps.mean((2, 3)))[0], flat(1.022533, -0.455935), atol=1e-5, rtol=0)
    expected = torch.tensor([[0.639436, 1.948622], [1.466254, -0.364181]])
    assert_close(model.class_maps(maps)[0, 0], expected, atol=1e-5, rtol=0)
    loss = model.terms(Seen(maps, maps.mean((2, 3))), mirrored, torch.tensor([1]))
    assert_close(loss.terms["classes"], torch.tensor(1.683844), atol=1e-5, rtol=0)
    assert_close(loss.terms["consistency"], torch.tensor(1.860252), atol=1e-5, rtol=0)
    assert_close(loss.total, torch.tensor(10.985102), atol=1e-4, rtol=0)


def test_the_consistency_moves_both_views_of_the_face_and_not_the_head() -> None:
    model, steps = golden_eac(), torch.arange(1.0, 17).view(1, 4, 2, 2)
    maps, mirrored = steps.sin().requires_grad_(), steps.cos().requires_grad_()
    model.terms(Seen(maps, maps.mean((2, 3))), mirrored, torch.tensor([1])).terms["consistency"].backward()
    assert maps.grad is not None
    assert mirrored.grad is not None
    assert model.head.weight.grad is None
    # The two views pull at one difference from its two ends.
    assert_close(maps.grad, -mirrored.grad.flip(-1))


def test_a_network_that_mirrors_with_the_face_is_consistent_and_another_is_not() -> None:
    even, uneven = golden_eac(), golden_eac()
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    even.encoder.both = seen_by(lambda x: convolution((x + 0) * 1) + convolution(x.flip(-1)).flip(-1))
    uneven.encoder.both = seen_by(convolution.forward)
    batch = LabelledBatch(torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    assert float(even.loss(batch, START).terms["consistency"].detach()) < 1e-10
    assert float(uneven.loss(batch, START).terms["consistency"].detach()) > 1e-4


def test_a_part_of_a_step_weighs_as_much_as_it_has_images() -> None:
    model = golden_eac()
    model.encoder.both = seen_by(lambda x: torch.ones(len(x), 4, 2, 2))
    batch = LabelledBatch(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    whole, part = (model.loss(batch._replace(weight=weight), START) for weight in (1.0, 1.25))
    assert_close(part.total, 1.25 * whole.total)
    assert_close(part.terms, whole.terms)


def test_the_mirror_image_in_eac_shows_the_same_noise_and_erased_part() -> None:
    model, seen = golden_eac(), []
    model.encoder.both = seen_by(lambda x: seen.append(x) or torch.zeros(len(x), 4, 2, 2))
    batch = LabelledBatch(torch.full((64, 3, 16, 16), 100, dtype=torch.uint8), torch.zeros(64, dtype=torch.long))
    model.loss(batch, START)
    faces, mirrored = seen
    assert_close(mirrored, faces.flip(-1), rtol=0, atol=0)
    erased = (faces == model.encoder.mean).all(1).float().mean((1, 2))
    noisy = (faces - 100 / 255).abs().amax((1, 2, 3)) * ~(erased > 0)
    assert 16 < int((erased > 0).sum()) < 48  # one in two
    assert 4 < int((noisy > 0).sum()) < 30  # one in two of the others
    # The standard deviation of 192 values of the noise is the root of 30 within four of its own, 5 %.
    spread = (faces[noisy > 0] * 255).std((1, 2, 3)).mean()
    assert float(spread) == pytest.approx(30**0.5, rel=0.05)


@pytest.mark.parametrize(
    "shown, size, deviation",
    [
        ((100, 100), 224, 30**0.5 * 2 / 3),  # each pixel is (1 - t) a + t b each way: the mean of (1-t)^2 + t^2 is 2/3
        ((48, 48), 224, 30**0.5 * 2 / 3),
        ((224, 224), 224, 30**0.5),
        ((100, 100), 64, None),
        ((300, 200), 64, None),  # not square, and more than four times as high
        ((1000, 1000), 64, None),
    ],
)
def test_eacs_noise_is_that_of_the_pictures_own_pixels(
    shown: tuple[int, int], size: int, deviation: float | None
) -> None:
    torch.manual_seed(0)
    found = NOISE * pixel_noise(torch.tensor([shown]).float().expand(4, 2), size, device=torch.device("cpu")) * 255
    pictures = 30**0.5 * torch.randn(4, 3, *shown)
    true = resize(pictures, [size, size], antialias=True)  # what adding it before resizing leaves
    assert float(found.std()) == pytest.approx(float(true.std()), rel=0.05)
    assert float(found.mean()) == pytest.approx(0, abs=0.15)
    if deviation:
        assert float(found.std()) == pytest.approx(deviation, rel=0.04)  # 3.65 of 100 px crops at 224 px, 5.48 as it is
    # Neighbours are as alike as they are in enlarged noise.
    alike, truly = ((x[..., 1:] * x[..., :-1]).mean() / x.square().mean() for x in (found, true))
    assert float(alike) == pytest.approx(float(truly), abs=0.06)


def test_every_face_has_the_noise_of_its_own_picture() -> None:
    torch.manual_seed(0)
    shown = torch.tensor([[10.0, 10.0], [64.0, 64.0], [10.0, 10.0], [640.0, 640.0]])
    spread = pixel_noise(shown, 64, device=torch.device("cpu")).std((1, 2, 3))
    assert_close(spread[[0, 2]], torch.full((2,), 2 / 3), atol=0.12, rtol=0)
    assert_close(spread[1], torch.tensor(1.0), atol=0.03, rtol=0)
    assert spread[3] < 0.12


def test_training_knows_how_many_pixels_of_a_picture_an_image_shows(planted: LabelledFaces, tmp_path: Path) -> None:
    images = FaceImages(planted, {"train": torch.arange(30)}, size=32, runtime=QUIET)
    assert_close(images.shown[:30], torch.full((30, 2), 8.0))  # drawn as 8 x 8
    cut = replace(planted, boxes=torch.tensor([[1.0, 1.0, 6.5, 5.0]]).expand(len(planted.files), 4))
    assert_close(
        FaceImages(cut, {"train": torch.arange(3)}, size=32, runtime=QUIET).shown[:3],
        torch.tensor([[4.0, 5.5]] * 3),
    )


# Augmentation


def test_every_second_face_is_mirrored_and_the_flag_says_which() -> None:
    draw = torch.Generator().manual_seed(0)
    bright = torch.zeros(400, 3, 16, 16, dtype=torch.uint8)
    bright[..., :8, 2:7] = torch.randint(150, 250, (400, 1, 8, 5), generator=draw, dtype=torch.uint8)
    faces, mirrored = vary(bright)
    left, right = faces[..., :8].sum((1, 2, 3)), faces[..., 8:].sum((1, 2, 3))
    # The bright part stays on its side: it lies 1 to 6 pixels from the middle, and shifts are at most 3.2.
    agrees = (right > left) == mirrored
    assert float(agrees.float().mean()) > 0.9
    assert 160 < int(mirrored.sum()) < 240
    assert not vary(bright, mirror=False)[1].any()


def test_faces_are_shifted_by_at_most_a_fifth_and_black_comes_in() -> None:
    faces, _ = vary(torch.full((400, 3, 40, 40), 255, dtype=torch.uint8))
    rows = (faces.amax((1, 3)) > 0).sum(1)  # rows with anything of the face
    assert int(rows.min()) >= 40 - 40 * SHIFT - 1
    assert int((rows < 40).sum()) > 100  # one in two is shifted
    assert float(faces.min()) == 0


def test_a_grey_face_stays_grey_and_one_in_four_stays_as_it_is() -> None:
    grey = torch.randint(100, 150, (1, 1, 12, 12), dtype=torch.uint8).expand(400, 3, 12, 12)
    faces, _ = vary(grey, mirror=False)
    assert_close(faces[:, 0], faces[:, 1])
    same = ((faces - grey / 255).abs().amax((1, 2, 3)) < 1e-5).float().mean()
    assert 0.05 < float(same) < 0.22  # colours, shift and turn left out: 1/8


def test_what_is_erased_has_the_asked_size_and_colour() -> None:
    fill = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    faces = erase(torch.ones(400, 3, 50, 50), fill, chance=0.5, share=(0.1, 0.2))
    painted = (faces == fill).all(1).float().mean((1, 2))
    assert ((faces == fill) | (faces == 1)).all()
    assert 160 < int((painted > 0).sum()) < 240
    assert 0.07 < float(painted[painted > 0].min()) < float(painted.max()) < 0.22  # rounded to pixels


# What learns at which rate


def test_the_encoder_and_the_head_have_their_own_rates() -> None:
    model = FineTune(replace(FINETUNE, learning_rate=2e-3, backbone_rate=1e-4), ABC, encoder(), ABC.head(128))
    backbone, head = weight_groups(model.recipe, model)
    assert (backbone["peak"], head["peak"]) == (1e-4, 2e-3)
    names = {id(weight): name for name, weight in model.named_parameters()}
    assert {names.pop(id(weight)).partition(".")[0] for weight in backbone["params"]} == {"encoder"}
    assert {names.pop(id(weight)) for weight in head["params"]} == {"head.weight", "head.bias"}
    assert not names


def test_a_rate_of_zero_leaves_its_half_of_the_network_alone(planted: LabelledFaces, tmp_path: Path) -> None:
    before = encoder().backbone.state_dict()
    recipe = replace(FINETUNE, epochs=1, backbone_rate=0.0)
    judge(recipe, planted, tmp_path / "run")
    weights = load_file(tmp_path / "run/task.safetensors")
    for name, weight in encoder().backbone.named_parameters():
        assert_close(weights[f"encoder.{name}"], before[name], rtol=0, atol=0)
        assert weight.requires_grad
    judge(replace(recipe, backbone_rate=None), planted, tmp_path / "other")
    moved = load_file(tmp_path / "other/task.safetensors")
    assert all(
        not torch.equal(moved[f"encoder.{name}"], before[name]) for name, _ in encoder().backbone.named_parameters()
    )


def test_few_labels_get_smaller_batches_and_more_epochs() -> None:
    recipe = replace(FINETUNE, batch_size=256, epochs=10, warmup_epochs=2, min_steps=300)
    # 8 steps an epoch at least: 122 images are 15 a step; 2,839 (1 % of AffectNet) keep 256
    assert [batch_for(count, recipe) for count in (12_271, 2_839, 122, 5)] == [256, 256, 15, 5]
    assert [recipe.epochs_of(steps) for steps in (48, 9)] == [10, 34]
    assert recipe.schedule(34).rate(1.0, 6 * 9, 9) == pytest.approx(6 / 6.8)  # the warm-up keeps its share


# Whole runs


@pytest.mark.parametrize("recipe", [FINETUNE, EAC_RECIPE], ids=["finetune", "eac"])
def test_a_network_learns_what_is_in_the_pictures(
    recipe: TransferRecipe, planted: LabelledFaces, tmp_path: Path
) -> None:
    results = judge(recipe, planted, tmp_path / "run")
    assert results["metrics"]["accuracy"]["mean"] > 90 > 34 > results["baseline"]["metrics"]["accuracy"]
    assert results["metrics"]["accuracy"]["best_on_validation"]["mean"] > 90
    assert results["protocol"] == recipe.protocol
    log = read_rows(tmp_path / "run/log.csv")
    assert [row["epoch"] for row in log] == ["1", "2", "3", "4", "5", "6"]
    assert float(log[-1]["loss"]) < float(log[0]["loss"])
    assert {"val_accuracy", "learning_rate"} <= set(log[0])
    assert not (tmp_path / "run/seeds/seed_0").exists()


def test_attributes_learn_with_a_neck(planted: LabelledFaces, tmp_path: Path) -> None:
    recipe = replace(FINETUNE, task="attributes", neck=True, erasing=0.0)
    results = judge(recipe, planted, tmp_path / "run")
    assert results["metrics"]["attribute_accuracy"]["mean"] > 80 > results["baseline"]["metrics"]["attribute_accuracy"]
    model = load_task_model(tmp_path / "run")
    assert len(model.head) == 9
    predictions = read_rows(tmp_path / "run/predictions.csv")
    right = [
        (float(row[f"p_{name}"]) >= 0.5) == (row[name] == "1") for row in predictions for name in ("reddish", "bluish")
    ]
    assert results["metrics"]["attribute_accuracy"]["mean"] == pytest.approx(100 * sum(right) / 48)


def test_the_saved_task_needs_no_other_file(planted: LabelledFaces, tmp_path: Path) -> None:
    judge(replace(FINETUNE, epochs=1, image_size=24), planted, tmp_path / "run")
    model = load_task_model(tmp_path / "run")  # "x", where the encoder came from, does not exist
    image = planted.image(36, size=24)
    stored = load_file(tmp_path / "run/seeds/seed_0.safetensors")["outputs"][0]
    with torch.no_grad():
        assert_close(model(image[None] / 255)[0], stored, atol=1e-5, rtol=1e-5)
    assert model.predict(image)["expression"] in ("red", "green", "blue")


def test_every_number_can_be_recomputed_from_the_predictions(planted: LabelledFaces, tmp_path: Path) -> None:
    results = judge(replace(FINETUNE, epochs=1), planted, tmp_path / "run", seeds=2)
    rows = read_rows(tmp_path / "run/predictions.csv")

    def share(chosen: Callable[[dict], bool]) -> float:
        mine = [row for row in rows if chosen(row)]
        return 100 * sum(row["label"] == row["predicted"] for row in mine) / len(mine)

    accuracy = results["metrics"]["accuracy"]
    assert accuracy["values"] == pytest.approx([share(lambda row, s=s: row["seed"] == s) for s in "01"])
    recalls = [share(lambda row, k=k: row["label"] == k) for k in ("red", "green", "blue")]
    assert [results["per_class"][k]["accuracy"] for k in ("red", "green", "blue")] == pytest.approx(recalls)
    assert results["metrics"]["mean_class_accuracy"]["mean"] == pytest.approx(sum(recalls) / 3)
    for group, images in (("fourth", 6), ("other", 18)):
        found = results["groups"]["place"][group]
        assert found["images"] == images
        assert found["accuracy"] == pytest.approx(share(lambda row, g=group: row["group_place"] == g))
        assert found["low"] < found["accuracy"] + 1e-9
        assert found["accuracy"] < found["high"] + 1e-9


class Killed(BaseException):
    pass


@pytest.mark.parametrize("recipe", [FINETUNE, EAC_RECIPE], ids=["finetune", "eac"])
def test_a_run_killed_in_the_middle_goes_on_to_the_same_files(
    recipe: TransferRecipe, planted: LabelledFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"finetune": FineTune, "eac": EAC}[recipe.protocol]
    recipe = replace(recipe, epochs=3, fraction=0.8, hold_out=True, balanced=True)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    judge(recipe, planted, whole, seeds=2)
    loss, calls = kind.loss, []

    def dies_in_the_second_epoch_of_seed_1(self: Any, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) == 3 * 3 + 3 + 2:  # 24 images are 3 steps of 8
            raise Killed
        return loss(self, *rest)

    monkeypatch.setattr(kind, "loss", dies_in_the_second_epoch_of_seed_1)
    with pytest.raises(Killed):
        judge(recipe, planted, killed, seeds=2)
    assert (killed / "seeds/seed_1/last.ckpt").exists()
    assert not (killed / "results.json").exists()
    calls.clear()
    monkeypatch.setattr(kind, "loss", lambda self, *rest: calls.append(1) or loss(self, *rest))
    judge(recipe, planted, killed, seeds=2, resume=True)
    assert len(calls) == 2 * 3  # neither seed 0 nor the first epoch of seed 1 again
    for name in ("results.json", "predictions.csv", "log.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    for name in ("task.safetensors", "seeds/seed_1.safetensors"):  # their headers have no fixed order
        mine, theirs = load_file(killed / name), load_file(whole / name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[tensor], theirs[tensor]) for tensor in mine), name


def test_the_last_epoch_is_reported_and_the_best_on_validation_stands_beside_it(
    planted: LabelledFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rates of zero after a first epoch at a rate that learns: the validation split cannot change what is reported.
    judge(replace(FINETUNE, epochs=2), planted, tmp_path / "with")
    monkeypatch.setitem(planted.splits, "val", torch.empty(0, dtype=torch.long))
    judge(replace(FINETUNE, epochs=2), planted, tmp_path / "without")
    outputs = [load_file(tmp_path / f"{name}/seeds/seed_0.safetensors")["outputs"] for name in ("with", "without")]
    assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    results = json.loads((tmp_path / "without/results.json").read_text())
    assert "best_on_validation" not in results["metrics"]["accuracy"]


def test_without_an_official_split_a_tenth_of_each_class_can_validate(
    planted: LabelledFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(planted.splits, "val", torch.empty(0, dtype=torch.long))
    results = judge(replace(FINETUNE, epochs=1, hold_out=True), planted, tmp_path / "run")
    assert (results["train_images"], results["val_images"]) == (27, 3)
    assert "best_on_validation" in results["metrics"]["accuracy"]


def test_damaged_training_images_are_left_out_and_images_beyond_the_memory_are_read_again(
    planted: LabelledFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(FINETUNE, epochs=1)
    (planted.root / "03.png").unlink()
    results = judge(recipe, planted, tmp_path / "all kept")
    assert (results["train_images"], results["unreadable"]) == (29, 1)
    monkeypatch.setattr(images_module, "KEPT_BYTES", 20 * 3 * 32 * 32)
    assert judge(recipe, planted, tmp_path / "few kept")["metrics"] == results["metrics"]
    store = FaceImages(planted, {"train": torch.arange(30)}, size=32, runtime=QUIET)
    chosen = torch.tensor([29, 0, 25])
    assert_close(store[chosen], torch.stack([planted.image(index, size=32) for index in chosen.tolist()]))
    (planted.root / "29.png").unlink()
    with pytest.raises(ValueError, match="can no longer be read"):
        store[chosen]


@pytest.mark.parametrize(
    "recipe, change, message",
    [
        (FINETUNE, {"task": "landmarks"}, "protocol finetune augments faces in ways that landmarks cannot follow"),
        (EAC_RECIPE, {"task": "attributes"}, "eac is for expression, not for attributes"),
        (FINETUNE, {"neck": True}, "neck is for attributes, not for expression"),
        (FINETUNE, {"task": "attributes", "balanced": True}, "balanced needs classes, and attributes has none"),
        (LINEAR, {"task": "landmarks", "hold_out": True}, "so there is no epoch to choose: leave hold_out out"),
    ],
)
def test_what_does_not_fit_together_is_one_clear_error(
    planted: LabelledFaces, tmp_path: Path, recipe: TransferRecipe, change: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        judge(replace(recipe, **change), planted, tmp_path / "run")


@pytest.mark.parametrize(
    "protocol, settings, message",
    [
        (
            "linear",
            ["backbone_rate=0.1"],
            "linear protocol has no setting 'backbone_rate', which only finetune, eac, star",
        ),
        ("finetune", ["consistency=1"], "finetune protocol has no setting 'consistency', which only eac has"),
        ("finetune", ["consistancy=1"], "no setting named 'consistancy'; there are name, task"),
        ("finetune", ["epochs=5", "warmup_epochs=5"], "warmup_epochs is 5"),
        ("linear", ["protocol=lineal"], "unknown protocol 'lineal'; choose one of linear, finetune, eac, star"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(protocol: str, settings: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_transfer_recipe(f"laptop/rafdb.{protocol}", settings)


def test_a_file_with_the_settings_of_all_protocols_is_read_while_they_say_what_is_usual(tmp_path: Path) -> None:
    """As runs wrote recipe.yaml while all protocols shared their settings."""
    every = {name: value for schema in RECIPES.values() for name, value in usual_settings(schema).items()}
    recipe = load_transfer_recipe("laptop/rafdb.finetune", ["erasing=0.25"])
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(every | plain(recipe)))
    assert load_transfer_recipe(str(mine)) == recipe
    mine.write_text(yaml.safe_dump(every | plain(recipe) | {"alignment": every["alignment"] | {"width": 8}}))
    with pytest.raises(ValueError, match="mine.yaml: the finetune protocol has no setting 'alignment'"):
        load_transfer_recipe(str(mine))


def test_a_run_from_before_goes_on_when_its_recipe_says_the_same(planted: LabelledFaces, tmp_path: Path) -> None:
    recipe, out = replace(LINEAR, epochs=2), tmp_path / "run"
    judge(recipe, planted, out)
    settings = read_json(out / "settings.json")
    settings["recipe"] |= {"min_steps": 0, "erasing": 0.5, "falls": []}
    write_json(out / "settings.json", settings)
    assert judge(recipe, planted, out, seeds=2, resume=True)["seeds"] == [0, 1]
    settings["recipe"]["epochs"] = 3
    write_json(out / "settings.json", settings)
    with pytest.raises(ValueError, match="was started with a different recipe"):
        judge(recipe, planted, out, seeds=2, resume=True)


def test_the_linear_protocol_learns_by_adamw_from_balanced_classes_with_a_held_out_tenth(
    planted: LabelledFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(planted.splits, "val", torch.empty(0, dtype=torch.long))
    recipe = LinearRecipe(
        name="x", task="expression", dataset="planted", epochs=20, optimizer="adamw", weight_decay=0.05,
        balanced=True, hold_out=True,
    )  # fmt: skip
    results = judge(recipe, planted, tmp_path / "run")
    assert results["metrics"]["accuracy"]["mean"] > 90
    assert results["train_images"] == 27
    with pytest.raises(ValueError, match="linear protocol runs on one device"):
        judge(recipe, planted, tmp_path / "two", devices=2)


# Recipes and the command


def test_table_4_stands_in_the_papers_recipes() -> None:
    rates = {"ferplus": (2e-4, 2e-4), "rafdb": (2e-4, 2e-4), "affectnet7": (1e-4, 2e-3), "celeba": (2e-5, 2e-5)}
    for dataset, (backbone, head) in rates.items():
        recipe = load_transfer_recipe(f"paper/{dataset}.finetune")
        assert (recipe.backbone_rate, recipe.learning_rate) == (backbone, head)
        assert (recipe.epochs, recipe.batch_size, recipe.optimizer, recipe.weight_decay) == (100, 256, "adamw", 0.05)
        assert (recipe.warmup_epochs, recipe.last_rate, recipe.image_size) == (5, 1e-6, 224)
        assert recipe.balanced == dataset.startswith("affectnet")
    paper, original = (load_transfer_recipe(f"paper/rafdb.{name}") for name in ("eac", "eac_original"))
    assert (paper.learning_rate, paper.weight_decay, paper.batch_size, paper.epochs) == (5e-3, 0.05, 256, 100)
    assert (original.optimizer, original.learning_rate, original.weight_decay) == ("adam", 1e-4, 1e-4)
    assert (original.decay, original.batch_size, original.epochs) == (0.9, 32, 60)
    assert paper.consistency == original.consistency == 5


def test_another_protocol_takes_the_recipe_that_fits_or_names_it(tmp_path: Path) -> None:
    recipe = load_transfer_recipe("laptop/rafdb.linear", ["epochs=4"], protocol="finetune")
    assert (recipe.name, recipe.protocol, recipe.epochs) == ("rafdb.finetune", "finetune", 4)
    assert load_transfer_recipe("laptop/rafdb.eac", protocol="eac").name == "rafdb.eac"
    (tmp_path / "mine.yaml").write_text("{name: mine, task: expression, dataset: rafdb}\n")
    with pytest.raises(ValueError, match="do not fit eac: use paper/rafdb.eac or"):
        load_transfer_recipe(str(tmp_path / "mine.yaml"), protocol="eac")
    with pytest.raises(ValueError, match="do not fit eac, and .* has no recipe for it"):
        load_transfer_recipe("laptop/celeba.linear", protocol="eac")


# FairFace


def test_fairface_is_split_by_folder_and_asked_by_its_own_words(tmp_path: Path) -> None:
    rows = []
    for folder in range(8):
        for number, (age, gender, race) in enumerate([("0-2", "Female", "Black"), ("more than 70", "Male", "Indian")]):
            path = f"{folder:02d}/{number}.jpg"
            write_image(tmp_path / path, torch.full((3, 8, 8), 20 * folder, dtype=torch.uint8))
            rows.append(dict(path=path, age=age, gender=gender, race=race))
    write_rows(tmp_path / "labels.csv", rows)
    faces = fairface.read(tmp_path)
    counts = {name: sorted({faces.files[i][:2] for i in split.tolist()}) for name, split in faces.splits.items()}
    assert counts == {"train": ["00", "01", "02", "03", "04", "05"], "val": ["06"], "test": ["07"]}
    assert faces.targets["age"].tolist()[:2] == [0, 8]
    assert faces.tasks["gender"].answer(torch.tensor([0.0, 1.0]), width=8, height=8)["gender"] == "Female"
    recipe = replace(FINETUNE, dataset="fairface", task="race", epochs=1)
    runtime = Runtime("cpu", "32", quiet=True)
    results = transfer(recipe, encoder=tiny(), data=tmp_path, out=tmp_path / "run", runtime=runtime)
    assert results["task"] == "race"
    assert results["groups"]["gender"]["Female"]["images"] == 1
    assert load_task_model(tmp_path / "run").task.asks == "race"
    rows[3]["race"] = "Martian"
    write_rows(tmp_path / "labels.csv", rows)
    with pytest.raises(ValueError, match="01/1.jpg has race 'Martian', expected one of White"):
        fairface.read(tmp_path)
