"""Crops into WebDataset shards: plain .tar files of KEY.jpg and KEY.json, the same bytes however often it was stopped.

A shard grows under a hidden name. It gets its own name when it is full and the journal has counted it, so that
readers see whole shards only. What was written after the journal's last position is cut off when the run goes on.
"""

import json
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from fra.crop.cut import COLUMNS, POINT_COLUMNS, Made, Row
from fra.files import reading
from fra.pools.shards import load_index
from fra.system.printable import counted

FOLDER = "shards"
AGAIN = "restore it from a backup, or remove .position.json beside its folder and crop all photos again with --resume"


@dataclass(frozen=True)
class ShardPosition:
    """How far the shards are complete."""

    faces: int = 0
    bytes: int = 0
    """Size of the shard that the next face goes into."""


class ShardWriter:
    """Writes below `out`/shards, from a position on; the n-th shard begins with face number n * `shard_faces`.

    The first `sent` shards have been sent elsewhere. First `publish` what a killed run had not; then `add` faces,
    `sync`, let the journal keep the position, `publish`. ValueError when a shard that was begun is no longer there.
    """

    def __init__(self, out: Path, position: ShardPosition, *, shard_faces: int, sent: int = 0) -> None:
        self.folder, self.shard_faces, self.faces = out / FOLDER, shard_faces, position.faces
        self._stream: BinaryIO | None = None
        self._published = self.sent = sent
        for file in self.folder.glob(".*"):  # what a killed run had begun beyond the position
            number = re.fullmatch(r"\.faces-(\d+)\.tar", file.name)
            if number is None or int(number[1]) > self._shard or (int(number[1]) == self._shard and not position.bytes):
                file.unlink()
        growing, final = self._growing(self._shard), self.folder / self._name(self._shard)
        if growing.exists() and growing.stat().st_size >= position.bytes:
            self._stream = _open(growing, "r+b")
            self._stream.truncate(position.bytes)
            self._stream.seek(position.bytes)
        elif (
            position.bytes and not final.exists() and self._shard >= sent
        ):  # a finished run has published its last shard
            raise ValueError(f"{growing} is shorter than when it was written: {AGAIN}")

    def add(self, made: Made) -> Row:
        """Write a crop and what is known about it; returns its row of crops.csv, with its place in it."""
        if not made.content:
            return made.row
        key, shard = f"{self.faces:09}", self._name(self._shard)
        if self._stream is None:
            self._stream = _open(self._growing(self._shard), "wb")
        for ending, content in (("jpg", made.content), ("json", _description(made.row))):
            self._stream.write(_member(f"{key}.{ending}", content))
        self.faces += 1
        if self.faces % self.shard_faces == 0:
            self._end()
        row = list(made.row)
        row[COLUMNS.index("crop")] = f"{FOLDER}/{shard}/{key}.jpg"
        return tuple(row)

    def sync(self) -> ShardPosition:
        """Force what was added to disk."""
        if self._stream is None:
            return ShardPosition(self.faces)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return ShardPosition(self.faces, self._stream.tell())

    def publish(self) -> None:
        """Give the full shards their names, and an index each."""
        while self._published < self._shard:
            self._show(self._published, self.shard_faces)
            self._published += 1

    def finish(self) -> None:
        """Publish the last shard too, full or not."""
        if self._stream is not None:
            self._end()
        if self.faces % self.shard_faces:
            self._show(self._shard, self.faces % self.shard_faces)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    @property
    def _shard(self) -> int:
        return self.faces // self.shard_faces

    def _name(self, shard: int) -> str:
        return f"faces-{shard:06}.tar"

    def _growing(self, shard: int) -> Path:
        return self.folder / f".{self._name(shard)}"

    def _end(self) -> None:
        """Close the archive as `tar` does: two empty blocks, and zeros up to a multiple of 20 blocks."""
        assert self._stream is not None
        size = self._stream.tell() + 2 * tarfile.BLOCKSIZE
        self._stream.write(bytes(2 * tarfile.BLOCKSIZE + -size % tarfile.RECORDSIZE))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._stream = None

    def _show(self, shard: int, faces: int) -> None:
        """Raises DamagedFile when what a shard holds is not as many faces."""
        if shard < self.sent:
            return
        final = self.folder / self._name(shard)
        if self._growing(shard).exists():
            os.replace(self._growing(shard), final)
        with reading(final, AGAIN):
            os.stat(final)
            found = len(load_index(final))
            if found != faces:
                raise ValueError(f"it holds {counted(found, 'face')}, not {faces:,}")


def _open(path: Path, mode: Literal["r+b", "wb"]) -> BinaryIO:
    return open(path, mode)


def shard_files(out: Path) -> list[Path]:
    """The shards that are complete, in order."""
    return sorted((out / FOLDER).glob("faces-*.tar"))


def _member(name: str, content: bytes) -> bytes:
    """Header, content and filling of a file in a .tar, without a date or an owner."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _description(row: Row) -> bytes:
    """A row of crops.csv as JSON: photo, box, points (or null) and score."""
    cells = dict(zip(COLUMNS, row, strict=True))
    points = [float(cells[name]) for name in POINT_COLUMNS if cells[name]]
    known = dict(
        photo=cells["photo"],
        box=[float(cells[name]) for name in ("x1", "y1", "x2", "y2")],
        points=[points[start : start + 2] for start in range(0, len(points), 2)] or None,
        score=float(cells["score"]),
    )
    return (json.dumps(known) + "\n").encode("ascii")
