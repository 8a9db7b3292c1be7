"""Photos as phones make them: HEIC with and without EXIF, further images in the file, clips beside them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from fra import cli
from fra.drawing.drawn_face import draw_face
from fra.faces.image import read_header, read_image

SIZE = 96
EXIF_TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
"""One entry: orientation 6, the camera was held upright."""


@pytest.fixture
def picture() -> Image.Image:
    """Wider than high, so that a turn shows."""
    wide = torch.cat((draw_face(1, size=SIZE).image, draw_face(2, size=SIZE).image), 2)
    return Image.fromarray(wide.permute(1, 2, 0).numpy())


def heic(path: Path, picture: Image.Image, **settings: object) -> Path:
    heif = pytest.importorskip("pillow_heif")
    file = heif.from_pillow(picture)
    for other in settings.pop("others", ()):  # type: ignore[attr-defined]
        file.add_from_pillow(other)
    file.save(path, quality=95, **settings)
    return path


def difference(found: UInt8[Tensor, "3 H W"], picture: Image.Image) -> float:
    """Mean, in grey values."""
    wanted = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert found.shape == wanted.shape
    return float((found.float() - wanted.float()).abs().mean())


def test_heic_without_exif_is_read(tmp_path: Path, picture: Image.Image) -> None:
    assert difference(read_image(heic(tmp_path / "a.heic", picture)), picture) < 3


def test_heic_is_turned_once_as_the_camera_was_held(tmp_path: Path, picture: Image.Image) -> None:
    path = heic(tmp_path / "a.heic", picture, exif=EXIF_TURNED)
    assert difference(read_image(path), picture.transpose(Image.Transpose.ROTATE_270)) < 3


def test_of_several_images_in_a_heic_the_primary_one_is_read(tmp_path: Path, picture: Image.Image) -> None:
    smaller = picture.resize((40, 20)).transpose(Image.Transpose.ROTATE_180)
    path = heic(tmp_path / "a.heic", picture, others=[smaller], primary_index=0)
    assert difference(read_image(path), picture) < 3


def test_of_a_jpeg_with_a_gain_map_behind_it_the_photo_is_read(tmp_path: Path, picture: Image.Image) -> None:
    gains = picture.resize((40, 20)).convert("L")
    picture.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[gains], quality=95)
    assert read_header(tmp_path / "a.jpg").width == 2 * SIZE
    assert difference(read_image(tmp_path / "a.jpg"), picture) < 4


def test_the_clip_of_a_live_photo_is_counted_beside_it(
    tmp_path: Path, picture: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    heic(tmp_path / "IMG_1.HEIC", picture)
    (tmp_path / "IMG_1.MOV").write_bytes(b"\0\0\0\x14ftypqt  " + bytes(100))
    words = ["predict", str(tmp_path), "--task", "laptop_age", "--detector", "none", "--device", "cpu"]
    assert cli.main(words) == 0
    assert "1 photo: 1 used; ignored: 1 .mov" in capsys.readouterr().out
