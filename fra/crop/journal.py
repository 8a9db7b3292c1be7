"""crops.csv while it grows: rows in the order of the photos, and how far it is complete.

After every chunk of photos its rows (and shards) are forced to disk, and only then the position is replaced whole.
Whatever ends the run, everything up to the position is complete; what follows is cut off when the run goes on.
"""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, TextIO

from fra.crop.cut import COLUMNS, Row
from fra.crop.shards import ShardPosition
from fra.files import atomic

TABLE, POSITION = "crops.csv", ".position.json"


class Journal:
    """Opens crops.csv at the last complete position; `photos` are complete, and `shards` up to where it says."""

    def __init__(self, out: Path) -> None:
        self._position = out / POSITION
        table = out / TABLE
        self.photos, self.shards, size = 0, ShardPosition(), 0
        if self._position.is_file():
            position = json.loads(self._position.read_text())
            self.photos, size = position["photos"], position["bytes"]
            self.shards = ShardPosition(**position.get("shards", {}))
            if not table.is_file() or table.stat().st_size < size:
                raise ValueError(f"{table} is shorter than when it was written: begin again with another --out")
        self._stream = _open(table, "r+" if size else "w")
        self._stream.seek(size)
        self._stream.truncate()
        self._writer = csv.writer(self._stream, lineterminator="\n")
        if not size:
            self._writer.writerow(COLUMNS)

    def append(self, rows: Sequence[Row], *, photos: int, shards: ShardPosition | None = None) -> None:
        """Add the rows of the next `photos` photos, whose crops are on disk."""
        self._writer.writerows(rows)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.photos += photos
        with atomic(self._position) as temporary:
            size = os.fstat(self._stream.fileno()).st_size
            position = {"photos": self.photos, "bytes": size} | ({"shards": asdict(shards)} if shards else {})
            temporary.write_text(json.dumps(position) + "\n")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()


def _open(table: Path, mode: Literal["r", "r+", "w"]) -> TextIO:
    return open(table, mode, newline="", encoding="utf-8", errors="surrogateescape")  # file names need not be UTF-8


def read_journal(out: Path) -> Iterator[list[str]]:
    """The rows of crops.csv, one after the other."""
    with _open(out / TABLE, "r") as stream:
        rows = csv.reader(stream)
        next(rows, None)
        yield from rows


def remove_leftovers(out: Path) -> None:
    """Remove the temporary files that a killed run left behind (`fra.files.atomic` names them)."""
    for file in out.glob(".*-????????.*"):
        file.unlink(missing_ok=True)
    for parent, _, names in os.walk(out / "crops"):
        for name in names:
            if name.startswith("."):
                Path(parent, name).unlink(missing_ok=True)
