"""`import fra`: faces as people have them give the same features; what looks wrong is told."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fra
from fra.drawing.drawn_face import draw_face
from fra.faces.image import read_image, to_input, write_image
from fra.models.encoder import Encoder
from fra.weights import load


@pytest.fixture(scope="module")
def encoder() -> "fra.api.FaceEncoder":
    return fra.load_encoder("laptop")


@pytest.fixture
def three(drawn_faces: Path) -> list[Path]:
    return sorted(drawn_faces.iterdir())[:3]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn face in the corner of a large picture."""
    picture = torch.full((3, 600, 900), 120, dtype=torch.uint8)
    picture[:, 60:260, 500:700] = draw_face(3, size=200).image
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    write_image(path, picture)
    return path


def test_everything_public_is_listed_and_there() -> None:
    assert dir(fra) == sorted(fra.__all__)
    for name in fra.__all__:
        assert getattr(fra, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'load_encodr'"):
        _ = fra.load_encodr
    assert (Path(fra.__file__).parent / "py.typed").exists()


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, fra; dir(fra); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_faces_in_any_form_give_the_same_features(encoder: "fra.api.FaceEncoder", three: list[Path]) -> None:
    pictures = [read_image(path) for path in three]
    expected = load.load_encoder("laptop")(torch.stack([to_input(one, 64) for one in pictures]) / 255).detach()
    forms = {
        "paths": three,
        "texts": [str(path) for path in three],
        "PIL": [Image.open(path) for path in three],
        "arrays": [np.asarray(Image.open(path)) for path in three],
        "one array": np.stack([np.asarray(Image.open(path)) for path in three]),
        "bytes": pictures,
        "one tensor of bytes": torch.stack(pictures),
        "floats of their own size": [one.float() / 255 for one in pictures],
        "inputs": torch.stack([encoder.transform(path) for path in three]),
    }
    for name, faces in forms.items():
        found = encoder(faces)
        assert found.shape == (3, 256), name
        assert torch.equal(found, expected), name
        assert not found.requires_grad
    assert torch.allclose(encoder(three[0]), expected[:1], atol=1e-5)
    assert encoder.maps(three).shape == (3, 256, 4, 4)
    grey = Image.open(three[0]).convert("L")
    assert torch.equal(encoder(grey), encoder(grey.convert("RGB")))


def test_sizes_may_be_mixed(encoder: "fra.api.FaceEncoder", three: list[Path]) -> None:
    mixed = [three[0], Image.open(three[1]).resize((200, 150)), torch.zeros(3, 33, 17, dtype=torch.uint8)]
    assert encoder(mixed).shape == (3, 256)


@pytest.mark.parametrize(
    ("faces", "told"),
    [
        (torch.rand(2, 3, 64, 64) * 255, "divide by 255"),
        (torch.randn(2, 3, 64, 64), "leave out any normalisation"),
        (torch.rand(2, 1, 64, 64), "repeat the channel"),
        (torch.rand(64, 64), "not an RGB image"),
        (torch.zeros(0, 3, 64, 64), "not an RGB image"),
        (np.zeros((64, 64), np.uint8), "not a picture: give"),
        (np.zeros((64, 64, 3)), "not a picture: give"),
        (np.zeros((0, 0, 3), np.uint8), "not a picture: give"),
        ([torch.rand(3, 8, 8) * 255], "divide by 255"),
        ([], "no pictures were given"),
        (7, "int is not a picture"),
        (None, "NoneType is not a picture"),
    ],
)
def test_what_is_no_face_is_told(faces: object, told: str, encoder: "fra.api.FaceEncoder") -> None:
    for network in (encoder, fra.load_region_model("laptop_fine")):
        with pytest.raises(ValueError, match=told):
            network(faces)


def test_another_size_is_a_warning_that_names_the_way_out(encoder: "fra.api.FaceEncoder") -> None:
    images = torch.rand(2, 3, 112, 112)
    with pytest.warns(UserWarning, match=r"112 x 112 pixels and the network was trained at 64 x 64: .* resize=True"):
        encoder(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoder(images, resize=True).shape == (2, 256)
        assert fra.load_region_model("laptop_fine")(images, resize=True).heatmaps.shape == (2, 8, 8, 8)


def test_a_whole_photo_is_told(encoder: "fra.api.FaceEncoder", photo: Path, tmp_path: Path) -> None:
    whole = Image.open(photo)
    for network in (encoder, fra.load_region_model("laptop_fine")):
        with pytest.warns(UserWarning, match=r"900 x 600 pixels looks like a whole photo.*fra.crop_faces"):
            network([whole.crop((500, 60, 700, 260)), whole])
    whole.save(tmp_path / "whole.jpg")
    with pytest.warns(UserWarning, match=r"1 of 1 picture looked at show a small face or none.*`fra crop "):
        list(encoder.features(tmp_path))
    with pytest.raises(ValueError, match="min_score is 3"):
        fra.detect(whole, min_score=3.0)


def test_gradients_flow_in_training_mode_alone(three: list[Path]) -> None:
    encoder = fra.load_encoder("laptop")
    head = torch.nn.Linear(256, 2)
    head(encoder(three)).sum().backward()  # features may be used to train a head
    assert all(weight.grad is None for weight in encoder.parameters())
    encoder.train()(three).sum().backward()
    assert all(weight.grad is not None for weight in encoder.backbone.parameters())
    with torch.no_grad():
        assert not encoder(three).requires_grad


def test_it_is_an_encoder_like_any_other() -> None:
    encoder = fra.load_encoder("random:laptop")
    assert isinstance(encoder, Encoder)
    again = Encoder(encoder.config)
    again.load_state_dict(encoder.state_dict())
    assert [name for name, _ in encoder.named_parameters()] == [name for name, _ in again.named_parameters()]


def test_features_of_a_folder_come_one_by_one(
    encoder: "fra.api.FaceEncoder", drawn_faces: Path, tmp_path: Path
) -> None:
    for path in sorted(drawn_faces.iterdir())[:5]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "001_broken.png").write_text("no picture")
    stream = encoder.features(tmp_path)
    first, vector = next(stream)
    assert first == str(tmp_path / "000.png")
    assert vector.shape == (256,)
    with pytest.warns(UserWarning, match=r"left out 1 unreadable file, the first: .*001_broken.png"):
        names = [name for name, _ in stream]
    assert [Path(name).name for name in names] == ["001.png", "002.png", "003.png", "004.png"]


def test_faces_are_found_and_cut_out_of_a_photo(photo: Path) -> None:
    (face,) = fra.detect(photo)
    x1, y1, x2, y2 = face.box.tolist()
    assert 480 < x1 < 600 < x2 < 720
    assert 40 < y1 < 160 < y2 < 280
    (crop,) = fra.crop_faces(photo, size=96)
    assert crop.shape == (3, 96, 96)
    assert fra.detect(Image.new("RGB", (200, 200))) == []
    (aligned,) = fra.crop_faces(photo, size=96, align="five-point")
    assert not torch.equal(aligned, crop)


def test_a_task_takes_whole_photos_and_says_so_when_it_is_given_one_as_a_face(photo: Path) -> None:
    task = fra.load_task_model("laptop_age")
    (answer,) = task.predict(photo, detect=True)
    assert answer["box"] == pytest.approx(fra.detect(photo)[0].box.tolist())
    assert {"score", "age", "probabilities"} <= set(answer)
    assert [len(faces) for faces in task.predict([photo, Image.new("RGB", (200, 200))], detect=True)] == [1, 0]
    with pytest.warns(UserWarning, match="900 x 600 pixels looks like a whole photo.*detect=True"):
        assert "age" in task.predict(photo)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "age" in task.predict(fra.crop_faces(photo)[0])
