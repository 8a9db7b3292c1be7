"""Damaged photos: decoders print nothing beside fra's own line, in no process or thread, and other lines stay."""

import ctypes
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import SETTINGS

from fra.faces import decode
from fra.faces.image import UnreadableImage, image_from_bytes, read_header
from fra.faces.silent import silent

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="only glibc lets one set what C prints errors to",
)


def saved(kind: str, **options: object) -> bytes:
    """Noise, whose compressed pixels fill most of the file."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    if options.get("compression") == "group4":
        picture = picture.convert("1")
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def wounded(content: bytes) -> bytes:
    """Eight bytes in the middle are others."""
    at = len(content) // 2
    return content[:at] + bytes(byte ^ 0x5A for byte in content[at : at + 8]) + content[at + 8 :]


DAMAGED = {
    "jpg": wounded(saved("JPEG")),
    "cut.jpg": saved("JPEG")[:-900],
    "progressive.jpg": wounded(saved("JPEG", progressive=True)),
    "lzw.tif": wounded(saved("TIFF", compression="tiff_lzw")),
    "deflate.tif": wounded(saved("TIFF", compression="tiff_adobe_deflate")),
    "group4.tif": wounded(saved("TIFF", compression="group4")),
    "jpeg.tif": wounded(saved("TIFF", compression="jpeg")),
    "png": wounded(saved("PNG")),
    "webp": wounded(saved("WEBP")),
    "bmp": saved("BMP")[:-900],
}
LOUD = ("jpg", "progressive.jpg", "lzw.tif", "deflate.tif", "group4.tif")
"""Those whose decoders print something."""


@contextmanager
def descriptor_2(path: Path) -> Iterator[None]:
    """What anything writes to file descriptor 2 goes to the file, which pytest's own fixtures see too late."""
    sys.stderr.flush()
    earlier, now = os.dup(2), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(now, 2)
    try:
        yield
    finally:
        os.dup2(earlier, 2)
        os.close(earlier)
        os.close(now)


def attempt(read: Callable[[bytes], object], content: bytes) -> None:
    with suppress(ValueError, OSError, RuntimeError):
        read(content)


def test_decoders_alone_print_something(tmp_path: Path) -> None:
    printing = []
    for name in LOUD:
        with descriptor_2(tmp_path / "said"):
            attempt(decode.decode, DAMAGED[name])
        printing += [name] if (tmp_path / "said").read_text() else []
    assert len(printing) >= 3, f"only {printing}: can fra/faces/silent.py go?"


@pytest.mark.parametrize("name", DAMAGED)
def test_reading_a_damaged_photo_prints_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(DAMAGED[name])
    with descriptor_2(tmp_path / "said"):
        attempt(lambda content: image_from_bytes(content, name), DAMAGED[name])
        attempt(lambda content: image_from_bytes(content, name, least_side=8), DAMAGED[name])
        with suppress(UnreadableImage):
            read_header(tmp_path / name)
    assert (tmp_path / "said").read_text() == ""


def test_many_threads_print_nothing_and_afterwards_c_prints_again(tmp_path: Path) -> None:
    c = ctypes.CDLL(None)
    c.perror.argtypes = [ctypes.c_char_p]
    contents = [DAMAGED[name] for name in LOUD] * 40
    with descriptor_2(tmp_path / "said"):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda content: attempt(lambda it: image_from_bytes(it, "x"), content), contents))
        c.perror(b"after")
        with silent:
            c.perror(b"inside")
            os.write(2, b"ours\n")
            print("python's", file=sys.__stderr__, flush=True)
            child = os.fork()
            if not child:  # it may have been forked while another thread decoded
                c.perror(b"forked")
                os._exit(0)
            os.waitpid(child, 0)
        c.perror(b"again")
    said = [line.partition(":")[0] for line in (tmp_path / "said").read_text().splitlines()]
    assert said == ["after", "ours", "python's", "forked", "again"]


TINY = [word for setting in (*SETTINGS["byol"], "schedule.epochs=2") for word in ("--set", setting)]
WORDS = {
    "crop": ("crop", "FACES", "--detector", "none", "--workers", "1"),
    "crop with workers": ("crop", "FACES", "--detector", "none", "--workers", "2"),
    "predict": ("predict", "FACES", "--task", "laptop_age", "--detector", "none"),
    "regions": ("regions", "laptop", "--faces", "FACES"),
    "pretrain": (
        "pretrain",
        "smoke/resnet10_half.byol",
        "--faces",
        "FACES",
        "--workers",
        "1",
        "--device",
        "cpu",
        *TINY,
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_of_a_command_one_sees_its_own_lines_only(name: str, few_faces: Path, tmp_path: Path) -> None:
    shutil.copytree(few_faces / "images", tmp_path / "faces", ignore=lambda _, names: sorted(names)[16:])
    for number, (ending, content) in enumerate(DAMAGED.items()):
        (tmp_path / "faces" / f"{number:02d}.{ending}").write_bytes(content)
    words = [{"FACES": str(tmp_path / "faces")}.get(word, word) for word in WORDS[name]]
    done = subprocess.run(
        [sys.executable, "-m", "fra.cli", *words, "--quiet", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("fra: ")] == []
