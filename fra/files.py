"""What keeps files safe: whole writes, folders with one owner, tables."""

import csv
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARK = ".fra-run"


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it only when the block ends well.

    A reader therefore sees the old file or the new one, never a part, also after `kill -9` or on a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def claim_folder(out: Path | str, *, command: str, resume: bool) -> bool:
    """Create `out` for `command` and mark it as ours; True when an existing run is continued.

    Raises ValueError when the folder holds something that is not ours, another command's run, or a run of the
    same command while `resume` is False: nothing is ever overwritten by accident.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder for --out")
    mark = out / MARK
    if mark.exists():
        try:
            owner = json.loads(mark.read_text())["command"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{mark} does not say which command made {out}: choose another --out") from error
        if owner != command:
            raise ValueError(f"{out} belongs to `fra {owner}`, not to `fra {command}`: choose another --out")
        if not resume:
            raise ValueError(f"{out} already holds a run of `fra {command}`: add --resume, or choose another --out")
        return True
    # A mark that a killed process was writing is no content.
    if out.is_dir() and any(not entry.name.startswith(f".{MARK}") for entry in out.iterdir()):
        if mark.exists():  # another process has made it in this moment
            return claim_folder(out, command=command, resume=resume)
        raise ValueError(f"{out} is not empty and was not made by fra: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    with atomic(mark) as temporary:
        temporary.write_text(json.dumps({"command": command}) + "\n")
    return False


def shortened(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table with its floats as text of six digits."""
    return {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}


def write_rows(path: Path | str, rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV table whole; columns in the order in which they first appear in the rows."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic(path) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def append_rows(path: Path | str, rows: Sequence[dict[str, Any]]) -> None:
    """Append rows to a CSV table, which is created with the first row's columns."""
    path = Path(path)
    columns = list(rows[0])
    fresh = not path.exists()
    if not fresh:
        with open(path, newline="") as stream:
            columns = next(csv.reader(stream))
    with open(path, "a", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path | str) -> list[dict[str, str]]:
    """All rows of a CSV table, values as text."""
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))
