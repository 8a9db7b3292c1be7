"""Tables of measured numbers, from results/results.csv into README and docs as results/tables.yaml says.

    python scripts/make_results.py            write the tables between their marks
    python scripts/make_results.py --check    exit 1 and name the pages whose tables are stale

A page holds `<!-- table: NAME -->` and `<!-- end of table -->`; what stands between them is made here, all else is
written by hand. A table has rows and columns, both filters on the fields of the CSV: a cell shows the one number that
matches row and column together (a row's word goes before a column's), and a dash where nothing was measured. Numbers
that a later measurement superseded are shown only where a table asks for them.
"""

import csv
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
OPTIONAL = ("pretraining_seed", "fraction", "std", "low", "high", "seeds", "commit", "machine", "date", "note")
"""What published.csv does not say of a number, and a filter may still ask for."""
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
WIDEST = 6
"""Columns of a table at most, its labels among them: more are another question."""

Numbers = list[dict[str, str]]


def read_numbers(folder: Path) -> Numbers:
    """All rows of results.csv, and the published ones marked by `published`; ValueError on a row that is not whole."""
    numbers: Numbers = []
    for name, published in (("results.csv", ""), ("published.csv", "yes")):
        with (folder / name).open(newline="", encoding="utf-8") as file:
            for line, row in enumerate(csv.DictReader(file), 2):
                if None in row or None in row.values() or not row["encoder"] or not row["mean"] or not row["source"]:
                    raise ValueError(f"{name}, line {line}: a row needs encoder, mean, source and no further fields")
                numbers.append({**dict.fromkeys(OPTIONAL, ""), "superseded": "no", **row, "published": published})
    return numbers


def find(numbers: Numbers, wanted: dict[str, str]) -> dict[str, str] | None:
    """The one row with these fields; of several that differ, the one without a note. None when there is none."""
    hits = [row for row in numbers if all(row[field] == word for field, word in wanted.items())]
    if len({shown(row) for row in hits}) > 1:
        hits = [row for row in hits if not row["note"]]
        if len({shown(row) for row in hits}) != 1:
            raise ValueError(f"several numbers have {wanted}: say which (pretraining_seed, date, source, note …)")
    return hits[0] if hits else None


def shown(row: dict[str, str] | None) -> str:
    """66.78 ± 0.04, 70.80 (68.47 – 73.02), 14.49 or –."""
    if row is None:
        return "–"
    deviation = f" ± {row['std']}" if row["std"] else ""
    interval = f" ({row['low']} – {row['high']})" if row["low"] else ""
    value = row["mean"] + deviation + interval
    return f"*{value}*" if row["published"] else value


def table(numbers: Numbers, made: dict[str, Any]) -> str:
    """A Markdown table as one entry of tables.yaml describes it."""
    if len(made["columns"]) >= WIDEST:
        raise ValueError(f"a table has at most {WIDEST} columns with its labels, not {len(made['columns']) + 1}")

    def words(part: dict[str, Any]) -> dict[str, str]:
        return {field: str(word) for field, word in part.items() if field != "label"}

    usual = {"superseded": "no", "published": "", **words(made.get("where", {}))}
    lines = [f"| {made.get('label', '')} | " + " | ".join(column["label"] for column in made["columns"]) + " |"]
    lines.append("|---" * (len(made["columns"]) + 1) + "|")
    for row in made["rows"]:
        cells = []
        for column in made["columns"]:
            wanted = {**usual, **words(column), **words(row)}
            cells.append(shown(find(numbers, {field: word for field, word in wanted.items() if word != "any"})))
        if set(cells) == {"–"}:
            raise ValueError(f"no number at all for the row {row['label']!r}")
        lines.append(f"| {row['label']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def pages(root: Path) -> list[Path]:
    """README and every page of docs."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def made_pages(root: Path) -> dict[Path, str]:
    """Every page with marks, as it ought to be."""
    numbers = read_numbers(root / "results")
    tables = yaml.safe_load((root / "results" / "tables.yaml").read_text(encoding="utf-8"))
    used: set[str] = set()

    def fill(match: re.Match[str]) -> str:
        name = match[2]
        if name not in tables:
            raise ValueError(f"results/tables.yaml has no table {name!r}")
        used.add(name)
        try:
            return match[1] + table(numbers, tables[name]) + match[3]
        except ValueError as error:
            raise ValueError(f"table {name}: {error}") from None

    texts = {page: page.read_text(encoding="utf-8") for page in pages(root)}
    made = {page: MARKED.sub(fill, text) for page, text in texts.items() if MARKED.search(text)}
    if unused := sorted(set(tables) - used):
        raise ValueError(f"no page shows the tables {', '.join(unused)}")
    return made


def main(words: list[str], root: Path = ROOT) -> int:
    made = made_pages(root)
    stale = [page for page, text in made.items() if page.read_text(encoding="utf-8") != text]
    if "--check" in words:
        for page in stale:
            print(f"{page.relative_to(root)}: its tables are stale: run python scripts/make_results.py")
        return 1 if stale else 0
    for page in stale:
        page.write_text(made[page], encoding="utf-8")
        print(f"written: {page.relative_to(root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
