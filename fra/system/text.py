"""Files of other people and programs: text is read as UTF-8 or refused by name, and quoted so that one can see it.

Also commands in messages, which are for people to copy.
"""

import csv
import shlex
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SHOWN = 80
"""Characters of a line that a message quotes."""
_MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""Byte order marks, longest first."""


def text_of(path: Path) -> str:
    """The whole file without its byte order mark, line ends as newlines; the errors of `lines_of`."""
    return "".join(lines_of(path))


def lines_of(path: Path, *, newline: str | None = None) -> Iterator[str]:
    """The lines with their ends, which are newlines unless `newline` says otherwise (as for `open`).

    Raises ValueError naming the file, and the line, where it is not UTF-8 or has NUL bytes, and when it is no regular
    file; OSError when it cannot be opened.
    """
    require_regular(path)
    with open(path, "rb") as raw:
        begin = raw.read(4)
    encoding = next((name for mark, name in _MARKS.items() if begin.startswith(mark)), None)
    if encoding:
        raise ValueError(_not_utf8(path, f"it is {encoding}", encoding=encoding))
    number = 0
    try:
        with open(path, encoding="utf-8-sig", newline=newline) as stream:
            for number, line in enumerate(stream, 1):
                if "\0" in line:
                    raise ValueError(
                        _not_utf8(
                            path, f"line {number} has NUL bytes, as in UTF-16 or a binary file", encoding="UTF-16LE"
                        )
                    )
                yield line
    except UnicodeDecodeError as error:
        line_number = number + 1 + error.object[: error.start].count(b"\n")
        byte = f"byte {error.object[error.start]:#04x} about line {line_number}"
        raise ValueError(_not_utf8(path, byte)) from None


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
        raise ValueError(
            f"line {table.line_num} of {path} is not valid CSV ({error}): are all quotes closed?"
        ) from error


def records_of(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV table below its heading, by column and without blanks around values; `columns` must be there.

    What a short row lacks is empty. Raises ValueError naming the file, and as `rows_of`.
    """
    table = rows_of(path)
    heading = [word.strip() for word in next(table, (1, []))[1]]
    absent = [name for name in columns if name not in heading]
    if absent:
        expected = f"expected {','.join(columns)}, it begins with '{shown(heading)}'"
        raise ValueError(f"{path} has no column {', '.join(absent)}: {expected}")
    for number, words in table:
        yield number, dict.fromkeys(heading, "") | dict(zip(heading, map(str.strip, words), strict=False))


def shown(text: str | Iterable[str]) -> str:
    """Text, or the words of a row with commas, for a message: what cannot be seen as escapes, and cut when long.

    A tab becomes \\t, a no-break space \\xa0.
    """
    line = (text if isinstance(text, str) else ",".join(text)).strip("\r\n")
    cut = line if len(line) <= SHOWN else line[: SHOWN - 4] + " ..."
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in cut)


def command(*words: object) -> str:
    """A command line for a message, in backquotes: it runs as it is printed, also with blanks in names."""
    return f"`{shlex.join(map(str, words))}`"


def install(extra: str) -> str:
    """How to get the packages of an extra; fra is on no package index."""
    return f"run {command('pip', 'install', '-e', f'.[{extra}]')} in your clone of fra"


def python_command(code: str, *values: object) -> str:
    """`command` for Python code in which each {} is replaced by the text of one of the values."""
    return command("python", "-c", code.format(*map(python_text, values)))


def python_text(value: object) -> str:
    """Text as Python reads it, between double quotes where it can be: a shell has to escape only single ones."""
    text = repr(str(value))
    return text if '"' in text else f'"{text[1:-1]}"'


def require_regular(path: Path) -> None:
    """ValueError for a pipe, a socket or a device, which might never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is not a regular file: give a file on disk")


@contextmanager
def decoding(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises at a damaged file into a ValueError with the file's name, without its warnings.

    `kind` is what the file should be. A missing file stays an OSError, and errors that name the file stay as they are.
    """
    require_regular(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MemoryError as error:
        raise ValueError(f"{path} is damaged: as a {kind} it would not fit in memory") from error
    except Exception as error:  # damaged files raise nearly anything inside a library
        if (isinstance(error, OSError) and error.filename) or str(path) in str(error):
            raise
        raise ValueError(f"{path} is not a complete {kind} ({_reason(error)}): use the original file") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _not_utf8(path: Path, why: str, *, encoding: str = "LATIN1") -> str:
    convert = shlex.join(["iconv", "-f", encoding, "-t", "UTF-8", str(path)])
    return f"{path} is not UTF-8 text ({why}): expected UTF-8; convert it, for example by `{convert} > NEW`"
