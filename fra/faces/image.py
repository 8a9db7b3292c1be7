"""Reading, writing and finding images. In memory an image is RGB, uint8, (3, H, W), upright."""

import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg, encode_png

from fra.files import atomic

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
JPEG_QUALITY = 95  # ours: crops are compressed once more, and must not show it

_ORIENTATION = 0x0112  # the EXIF tag that says how the camera was held
_UPRIGHT = (None, 0, 1)  # 0 is not allowed by EXIF, yet some cameras write it


class UnreadableImage(ValueError):
    """One file cannot be decoded; `reason` is one line without the path."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the image {self.path}: {self.reason}"


def read_image(path: Path | str) -> UInt8[Tensor, "3 H W"]:
    """Decode one image file, turned upright as its EXIF orientation says.

    Grey becomes three equal channels, 16 bits become 8, CMYK and palettes become RGB, transparency is laid over
    white, an animation gives its first frame. Raises UnreadableImage, also for a missing file.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImage(path, error.strerror or type(error).__name__) from error
    return image_from_bytes(content, path)


def image_from_bytes(content: bytes, path: Path | str) -> UInt8[Tensor, "3 H W"]:
    """Decode the bytes of an image file as `read_image` does; `path` is what UnreadableImage calls it."""
    if not content:
        raise UnreadableImage(path, "the file is empty")
    try:
        return decode(content)
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(path, "not an image") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise nearly anything inside a decoder
        raise UnreadableImage(path, _one_line(error)) from error


def decode(content: bytes) -> UInt8[Tensor, "3 H W"]:
    """Decode the bytes of an image file as `read_image` does; raises whatever the decoder raises."""
    if _is_plain_jpeg(content):
        return _decode_jpeg(content)
    with Image.open(io.BytesIO(content)) as picture:  # reads the header only
        plain = picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L")
        if plain and picture.getexif().get(_ORIENTATION) in _UPRIGHT:
            return _decode_jpeg(content)
        picture.seek(0)
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        return torch.from_numpy(np.array(_to_rgb(upright))).permute(2, 0, 1).contiguous()


def _decode_jpeg(content: bytes) -> UInt8[Tensor, "3 H W"]:
    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)


def _is_plain_jpeg(content: bytes) -> bool:
    """Whether this is surely a JPEG in grey or three colours, without EXIF and not huge: what most crops are.

    Reads the segments before the picture itself. Pillow says the same of all files, but takes as long as a third of
    the decoding of a small face.
    """
    at = 2 if content[:2] == b"\xff\xd8" else len(content)
    while at + 10 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if 0xC0 <= marker <= 0xC2:  # start of frame: length, bits, height, width, colours
            height, width = (int.from_bytes(content[at + start : at + start + 2], "big") for start in (5, 7))
            return content[at + 9] in (1, 3) and height * width <= (Image.MAX_IMAGE_PIXELS or 0)
        if content[at + 4 : at + 8] == b"Exif":
            return False
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return False


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range")
    if picture.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip at 255 instead of scaling
        values = np.clip(np.asarray(picture).astype(np.int64), 0, 65535) >> 8
        picture = Image.fromarray(values.astype(np.uint8))
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        above = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return picture.convert("RGB")


def _one_line(error: Exception) -> str:
    """A decoder's message without line breaks, Pillow's memory addresses and the places in torchvision's source."""
    text = re.sub(r"<[^>]* object at 0x[0-9a-f]+>", "the file", str(error))
    text = re.sub(r"^\w+, .*?\.cpp:\d+, ", "", text)
    return (" ".join(text.split()) or type(error).__name__)[:200]


def write_image(path: Path | str, image: UInt8[Tensor, "3 H W"]) -> None:
    """Write a .jpg (quality 95) or .png whole or not at all; ValueError for any other ending, OSError as it comes."""
    path = Path(path)
    ending = path.suffix.lower()
    if ending in (".jpg", ".jpeg"):
        content = jpeg_bytes(image)
    elif ending == ".png":
        content = encode_png(image.contiguous().cpu()).numpy().tobytes()
    else:
        raise ValueError(f"cannot write {path.name}: images are written as .jpg or .png")
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def jpeg_bytes(image: UInt8[Tensor, "3 H W"]) -> bytes:
    """The content of a .jpg file (quality 95)."""
    return encode_jpeg(image.contiguous().cpu(), quality=JPEG_QUALITY).numpy().tobytes()


def image_files(path: Path | str, *, ignored: Counter[str] | None = None) -> list[Path]:
    """The images of a folder tree in sorted order, of a .txt list in its own order, or one single image.

    A folder made by `fra crop` stands for the `crops` inside it. Hidden files and folders are left out. Lines of a
    list are relative to the list's folder; blank lines and lines that begin with # do not count, and a path that
    appears twice counts once. Whether a listed file exists is found out by reading it. `ignored` counts the endings
    of a folder's other files. ValueError when there is nothing at `path`, or no image in it.
    """
    root, names = image_names(path, ignored=ignored)
    return [named(root, name) for name in names]


def image_names(path: Path | str, *, ignored: Counter[str] | None = None) -> tuple[str, Iterator[str]]:
    """What `image_files` finds, one after the other: a folder, and names that are relative to it (or absolute).

    For pools that are too large for a list of paths. The errors of `image_files` come when the first name is asked for.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is nothing at {path}: give a folder of images, or a .txt list with one path a line")
    if path.is_file():
        if path.suffix.lower() == ".txt":
            return os.path.normpath(path.parent), listed_names(path)
        if path.suffix.lower() not in EXTENSIONS:
            raise ValueError(f"{path} is neither an image nor a folder nor a .txt list: expected {endings()}")
        return str(path.parent), iter([path.name])
    folder = image_folder(path)
    return str(folder), _names_below(folder, Counter() if ignored is None else ignored)


def named(root: str, name: str) -> Path:
    """The path of a name that `image_names` gave."""
    path = os.path.join(root, name)
    return Path(os.path.normpath(path) if name.startswith("..") else path)


def image_folder(path: Path | str) -> Path:
    """The folder itself, or the `crops` inside a folder made by `fra crop`, beside which its contact sheet lies.

    ValueError when `fra crop` packed the crops in shards.
    """
    path = Path(path)
    made_by_crop = (path / "crop.yaml").is_file()
    if made_by_crop and (path / "shards").is_dir():
        raise ValueError(
            f"the crops in {path} are packed in shards, which `fra pretrain` and `fra regions` read; "
            f"for anything else unpack some: `tar -xf {path / 'shards' / 'faces-000000.tar'} -C FOLDER`"
        )
    return path / "crops" if made_by_crop and (path / "crops").is_dir() else path


def listed_names(path: Path) -> Iterator[str]:
    """The lines of a .txt list as `image_files` understands them, relative to the list's folder or absolute."""
    seen: set[bytes] = set()  # short digests: a million paths would take several times as much
    try:
        with open(path, encoding="utf-8-sig") as lines:
            for line in map(str.strip, lines):
                if not line or line.startswith("#"):
                    continue
                name = os.path.normpath(line)
                where = os.path.normpath(os.path.join(path.parent, name))
                digest = hashlib.blake2b(os.fsencode(where), digest_size=8).digest()
                if digest not in seen:
                    seen.add(digest)
                    yield name
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file: expected one image path a line, in UTF-8") from None
    if not seen:
        raise ValueError(f"the list {path} is empty: expected one image path a line")


def _names_below(folder: Path, ignored: Counter[str]) -> Iterator[str]:
    """The images below a folder, relative to it, in the order of their paths; counts the endings of other files."""
    seen: set[str] = set()  # a linked folder is followed, a circle of links is not
    found = False
    for name in _walk(str(folder), "", seen, ignored):
        found = True
        yield name
    if not found:
        raise ValueError(f"no images below {folder}: expected files that end in {endings()}")


def _walk(root: str, below: str, seen: set[str], ignored: Counter[str]) -> Iterator[str]:
    parent = os.path.join(root, below)
    real = os.path.realpath(parent)
    if real in seen:
        return
    seen.add(real)
    names, folders = [], set()
    with suppress(OSError), os.scandir(parent) as entries:  # a folder that may not be entered counts as empty
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.add(entry.name)
            elif (ending := os.path.splitext(entry.name)[1].lower()) not in EXTENSIONS:
                ignored[ending or "without ending"] += 1
                continue
            names.append(entry.name)
    for name in sorted(names):
        if name in folders:
            yield from _walk(root, os.path.join(below, name), seen, ignored)
        else:
            yield os.path.join(below, name)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def endings() -> str:
    """The endings of image files, for messages."""
    return ", ".join(sorted(EXTENSIONS))


def to_input(
    image: UInt8[Tensor, "3 H W"], size: int, *, fit: Literal["middle", "whole"] = "middle"
) -> UInt8[Tensor, "3 S S"]:
    """A picture as a network sees it: `size` pixels a side, bilinear and anti-aliased as Pillow does it.

    `fit` is what is shown of a picture that is not square: its middle square, or the whole, squeezed. The one way from
    a picture to an input, so that training, evaluation and pictures of the same face have the same pixels; boxes around
    faces are cut by `fra.faces.geometry.crop_box`.
    """
    if fit == "middle":
        height, width = image.shape[1:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[:, top : top + side, left : left + side]
    if image.shape[1:] == (size, size):
        return image
    return F.interpolate(image[None], size=(size, size), mode="bilinear", antialias=True)[0]
