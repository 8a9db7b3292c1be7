"""The fabrec protocol: layers between those of a decoder, two phases, whole runs on drawn faces."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import places, plant_drawn
from tiny_runs import run
from torch import nn
from torch.testing import assert_close

import fra
from fra.data.labelled import LabelledFaces
from fra.drawing.drawn_face import DrawnFace, draw_face
from fra.models.encoder import Encoder, EncoderConfig
from fra.models.face_decoder import FaceDecoder
from fra.predict.portable_task import export_task
from fra.runtime import Runtime
from fra.tasks.expression import Expression
from fra.tasks.landmarks import Landmarks
from fra.training.trainable import Progress
from fra.transfer.fewshot.fabrec import Decoder, FabRec, FabRecHead, FabRecRecipe, ReadingConfig, Shape
from fra.transfer.fewshot.heatmaps import gaussians
from fra.transfer.network import weight_groups
from fra.transfer.protocol import LabelledBatch
from fra.transfer.run import transfer

RECIPE = FabRecRecipe(
    name="planted", task="landmarks", dataset="planted", optimizer="adam", learning_rate=0.003, backbone_rate=1e-4,
    epochs=2, batch_size=8, fabrec=ReadingConfig(code=6, width=16, between=True),
)  # fmt: skip
SHAPE = Shape(code=6, width=16, side=32, sigma=7.0, box=9, between=True)
TASK = Landmarks(68)


def encoder() -> Encoder:
    torch.manual_seed(0)
    found = Encoder(EncoderConfig(name="resnet10_quarter", image_size=32))
    found.beside = Decoder({}, {})
    return found


def learner(recipe: FabRecRecipe = RECIPE) -> FabRec:
    net = encoder()
    return FabRec(recipe, TASK, net, FabRec.new_head(recipe, TASK, net)).train()


@pytest.fixture(scope="module")
def drawn() -> list[DrawnFace]:
    return [draw_face(seed, size=48) for seed in range(60)]


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[DrawnFace]) -> LabelledFaces:
    return plant_drawn(monkeypatch, tmp_path / "faces", drawn)


@pytest.fixture(scope="module")
def autoencoder(drawn_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "autoencoder"
    return run(drawn_faces, out, "method.code=6", "schedule.epochs=1", name="smoke/resnet10_half.fabrec")


def judge(faces: LabelledFaces, out: Path, what: Any, **runtime: Any) -> dict[str, Any]:
    settings = Runtime("cpu", "32", quiet=True, threads=1, **runtime)
    return transfer(RECIPE, encoder=what, data=faces.root, out=out, runtime=settings)


# The head


def test_its_layers_stand_between_those_of_the_decoder_and_give_half_the_side() -> None:
    head = FabRecHead(replace(SHAPE, side=64), 5, 68).eval()
    codes = torch.randn(2, 6)
    maps = head.decoder.start(codes)
    for number in range(2):  # of three blocks: 8 x 8, 16 x 16
        maps = head.between[number](head.decoder.blocks[number](maps))
    assert maps.shape == (2, 4, 16, 16)
    assert_close(head.maps(codes), head.heat(maps))
    assert head.maps(codes).shape == (2, 68, 32, 32)
    assert len(head.decoder.blocks) == 2


def test_as_published_there_are_four_layers_and_heatmaps_of_128() -> None:
    with torch.device("meta"):
        head = FabRecHead(Shape(99, 512, 256, 7.0, 9, False), 512, 98)
        maps = head.maps(torch.zeros(1, 99))
    assert [layer.out_channels for layer in head.between] == [256, 128, 64, 64]
    assert all(layer.kernel_size == (3, 3) and layer.bias is None for layer in head.between)
    assert maps.shape == (1, 98, 128, 128)


def test_a_pretrained_decoder_is_taken_and_stays_as_it_is() -> None:
    decoder, code = FaceDecoder(6, side=32, width=16), nn.Linear(128, 6)
    tensors = {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    tensors |= {f"code.{name}": tensor for name, tensor in code.state_dict().items()}
    net = encoder()
    net.beside = Decoder({"code": 6, "width": 16, "side": 32}, tensors)
    head = FabRec.new_head(RECIPE, TASK, net).train()
    assert torch.equal(head.code.weight, code.weight)
    for name, tensor in head.decoder.state_dict().items():
        assert torch.equal(tensor, decoder.state_dict()[name]), name
    before = {name: tensor.clone() for name, tensor in head.decoder.state_dict().items()}
    head.maps(torch.randn(4, 6)).square().mean().backward()
    assert all(weight.grad is None for weight in head.decoder.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.decoder.state_dict().items())
    net.beside = Decoder({"code": 7, "width": 16, "side": 32}, tensors)
    with pytest.raises(ValueError, match="the encoder's run does not fit its own description"):
        FabRec.new_head(RECIPE, TASK, net)


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(ValueError, match="for landmarks, not for expression: use finetune"):
        FabRec.new_head(RECIPE, Expression(("happy", "sad")), encoder())
    with pytest.raises(ValueError, match="needs a decoder of faces of 32 px or more, and these have 16"):
        FabRecHead(replace(SHAPE, side=16), 5, 68)


# Learning


def batch(drawn: list[DrawnFace], count: int = 4) -> LabelledBatch:
    images = torch.stack([face.image for face in drawn[:count]])
    return LabelledBatch(images, places(drawn[:count]))


def test_the_loss_is_300_times_the_error_of_heatmaps(drawn: list[DrawnFace], monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = learner(), batch(drawn)
    still = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).expand(4, -1, -1)
    monkeypatch.setattr(
        "fra.transfer.fewshot.fabrec.moves", lambda count: (still, torch.zeros(count, dtype=torch.bool))
    )
    maps = model.head.maps(model.head.code(model.encoder(given.images / 255)))
    error = (maps - gaussians(given.targets, 16, sigma=7.0 * 16 / 128)).square().mean()
    found = model.judge(given)
    assert_close(found.terms["heatmaps"], error, rtol=1e-4, atol=1e-6)
    assert_close(found.total, 300 * found.terms["heatmaps"])


def test_first_the_layers_between_learn_alone_then_the_encoder_with_them(drawn: list[DrawnFace]) -> None:
    model = learner()

    def moved(step: int) -> set[str]:
        model.zero_grad(set_to_none=True)
        model.loss(batch(drawn), Progress(step, 10, 0, 1)).total.backward()
        return {".".join(name.split(".")[:2]) for name, weight in model.named_parameters() if weight.grad is not None}

    assert moved(4) == {"head.between", "head.heat"}
    assert moved(5) == {"head.between", "head.heat", "head.code", "encoder.backbone"}
    assert not model.encoder.training
    assert model.head.between.training
    groups = weight_groups(RECIPE, model)
    assert [group["peak"] for group in groups] == [1e-4, 0.003]
    trained = sum(len(group["params"]) for group in groups)
    assert trained == sum(weight.requires_grad for weight in model.parameters())


def test_four_faces_are_learned_by_heart(drawn: list[DrawnFace]) -> None:
    torch.manual_seed(0)
    wide = replace(RECIPE, fabrec=ReadingConfig(code=16, width=128, between=True))
    model, given = learner(wide), batch(drawn)
    still = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).expand(4, -1, -1), torch.zeros(4, dtype=torch.bool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fra.transfer.fewshot.fabrec.moves", lambda count: still)
        optimizer = torch.optim.Adam([dict(params=list(part.parameters()), lr=0.002) for part, _ in model.rates()])
        for step in range(150):
            model.loss(given, Progress(step, 150, 0, 1)).total.backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        outputs = model.eval()(given.images / 255)
    assert TASK.metrics(outputs, given.targets)["nme"] < 6


# Whole runs


def test_a_run_is_learned_resumed_and_asked(
    planted: LabelledFaces, autoencoder: Path, tmp_path: Path, drawn: list[DrawnFace]
) -> None:
    out = tmp_path / "run"
    results = judge(planted, out, str(autoencoder))
    assert results["protocol"] == "fabrec"
    assert results["metrics"]["nme"]["normaliser"] == "inter-ocular"
    assert json.loads((out / "settings.json").read_text())["decoder"] == {"code": 6, "width": 16, "side": 32}
    assert judge(planted, out, str(autoencoder), resume=True)["metrics"] == results["metrics"]
    model = fra.load_task_model(out)
    assert isinstance(model.head, FabRecHead)
    assert asdict(model.head.shape) == {"code": 6, "width": 16, "side": 32, "sigma": 7.0, "box": 9, "between": True}
    answer = model.predict(drawn[0].image)["landmarks"]
    rows = np.genfromtxt(out / "predictions.csv", delimiter=",", names=True, dtype=None, encoding=None)
    assert len(rows) == 24
    assert len(answer) == 68
    assert json.loads((export_task(out, tmp_path / "exported", "torch").parent / "parity.json").read_text())


def test_it_asks_for_a_run_with_a_decoder(planted: LabelledFaces, tmp_path: Path, autoencoder: Path) -> None:
    for what in ("laptop", "timm:resnet18"):
        with pytest.raises(ValueError, match="reads landmarks from a decoder of faces, and .* has none: give"):
            FabRec.prepare(encoder(), what)
    FabRec.prepare(net := encoder(), f"random:{autoencoder}")
    assert net.beside == Decoder({"code": 6, "width": 16, "side": 32}, {})
    FabRec.prepare(net, "random")
    assert net.beside == Decoder({}, {})
    results = judge(planted, tmp_path / "random", "random:resnet10_quarter", resume=False)
    assert results["encoder"] == "random"
