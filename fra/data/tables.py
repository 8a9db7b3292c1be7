"""Tables of others, CSV or Parquet, as text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fra.system.printable import counted
from fra.system.text import decoding, install, rows_of, shown

ENDINGS = (".csv", ".parquet")
SEPARATORS = {";": "semicolons", "\t": "tabs"}
"""That programs put between columns in place of commas."""


@dataclass(frozen=True)
class Table:
    """Columns of one length; a cell that holds nothing is empty."""

    path: Path
    columns: dict[str, list[str]]
    lines: Sequence[int]
    """The line of each row in the file; in Parquet its number."""

    def column(self, name: str) -> list[str]:
        """Raises ValueError when there is none."""
        if name not in self.columns:
            raise ValueError(f"{self.path} has no column {shown(name)}: it has {shown(self.columns)}")
        return self.columns[name]

    def at(self, row: int) -> str:
        """Where a row is, for a message."""
        return f"{'row' if self.path.suffix == '.parquet' else 'line'} {self.lines[row]}"


def read_table(path: Path) -> Table:
    """A .csv or .parquet file. Raises ValueError naming the file, and the line where one is wrong."""
    table = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    if not table.lines:
        raise ValueError(f"{path} has no rows below its heading")
    return table


def _csv(path: Path) -> Table:
    rows = rows_of(path)
    heading = [word.strip() for word in next(rows, (1, []))[1]]
    apart = next((word for sign, word in SEPARATORS.items() if len(heading) == 1 and sign in heading[0]), None)
    if apart:
        raise ValueError(f"{path} has {apart} between its columns: save it with commas")
    twice = next((name for name in heading if heading.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has several columns called '{shown(twice)}': give each a name of its own")
    lines, cells = [], []
    for number, row in rows:
        if len(row) != len(heading):
            raise ValueError(
                f"line {number} of {path} has {counted(len(row), 'column')} where its heading has {len(heading)}"
            )
        lines.append(number)
        cells.append([_present(word.strip()) for word in row])
    return Table(path, {name: [row[place] for row in cells] for place, name in enumerate(heading)}, lines)


def _parquet(path: Path) -> Table:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f"{path.name} needs pyarrow: {install('tables')}, or save the table as .csv") from error
    with decoding(path, "Parquet file"):
        table = parquet.read_table(path)
        columns = {name: list(map(_word, table.column(name).to_pylist())) for name in table.column_names}
    return Table(path, columns, range(1, table.num_rows + 1))


def _word(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, bool) else _present(str(value).strip())


def _present(word: str) -> str:
    """NaN, as programs write a cell that holds nothing, is nothing."""
    return "" if word.lower() == "nan" else word


def number_of(word: str) -> float | None:
    """The finite number that a cell says, or None."""
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
