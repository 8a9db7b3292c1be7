"""Files of other people and programs: text is read as UTF-8 or refused by name, and quoted so that one can see it."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

SHOWN = 80
"""Characters of a line that a message quotes."""
_MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""Byte order marks, longest first."""


def read_text(path: Path) -> str:
    """The whole file without its byte order mark, line ends as newlines; the errors of `lines_of`."""
    return "".join(lines_of(path))


def lines_of(path: Path, *, newline: str | None = None) -> Iterator[str]:
    """The lines with their ends, which are newlines unless `newline` says otherwise (as for `open`).

    Raises ValueError naming the file, and the line, where it is not UTF-8 or has NUL bytes, and when it is no regular
    file; OSError when it cannot be opened.
    """
    number = 0
    try:
        with open_regular(path) as raw:
            _refuse_other_encodings(path, raw.read(4))
        with open(path, encoding="utf-8-sig", newline=newline) as stream:
            for number, line in enumerate(stream, 1):
                if "\0" in line:
                    raise ValueError(_not_utf8(path, f"line {number} has NUL bytes, as in UTF-16 or a binary file"))
                yield line
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(_not_utf8(path, f"byte {byte:#04x} about line {number + 1}")) from None


def rows_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV table, quotes understood, each with the number of the line where it ends; empty ones left out.

    Raises ValueError naming file and line when quotes do not close, and as `lines_of`.
    """
    table = csv.reader(lines_of(path, newline=""), strict=True)
    try:
        for row in table:
            if row:
                yield table.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {table.line_num} of {path} is no CSV ({error}): are all quotes closed?") from error


def shown(text: str | Iterable[str]) -> str:
    """Text, or the words of a row with commas, for a message: what cannot be seen as escapes, and cut when long.

    A tab becomes \\t, a no-break space \\xa0.
    """
    line = (text if isinstance(text, str) else ",".join(text)).strip("\r\n")
    cut = line if len(line) <= SHOWN else line[: SHOWN - 4] + " ..."
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in cut)


def open_regular(path: Path) -> IO[bytes]:
    """The file, opened to read bytes. ValueError for a pipe, a socket or a device, which might never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is not a regular file: give a file on disk")
    return open(path, "rb")


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises at a damaged file into a ValueError with the file's name; `kind` is what it is.

    A missing file stays an OSError, and an error that names the file already stays as it is.
    """
    try:
        yield
    except MemoryError as error:
        raise ValueError(f"{path} is damaged: as a {kind} it would not fit into memory") from error
    except Exception as error:  # damaged files raise nearly anything inside a library
        if (isinstance(error, OSError) and error.filename) or str(path) in str(error):
            raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{path} is not a whole {kind} ({reason}): take the original file again") from error


def _refuse_other_encodings(path: Path, begin: bytes) -> None:
    name = next((name for mark, name in _MARKS.items() if begin.startswith(mark)), None)
    if name:
        raise ValueError(_not_utf8(path, f"it is {name}", encoding=name))


def _not_utf8(path: Path, why: str, *, encoding: str = "ENCODING") -> str:
    return f"{path} is not UTF-8 text ({why}): expected UTF-8; convert it, for example by iconv -f {encoding} -t UTF-8"
