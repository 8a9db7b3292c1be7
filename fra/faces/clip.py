"""Video clips: frames in and frames out, one after another, whatever the length (extra `video`). H x W pixels.

Frames are upright (as the clip's rotation says) and at their own times, which need not be even.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fra.system.printable import printable
from fra.system.text import install

ENDINGS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".3gp", ".wmv"}
COPIED = {"aac", "mp3", "ac3", "eac3", "alac", "opus"}
"""Sound that an .mp4 takes as it is; other sound is written as AAC."""
QUALITY = {"crf": "20", "preset": "veryfast"}
"""Of H.264: hardly worse than what it was made from."""


@dataclass(frozen=True)
class Frame:
    """A frame, in the order in which frames are shown."""

    number: int
    """From 0; frames that cannot be read count too."""
    seconds: float
    """From the clip's own zero."""
    image: UInt8[Tensor, "3 H W"] | None
    """None when it cannot be read."""
    at: int = 0
    """`seconds` in units of the clip."""


@dataclass(frozen=True)
class Clip:
    """What a clip's file says of itself, H x W as it is shown."""

    path: Path
    height: int
    width: int
    frames: int | None
    """Their number, if the file tells it or its length; not always exactly."""
    rate: float | None
    """Frames a second on average."""
    sound: bool

    @classmethod
    def open(cls, path: Path) -> "Clip":
        """Raises ValueError for what is no clip, or has no frame that can be read."""
        with _opened(path) as container:
            stream = _video(container, path)
            rate = float(stream.average_rate) if stream.average_rate else None
            count = stream.frames or None
            if count is None and rate and container.duration:
                count = round(rate * container.duration / 1_000_000)
            sound = bool(container.streams.audio)
        first = next((frame.image for frame in frames_of(path) if frame.image is not None), None)
        if first is None:
            raise ValueError(f"no frame of {printable(path)} can be read: is the file complete?")
        return cls(path, first.shape[1], first.shape[2], count, rate, sound)


def is_clip(path: Path | str) -> bool:
    """Whether a path is called as clips are."""
    return Path(path).suffix.lower() in ENDINGS


def frames_of(path: Path) -> Iterator[Frame]:
    """All frames in order, one in memory at a time. Raises ValueError for what is no clip."""
    av = _av()
    with _opened(path) as container:
        stream = _video(container, path)
        stream.thread_type = "AUTO"
        unit, number, last = stream.time_base or Fraction(1, 1000), 0, -1
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
                decoded = packet.decode()
            except (StopIteration, av.error.EOFError):
                return
            except av.error.FFmpegError:  # damaged there; what follows may be whole
                last += 1
                yield Frame(number, float(last * unit), None, last)
                number += 1
                continue
            for frame in decoded:
                # Times that are missing or run backwards would stop every player.
                last = max(last + 1, frame.pts if frame.pts is not None else last + 1)
                yield Frame(number, float(last * unit), None if frame.is_corrupt else _upright(frame), last)
                number += 1


def _upright(frame: Any) -> UInt8[Tensor, "3 H W"]:
    image = torch.from_numpy(np.ascontiguousarray(frame.to_ndarray(format="rgb24"))).permute(2, 0, 1)
    return torch.rot90(image, _turns(frame), (1, 2)).contiguous()


def _turns(frame: Any) -> int:
    """Quarter turns, counterclockwise, that make it upright."""
    return round(frame.rotation / 90)


class ClipWriter:
    """Frames as H.264 in an .mp4, at the times that they have in the clip `like`, with its sound.

    An odd row or column at the edge is left out, as H.264 needs. Use as a context: leaving it closes the file.
    """

    def __init__(self, path: Path, *, like: Clip) -> None:
        self.path, self.like, self._opened = path, like, ExitStack()

    def __enter__(self) -> "ClipWriter":
        with ExitStack() as opened:
            source = opened.enter_context(_opened(self.like.path))
            self._container = opened.enter_context(_av().open(str(self.path), "w", format="mp4"))
            stream = _video(source, self.like.path)
            self._stream = self._container.add_stream("libx264", rate=stream.average_rate or 25, options=QUALITY)
            self._stream.width, self._stream.height = self.like.width // 2 * 2, self.like.height // 2 * 2
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = self._unit = stream.time_base or Fraction(1, 1000)
            self._sound = _Sound(source, self._container) if self.like.sound else None
            self._opened = opened.pop_all()
        return self

    def write(self, frame: Frame, image: UInt8[Tensor, "3 H W"]) -> None:
        """`image` in place of the frame's own."""
        if self._sound:
            self._sound.up_to(frame.seconds)
        pixels = image[:, : self._stream.height, : self._stream.width].permute(1, 2, 0).contiguous().numpy()
        shown = _av().VideoFrame.from_ndarray(pixels, format="rgb24")
        shown.pts, shown.time_base = frame.at, self._unit
        self._container.mux(self._stream.encode(shown))

    def __exit__(self, kind: object, *error: object) -> None:
        with self._opened:
            if kind is None:
                if self._sound:
                    self._sound.up_to(None)
                self._container.mux(self._stream.encode())


class _Sound:
    """The first sound of a clip on its way into another, as far as the frames are."""

    def __init__(self, source: Any, target: Any) -> None:
        stream = source.streams.audio[0]
        self._target, self._copied = target, stream.codec_context.name in COPIED
        self._out = (
            target.add_stream_from_template(stream) if self._copied else target.add_stream("aac", stream.rate or 48000)
        )
        self._packets = source.demux(stream)
        self._seconds = -1.0

    def up_to(self, seconds: float | None) -> None:
        """Everything before that time; None is all of it."""
        error = _av().error.FFmpegError
        while seconds is None or self._seconds < seconds:
            try:
                packet = next(self._packets)
                if packet.dts is None:  # the end
                    break
                if packet.pts is not None:
                    self._seconds = float(packet.pts * packet.time_base)
                if self._copied:
                    packet.stream = self._out
                    self._target.mux(packet)
                else:
                    for frame in packet.decode():
                        frame.pts = None
                        self._target.mux(self._out.encode(frame))
            except (StopIteration, _av().error.EOFError):
                break
            except error:  # a damaged piece is left out
                continue
        if seconds is None and not self._copied:
            self._target.mux(self._out.encode())


def _opened(path: Path) -> Any:
    """The file. Raises ValueError when it is no clip, or cannot be opened."""
    av = _av()
    try:
        return av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{printable(path)} cannot be read as a video: {reason}") from None


def _video(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise ValueError(f"{printable(path)} has no pictures, only {', '.join(s.type for s in container.streams)}")
    return container.streams.video[0]


def _av() -> ModuleType:
    """PyAV. Raises ValueError that says how to install it."""
    try:
        import av
        import av.error
        import av.logging
    except ImportError:
        raise ValueError(f"to read video clips, {install('video')}") from None
    av.logging.set_level(None)  # FFmpeg's own lines about damaged frames; they are counted
    return av
