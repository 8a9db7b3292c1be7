"""A ViT all the way: pre-trained with FRA, looked at, transferred by every protocol, exported. K facial regions."""

from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import timm
import torch
from tiny_runs import interrupt_step, same_bits
from torch.testing import assert_close

import fra
from fra import cli
from fra.files import read_json, read_rows
from fra.models.encoder import Encoder, EncoderConfig
from fra.pretrain.region_health import ALIVE
from fra.pretrain.run import load_pretrain_recipe, pretrain
from fra.runtime import Runtime
from fra.system.stopping import Stopped
from fra.weights.portable_timm import timm_architecture

TINY = [
    "encoder.name=test_vit",  # timm's, 300,000 weights, patches of 16 px
    "method.head={hidden: 64, out: 32, normalised: true}",
    "method.decoder.width=32",
    "optimizer.learning_rate=2e-3",
    "optimizer.predictor_rate=5",
    "batch_size=8",
    "health_faces=16",
]


def run(faces: Path, out: Path, *settings: str, resume: bool = False) -> Path:
    recipe = load_pretrain_recipe("smoke/vit_tiny.fra", [*TINY, *settings])
    return pretrain(recipe, faces, out, runtime=Runtime("cpu", "32", workers=0, resume=resume, quiet=True))


@pytest.fixture(scope="module")
def trained(drawn_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight epochs, 40 steps, on 40 drawn faces."""
    return run(drawn_faces, tmp_path_factory.mktemp("runs") / "vit", "schedule.epochs=8")


def test_it_learns_and_its_regions_wake(trained: Path) -> None:
    losses = [float(row["loss"]) for row in read_rows(trained / "log.csv")]
    assert fmean(losses[-10:]) < 0.85 * fmean(losses[:5])
    first, last = (read_rows(trained / "health.csv")[place] for place in (0, -1))
    usage = [[float(row[f"usage_{region}"]) for region in range(8)] for row in (first, last)]
    assert min(usage[0]) < ALIVE < min(usage[1])
    assert float(last["assignment_entropy"]) < float(first["assignment_entropy"])


def test_a_stopped_run_goes_on_bit_for_bit(drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["schedule.epochs=1", "optimizer.layer_decay=0.8", "max_faces=24", "encoder.pooling=class_token"]
    whole = run(drawn_faces, tmp_path / "whole", *settings)
    interrupt_step(monkeypatch, 1)
    with pytest.raises(Stopped):
        run(drawn_faces, tmp_path / "parts", *settings)
    monkeypatch.undo()
    assert same_bits(whole, run(drawn_faces, tmp_path / "parts", *settings, resume=True))
    assert fra.load_encoder(whole).config.pooling == "class_token"


def test_its_regions_are_drawn(trained: Path, drawn_faces: Path, tmp_path: Path) -> None:
    words = [
        "regions",
        str(trained),
        "--faces",
        str(drawn_faces / "000.png"),
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    ]
    assert cli.main(words) == 0
    heatmaps = np.load(tmp_path / "out" / "heatmaps.npz")["heatmaps"]
    assert heatmaps.shape == (1, 8, 4, 4)
    assert (tmp_path / "out" / "regions.png").is_file()


@pytest.mark.parametrize(
    "recipe, settings",
    [
        ("synthetic_expression", []),
        ("synthetic_expression.finetune", ["layer_decay=0.75"]),
        ("synthetic_expression.eac", []),
        ("synthetic_landmarks.star", ["layer_decay=0.75", "falls=[]"]),
    ],
)
def test_every_protocol_takes_it(
    recipe: str, settings: list[str], trained: Path, few_faces: Path, tmp_path: Path
) -> None:
    words = ["transfer", f"smoke/{recipe}", "--encoder", str(trained), "--data", str(few_faces), "--out"]
    words += [str(tmp_path / "out"), "--workers", "0", "--device", "cpu", "--no-control", "--quiet"]
    changes = ["epochs=1", *settings]
    assert cli.main([*words, *(word for change in changes for word in ("--set", change))]) == 0
    assert read_json(tmp_path / "out" / "results.json")["test_images"] == 8
    task = fra.load_task_model(tmp_path / "out")
    assert task.encoder.config.name == "test_vit"


@pytest.mark.parametrize("kind", ["onnx", "timm"])
def test_what_is_exported_computes_the_same(kind: str, trained: Path, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    assert cli.main(["export", str(trained), "--format", kind, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    found = read_json(tmp_path / "out" / "parity.json")
    assert found["outputs"] == (["features"] if kind == "timm" else ["features", "heatmaps"])
    assert max(found["max_difference"].values()) <= 1e-4


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_dinov3", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_timm_builds_the_same_network_from_what_it_is_told(name: str, pooling: str) -> None:
    if name.startswith("swin") and pooling == "class_token":
        pytest.skip("Swin has none")
    encoder = Encoder(EncoderConfig(name, image_size=64, mean=(0, 0, 0), std=(1, 1, 1), pooling=pooling)).eval()
    architecture, arguments = timm_architecture(encoder.config)
    network = timm.create_model(architecture, num_classes=0, **arguments).eval()
    network.load_state_dict(encoder.backbone.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert_close(network(images), encoder(images), rtol=1e-4, atol=1e-5)
