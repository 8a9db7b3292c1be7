"""`python -m benchmarks [SUITE ...]`: rows go to results.json, tables to docs/dev/performance.md."""

import argparse
import dataclasses
import json
import os
import platform
from pathlib import Path

import torch

from benchmarks.paired import Row
from benchmarks.suites import SUITES, timed

RESULTS = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parents[1] / "docs" / "dev" / "performance.md"
MARK = "<!-- measured: everything below is written by python -m benchmarks -->"


def table(rows: list[Row]) -> str:
    lines = ["| setting | | measured | against | ratio (quartiles) |", "|---|---|---|---|---|"]
    for row in rows:
        unit = row.unit if row.unit == "MiB" else f"{row.unit}/s"
        spread = f" ({row.low:.2f} – {row.high:.2f})" if row.low != row.high else ""
        lines.append(
            f"| {row.setting} | {row.candidate} | {row.rate:.4g} {unit} | {row.against} | {row.ratio:.2f}{spread} |"
        )
    return "\n".join(lines)


def write_page(rows: list[Row]) -> None:
    """Replace the tables of docs/dev/performance.md; its text above the mark stays."""
    text = PAGE.read_text().split(MARK)[0]
    tables = []
    for name in SUITES:
        mine = [row for row in rows if row.suite == name and row.candidate != row.against]
        if mine:
            tables.append(f"\n## {name}\n\n{SUITES[name].__doc__}\n\n{table(mine)}\n")
    PAGE.write_text(text + MARK + "\n" + "".join(tables))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", choices=[[], *SUITES], default=[], metavar="SUITE")
    chosen = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    for name in chosen.suites or SUITES:
        rows = timed(name)
        print(f"\n## {name}\n\n{table(rows)}", flush=True)
        kept["machine"] = dict(cores=os.cpu_count(), threads=torch.get_num_threads(), python=platform.python_version())
        kept["machine"] |= dict(
            torch=torch.__version__.split("+")[0], capability=torch.backends.cpu.get_cpu_capability()
        )
        kept["rows"] = [row for row in kept["rows"] if row["suite"] != name] + [dataclasses.asdict(row) for row in rows]
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
        write_page([Row(**row) for row in kept["rows"]])


if __name__ == "__main__":
    main()
