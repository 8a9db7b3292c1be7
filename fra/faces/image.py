"""Reading, writing and finding images. In memory an image is RGB, uint8, (3, H, W), upright."""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
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
    with Image.open(io.BytesIO(content)) as picture:  # reads the header only
        plain = picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L")
        if plain and picture.getexif().get(_ORIENTATION) in _UPRIGHT:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            return decode_jpeg(data, mode=ImageReadMode.RGB)
        picture.seek(0)
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        return torch.from_numpy(np.array(_to_rgb(upright))).permute(2, 0, 1).contiguous()


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
    """A decoder's message without line breaks and without the memory addresses that Pillow prints."""
    text = re.sub(r"<[^>]* object at 0x[0-9a-f]+>", "the file", str(error))
    return (" ".join(text.split()) or type(error).__name__)[:200]


def write_image(path: Path | str, image: UInt8[Tensor, "3 H W"]) -> None:
    """Write a .jpg (quality 95) or .png whole or not at all; ValueError for any other ending, OSError as it comes."""
    path = Path(path)
    ending = path.suffix.lower()
    if ending in (".jpg", ".jpeg"):
        data = encode_jpeg(image.contiguous().cpu(), quality=JPEG_QUALITY)
    elif ending == ".png":
        data = encode_png(image.contiguous().cpu())
    else:
        raise ValueError(f"cannot write {path.name}: images are written as .jpg or .png")
    with atomic(path) as temporary:
        temporary.write_bytes(data.numpy().tobytes())


def image_files(path: Path | str) -> list[Path]:
    """The images of a folder tree in sorted order, of a .txt list in its own order, or one single image.

    A folder made by `fra crop` stands for the `crops` inside it. Hidden files and folders are left out. Lines of a
    list are relative to the list's folder; blank lines and lines that begin with # do not count, and a path that
    appears twice counts once. Whether a listed file exists is found out by reading it. ValueError when there is
    nothing at `path`, or no image in it.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is nothing at {path}: give a folder of images, or a .txt list with one path a line")
    if path.is_file():
        if path.suffix.lower() == ".txt":
            return _listed(path)
        if path.suffix.lower() not in EXTENSIONS:
            raise ValueError(f"{path} is neither an image nor a folder nor a .txt list: expected {_endings()}")
        return [path]
    folder = image_folder(path)
    files = sorted(_below(folder))
    if not files:
        raise ValueError(f"no images below {folder}: expected files that end in {_endings()}")
    return files


def image_folder(path: Path | str) -> Path:
    """The folder itself, or the `crops` inside a folder made by `fra crop`, beside which its contact sheet lies."""
    path = Path(path)
    made_by_crop = (path / "crop.yaml").is_file() and (path / "crops").is_dir()
    return path / "crops" if made_by_crop else path


def _listed(path: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file: expected one image path a line, in UTF-8") from None
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise ValueError(f"the list {path} is empty: expected one image path a line")
    return [Path(name) for name in dict.fromkeys(os.path.normpath(path.parent / name) for name in names)]


def _below(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()  # a linked folder is followed, a circle of links is not
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield Path(parent, name)


def _endings() -> str:
    return ", ".join(sorted(EXTENSIONS))
