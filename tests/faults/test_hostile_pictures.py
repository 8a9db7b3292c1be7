"""Hostile pictures: only files are opened, few kinds are decoded and by content, and sizes are bounded beforehand."""

import io
import os
import random
import socket
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageOps, PngImagePlugin
from tiny_runs import run

from fra.crop.cut import CropSettings
from fra.crop.run import crop
from fra.data.labelled import LabelledFaces
from fra.data.read import Unreadable, read_images
from fra.drawing.drawn_face import draw_face
from fra.faces import decode
from fra.faces.image import UnreadableImage, read_header, read_image, write_image
from fra.faces.pictures import from_pillow
from fra.pools.listing import image_files
from fra.pools.unlabelled import open_pool
from fra.runtime import Runtime
from fra.tasks.expression import Expression
from scripts.soak import deadline


def reason_of(path: Path) -> str:
    with deadline(20), pytest.raises(UnreadableImage) as caught:
        read_image(path)
    return caught.value.reason


def photo(size: tuple[int, int] = (48, 32), *, seed: int = 0) -> Image.Image:
    """Smooth noise, different at every corner."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format=kind, **options)
    return stream.getvalue()


# --- only regular files are opened

NOT_FILES: dict[str, Callable[[Path], object]] = {
    "a named pipe": os.mkfifo,
    "a link to a named pipe": lambda path: (os.mkfifo(path.with_suffix(".pipe")), path.symlink_to(f"{path.stem}.pipe")),
    "a link to a device that never ends": lambda path: path.symlink_to("/dev/zero"),
    "a link to the terminal's device": lambda path: path.symlink_to("/dev/tty"),
    "a socket": lambda path: _bind(path),
    "a link to a folder": lambda path: path.symlink_to("/usr"),
    "a folder": lambda path: path.mkdir(),
}


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        where = os.getcwd()
        os.chdir(path.parent)  # names of sockets are short
        server.bind(path.name)
        os.chdir(where)


@pytest.fixture(params=NOT_FILES)
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """`faces/x.jpg`, which is no file."""
    if "tty" in request.param and not os.path.exists("/dev/tty"):
        pytest.skip("no /dev/tty")
    (tmp_path / "faces").mkdir()
    NOT_FILES[request.param](tmp_path / "faces/x.jpg")
    return tmp_path / "faces/x.jpg"


def test_what_is_no_regular_file_is_unreadable_at_once(no_file: Path) -> None:
    assert reason_of(no_file).startswith("not a regular file")
    with deadline(20), pytest.raises(UnreadableImage, match="not a regular file"):
        read_header(no_file)


def test_readers_of_photos_pass_over_it_and_say_so(no_file: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "faces/good.png", draw_face(0, size=40).image)
    (tmp_path / "list.txt").write_text("faces/x.jpg\nfaces/good.png\n")  # a folder called x.jpg is one to be listed
    with deadline(60):
        summary = crop(
            tmp_path / "list.txt",
            tmp_path / "crops",
            CropSettings(detector="none"),
            runtime=Runtime(workers=1, quiet=True),
        )
        assert (summary.faces, summary.skipped) == (1, {"unreadable": 1})
        assert ",unreadable: not a regular file but a " in (tmp_path / "crops/crops.csv").read_text()
        _, unreadable = open_pool(tmp_path / "list.txt").read(0)
        assert unreadable == [0]
        faces = LabelledFaces(
            name="mine",
            root=tmp_path / "faces",
            files=["x.jpg"],
            splits={"train": torch.tensor([0])},
            tasks={"expression": Expression(("sad", "glad"))},
            targets={"expression": torch.tensor([0])},
        )
        [[(_, item)]] = read_images(faces, torch.tensor([0]), split="train", size=16, workers=1)
        assert isinstance(item, Unreadable)
        assert "not a regular file" in item.reason


def test_pre_training_passes_over_a_pipe(drawn_faces: Path, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for file in sorted(drawn_faces.iterdir())[:12]:
        (tmp_path / "faces" / file.name).symlink_to(file)
    os.mkfifo(tmp_path / "faces/005b.jpg")
    with deadline(120):
        run(tmp_path / "faces", tmp_path / "out", "schedule.epochs=2", "schedule.warmup_epochs=0.5")
    assert "005b.jpg" in (tmp_path / "out/summary.json").read_text()


@pytest.mark.parametrize("name", ["list.txt", "faces.tar"])
def test_lists_and_shards_that_are_pipes_are_one_line(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "shards.txt").write_text(f"{name}\n")
    for given in (tmp_path / name, tmp_path / "shards.txt", tmp_path) if name == "faces.tar" else (tmp_path / name,):
        with deadline(20), pytest.raises((ValueError, OSError), match="regular file|neither an image"):
            open_pool(given)


def test_links_that_lead_nowhere_and_files_of_the_kernel_are_unreadable(tmp_path: Path) -> None:
    for name, target in (
        ("gone", "nowhere"),
        ("self", "self.jpg"),
        ("version", "/proc/version"),
        ("log", "/proc/kmsg"),
    ):
        (tmp_path / f"{name}.jpg").symlink_to(target)
    assert reason_of(tmp_path / "gone.jpg") == "No such file or directory"
    assert "Too many levels" in reason_of(tmp_path / "self.jpg")
    if os.path.exists("/proc/version"):
        assert reason_of(tmp_path / "version.jpg") == "the file is empty"  # says the kernel, and is believed
    assert reason_of(tmp_path / "zero\0byte.jpg") == "embedded null byte"


# --- few kinds, by content

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n(x) run\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name, content", [
    ("PostScript", EPS),
    ("PostScript", b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(EPS)) + bytes(20) + EPS),
    ("PDF", b"%PDF-1.7\n"),
    ("GIF", saved(photo(), "GIF")),
    ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("Photoshop", b"8BPS\0\1" + bytes(20)),
    ("video", b"\0\0\0\x18ftypisom" + bytes(12)),
    ("HTML", b"\n<!DOCTYPE html><html><body>404</body></html>"),
    ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ("zip", b"PK\3\4" + bytes(30)),
])  # fmt: skip
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_other_kinds_are_named_and_start_nothing(
    name: str, content: bytes, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("starts a program"))
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("starts Ghostscript"))
    (tmp_path / f"x.{ending}").write_bytes(content)
    assert f"it looks like {name}" in reason_of(tmp_path / f"x.{ending}")


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX", "SGI", "IM", "DDS", "MSP", "XBM"])
def test_kinds_that_pillow_knows_besides_are_no_images(kind: str, tmp_path: Path) -> None:
    picture = photo().convert("1") if kind in ("MSP", "XBM") else photo()
    (tmp_path / "x.jpg").write_bytes(saved(picture, kind))
    assert reason_of(tmp_path / "x.jpg").startswith("not an image")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.tif"])
def test_a_wrong_ending_does_not_matter(kind: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(saved(photo(), kind))
    assert image_files(tmp_path) == [tmp_path / name]
    assert torch.equal(read_image(tmp_path / name), from_pillow(Image.open(tmp_path / name)))


def test_nothing_in_the_project_lets_pillow_guess() -> None:
    root = Path(decode.__file__).parents[1]
    guessing = [file.name for file in root.rglob("*.py") if "Image.open(" in file.read_text(encoding="utf-8")]
    assert guessing == ["portable.py"]  # in the example that it writes for people without fra


# --- sizes are bounded before decoding


def png(width: int, height: int, *chunks: tuple[bytes, bytes], pixels: bytes = b"") -> bytes:
    """A PNG of one grey byte a pixel, with `chunks` before its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, parts))


def chunk(part: tuple[bytes, bytes]) -> bytes:
    name, content = part
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def tiff(width: int, height: int, *more: tuple[int, int]) -> bytes:
    """A TIFF of one grey byte a pixel with further tags (all of 32 bits)."""
    tags = [
        (256, width),
        (257, height),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, 9),
        *more,
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def resized_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header says another size than it has."""
    content = bytearray(saved(photo(), "JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


HUGE = {
    "PNG": png(60_000, 60_000),
    "BMP": b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 60_000, 60_000, 1, 24, *[0] * 6),
    "TIFF": tiff(60_000, 60_000),
    "TIFF tile": tiff(16, 16, (322, 60_000), (323, 60_000), (324, 8), (325, 9)),
    "JPEG": resized_jpeg(60_000, 60_000),
    "flat JPEG": resized_jpeg(65_535, 4_000),
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_header_that_claims_gigapixels_is_refused_before_decoding(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "decode_jpeg", lambda *_, **__: pytest.fail("decodes"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decodes"))
    (tmp_path / "x.png").write_bytes(HUGE[kind])
    assert "megapixels; the limit is 200" in reason_of(tmp_path / "x.png")


def test_photos_of_telephones_are_within_the_bound() -> None:
    decode.require_bounded(16_320, 12_240)  # the largest of them, 200 megapixels
    with pytest.raises(ValueError, match="100,000 x 2,001 pixels are 200 megapixels"):
        decode.require_bounded(100_000, 2_001)


def test_a_file_of_many_gigabytes_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "x.jpg", "wb") as stream:
        stream.write(saved(photo(), "JPEG"))
        stream.truncate(50 << 30)  # takes no room on disk
    assert reason_of(tmp_path / "x.jpg") == "the file has 53,687 MB; the limit is 600"


def test_a_member_of_a_shard_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(photo(), "JPEG")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("0.jpg")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    pool = open_pool(tmp_path / "a.tar")
    assert pool.image(0).shape == (3, 32, 48)
    monkeypatch.setattr("fra.pools.shards.MOST_BYTES", len(content) - 1)
    with pytest.raises(UnreadableImage, match="the limit is 600"):
        pool.image(0)


def test_a_progressive_jpeg_of_very_many_scans_is_refused(tmp_path: Path) -> None:
    whole = saved(photo(), "JPEG", progressive=True)
    at = whole.rindex(b"\xff\xda")
    (tmp_path / "x.jpg").write_bytes(whole[:at] + whole[at:-2] * 1000 + whole[-2:])
    assert "scans; the limit is 500" in reason_of(tmp_path / "x.jpg")


def test_endless_fill_bytes_end(tmp_path: Path) -> None:
    for content in (b"\xff" * 10_000_000, b"\xff\xe1\0\0" * 2_000_000, b"\xff\xe1" * 2_000_000):
        (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff" + content)
        assert "truncated or damaged" in reason_of(tmp_path / "x.jpg")


def test_too_little_memory_for_one_photo_is_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    write_image(tmp_path / "x.png", draw_face(0, size=40).image)
    monkeypatch.setattr("fra.faces.image.decode", full)
    assert reason_of(tmp_path / "x.png") == "not enough memory to decode it"


# --- read as other programs read them


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_end_marker_is_read(mode: str, options: dict[str, object], tmp_path: Path) -> None:
    whole = saved(photo((120, 90)).convert(mode), "JPEG", **options)
    assert whole[-2:] == b"\xff\xd9"
    (tmp_path / "x.jpg").write_bytes(whole[:-2])
    assert torch.equal(read_image(tmp_path / "x.jpg"), decode.decode(whole))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("missing", [5, 50, 500])
@pytest.mark.parametrize("tail", [b"", bytes(3000)])
def test_a_jpeg_that_is_cut_off_is_not(missing: int, tail: bytes, options: dict[str, object], tmp_path: Path) -> None:
    """Nor one whose rest is zeros: what a download leaves that made room first."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    (tmp_path / "x.jpg").write_bytes(saved(noise, "JPEG", **options)[:-missing] + tail)
    assert "truncated" in reason_of(tmp_path / "x.jpg")


def damaged(part: tuple[bytes, bytes]) -> bytes:
    """A chunk with a wrong checksum."""
    return chunk(part)[:-4] + b"\0\1\2\3"


@pytest.mark.parametrize("name", [b"pHYs", b"tEXt", b"tIME", b"gAMA", b"iCCP", b"eXIf", b"zzZz"])
def test_a_png_with_a_wrong_checksum_beside_its_pixels_is_read(name: bytes, tmp_path: Path) -> None:
    whole = saved(photo(), "PNG")
    (tmp_path / "x.png").write_bytes(whole[:33] + damaged((name, b"nine bytes")) + whole[33:])
    assert torch.equal(read_image(tmp_path / "x.png"), from_pillow(photo()))


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE"])
def test_a_png_with_a_wrong_checksum_in_its_header_is_not_but_is_called_a_png(name: bytes, tmp_path: Path) -> None:
    content = bytearray(saved(photo().quantize(8), "PNG"))
    start = content.index(name)
    content[start + 4 + int.from_bytes(content[start - 4 : start], "big")] ^= 1
    (tmp_path / "x.png").write_bytes(content)
    assert reason_of(tmp_path / "x.png").startswith("a damaged PNG (")


@pytest.mark.parametrize("part", [
    (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 3_000_000),
    (b"tEXt", b"Comment\0" + b"x" * 3_000_000),
    (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000))),
    (b"iCCP", b"profile\0\0" + zlib.compress(bytes(100_000_000))),
], ids=lambda part: part[0].decode())  # fmt: skip
def test_a_png_with_very_long_text_is_read_and_the_text_is_not(part: tuple[bytes, bytes], tmp_path: Path) -> None:
    whole = saved(photo(), "PNG")
    (tmp_path / "x.png").write_bytes(whole[:33] + chunk(part) + whole[33:])
    assert torch.equal(read_image(tmp_path / "x.png"), from_pillow(photo()))


def test_transparency_and_palettes_survive_the_choice_of_chunks(tmp_path: Path) -> None:
    see_through = photo().quantize(8)
    see_through.save(tmp_path / "x.png", transparency=0)
    with Image.open(tmp_path / "x.png") as picture:
        above = picture.convert("RGBA")
    white = Image.new("RGBA", above.size, "white")
    assert torch.equal(read_image(tmp_path / "x.png"), from_pillow(Image.alpha_composite(white, above)))


# --- orientation: EXIF alone


def xmp(orientation: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>'
        % orientation
    )


def exif(orientation: int | None) -> bytes:
    block = Image.Exif()
    block[0x010F] = "camera"
    if orientation is not None:
        block[0x0112] = orientation
    return block.tobytes()


def jpeg_with(*blocks: bytes) -> bytes:
    """A JPEG with APP1 blocks, in this order, right after its first two bytes."""
    whole = saved(photo(), "JPEG", quality=95)
    inserted = b"".join(b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block for block in blocks)
    return whole[:2] + inserted + whole[2:]


XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"


@pytest.mark.parametrize("blocks, turned", [
    ([XMP_HEAD + xmp(6)], False),
    ([exif(None), XMP_HEAD + xmp(6)], False),
    ([XMP_HEAD + xmp(6), exif(None)], False),
    ([exif(1), XMP_HEAD + xmp(6)], False),
    ([b"Exif\0\0broken", XMP_HEAD + xmp(6)], False),
    ([exif(6), XMP_HEAD + xmp(1)], True),
    ([XMP_HEAD + xmp(1), exif(6)], True),
    ([b"http://ns.adobe.com/xmp/extension/\0" + bytes(60_000), exif(6)], True),
    ([b"anything", bytes(1000), exif(6)], True),
])  # fmt: skip
@pytest.mark.parametrize("least_side", [None, 8])
def test_xmp_does_not_turn_a_jpeg_and_exif_does(
    blocks: list[bytes], turned: bool, least_side: int | None, tmp_path: Path
) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg_with(*blocks))
    height, width = read_image(tmp_path / "x.jpg", least_side=least_side).shape[1:]
    assert (height > width) == turned


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_xmp_does_not_turn_other_kinds_and_exif_does(kind: str, tmp_path: Path) -> None:
    if kind not in [name.upper() for name in decode.KINDS]:
        pytest.skip(f"this Pillow does not decode {kind}")
    for number, (says, turned) in enumerate([(None, False), (1, False), (6, True)]):
        options: dict[str, object] = {"exif": exif(says)}
        if kind == "PNG":
            texts = PngImagePlugin.PngInfo()
            texts.add_itxt("XML:com.adobe.xmp", xmp(8).decode())
            options["pnginfo"] = texts
        elif kind == "TIFF":
            options = {"tiffinfo": {700: xmp(8)} | ({} if says is None else {0x0112: says})}
        else:
            options["xmp"] = xmp(8)
        (tmp_path / f"{number}.png").write_bytes(saved(photo(), kind, **options))
        height, width = read_image(tmp_path / f"{number}.png").shape[1:]
        assert (height > width) == turned, says


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_all_orientations_are_those_of_pillow(orientation: int, kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(saved(photo(), kind, exif=exif(orientation)))
    with Image.open(tmp_path / "x.jpg") as picture:
        assert torch.equal(read_image(tmp_path / "x.jpg"), from_pillow(ImageOps.exif_transpose(picture)))


def test_large_jpegs_are_decoded_at_a_scale_that_is_large_enough(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(saved(photo((1600, 1200)), "JPEG", exif=exif(6)))
    whole = read_image(tmp_path / "x.jpg")
    for least_side, expected in ((1000, (1600, 1200)), (600, (800, 600)), (299, (400, 300)), (10, (200, 150))):
        reduced = read_image(tmp_path / "x.jpg", least_side=least_side)
        assert tuple(reduced.shape[1:]) == expected
        small = torch.nn.functional.interpolate(whole[None].float(), size=expected, mode="area")[0]
        assert (reduced.float() - small).abs().mean() < 2


# --- whatever the bytes are


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_mutated_files_are_read_or_unreadable_and_nothing_else(kind: str, tmp_path: Path) -> None:
    dice = random.Random(kind)
    whole = saved(photo(), kind, **({"exif": exif(6)} if kind != "BMP" else {}))
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(dice.randint(1, 8)):
            content[dice.randrange(min(len(content), 400))] = dice.randrange(256)
        content = content[: dice.choice([len(content), dice.randrange(len(content))])]
        (tmp_path / "x.jpg").write_bytes(content)
        reason = None
        try:
            with deadline(20):
                assert read_image(tmp_path / "x.jpg").shape[0] == 3
        except UnreadableImage as error:
            reason = str(error)
        assert reason is None or ("\n" not in reason and "more than" not in reason)
