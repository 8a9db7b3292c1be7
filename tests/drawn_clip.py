"""A clip of drawn faces that move over a background, with known truth."""

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from fra.drawing.drawn_face import draw_face

SIDE = 112


@dataclass(frozen=True)
class DrawnClip:
    """Where everything is."""

    path: Path
    seconds: list[float]
    """Of each frame."""
    places: list[list[tuple[float, float]]]
    """Per face and frame the left upper corner of its picture, which is SIDE pixels wide."""
    frames: list[Tensor]


def draw_clip(
    path: Path,
    *,
    count: int = 24,
    faces: tuple[int, ...] = (3, 7),
    size: tuple[int, int] = (320, 200),
    even: bool = True,
    rotation: int = 0,
    sound: str | None = None,
) -> DrawnClip:
    """`faces` are seeds; each moves along its own wave. Frames last 40 ms, or when not `even` 20 and 100 in turn.

    The clip says that it is to be turned clockwise by `rotation`, and its pixels are turned the other way.
    """
    width, height = size
    drawn = [draw_face(seed, size=SIDE).image for seed in faces]
    seconds, now = [], 0
    for number in range(count):
        seconds.append(now / 1000)
        now += 40 if even else (20, 100)[number % 2]
    lanes = width // max(1, len(faces))
    places = [
        [
            (
                lane * lanes + (lanes - SIDE) * (0.5 + 0.4 * math.sin(3 * at + lane)),
                (height - SIDE) * (0.5 + 0.4 * math.cos(3 * at)),
            )
            for at in seconds
        ]
        for lane in range(len(faces))
    ]
    frames = []
    for number in range(count):
        frame = torch.full((3, height, width), 90, dtype=torch.uint8)
        for image, way in zip(drawn, places, strict=True):
            x, y = round(way[number][0]), round(way[number][1])
            frame[:, y : y + SIDE, x : x + SIDE] = image
        frames.append(frame)
    with av.open(str(path), "w") as container:
        odd = width % 2 or height % 2  # which H.264 does not take
        stream = container.add_stream(
            *(("mjpeg", 25) if odd else ("libx264", 25)), options={} if odd else {"crf": "12"}
        )
        turned = torch.rot90(frames[0], rotation // 90, (1, 2))
        stream.width, stream.height, stream.pix_fmt = turned.shape[2], turned.shape[1], "yuvj420p" if odd else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        beside = container.add_stream(sound, rate=16000) if sound else None
        for at, frame in zip(seconds, frames, strict=True):
            pixels = torch.rot90(frame, rotation // 90, (1, 2)).permute(1, 2, 0).contiguous().numpy()
            shown = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            shown.pts, shown.time_base = round(at * 1000), Fraction(1, 1000)
            container.mux(stream.encode(shown))
        container.mux(stream.encode())
        if beside:
            wave = (8000 * np.sin(np.arange(int(16000 * now / 1000)) * 0.2)).astype(np.int16)[None]
            heard = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            heard.sample_rate, heard.pts = 16000, 0
            container.mux(beside.encode(heard))
            container.mux(beside.encode())
    if rotation:
        _say_turned(path, rotation)
    return DrawnClip(path, seconds, places, frames)


def _say_turned(path: Path, degrees: int) -> None:
    """Write the matrix that turns clockwise into the first track's header, as a telephone does."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44  # behind the version, times, number, length, layer and volume
    cosine, sine = round(math.cos(math.radians(degrees))), round(math.sin(math.radians(degrees)))
    matrix = struct.pack(">9i", cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30)
    content[at : at + 36] = matrix
    path.write_bytes(content)
