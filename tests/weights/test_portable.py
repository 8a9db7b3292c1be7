"""`fra export` for programs without fra: each file, read as its readers read it, computes what the run computes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from documented import ROOT, blocks
from without_fra import run_without_fra

import fra
from fra import cli
from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image
from fra.models.encoder import EncoderConfig
from fra.runtime import Runtime
from fra.weights import portable, portable_model
from fra.weights.load import load_encoder, load_region_model
from fra.weights.portable_timm import timm_architecture

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


def export(run: Path, kind: str, out: Path, *more: str) -> dict:
    assert cli.main(["export", str(run), "--format", kind, "--out", str(out), "--quiet", *more]) == 0
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

    assert export(plain_run, "timm", tmp_path / "out")["python"][0] == "import timm"
    network = timm.create_model(f"local-dir:{tmp_path / 'out' / 'plain'}", pretrained=True).eval()
    images, encoder = faces(3), load_encoder(plain_run)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    assert torch.allclose(network((images - mean) / std), encoder(images), atol=1e-5)


SAVE = """
import numpy
import torch
side = model.pretrained_cfg["input_size"][1]
images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(1))
mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
with torch.no_grad():
    numpy.savez("features.npz", images=images.numpy(), features=model((images - mean) / std).numpy())
"""


def cosines_without_fra(lines: list[str], encoder: torch.nn.Module, folder: Path) -> torch.Tensor:
    """Of the features of `model`, which the lines make in a process without fra, with the encoder's."""
    (folder / "program.py").write_text("\n".join([*lines, SAVE]))
    run_without_fra(folder / "program.py", folder=folder)
    with np.load(folder / "features.npz") as saved:
        images, features = (torch.from_numpy(saved[name]) for name in ("images", "features"))
    return torch.nn.functional.cosine_similarity(features.double(), encoder(images).double())


@pytest.mark.parametrize("which", ["laptop", "it's  a 'run'"])
def test_timm_computes_the_same_with_exactly_the_printed_lines(
    which: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of bundled weights, for which the guide has them too, and where names must be quoted; stages have stride 1."""
    monkeypatch.chdir(tmp_path)
    out = "exported_timm" if which == "laptop" else "my 'timm"
    if which != "laptop":
        Path(which).symlink_to(run)
    assert cli.main(["export", which, "--format", "timm", "--out", out]) == 0
    lines = [line[2:] for line in capsys.readouterr().out.partition("in Python:\n")[2].splitlines()]
    assert lines == json.loads(Path(out, "parity.json").read_text())["python"]
    if which == "laptop":
        (shown,) = blocks(ROOT / "docs/guides/export.md", "python")
        assert [line for line in shown.splitlines() if line] == lines
    assert cosines_without_fra(lines, load_encoder(which), tmp_path).min() > 1 - 1e-9


def test_timm_refuses_the_folder_without_the_module_that_sets_its_strides(run, tmp_path):
    """Rather than compute other features without a word."""
    import timm

    export(run, "timm", tmp_path / "out")
    assert (tmp_path / "out/fra_tiny.py").is_file()
    (tmp_path / "another.txt").write_text((tmp_path / "out/tiny/config.json").read_text().replace("fra_tiny", "fra_x"))
    (tmp_path / "another.txt").replace(tmp_path / "out/tiny/config.json")  # this process has registered fra_tiny
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model(f"local-dir:{tmp_path / 'out' / 'tiny'}", pretrained=True)


def test_an_encoder_takes_whole_pictures(run, tmp_path):
    found = export(run, "torch", tmp_path / "out", "--with-preprocessing")
    assert found["outputs"] == ["features", "heatmaps"]
    assert found["sizes"]["images"] == [2, 41, 53, 3]
    network, encoder = torch.export.load(tmp_path / "out/tiny.pt2").module(), fra.load_encoder(run)
    pictures = torch.randint(0, 256, (2, 70, 45, 3), dtype=torch.uint8)
    features, _ = network(pictures)
    cosine = torch.nn.functional.cosine_similarity(features, encoder(pictures.numpy()))
    assert cosine.min() > 1 - 1e-5


@pytest.mark.parametrize("more", [(), ("--with-preprocessing",)])
def test_the_example_prints_the_features_of_a_face(plain_run, tmp_path, more):
    pytest.importorskip("onnxscript")
    export(plain_run, "onnx", tmp_path / "out", *more)
    write_image(tmp_path / "face.png", draw_face(1, size=50).image)
    printed = run_without_fra(tmp_path / "out/example.py", tmp_path / "face.png", folder=tmp_path)
    features = torch.tensor([float(word) for word in printed.split()])
    wanted = fra.load_encoder(plain_run)(tmp_path / "face.png")[0]
    assert torch.nn.functional.cosine_similarity(features, wanted, dim=0) > 0.9999


def test_a_run_without_regions_gives_features_alone(plain_run, tmp_path):
    assert export(plain_run, "torch", tmp_path / "out")["outputs"] == ["features"]


def test_a_copy_that_computes_something_else_is_refused(run):
    model = portable_model.portable(run)
    with pytest.raises(ValueError, match="the exported features differ"):
        portable_model.parity(model, lambda images: tuple(2 * value for value in model(images)), path=run / "log.csv")


@pytest.mark.parametrize("kind", ["torch", "timm"])
def test_what_was_refused_is_not_there(plain_run, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(portable_model, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(ValueError, match="nothing was written"):
        portable.export_portable(plain_run, tmp_path / "out", kind, runtime=Runtime(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_network_of_timms_own_keeps_its_name():
    assert timm_architecture(EncoderConfig()) == ("resnet50", {})


def test_bad_input_is_one_clear_line(tmp_path, capsys):
    assert cli.main(["export", str(tmp_path / "none"), "--format", "torch", "--out", str(tmp_path / "out")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
