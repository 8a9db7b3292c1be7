"""Bytes of an image file to pixels. What kind it is says its content, and its size is bounded before it is decoded.

Few kinds are decoded, by a table of classes: Pillow itself knows forty more, some of which start other programs (EPS:
Ghostscript), and takes a file for whatever it looks like.
"""

import io
import re
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from fra.system.text import install

MOST_BYTES = 600_000_000
"""Of an image file (ours: 100 megapixels of 16 bits, not compressed)."""
MOST_PIXELS = 200_000_000
"""Of an image (ours: the largest that telephones take; 600 MB in memory)."""
MOST_SCANS = 500
"""Of a progressive JPEG (ours: programs write about ten, and each costs a pass over all pixels)."""

UPRIGHT = 1
_ORIENTATION = 0x0112  # the EXIF tag that says how the camera was held
_MOST_SEGMENTS = 10_000  # ours: of a JPEG before its pixels; photos have about twenty
_NO_FILL = re.compile(rb"[^\xff]")

_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
try:
    from PIL import AvifImagePlugin

    if AvifImagePlugin.SUPPORTED:
        _READERS["AVIF"] = AvifImagePlugin.AvifImageFile
except ImportError:  # before Pillow 11.3
    pass
try:
    from pillow_heif.as_plugin import HeifImageFile

    _READERS["HEIF"] = HeifImageFile
except ImportError:  # the extra `photos`
    pass

KINDS = tuple(_READERS)
"""What is decoded here, on this machine."""

_BEGINNINGS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"BM", "BMP"),
    *((prefix, "TIFF") for prefix in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (b"GIF8", "GIF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\0\x0cjP", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL", "JPEG XL"),
    (b"PK\x03\x04", "zip"),
)
_TEXTS = ((b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<svg", "SVG"), (b"<?xml", "XML"))
_HEIF = frozenset((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"))


def kind_of(content: bytes) -> str:
    """The kind of file by its first bytes, or "" for none that is known here."""
    for beginning, kind in _BEGINNINGS:
        if content.startswith(beginning):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WebP"
    if content[4:8] == b"ftyp":
        length = min(int.from_bytes(content[:4], "big"), 200)
        brands = {content[8:12], *(content[at : at + 4] for at in range(16, length, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIF" if brands & _HEIF else "video"
    start = content[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((kind for beginning, kind in _TEXTS if start.startswith(beginning)), "")


def decode(content: bytes, *, least_side: int | None = None) -> UInt8[Tensor, "3 H W"]:
    """Decode an image, turned upright as its EXIF orientation says (XMP and other blocks do not turn it).

    Grey becomes three equal channels, 16 bits become 8, CMYK and palettes become RGB, transparency is laid over
    white, an animation gives its first frame. With `least_side` a JPEG may be decoded at a half, quarter or eighth,
    which is faster, as long as its shorter side keeps so many pixels. ValueError for what is no image or too large;
    raises whatever the decoder raises when it is damaged.
    """
    kind = kind_of(content)
    if kind == "JPEG":
        return _decode_jpeg(content, least_side)
    picture = _open(content)
    require_bounded(picture.width, picture.height)
    if isinstance(picture, TiffImagePlugin.TiffImageFile):  # a tile may be larger than the image
        require_bounded(*(int(picture.tag_v2.get(tag, 1)) for tag in (322, 323)))  # TileWidth, TileLength
    picture.load()
    orientation = _orientation_of(picture)
    return turned(torch.from_numpy(np.array(_to_rgb(picture))).permute(2, 0, 1), orientation).contiguous()


@dataclass(frozen=True)
class Header:
    """What the header of an image file says."""

    width: int
    height: int
    """As they are stored, before the image is turned upright."""
    several: bool
    """Whether it holds further pictures, such as those of an animation."""


def header_of(content: bytes) -> Header:
    """Read a header. ValueError for what is no image; pixels and their number do not matter."""
    if kind_of(content) == "JPEG":  # the further pictures in a phone's photo are smaller versions of it
        found = jpeg_header(content)
        return Header(found.width, found.height, several=False)
    picture = _open(content)
    return Header(picture.width, picture.height, several=getattr(picture, "is_animated", False))


def _open(content: bytes) -> ImageFile.ImageFile:
    """An image of one of KINDS as Pillow sees it, its header read, its pixels not decoded.

    Not turned upright: of a TIFF alone Pillow does that, when it decodes.
    """
    kind = kind_of(content)
    if kind not in _READERS:
        raise ValueError(_not_read(kind) if content else "the file is empty")
    try:
        picture = _READERS[kind](io.BytesIO(_essential_png(content) if kind == "PNG" else content))
    except SyntaxError as error:  # how Pillow says that it does not know a file
        raise ValueError(f"a damaged {kind} ({error})") from error
    for name in ("xmp", "XML:com.adobe.xmp"):  # Pillow would turn a photo by it
        picture.info.pop(name, None)
    return picture


def require_bounded(width: int, height: int) -> None:
    """ValueError for more than MOST_PIXELS."""
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{width:,} x {height:,} pixels are {width * height / 1e6:,.0f} megapixels; the limit is "
            f"{MOST_PIXELS / 1e6:,.0f}"
        )


def _not_read(kind: str) -> str:
    if not kind:
        return "not an image"
    hint = "" if kind != "HEIF" else f"; to read it, {install('photos')}"
    return f"not a supported image format ({', '.join(KINDS)}); it looks like {kind}{hint}"


# --- orientation


def turned(image: UInt8[Tensor, "3 _ _"], orientation: int) -> UInt8[Tensor, "3 _ _"]:
    """An image upright, given its EXIF orientation (1 to 8; anything else counts as upright)."""
    if orientation == 2:
        return image.flip(2)
    if orientation == 3:
        return image.flip(1, 2)
    if orientation == 4:
        return image.flip(1)
    if orientation == 5:
        return image.transpose(1, 2)
    if orientation == 6:
        return image.rot90(-1, (1, 2))
    if orientation == 7:
        return image.transpose(1, 2).flip(1, 2)
    if orientation == 8:
        return image.rot90(1, (1, 2))
    return image


def exif_orientation(block: bytes) -> int:
    """The orientation in an EXIF block (a TIFF header and its first directory), or UPRIGHT where it says none."""
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return UPRIGHT
    try:
        (directory,) = struct.unpack_from(order + "I", block, 4)
        (entries,) = struct.unpack_from(order + "H", block, directory)
        for entry in range(entries):
            at = directory + 2 + 12 * entry
            tag, kind = struct.unpack_from(order + "HH", block, at)
            if tag == _ORIENTATION:
                return int(struct.unpack_from(order + ("I" if kind == 4 else "H"), block, at + 8)[0])
    except struct.error:  # cut off
        pass
    return UPRIGHT


def _orientation_of(picture: Image.Image) -> int:
    """How to turn a picture that has been loaded."""
    if isinstance(picture, TiffImagePlugin.TiffImageFile):  # turned by Pillow itself, which takes the tag away
        return int(picture.tag_v2.get(_ORIENTATION, UPRIGHT))
    return exif_orientation(picture.info.get("exif") or b"")  # HEIF without EXIF says None


# --- JPEG


@dataclass(frozen=True)
class JpegHeader:
    """What stands before the pixels of a JPEG."""

    width: int
    height: int
    channels: int
    progressive: bool
    exif: bytes


def jpeg_header(content: bytes) -> JpegHeader:
    """Read the segments of a JPEG up to its pixels, as libjpeg finds them. ValueError when there are none.

    Pillow says the same, but takes as long as a third of the decoding of a small face.
    """
    at, frame, exif = 2, None, b""
    for _ in range(_MOST_SEGMENTS):
        begin = content.find(b"\xff", at)
        found = _NO_FILL.search(content, begin) if begin >= 0 else None
        if found is None:
            break
        at, marker = found.end(), content[found.start()]
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # has no length
            continue
        length = int.from_bytes(content[at : at + 2], "big")
        if marker == 0xDA:  # the pixels begin
            if frame is None:
                break
            return JpegHeader(*frame, exif)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and frame is None:
            height, width = (int.from_bytes(content[at + start : at + start + 2], "big") for start in (3, 5))
            frame = width, height, content[at + 7] if at + 7 < len(content) else 0, marker == 0xC2
        elif marker == 0xE1 and content[at + 2 : at + 8] == b"Exif\0\0":
            exif += content[at + 8 : at + length]
        at += length
    raise ValueError("the JPEG is truncated or damaged: no pixels follow its header")


def _decode_jpeg(content: bytes, least_side: int | None) -> UInt8[Tensor, "3 H W"]:
    header = jpeg_header(content)
    require_bounded(header.width, header.height)
    if header.progressive and (scans := content.count(b"\xff\xda")) > MOST_SCANS:
        raise ValueError(f"the JPEG has {scans:,} scans; the limit is {MOST_SCANS}")
    reduced = least_side is not None and min(header.width, header.height) >= 2 * least_side
    try:
        if header.channels in (1, 3) and not reduced:
            image = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
        else:
            image = _by_pillow(content, least_side)
    except (RuntimeError, OSError):
        whole = _without_end_marker(content)
        if whole is None:
            raise
        image = whole
    return turned(image, exif_orientation(header.exif)).contiguous()


def _by_pillow(content: bytes, least_side: int | None = None) -> UInt8[Tensor, "3 H W"]:
    picture = JpegImagePlugin.JpegImageFile(io.BytesIO(content))
    if least_side is not None:
        picture.draft(picture.mode, (least_side, least_side))  # the smallest scale of libjpeg that is large enough
    return torch.from_numpy(np.array(_to_rgb(picture))).permute(2, 0, 1)


def _without_end_marker(content: bytes) -> UInt8[Tensor, "3 H W"] | None:
    """A JPEG whose pixels are all there and only whose end marker is missing; None for one that is cut off.

    Where pixels are missing they are made of whatever follows. So the picture is whole if it does not depend on that.
    """
    if content.endswith(bytes(16)):  # a download that was begun and not finished
        return None
    try:
        image, *others = (_by_pillow(content + more + b"\xff\xd9") for more in (b"", b"\x55" * 512, b"\xaa" * 512))
    except Exception:  # what is wrong with it, the first attempt has said
        return None
    return image if all(torch.equal(image, other) for other in others) else None


# --- PNG


_KEPT = (b"tRNS", b"eXIf")


def _essential_png(content: bytes) -> bytes:
    """A PNG reduced to what its pixels and orientation depend on.

    Texts, profiles and the like may be longer than Pillow allows or have a wrong checksum, which it takes for the end
    of the file; libpng, and so other programs, pass over them.
    """
    view, at = memoryview(content), 8
    parts = [view[:at]]
    while at + 12 <= len(content):
        length, name = int.from_bytes(view[at : at + 4], "big"), content[at + 4 : at + 8]
        chunk = view[at : at + 12 + length]
        critical = name[:1].isupper()  # damage in it is for the decoder to say
        if critical or (name in _KEPT and chunk[-4:] == zlib.crc32(chunk[4:-4]).to_bytes(4, "big")):
            parts.append(chunk)
        if name == b"IEND":
            break
        at += 12 + length
    return b"".join(parts)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if picture.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip at 255 instead of scaling
        values = np.clip(np.asarray(picture).astype(np.int64), 0, 65535) >> 8
        picture = Image.fromarray(values.astype(np.uint8))
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        above = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    picture.load()
    return picture if picture.mode == "RGB" else picture.convert("RGB")
