"""`fra export` for programs without fra: each file, read as its readers read it, computes what the run computes."""

import json
from pathlib import Path

import pytest
import torch

from fra import cli
from fra.files import MARK
from fra.models.encoder import EncoderConfig
from fra.runtime import Runtime
from fra.weights import portable
from fra.weights.load import load_encoder, load_region_model

SETTINGS = (
    "encoder.name=resnet10_quarter",
    "encoder.image_size=32",
    "views.size=32",
    "method.head.out=64",
    "schedule.epochs=1",
    "schedule.warmup_epochs=0",
    "batch_size=20",
)


def trained(folder: Path, faces: Path, method: str, *more: str) -> Path:
    settings = [word for setting in (*SETTINGS, *more) for word in ("--set", setting)]
    arguments = ["pretrain", f"smoke/resnet10_half.{method}", "--faces", str(faces), "--out", str(folder), "--quiet"]
    assert cli.main([*arguments, "--workers", "0", "--device", "cpu", "--precision", "32", *settings]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, drawn_faces: Path) -> Path:
    return trained(
        tmp_path_factory.mktemp("runs") / "tiny",
        drawn_faces,
        "fra",
        "method.decoder.width=64",
        "encoder.third_stride=1",
    )


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory, drawn_faces: Path) -> Path:
    """A run without regions, whose last stage has stride 2."""
    return trained(tmp_path_factory.mktemp("runs") / "plain", drawn_faces, "byol", "encoder.last_stride=2")


def export(run: Path, kind: str, out: Path) -> dict:
    assert cli.main(["export", str(run), "--format", kind, "--out", str(out), "--quiet"]) == 0
    return json.loads((out / "parity.json").read_text())


def faces(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32)


def test_onnx_computes_features_and_heatmaps_for_any_batch(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found = export(run, "onnx", tmp_path / "out")
    assert found["file"] == "tiny.onnx"
    assert found["outputs"] == ["features", "heatmaps"]
    assert found["sizes"] == {"images": [2, 3, 32, 32], "features": [2, 128], "heatmaps": [2, 8, 4, 4]}
    assert found["bytes"] == (tmp_path / "out/tiny.onnx").stat().st_size
    assert 0 <= max(found["max_difference"].values()) < 1e-4
    assert found["latency_ms"] > 0
    session = onnxruntime.InferenceSession(tmp_path / "out/tiny.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["encoder"])["name"] == "resnet10_quarter"
    for count in (1, 3):
        images = faces(count)
        features, heatmaps = session.run(["features", "heatmaps"], {"images": images.numpy()})
        assert torch.allclose(torch.from_numpy(features), load_encoder(run)(images), atol=1e-4)
        assert torch.allclose(torch.from_numpy(heatmaps), load_region_model(run)(images).heatmaps, atol=1e-4)


def test_an_exported_program_of_torch_computes_the_same_for_any_batch(run, tmp_path):
    found = export(run, "torch", tmp_path / "out")
    assert found["file"] == "tiny.pt2"
    network = torch.export.load(tmp_path / "out/tiny.pt2").module()
    for count in (1, 5):
        images = faces(count)
        features, heatmaps = network(images)
        assert torch.allclose(features, load_encoder(run)(images), atol=1e-5)
        assert torch.allclose(heatmaps, load_region_model(run)(images).heatmaps, atol=1e-5)


def test_timm_reads_the_folder_and_computes_the_features(plain_run, tmp_path):
    import timm

    found = export(plain_run, "timm", tmp_path / "out")
    assert found["note"] == ""
    network = timm.create_model(f"local-dir:{tmp_path / 'out' / 'plain'}", pretrained=True).eval()
    images, encoder = faces(3), load_encoder(plain_run)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    assert torch.allclose(network((images - mean) / std), encoder(images), atol=1e-5)


def test_what_timm_cannot_say_is_said(run, tmp_path):
    import timm

    found = export(run, "timm", tmp_path / "out")
    assert found["note"].startswith("WARNING: timm output is wrong until you run: ")
    assert "'layer4.0.conv1', 'layer4.0.downsample.0']" in found["note"]
    network = timm.create_model(f"local-dir:{tmp_path / 'out' / 'tiny'}", pretrained=True).eval()
    exec(found["note"].partition("run: ")[2], {"model": network})
    images, encoder = faces(3), load_encoder(run)
    assert torch.allclose(network((images - encoder.mean) / encoder.std), encoder(images), atol=1e-5)


def test_a_run_without_regions_gives_features_alone(plain_run, tmp_path):
    assert export(plain_run, "torch", tmp_path / "out")["outputs"] == ["features"]


def test_a_copy_that_computes_something_else_is_refused(run):
    model = portable.portable(run)
    with pytest.raises(ValueError, match="the exported features differ"):
        portable.parity(model, lambda images: tuple(2 * value for value in model(images)), path=run / "log.csv")


@pytest.mark.parametrize("kind", ["torch", "timm"])
def test_what_was_refused_is_not_there(plain_run, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(portable, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(ValueError, match="nothing was written"):
        portable.export_portable(plain_run, tmp_path / "out", kind, runtime=Runtime(quiet=True))
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [MARK]


def test_a_network_of_timms_own_keeps_its_name():
    assert portable.timm_architecture(EncoderConfig().name) == ("resnet50", {})


def test_bad_input_is_one_clear_line(tmp_path, capsys):
    assert cli.main(["export", str(tmp_path / "none"), "--format", "torch", "--out", str(tmp_path / "out")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
