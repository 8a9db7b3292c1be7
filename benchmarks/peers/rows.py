"""Scores of a work folder into results/results.csv, in place of the peers' rows that stand there."""

import csv
import datetime
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.peers.encoders import OURS
from benchmarks.peers.judge import EXAMS, LFW
from fra.files import atomic, read_json

TABLE = Path(__file__).parents[2] / "results" / "results.csv"
SOURCE = "peers"
"""The source of all these rows."""
MACHINE = "AMD EPYC, AVX2, one thread"


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
    """Replace the peers' rows; how many there are now. A row whose numbers are as before keeps its commit and date."""
    made = [*encoder_rows(scores), *landmark_rows(scores), *detection_rows(scores), *expression_rows(scores)]
    made += cost_rows(scores)
    asked = ["git", "rev-parse", "--short=7", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, cwd=table.parent).stdout.strip()
    now = {"commit": commit, "date": datetime.date.today().isoformat()}
    with table.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        everything = list(reader)
        columns = list(reader.fieldnames or ())
    kept = [row for row in everything if row["source"] != SOURCE]
    recipes = {row["encoder"]: row["recipe"] for row in kept if row["encoder"] in OURS and row["superseded"] == "no"}
    before = {said(row): row for row in everything if row["source"] == SOURCE}
    rows = []
    for numbers in made:
        row = dict.fromkeys(columns, "") | {"machine": MACHINE, "superseded": "no", "source": SOURCE}
        row |= {"recipe": recipes.get(numbers["encoder"], "")} | {key: str(value) for key, value in numbers.items()}
        rows.append(before.get(said(row), row | now))
    with atomic(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *rows])
    return len(rows)


def said(row: dict[str, str]) -> tuple[str, ...]:
    """All of a row but when and by what it was measured."""
    return tuple(value for column, value in row.items() if column not in ("commit", "date"))
