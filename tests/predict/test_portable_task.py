"""`fra export` of learned tasks: the file, read by a program without fra, says what `task.predict` says."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_tasks import ATTRIBUTES, EXPRESSION, plant
from without_fra import run_without_fra

from fra import cli
from fra.drawing.drawn_face import draw_face
from fra.faces.image import to_input, write_image
from fra.models.encoder import Encoder, EncoderConfig
from fra.predict.portable_task import PortableTask
from fra.predict.task_model import TaskModel, load_task_model
from fra.runtime import Runtime
from fra.tasks.landmarks import Landmarks
from fra.tasks.regression import Regression
from fra.tasks.task import Task
from fra.transfer.alignment.network import AlignmentConfig, alignment_head
from fra.weights.load import encoder_metadata, holds_task, save_weights
from fra.weights.portable import onnx_example, write_portable, write_torch
from fra.weights.portable_model import Resized

AGE = Regression(("age", "valence"), (38.0, 0.1), (12.0, 0.4))
POINTS = Landmarks(68)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    network = Encoder(EncoderConfig(name="resnet10_quarter", image_size=32, last_stride=1))
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_weights(path, network.backbone, encoder_metadata(network))
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face that is neither square nor of the network's size, without the losses of JPEG."""
    path = tmp_path_factory.mktemp("photo") / "face.png"
    write_image(path, draw_face(5, size=96).image[:, 10:90].contiguous())
    return path


def export(run: Path | str, kind: str, out: Path, *more: str) -> dict[str, Any]:
    assert cli.main(["export", str(run), "--format", kind, "--out", str(out), "--quiet", *more]) == 0
    return json.loads((out / "parity.json").read_text())


def expected(task: TaskModel, answer: dict[str, Any]) -> list[float]:
    """The numbers of an answer in the order in which the examples print them."""
    if "landmarks" in answer:
        return [value for point in answer["landmarks"] for value in point]
    return list((answer.get("probabilities") or answer["numbers"]).values())


@pytest.mark.parametrize(
    ("task", "kind", "pixels"),
    [
        (EXPRESSION, "onnx", "uint8"),
        (ATTRIBUTES, "onnx", None),
        (POINTS, "onnx", None),
        (POINTS, "torch", "uint8"),
        (AGE, "onnx", "float"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_example_without_fra_says_what_predict_says(
    task: Task, kind: str, pixels: str | None, encoder: Path, photo: Path, tmp_path: Path
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    run, out = plant(tmp_path / "mine", task, "rafdb", encoder), tmp_path / "out"
    found = export(run, kind, out, *(("--with-preprocessing", pixels) if pixels else ()))
    assert found["outputs"] == [task.gives]
    assert max(found["max_difference"].values()) <= 1e-4
    assert found["latency_ms"] > 0
    assert {path.name for path in out.iterdir()} >= {found["file"], "parity.json", "metadata.json", "example.py"}
    said = run_without_fra(out / "example.py", photo, folder=tmp_path)
    words = [word for line in said.splitlines() for word in line.rpartition(": ")[2].split()]
    learned = load_task_model(run)
    wanted = np.array(expected(learned, learned.predict(photo)))
    # Floats are not rounded between resizing and the network, as pictures in bytes are.
    assert np.abs(np.array(words, float) - wanted).max() < (2e-2 if pixels == "float" else 2e-3) * np.abs(wanted).max()
    if task.named:
        assert [line.partition(": ")[0] for line in said.splitlines()] == list(task.named)


def test_the_example_has_ten_lines_of_code(encoder: Path, tmp_path: Path) -> None:
    learned = load_task_model(plant(tmp_path / "mine", EXPRESSION, "rafdb", encoder))
    lines = onnx_example(PortableTask(learned, {}, "uint8"), "mine").splitlines()
    assert sum(not line.startswith(("import ", "from ", "#")) and line != "" for line in lines) <= 10


def test_the_file_tells_names_normaliser_licence_and_how_faces_are_cut(encoder: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    points = dataclasses.replace(POINTS, normaliser="inter-pupil")
    export(plant(tmp_path / "mine", points, "300w", encoder), "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out/mine.onnx", providers=["CPUExecutionProvider"])
    told = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert told == json.loads((tmp_path / "out/metadata.json").read_text())
    assert told["normaliser"] == "inter-pupil"
    assert told["licence"].startswith("that of the faces and labels it was trained on")
    assert told["faces"]["side"] == 1.6
    assert str(tmp_path) not in json.dumps(told)


def test_a_bundled_task_takes_pictures_of_any_size_and_tells_its_licence(photo: Path, tmp_path: Path) -> None:
    export("laptop_age", "torch", tmp_path / "out", "--with-preprocessing")
    told = json.loads((tmp_path / "out/metadata.json").read_text())
    assert told["licence"] == "CC BY 4.0"
    assert told["names"][0] == "0-2"
    assert told["limits"]
    network, learned = torch.export.load(tmp_path / "out/laptop_age.pt2").module(), load_task_model("laptop_age")
    for height, width, count in ((64, 64, 1), (200, 131, 3), (17, 90, 2)):
        pictures = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8)
        (shares,) = network(pictures)
        wanted = [list(answer["probabilities"].values()) for answer in learned.predict(pictures.numpy())]
        assert (shares - torch.tensor(wanted)).abs().max() < 2e-3  # a pixel may be rounded to the other side


@pytest.mark.parametrize("fit", ["middle", "whole"])
@pytest.mark.parametrize("size", [(40, 56), (32, 32), (200, 131), (33, 70), (3, 5)])
def test_pictures_become_the_inputs_that_the_network_was_trained_with(size: tuple[int, int], fit: Any) -> None:
    pictures = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    wanted = torch.stack([to_input(picture.permute(2, 0, 1), 32, fit=fit) for picture in pictures]).float()
    images, height, width = Resized(32, fit=fit, pixels="uint8")(pictures)
    assert (height, width) == size
    difference = (255 * images - wanted).abs()
    assert difference.max() < 1.01
    assert (difference > 0.5).float().mean() < 1e-3
    floats, _, _ = Resized(32, fit=fit, pixels="float")(pictures / 255)
    assert (floats - wanted / 255).abs().max() < 1.5 / 255


def test_the_network_of_star_is_exported_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Encoder(EncoderConfig(name="resnet10_quarter", image_size=32, last_stride=1))
    head = alignment_head(AlignmentConfig(width=8), POINTS, network)
    model = TaskModel(POINTS, network, torch.nn.Identity(), head, size=32, dataset="300w", crop="star").eval()
    portable = PortableTask(model, {"encoder": {}}).eval()
    write_portable(portable, tmp_path / "out", "star", write_torch, kind="torch", runtime=Runtime(quiet=True))
    images = torch.rand(3, 3, 32, 32)
    (points,) = torch.export.load(tmp_path / "out/star.pt2").module()(images)
    assert torch.allclose(points, portable(images)[0], atol=1e-4)
    assert points.shape == (3, 68, 2)


def test_what_is_a_task(encoder: Path, tmp_path: Path) -> None:
    run = plant(tmp_path / "mine", EXPRESSION, "rafdb", encoder)
    assert all(map(holds_task, (run, run / "task.safetensors", "laptop_age")))
    assert not any(map(holds_task, ("laptop", encoder, tmp_path, "timm:resnet18", tmp_path / "none")))


def test_a_file_of_a_task_is_called_by_its_run(encoder: Path, tmp_path: Path) -> None:
    run = plant(tmp_path / "mine", EXPRESSION, "rafdb", encoder)
    assert export(run / "task.safetensors", "torch", tmp_path / "out")["file"] == "mine.pt2"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["laptop_age", "--format", "timm"], "laptop_age is a trained task, and --format timm is for encoders"),
        (["laptop_age", "--format", "official"], "use --format onnx or torch"),
        (["laptop", "--format", "timm", "--with-preprocessing"], "--with-preprocessing is for --format onnx and torch"),
        (["laptop_age", "--format", "onnx", "--with-preprocessing", "jpeg"], "choose from"),
        (["unfinished", "--format", "onnx"], "expected a finished run folder of `fra transfer`"),
    ],
)
def test_what_cannot_be_exported_is_one_clear_line(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished/.fra-run").write_text('{"command": "transfer"}')
    assert cli.main(["export", *words, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
