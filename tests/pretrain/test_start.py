"""Warm start: a run begins with weights that exist, leaves still what it is told to, and says where it began."""

from pathlib import Path

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from tiny_runs import METHODS, SETTINGS, TINY, interrupt_step, run, same_bits, weights_of
from torch import Tensor, nn

import fra
from fra import cli
from fra.files import read_json
from fra.models.encoder import Encoder, EncoderConfig
from fra.pretrain.run import build_method, load_pretrain_recipe
from fra.pretrain.start import StartConfig, hold_still, stages, start_from
from fra.system.stopping import Stopped
from fra.training.optimizers import OptimizerConfig, build_optimizer, groups_of
from fra.weights.load import encoder_fingerprint, load_encoder, save_weights

BYOL, BACKBONE = "smoke/resnet10_half.byol", "online.encoder.backbone."


@pytest.fixture(scope="module")
def first(drawn_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epoch of BYOL, to go on from."""
    return run(drawn_faces, tmp_path_factory.mktemp("first") / "first", "schedule.epochs=1", name=BYOL)


def backbone_of(state: dict[str, Tensor], below: str = BACKBONE) -> dict[str, Tensor]:
    return {name.removeprefix(below): tensor for name, tensor in state.items() if name.startswith(below)}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- what is read


@pytest.mark.parametrize("method", METHODS)
def test_every_method_begins_with_the_backbone_and_its_teacher_too(method: str, first: Path) -> None:
    recipe = load_pretrain_recipe(f"smoke/resnet10_half.{method}", SETTINGS[method])
    begun, fresh = build_method(recipe, start_from(str(first))), build_method(recipe)
    wanted = load_encoder(first).backbone.state_dict()
    assert equal(begun.encoder.backbone.state_dict(), wanted)
    teacher = begun.teacher_encoder()
    assert teacher is None or equal(teacher.backbone.state_dict(), wanted)
    heads = {name: tensor for name, tensor in begun.state_dict().items() if ".backbone." not in name}
    assert equal(heads, {name: tensor for name, tensor in fresh.state_dict().items() if ".backbone." not in name})


def test_from_heads_takes_the_whole_online_network(first: Path, drawn_faces: Path, tmp_path: Path) -> None:
    out = run(
        drawn_faces, tmp_path / "run", "optimizer.learning_rate=0", "schedule.epochs=1",
        name=BYOL, start=start_from(str(first), with_heads=True),
    )  # fmt: skip
    before, after = weights_of(first), weights_of(out)
    online = [name for name in before if name.startswith("online.") and "running" not in name and "num_" not in name]
    assert online
    assert all(torch.equal(before[name], after[name]) for name in online)
    assert all(torch.equal(after["teacher.network" + name.removeprefix("online")], before[name]) for name in online)


def files(folder: Path, first: Path) -> dict[str, tuple[str, str]]:
    """`--from` and `encoder.name` of every kind of weights."""
    torch.manual_seed(0)
    network = timm.create_model("resnet26", num_classes=3)
    torch.save(network.state_dict(), folder / "timm.pth")
    torchvision = Encoder(EncoderConfig(name="resnet18")).backbone.state_dict()
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in torchvision.items()}}, folder / "foreign.pth"
    )
    return {
        "run": (str(first), "resnet10_half"),
        "bundled": ("laptop", "resnet10_half"),
        "timm": (f"timm:resnet26={folder / 'timm.pth'}", "resnet26"),
        "foreign": (str(folder / "foreign.pth"), "resnet18"),
    }


@pytest.mark.parametrize("kind", ["run", "bundled", "timm", "foreign"])
def test_the_command_begins_with_it_and_says_so(
    kind: str, first: Path, drawn_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what, name = files(tmp_path, first)[kind]
    settings = [*TINY, f"encoder.name={name}", "optimizer.learning_rate=0", "schedule.epochs=1"]
    words = ["pretrain", BYOL, "--faces", str(drawn_faces), "--out", str(tmp_path / "run"), "--from", what]
    words += ["--device", "cpu", "--workers", "0", "--precision", "32", "--quiet"]
    assert cli.main([*words, *(word for setting in settings for word in ("--set", setting))]) == 0, capsys.readouterr()
    wanted = load_encoder(what, quiet=True)
    found = load_encoder(tmp_path / "run")
    weights = dict(wanted.backbone.named_parameters())
    assert equal(dict(found.backbone.named_parameters()), weights)
    assert (found.config.mean, found.config.std) == (wanted.config.mean, wanted.config.std)
    record = read_json(tmp_path / "run" / "start.json")
    assert (record["fingerprint"], record["encoder"]["name"]) == (encoder_fingerprint(wanted), name)
    card = (tmp_path / "run" / "card.md").read_text()
    assert f"| started from | `{record['label']}`, {name} ({record['fingerprint']}) |" in card
    assert ("CC BY 4.0" in card) is (kind == "bundled")


@pytest.mark.parametrize(
    "what, words",
    [
        ("random", "without --from a run starts from random weights"),
        ("nowhere.pth", "nowhere.pth"),
        ("laptop", "these are weights of resnet10_half, but the recipe trains resnet18: add --set encoder.name="),
        ("{wrong}", "is not a complete resnet18"),
        ("{text}", "text.pth"),
    ],
)
def test_what_cannot_be_started_from_is_one_line_and_nothing_is_written(
    what: str, words: str, drawn_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = Encoder(EncoderConfig(name="resnet18")).backbone.state_dict()
    torch.save(
        {name: tensor[:1] if "layer4" in name and tensor.dim() else tensor for name, tensor in state.items()},
        tmp_path / "wrong.pth",
    )
    (tmp_path / "text.pth").write_text("these are no weights")
    what = what.format(wrong=tmp_path / "wrong.pth", text=tmp_path / "text.pth")
    given = ["pretrain", BYOL, "--faces", str(drawn_faces), "--out", str(tmp_path / "run"), "--from", what]
    assert cli.main([*given, "--device", "cpu", "--set", "encoder.name=resnet18"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert words in said[-1]
    assert [line for line in said if line.startswith("fra: ")] == said[-1:]
    assert not (tmp_path / "run").exists()


def test_heads_of_another_method_or_of_no_run_are_refused(first: Path, tmp_path: Path, drawn_faces: Path) -> None:
    with pytest.raises(ValueError, match="--from-heads needs the run folder of a `fra pretrain`, and laptop is none"):
        start_from("laptop", with_heads=True)
    with pytest.raises(ValueError, match="has other heads than this recipe"):
        run(drawn_faces, tmp_path / "run", start=start_from(str(first), with_heads=True))


# --- what stays still


def moved(out: Path, start: Path) -> set[str]:
    """The parameters of the backbone that a run has moved."""
    before, after = load_encoder(start).backbone, load_encoder(out).backbone
    now = dict(after.named_parameters())
    return {name for name, weight in before.named_parameters() if not torch.equal(weight, now[name])}


@pytest.mark.parametrize(
    "settings, stay",
    [
        (["start.frozen_epochs=2"], ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")),
        (["start.frozen_stages=1"], ("conv1.", "bn1.")),
        (["start.frozen_stages=3"], ("conv1.", "bn1.", "layer1.", "layer2.")),
        (["optimizer.backbone_rate=0"], ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")),
        (["start.frozen_epochs=1"], ()),
    ],
)
def test_frozen_weights_do_not_move_and_others_do(
    settings: list[str], stay: tuple[str, ...], first: Path, drawn_faces: Path, tmp_path: Path
) -> None:
    out = run(drawn_faces, tmp_path / "run", *settings, name=BYOL, start=start_from(str(first)))
    names = {name for name, _ in load_encoder(first).backbone.named_parameters()}
    assert moved(out, first) == {name for name in names if not name.startswith(stay)}
    projector = [name for name in weights_of(out) if name.startswith("online.projector") and name.endswith("weight")]
    assert all(not torch.equal(weights_of(out)[name], weights_of(first)[name]) for name in projector)


def test_frozen_statistics_stay_in_both_networks(first: Path, drawn_faces: Path, tmp_path: Path) -> None:
    out = run(drawn_faces, tmp_path / "run", "start.frozen_statistics=true", name=BYOL, start=start_from(str(first)))
    before, after = load_encoder(first).backbone.state_dict(), weights_of(out)
    statistics = [name for name in before if "running" in name]
    assert statistics
    for below in (BACKBONE, "teacher.network.encoder.backbone."):
        assert all(torch.equal(before[name], after[below + name]) for name in statistics)
    free = weights_of(run(drawn_faces, tmp_path / "free", name=BYOL, start=start_from(str(first))))
    assert not any(torch.equal(before[name], free[BACKBONE + name]) for name in statistics)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "tf_efficientnet_lite0", "convnext_atto", "regnety_002", "mobilenetv3_small_050"),
        *("test_vit", "swin_tiny_patch4_window7_224"),
    ],
)
def test_stages_are_all_weights_in_order_the_stem_first(name: str) -> None:
    backbone = Encoder(EncoderConfig(name=name, image_size=64)).backbone
    found = stages(backbone)
    assert sorted(id(weight) for stage in found for weight in stage) == sorted(map(id, backbone.parameters()))
    assert next(backbone.parameters()) is found[0][0]
    assert len(found) >= 3


def test_more_stages_than_there_are_is_refused(first: Path) -> None:
    method = build_method(load_pretrain_recipe(BYOL, TINY))
    with pytest.raises(ValueError, match="start.frozen_stages is 9, but resnet10_half has 5 stages"):
        hold_still(method, StartConfig(frozen_stages=9))


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"backbone": nn.Linear(2, 2)})
        self.predictor = nn.ModuleList([nn.Linear(2, 2)])
        self.projector = nn.Linear(2, 2)


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_the_backbone_and_predictors_have_rates_of_their_own(name: str) -> None:
    config = OptimizerConfig(name=name, learning_rate=0.4, backbone_rate=0.1, predictor_rate=5)
    model = Parts()
    rates = {
        id(weight): (group["lr"], group.get("peak", 0.4))
        for group in build_optimizer(config, model).param_groups
        for weight in group["params"]
    }
    expected = {"encoder": 0.04, "predictor": 2.0, "projector": 0.4}
    for part, weight in model.named_parameters():
        rate = expected[part.partition(".")[0]]
        assert rates[id(weight)] == pytest.approx((rate, rate))


def test_without_them_the_groups_are_those_of_before() -> None:
    """An optimiser's state is kept by the order of its groups: old checkpoints go on."""
    assert [len(group["params"]) for group in groups_of(OptimizerConfig(), Parts())] == [3, 3]
    faster = groups_of(OptimizerConfig(predictor_rate=5), Parts())
    assert [(len(group["params"]), group.get("peak")) for group in faster] == [(2, None), (1, 9.0), (2, None), (1, 9.0)]


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224", "resnet10_half"])
def test_each_layer_learns_slower_than_the_one_above_as_timm_has_it(name: str) -> None:
    model = Parts()
    model.encoder["backbone"] = backbone = Encoder(EncoderConfig(name, image_size=64)).backbone
    config = OptimizerConfig("adamw", learning_rate=0.4, weight_decay=0.05, backbone_rate=0.5, layer_decay=0.7)
    found = {
        id(weight): (group.get("peak", 0.4), group["weight_decay"])
        for group in build_optimizer(config, model).param_groups
        for weight in group["params"]
    }
    spared = getattr(backbone, "no_weight_decay", set)()
    theirs = param_groups_layer_decay(backbone, 0.05, spared, layer_decay=0.7)
    assert len({group["lr_scale"] for group in theirs}) >= 5
    for group in theirs:  # there the last layer has the whole rate, here the heads have
        for weight in group["params"]:
            assert found[id(weight)] == pytest.approx((0.4 * 0.5 * 0.7 * group["lr_scale"], group["weight_decay"]))
    assert found[id(model.projector.weight)] == (0.4, 0.05)
    assert len(found) == len(list(model.parameters()))


def test_position_embeddings_and_tokens_are_not_decayed_without_it_either() -> None:
    model = Parts()
    model.encoder["backbone"] = backbone = Encoder(EncoderConfig("test_vit", image_size=64)).backbone
    decayed, other = groups_of(OptimizerConfig("adamw"), model)
    assert all(weight.dim() > 1 for weight in decayed["params"])
    assert {id(backbone.pos_embed), id(backbone.cls_token)} <= set(map(id, other["params"]))
    with pytest.raises(ValueError, match="layer_decay has no effect with larc"):
        OptimizerConfig("larc", layer_decay=0.7)


# --- resumed


def test_a_stopped_run_goes_on_bit_for_bit_without_being_told_again(
    first: Path, drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["optimizer.backbone_rate=0.5", "start.frozen_epochs=1", "start.frozen_statistics=true"]
    whole = run(drawn_faces, tmp_path / "whole", *settings, name=BYOL, start=start_from(str(first)))
    interrupt_step(monkeypatch, 6)
    with pytest.raises(Stopped):
        run(drawn_faces, tmp_path / "parts", *settings, name=BYOL, start=start_from(str(first)))
    monkeypatch.undo()
    run(drawn_faces, tmp_path / "parts", *settings, name=BYOL, resume=True)
    assert same_bits(whole, tmp_path / "parts")


def test_another_start_is_refused_on_resume(first: Path, drawn_faces: Path, tmp_path: Path) -> None:
    out = run(drawn_faces, tmp_path / "run", name=BYOL, start=start_from(str(first)))
    with pytest.raises(ValueError, match="was written with start = "):
        run(drawn_faces, out, name=BYOL, start=start_from(str(out)), resume=True)
    (out / "start.json").unlink()
    with pytest.raises(ValueError, match="was written with .* = "):
        run(drawn_faces, out, name=BYOL, resume=True)


def test_a_start_that_changed_before_the_first_step_is_refused(first: Path, drawn_faces: Path, tmp_path: Path) -> None:
    encoder = load_encoder(first)
    path = tmp_path / "encoder.safetensors"
    save_weights(path, encoder.backbone, {"encoder": vars(encoder.config)})
    start = start_from(str(path))
    next(encoder.backbone.parameters()).data += 1
    save_weights(path, encoder.backbone, {"encoder": vars(encoder.config)})
    with pytest.raises(ValueError, match="has changed since the run began"):
        run(drawn_faces, tmp_path / "run", name=BYOL, start=start)


def test_the_plan_names_the_rates_and_what_is_frozen(
    first: Path, drawn_faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*TINY, "optimizer.backbone_rate=0.5", "start.frozen_epochs=1.5", "start.frozen_stages=2"]
    settings.append("optimizer.layer_decay=0.75")
    words = ["pretrain", BYOL, "--faces", str(drawn_faces), "--plan", "--from", str(first), "--device", "cpu"]
    assert cli.main([*words, *(word for setting in settings for word in ("--set", setting))]) == 0
    said = capsys.readouterr().out
    assert (
        "learning rate  backbone 0.5, heads 1, predictors 1; each of the backbone's layers 0.75 of the one above"
        " (lars, at the peak)" in said
    )
    assert "frozen         2 stages, the backbone for 1.5 epochs" in said


def test_the_encoder_is_loaded_as_any_other(first: Path, drawn_faces: Path, tmp_path: Path) -> None:
    out = run(drawn_faces, tmp_path / "run", name=BYOL, start=start_from(str(first)))
    assert fra.load_encoder(out)(torch.rand(2, 3, 32, 32)).shape == (2, 256)
