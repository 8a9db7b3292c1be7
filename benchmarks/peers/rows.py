"""Scores of a work folder into results/results.csv, in place of the same numbers that stand there."""

import csv
import datetime
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.encoders import OURS
from benchmarks.peers.judge import EXAMS, LFW
from fra.files import atomic, read_json

TABLE = Path(__file__).parents[2] / "results" / "results.csv"
CPUINFO = Path("/proc/cpuinfo")
SOURCE = "peers"
"""The source of all these rows."""
MEASURED = ("encoder", "dataset", "protocol", "fraction", "seeds", "metric")
"""What tells one number from another."""


def encoder_rows(scores: Path) -> list[dict[str, Any]]:
    """Linear exams and pairs: each metric, and its difference to `laptop`."""
    rows = []
    for exam in (LFW, *EXAMS):
        file = scores / f"{exam}.json"
        for name, metrics in (read_json(file) if file.exists() else {}).items():
            wanted = EXAMS.get(exam)
            about = {"encoder": name, "dataset": exam.removesuffix("_quarter"), "protocol": "peers, pairs"}
            if wanted:
                about |= {"protocol": "peers, linear", "fraction": f"{wanted.fraction:g}", "seeds": wanted.seeds}
            rows += [{**about, "metric": metric, **rounded(found, 1)} for metric, found in metrics.items()]
    return rows


def landmark_rows(scores: Path) -> list[dict[str, Any]]:
    rows = []
    for file in sorted((scores / "landmarks").glob("*.json")):
        found, about = read_json(file), {"encoder": file.stem, "dataset": "300w", "protocol": "peers, as shipped"}
        rows += [
            {**about, "metric": metric, **rounded(found[metric], 2), "note": note}
            for metric, note in (
                ("nme", f"square of {found['scale']:g} times the box, {found['down']:g} lower"),
                ("nme with offset", "a constant offset per point, fitted on training faces"),
            )
        ]
        rows.append({**about, "metric": "failure_rate@10", "mean": f"{found['failure_rate@10 nme']:.1f}"})
    return rows


def detection_rows(scores: Path) -> list[dict[str, Any]]:
    rows = []
    for file in sorted((scores / "detection").glob("*.json")):
        found, about = read_json(file), {"encoder": file.stem, "dataset": "photographs", "protocol": "peers, detection"}
        note = f"{found['found']} of {found['annotated']}, IoU at least 0.4; Wilson's interval"
        rows.append({**about, "metric": "recall", **rounded(found["recall"], 1), "note": note})
        rows.append({**about, "metric": "false", "mean": found["false"], "note": "5 photographs without a face"})
    return rows


def expression_rows(scores: Path) -> list[dict[str, Any]]:
    return [
        {
            "encoder": file.stem,
            "dataset": "rafdb",
            "protocol": "peers, as shipped",
            "metric": metric,
            **rounded(found, 1),
        }
        for file in sorted((scores / "expression").glob("*.json"))
        for metric, found in read_json(file).items()
    ]


def cost_rows(scores: Path) -> list[dict[str, Any]]:
    file = scores / "cost.json"
    return [
        {
            "encoder": name,
            "dataset": "-",
            "protocol": "peers, cost",
            "metric": metric,
            "mean": f"{value:.0f}",
            "note": note,
        }
        for name, found in (read_json(file) if file.exists() else {}).items()
        for metric, value, note in (
            ("faces_per_second", found["rate"], "of processor time"),
            ("mebibytes", found["memory"], "beyond Python with torch"),
        )
    ]


def rounded(found: dict[str, float], digits: int) -> dict[str, str]:
    return {key: f"{found[key]:.{digits}f}" for key in ("mean", "low", "high")}


def write(scores: Path, table: Path = TABLE) -> int:
    """Write what was measured here in place of what stood there; how many rows. The same number keeps its date.

    Rows that this work folder says nothing of stay.
    """
    made = [*encoder_rows(scores), *landmark_rows(scores), *detection_rows(scores), *expression_rows(scores)]
    made += cost_rows(scores)
    asked = ["git", "rev-parse", "--short=7", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, cwd=table.parent).stdout.strip()
    now = {"commit": commit, "date": datetime.date.today().isoformat(), "machine": machine()}
    with table.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        everything = list(reader)
        columns = list(reader.fieldnames or ())
    ours = [row for row in everything if row["source"] != SOURCE]
    recipes = {row["encoder"]: row["recipe"] for row in ours if row["encoder"] in OURS and row["superseded"] == "no"}
    before = {number(row): row for row in everything if row["source"] == SOURCE}
    for numbers in made:
        row = dict.fromkeys(columns, "") | {"superseded": "no", "source": SOURCE}
        row |= {"recipe": recipes.get(numbers["encoder"], "")} | {key: str(value) for key, value in numbers.items()}
        old = before.get(number(row))
        same = old is not None and all(old[column] == row[column] for column in ("mean", "low", "high"))
        before[number(row)] = old if old is not None and same else row | now
    rows = list(before.values())
    with atomic(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*ours, *rows])
    return len(made)


def number(row: dict[str, str]) -> tuple[str, ...]:
    """What a row is the value of."""
    return tuple(row[column] for column in MEASURED)


def machine() -> str:
    """The processor's maker and the vectors that torch uses."""
    maker = re.search(r"^model name\s*: (\w+(?: EPYC)?)", CPUINFO.read_text() if CPUINFO.exists() else "", re.M)
    vectors = torch.backends.cpu.get_cpu_capability().replace("AVX512", "AVX-512")
    return f"{maker[1] if maker else 'unknown'}, {vectors}, one thread"
