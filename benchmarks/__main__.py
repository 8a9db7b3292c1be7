"""`python -m benchmarks [SUITE ...] [--out FILE]`: measure, print a table, keep the rows as JSON."""

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


def table(rows: list[Row]) -> str:
    lines = ["| setting | | per second | against | ratio (quartiles) |", "|---|---|---|---|---|"]
    for row in rows:
        unit = "MiB" if row.unit == "MiB" else row.unit
        spread = f" ({row.low:.2f} – {row.high:.2f})" if row.low != row.high else ""
        lines.append(
            f"| {row.setting} | {row.candidate} | {row.rate:.4g} {unit} | {row.against} | {row.ratio:.2f}{spread} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", choices=[[], *SUITES], default=[], metavar="SUITE")
    parser.add_argument("--out", type=Path, default=RESULTS, help="rows of other suites in this file are kept")
    chosen = parser.parse_args()
    kept = json.loads(chosen.out.read_text()) if chosen.out.exists() else {"rows": []}
    for name in chosen.suites or SUITES:
        rows = timed(name)
        print(f"\n## {name}\n\n{table(rows)}", flush=True)
        kept["machine"] = dict(cores=os.cpu_count(), threads=torch.get_num_threads(), python=platform.python_version())
        kept["machine"] |= dict(
            torch=torch.__version__.split("+")[0], capability=torch.backends.cpu.get_cpu_capability()
        )
        kept["rows"] = [row for row in kept["rows"] if row["suite"] != name] + [dataclasses.asdict(row) for row in rows]
        chosen.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
