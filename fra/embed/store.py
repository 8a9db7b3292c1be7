"""What `fra embed` keeps while it runs, and the tables that it makes of it: features.npz, features.parquet.

N faces, C features. After every group of photos its features and a line for each photo are forced to disk, and only
then the position is replaced whole: whatever ends the run, everything up to there is complete, and what follows is cut
off when it goes on. Of each face a few numbers are held in memory, of features only what is being copied.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float32, Int32

from fra.files import atomic, read_json, reading, sealed, unsealed, write_json
from fra.system.printable import printable

FEATURES, PHOTOS, POSITION = ".features.raw", ".photos.jsonl", ".position.json"
AGAIN = "remove all three files .features.raw, .photos.jsonl and .position.json, and compute all again with --resume"
ROWS = 2048
"""Faces that are copied, or compared with as many others, at once."""

Line = dict[str, Any]
"""A photo: `boxes` and `scores` of its faces; `unreadable`, or its `size` where it has none."""


class Journal:
    """Opens the files in `out` at the last complete position; `photos` are complete, with `faces` in all of them."""

    def __init__(self, out: Path, channels: int) -> None:
        self._out, self._width = out, 4 * channels
        self.photos = self.faces = self._lines = self._sum = 0
        if os.path.lexists(out / POSITION):
            with reading(out / POSITION, AGAIN):
                position = read_json(out / POSITION, AGAIN)
                self.photos, self.faces = int(position["photos"]), int(position["faces"])
                self._lines, self._sum = int(position["lines"]), int(position["crc32_of_features"])
            _require_sum(out / FEATURES, self.faces * self._width, self._sum)
        with ExitStack() as opened:
            self._features = opened.enter_context(_opened(out / FEATURES, self.faces * self._width))
            self._photos = opened.enter_context(_opened(out / PHOTOS, self._lines))
            self._close = opened.pop_all().close

    def append(self, features: Float32[np.ndarray, "B C"], lines: Sequence[Line]) -> None:
        """Add the next photos, and the features of all their faces."""
        content = features.astype("<f4").tobytes()
        text = "".join(sealed(json.dumps(line)) + "\n" for line in lines).encode()
        for stream, part in ((self._features, content), (self._photos, text)):
            stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        self.photos += len(lines)
        self.faces += len(features)
        self._lines += len(text)
        self._sum = zlib.crc32(content, self._sum)
        position = {"photos": self.photos, "faces": self.faces, "lines": self._lines, "crc32_of_features": self._sum}
        write_json(self._out / POSITION, position)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()


def _opened(path: Path, size: int) -> BinaryIO:
    with reading(path, AGAIN):
        stream = open(path, "r+b" if size else "wb")  # noqa: SIM115 (the journal closes it)
        stream.truncate(size)
        stream.seek(size)
    return stream


def _require_sum(path: Path, size: int, written: int) -> None:
    """DamagedFile when the first `size` bytes are not as they were written."""
    value, left = 0, size
    with reading(path, AGAIN), open(path, "rb") as stream:
        while left and (content := stream.read(min(left, 1 << 20))):
            value, left = zlib.crc32(content, value), left - len(content)
        if left:
            raise ValueError("it is shorter than when it was written")
        if value != written:
            raise ValueError("its checksum does not match")


@dataclass(frozen=True, eq=False)
class Faces:
    """All faces in the order of the photos, the surest of each photo first."""

    out: Path
    channels: int
    photo_name: Callable[[int], str]
    """What the photo of a number is called."""
    photo: Int32[np.ndarray, "N"]
    """The number of the photo that a face is in."""
    number: Int32[np.ndarray, "N"]
    """The number of the face in its photo, from 0."""
    boxes: Float32[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, "N"]

    def __len__(self) -> int:
        return len(self.photo)

    @cached_property
    def features(self) -> Float32[np.ndarray, "N C"]:
        """Read from disk as far as they are looked at."""
        return np.memmap(self.out / FEATURES, "<f4", "r", shape=(len(self), self.channels))

    def name(self, face: int) -> str:
        """The photo of a face, relative to the input folder."""
        return self.photo_name(int(self.photo[face]))

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Where to begin and end, so many faces at a time as are copied at once."""
        for first in range(0, len(self), ROWS):
            yield first, min(first + ROWS, len(self))


def read_lines(out: Path) -> Iterator[Line]:
    """What the journal says of each photo, in order. Raises DamagedFile."""
    with open(out / PHOTOS, encoding="utf-8") as stream:
        for text in stream:
            with reading(out / PHOTOS, AGAIN):
                line = json.loads(unsealed(text.rstrip("\n")))
                assert len(line["boxes"]) == len(line["scores"])
            yield line


def read_faces(
    out: Path, channels: int, photo_name: Callable[[int], str], *, look: Callable[[int, Line], None]
) -> Faces:
    """The faces of a finished journal; `look` sees the number and line of each photo."""
    parts: list[tuple[np.ndarray, ...]] = []
    for place, line in enumerate(read_lines(out)):
        look(place, line)
        count = len(line["boxes"])
        if count:
            boxes = np.array(line["boxes"], np.float32).reshape(-1, 4)
            scores = np.array(line["scores"], np.float32)
            parts.append((np.full(count, place, np.int32), np.arange(count, dtype=np.int32), boxes, scores))
        if len(parts) > ROWS:
            parts = [_joined(parts)]
    if not parts:
        none = np.empty(0, np.int32)
        return Faces(out, channels, photo_name, none, none, np.empty((0, 4), np.float32), np.empty(0, np.float32))
    return Faces(out, channels, photo_name, *_joined(parts))


def _joined(parts: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def write_npz(path: Path, faces: Faces) -> None:
    """Write `features` (N, C), `files`, `faces`, `boxes` (N, 4) and `scores`; equal faces give equal bytes."""
    longest = max(len(faces.name(face)) for face in range(len(faces)))
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:

        def write(name: str, kind: Any, shape: tuple[int, ...], part: Callable[[int, int], np.ndarray]) -> None:
            # A name alone has the year 1980 as its date; the same faces shall give the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (len(faces), *shape)}
                np.lib.format.write_array_header_1_0(stream, header)
                for first, end in faces.blocks():
                    stream.write(np.ascontiguousarray(part(first, end), kind).tobytes())

        write("features", "<f4", (faces.channels,), lambda first, end: faces.features[first:end])
        write(
            "files",
            f"<U{longest}",
            (),
            lambda first, end: np.array([faces.name(face) for face in range(first, end)], f"<U{longest}"),
        )
        write("faces", "<i4", (), lambda first, end: faces.number[first:end])
        write("boxes", "<f4", (4,), lambda first, end: faces.boxes[first:end])
        write("scores", "<f4", (), lambda first, end: faces.scores[first:end])


def write_parquet(path: Path, faces: Faces) -> bool:
    """Write `path`, `face`, `box`, `score` and `vector`, a row per face; False where pyarrow is missing."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return False
    number = pyarrow.float32()
    schema = pyarrow.schema(
        {
            "path": pyarrow.string(),
            "face": pyarrow.int32(),
            "box": pyarrow.list_(number, 4),
            "score": number,
            "vector": pyarrow.list_(number, faces.channels),
        }
    )
    with atomic(path) as temporary, closing(parquet.ParquetWriter(temporary, schema)) as writer:
        for first, end in faces.blocks():
            vectors = np.array(faces.features[first:end])
            columns = [
                pyarrow.array([printable(faces.name(face)) for face in range(first, end)], pyarrow.string()),
                pyarrow.array(faces.number[first:end]),
                pyarrow.FixedSizeListArray.from_arrays(faces.boxes[first:end].ravel(), 4),
                pyarrow.array(faces.scores[first:end]),
                pyarrow.FixedSizeListArray.from_arrays(vectors.ravel(), faces.channels),
            ]
            writer.write_table(pyarrow.table(columns, schema=schema))
    return True
