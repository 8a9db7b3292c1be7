"""Images: every kind that people have is read alike, and what cannot be read says so."""

import errno
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize

from fra.faces import decode, pictures
from fra.faces.image import UnreadableImage, read_image, to_input, write_image
from fra.pools.listing import Account, image_files

RED = (200, 30, 40)


def near(image: torch.Tensor, colour: tuple[int, int, int], tolerance: int = 3) -> bool:
    return bool((image.float() - torch.tensor(colour)[:, None, None]).abs().max() <= tolerance)


def halves(width: int = 32, height: int = 16) -> Image.Image:
    """Left half red, right half black."""
    picture = Image.new("RGB", (width, height))
    picture.paste(RED, (0, 0, width // 2, height))
    return picture


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.webp", "a.tif", "a.JPG"])
def test_each_format_gives_rgb_with_the_height_first(tmp_path: Path, name: str):
    Image.new("RGB", (32, 16), RED).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.shape == (3, 16, 32)
    assert image.dtype == torch.uint8
    assert near(image, RED)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_what_was_written_is_read_again(tmp_path: Path, ending: str):
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).expand(3, 64, 64)
    write_image(tmp_path / f"deep/folder/a.{ending}", ramp)
    again = read_image(tmp_path / f"deep/folder/a.{ending}")
    assert (again.float() - ramp.float()).abs().max() <= (4 if ending == "jpg" else 0)
    assert sorted(os.listdir(tmp_path / "deep/folder")) == [f"a.{ending}"]  # no temporary file stays


def test_other_endings_cannot_be_written(tmp_path: Path):
    with pytest.raises(ValueError, match=r"a\.gif: images are written as \.jpg or \.png"):
        write_image(tmp_path / "a.gif", torch.zeros(3, 2, 2, dtype=torch.uint8))


def test_plain_jpegs_are_read_without_pillow_and_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    halves().save(tmp_path / "colour.jpg")
    halves().save(tmp_path / "progressive.jpg", progressive=True)
    halves().convert("L").save(tmp_path / "grey.jpg")
    plain = ["colour.jpg", "progressive.jpg", "grey.jpg", "exif.jpg"]
    exif = Image.Exif()
    exif[0x0112] = 1
    halves().save(tmp_path / "exif.jpg", exif=exif)
    halves().convert("CMYK").save(tmp_path / "cmyk.jpg")
    with monkeypatch.context() as patched:
        patched.setattr(decode, "_by_pillow", lambda *_: pytest.fail("asks Pillow"))
        images = [read_image(tmp_path / name) for name in plain]
        with pytest.raises(pytest.fail.Exception, match="asks Pillow"):
            read_image(tmp_path / "cmyk.jpg")
    for image, name in zip(images, plain, strict=True):
        assert torch.equal(image, pictures.from_pillow(Image.open(tmp_path / name)))


# EXIF orientation: 3 upside down, 6 turn a quarter clockwise to see it upright, 8 anticlockwise, 2 mirrored
@pytest.mark.parametrize("orientation, shape, red_corner", [
    (1, (3, 16, 32), (0, 0)), (2, (3, 16, 32), (0, -1)), (3, (3, 16, 32), (-1, -1)),
    (6, (3, 32, 16), (0, 0)), (8, (3, 32, 16), (-1, 0)), (0, (3, 16, 32), (0, 0)),
])  # fmt: skip
def test_a_photo_is_turned_upright(
    tmp_path: Path, orientation: int, shape: tuple[int, ...], red_corner: tuple[int, int]
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves().save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "a.jpg")
    assert tuple(image.shape) == shape
    row, column = red_corner
    assert near(image[:, row, column][:, None, None], RED, 8)
    opposite = image[:, -1 if row == 0 else 0, -1 if column == 0 else 0]
    assert near(opposite[:, None, None], (0, 0, 0), 8)


def test_cmyk_grey_and_palette_become_rgb(tmp_path: Path):
    Image.new("RGB", (16, 16), RED).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    Image.new("L", (16, 16), 77).save(tmp_path / "grey.jpg", quality=95)
    Image.new("RGB", (16, 16), RED).quantize(4).save(tmp_path / "palette.png")
    Image.new("1", (16, 16), 1).save(tmp_path / "bits.png")
    assert near(read_image(tmp_path / "cmyk.jpg"), RED, 6)
    assert near(read_image(tmp_path / "grey.jpg"), (77, 77, 77))
    assert near(read_image(tmp_path / "palette.png"), RED)
    assert near(read_image(tmp_path / "bits.png"), (255, 255, 255), 0)


def test_sixteen_bits_become_eight_instead_of_white(tmp_path: Path):
    Image.fromarray(np.full((4, 4), 0x8040, dtype=np.uint16)).save(tmp_path / "grey16.png")
    assert near(read_image(tmp_path / "grey16.png"), (0x80, 0x80, 0x80), 0)
    _write_rgb16_png(tmp_path / "rgb16.png", (0x80FF, 0x1000, 0xFFFF))
    assert near(read_image(tmp_path / "rgb16.png"), (0x80, 0x10, 0xFF), 1)


def _write_rgb16_png(path: Path, colour: tuple[int, int, int]) -> None:
    """One pixel of 16 bits a channel; Pillow reads such files but cannot write them."""

    def part(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    pixels = zlib.compress(b"\0" + struct.pack(">3H", *colour))
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", pixels) + part(b"IEND", b""))


def test_transparency_is_laid_over_white(tmp_path: Path):
    Image.new("RGBA", (4, 4), (*RED, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "half.png")
    assert near(read_image(tmp_path / "clear.png"), (255, 255, 255), 0)
    assert near(read_image(tmp_path / "half.png"), (127, 127, 127), 1)  # 255 * (1 - 128/255)


def test_an_image_of_one_pixel_is_an_image(tmp_path: Path):
    Image.new("RGB", (1, 1), RED).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").flatten().tolist() == list(RED)


def test_unreadable_files_say_why_in_one_line(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "head.jpg").write_bytes(whole[:200])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    reasons = {
        "cut.jpg": "truncated",
        "head.jpg": "(?i)truncated",
        "text.jpg": "not an image",
        "empty.png": "the file is empty",
        "absent.jpg": "No such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(UnreadableImage, match=reason) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
        assert name not in caught.value.reason
        assert ".cpp" not in caught.value.reason
        assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason  # it crosses processes


def test_a_huge_image_is_refused_before_its_pixels_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    halves(64, 64).save(tmp_path / "a.jpg")
    monkeypatch.setattr(decode, "MOST_PIXELS", 64 * 64 - 1)
    with pytest.raises(UnreadableImage, match="64 x 64 pixels"):
        read_image(tmp_path / "a.jpg")


def test_a_full_disk_leaves_the_old_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_image(tmp_path / "a.png", torch.zeros(3, 2, 2, dtype=torch.uint8))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_image(tmp_path / "a.png", torch.ones(3, 2, 2, dtype=torch.uint8))
    assert read_image(tmp_path / "a.png").max() == 0
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_folder_gives_its_images_sorted_and_nothing_hidden(tmp_path: Path):
    for name in ["b.jpg", "a/z.PNG", "a/x.jpeg", ".hidden.jpg", ".dir/x.jpg", "notes.md", "c.tiff"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/circle").symlink_to(tmp_path)
    names = [file.relative_to(tmp_path).as_posix() for file in image_files(tmp_path)]
    assert names == ["a/x.jpeg", "a/z.PNG", "b.jpg", "c.tiff"]


def test_other_files_of_a_folder_are_counted_by_their_ending(tmp_path: Path):
    for name in ["b.jpg", "a/1.MOV", "2.mov", "old.zip", "README", ".hidden.gif"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    account = Account()
    assert image_files(tmp_path, account=account) == [tmp_path / "b.jpg"]
    assert account.ignored == {".mov": 2, ".zip": 1, "without ending": 1}


def test_a_list_keeps_its_order_and_names_a_photo_once(tmp_path: Path):
    (tmp_path / "list.txt").write_text("b.jpg\n\n# a comment\nsub/../a.jpg\n./b.jpg\n")
    assert image_files(tmp_path / "list.txt") == [tmp_path / "b.jpg", tmp_path / "a.jpg"]


def test_one_image_is_a_list_of_one(tmp_path: Path):
    (tmp_path / "a.jpg").touch()
    assert image_files(tmp_path / "a.jpg") == [tmp_path / "a.jpg"]


def test_finding_nothing_is_one_clear_line(tmp_path: Path):
    (tmp_path / "list.txt").write_text("# nothing\n")
    (tmp_path / "a.pdf").touch()
    with pytest.raises(ValueError, match="no images below"):
        image_files(tmp_path)
    with pytest.raises(ValueError, match="no such file or folder"):
        image_files(tmp_path / "absent")
    with pytest.raises(ValueError, match="is empty"):
        image_files(tmp_path / "list.txt")
    with pytest.raises(ValueError, match="neither an image nor a folder"):
        image_files(tmp_path / "a.pdf")


# Networks' inputs


def test_a_network_sees_the_middle_square_or_the_whole_picture() -> None:
    """Left to right 0, 1, ... 5 by 40: of 6 x 2 pixels the middle square has the columns 2 and 3."""
    picture = (torch.arange(6, dtype=torch.uint8) * 40).expand(3, 2, 6).contiguous()
    assert torch.equal(to_input(picture, 2), picture[:, :, 2:4])
    whole = to_input(picture, 2, fit="whole")
    assert torch.equal(whole, resize(picture, [2, 2], antialias=True))
    assert (whole[:, :, 0] < whole[:, :, 1]).all()
    assert to_input(picture, 7).shape == (3, 7, 7)
