"""CSV tables that spreadsheets open without running anything, and that we read back unchanged.

A text that begins with = + - or @ is a formula to a spreadsheet, and names of files come from anywhere. Such a cell is
written with an apostrophe before it, which spreadsheets take as "this is text"; numbers stay numbers. Reading takes the
apostrophe off again.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from io import TextIOBase

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # spreadsheets of East Asia take the wide ones too
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-](inf|nan)", re.IGNORECASE)


def guarded(cell: object) -> object:
    """A cell as it is written; `unguarded` gives a text back unchanged."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def unguarded(cell: str) -> str:
    """A cell as it was before `guarded`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def write_cells(stream: TextIOBase, rows: Iterable[Sequence[object]]) -> None:
    """Add rows to a stream that was opened with newline=""."""
    plain = csv.writer(stream, lineterminator="\n")
    quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        cells = [guarded(cell) for cell in row]
        # the csv module does not quote a carriage return by itself, yet takes it for the end of a line when reading
        returns = any("\r" in cell for cell in cells if isinstance(cell, str))
        (quoted if returns else plain).writerow(cells)


def read_cells(lines: Iterable[str]) -> Iterator[list[str]]:
    """The rows of a stream that was opened with newline="", the headline too."""
    for row in csv.reader(lines):
        yield [unguarded(cell) for cell in row]
