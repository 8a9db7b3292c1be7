"""Reading and writing images. In memory an image is RGB, uint8, (3, H, W), upright."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor
from torchvision.io import encode_jpeg, encode_png

from fra.faces.decode import KINDS, MOST_BYTES, Header, decode, header_of
from fra.faces.silent import silent
from fra.files import atomic, open_regular
from fra.system.printable import printable

_OPTIONAL = {".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF"}
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"}
    | {ending for ending, kind in _OPTIONAL.items() if kind in KINDS}
)
"""Files of a folder that end so are taken for images; what they are says their content."""
JPEG_QUALITY = 95  # ours: crops are compressed once more, and must not show it

Result = TypeVar("Result")


class UnreadableImage(ValueError):
    """One file cannot be decoded; `reason` is one line without the path."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path if "://" in str(path) else Path(path)  # an address is no path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the image {printable(self.path)}: {printable(self.reason)}"


def read_image(path: Path | str, *, least_side: int | None = None) -> UInt8[Tensor, "3 H W"]:
    """Decode one image file, as `fra.faces.decode` says: by its content, upright, in RGB, within bounds.

    With `least_side` a large JPEG may be decoded at a half, quarter or eighth, as long as its shorter side keeps so
    many pixels: for images that are reduced anyway. Raises UnreadableImage, also for a missing file and for anything
    that is no regular file.
    """
    return image_from_bytes(_read(path), path, least_side=least_side)


def read_header(path: Path | str) -> Header:
    """What the header of an image file says; its pixels are not decoded. Raises UnreadableImage."""
    return header_from_bytes(_read(path), path)


def header_from_bytes(content: bytes, path: Path | str) -> Header:
    """What `read_header` says of the bytes of an image file."""
    return _explained(path, lambda: header_of(content))


def image_from_bytes(content: bytes, path: Path | str, *, least_side: int | None = None) -> UInt8[Tensor, "3 H W"]:
    """Decode the bytes of an image file as `read_image` does; `path` is what UnreadableImage calls it."""
    return _explained(path, lambda: decode(content, least_side=least_side))


def _read(path: Path | str) -> bytes:
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            content = stream.read(size) if size <= MOST_BYTES else b""  # not to its end: some files of /proc have none
    except OSError as error:
        raise UnreadableImage(path, error.strerror or type(error).__name__) from error
    except ValueError as error:  # a zero byte in a name
        raise UnreadableImage(path, _one_line(error)) from error
    if size > MOST_BYTES:
        raise UnreadableImage(path, too_many_bytes(size))
    return content


def too_many_bytes(size: int) -> str:
    """The reason not to read a file of so many bytes."""
    return f"the file has {size / 1e6:,.0f} MB; the limit is {MOST_BYTES / 1e6:,.0f}"


def _explained(path: Path | str, work: Callable[[], Result]) -> Result:
    try:
        with silent:
            return work()
    except MemoryError as error:
        raise UnreadableImage(path, "not enough memory to decode it") from error
    except Exception as error:  # damaged files raise nearly anything inside a decoder
        raise UnreadableImage(path, _one_line(error)) from error


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
