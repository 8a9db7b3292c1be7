"""crops.csv while it grows: rows in the order of the photos, and how far it is complete.

After every chunk of photos its rows (and shards) are forced to disk, and only then the position is replaced whole.
Whatever ends the run, everything up to the position is complete; what follows is cut off when the run goes on.
"""

import io
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from fra.crop.cut import COLUMNS, Row
from fra.crop.shards import ShardPosition
from fra.files import read_json, reading, write_json
from fra.system.cells import read_cells, write_cells
from fra.system.printable import counted

TABLE, POSITION = "crops.csv", ".position.json"
SUM_OF_TABLE = "crc32_of_table"
AGAIN = "restore it from a backup, or remove it and crop all photos again with --resume"
TABLE_AGAIN = f"restore it from a backup, or remove {POSITION} beside it and crop all photos again with --resume"


class Journal:
    """Opens crops.csv at the last complete position; `photos` are complete, and `shards` up to where it says."""

    def __init__(self, out: Path) -> None:
        self._position = out / POSITION
        self.photos, self.shards, self._size, self._sum = 0, ShardPosition(), 0, 0
        position = read_position(out)
        if position:
            with reading(self._position, AGAIN):
                self.photos, self._size = int(position["photos"]), int(position["bytes"])
                self.shards = ShardPosition(**position.get("shards", {}))
            self._sum = _sum(out / TABLE, self._size, position.get(SUM_OF_TABLE))
        elif (out / TABLE).is_dir():
            raise ValueError(f"{out / TABLE} is a folder, but the table is written there: move the folder")
        self._stream = open(out / TABLE, "r+b" if self._size else "wb")  # noqa: SIM115 (closed on exit)
        self._stream.seek(self._size)
        self._stream.truncate()
        if not self._size:
            self._write([COLUMNS])

    def append(self, rows: Sequence[Row], *, photos: int, shards: ShardPosition | None = None) -> None:
        """Add the rows of the next `photos` photos, whose crops are on disk."""
        self._write(rows)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.photos += photos
        position = {"photos": self.photos, "bytes": self._size, SUM_OF_TABLE: self._sum}
        write_json(self._position, position | ({"shards": asdict(shards)} if shards else {}))

    def _write(self, rows: Sequence[Row]) -> None:
        text = io.StringIO()
        write_cells(text, rows)
        content = text.getvalue().encode("utf-8", "surrogateescape")  # file names need not be UTF-8
        self._stream.write(content)
        self._size += len(content)
        self._sum = zlib.crc32(content, self._sum)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()


def read_position(out: Path) -> dict[str, Any]:
    """How far the crops in `out` are complete; empty for none. Raises DamagedFile."""
    return read_json(out / POSITION, AGAIN) if os.path.lexists(out / POSITION) else {}


def read_journal(out: Path) -> Iterator[list[str]]:
    """The rows of crops.csv, one after the other, up to where they are complete. Raises DamagedFile."""
    position, table = read_position(out), out / TABLE
    size = None
    if position:
        with reading(out / POSITION, AGAIN):
            size = int(position["bytes"])
        _sum(table, size, position.get(SUM_OF_TABLE))
    with open(table, newline="", encoding="utf-8", errors="surrogateescape") as stream:
        rows = read_cells(_first_lines(stream, size))
        next(rows, None)
        while True:
            with reading(table, TABLE_AGAIN):
                row = next(rows, None)
                if row is not None and len(row) != len(COLUMNS):
                    raise ValueError(f"a row has {counted(len(row), 'cell')}, not {len(COLUMNS)}")
            if row is None:
                return
            yield row


def _first_lines(stream: TextIO, size: int | None) -> Iterator[str]:
    """The lines in the first `size` bytes, or all."""
    for line in stream:
        if size is not None:
            size -= len(line.encode("utf-8", "surrogateescape"))
            if size < 0:
                return
        yield line


def _sum(table: Path, size: int, written: int | None) -> int:
    """The checksum of the first `size` bytes. Raises DamagedFile when it is not the one that was `written`."""
    value, left = 0, size
    with reading(table, TABLE_AGAIN), open(table, "rb") as stream:
        while left and (content := stream.read(min(left, 1 << 20))):
            value, left = zlib.crc32(content, value), left - len(content)
        if left:
            raise ValueError("it is shorter than when it was written")
        if written is not None and value != written:
            raise ValueError("its checksum does not match")
    return value
