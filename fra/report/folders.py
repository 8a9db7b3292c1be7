"""What a run folder holds: a missing piece is None or empty; one that is not as it was written is a DamagedFile."""

import math
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fra.crop.cut import COLUMNS
from fra.crop.journal import TABLE, read_journal
from fra.files import MARK, read_json, read_rows, read_text, reading
from fra.regions.draw import Snapshots, load_snapshots
from fra.system.printable import printable

Table = dict[str, np.ndarray]
"""Columns of numbers by name; an empty cell is NaN."""

LEFT_OUT = "restore it from a backup, or remove it to leave it out of the report"
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class PretrainRun:
    name: str
    folder: Path
    method: str
    """As the recipe names it, else the summary; empty when neither is there."""
    summary: dict[str, Any]
    log: Table
    health: Table
    warnings: list[tuple[int, str]]
    """(epoch, sentence) as the health check wrote them."""
    recipe: str | None
    snapshots: Snapshots | None
    pictures: list[Path]


@dataclass(frozen=True)
class TransferRun:
    name: str
    folder: Path
    results: dict[str, Any]
    pictures: list[Path]


@dataclass(frozen=True)
class RegionsRun:
    name: str
    numbers: dict[str, Any]
    score: dict[str, Any]
    """What `fra regions --score` wrote."""
    sheet: Path | None
    timeline: Path | None


@dataclass(frozen=True)
class CropRun:
    name: str
    crops: int
    skipped: int
    sheet: Path | None


@dataclass(frozen=True)
class CompareRun:
    """Encoders by number of labels."""

    name: str
    content: dict[str, Any]
    """`compare.json`."""


@dataclass(frozen=True)
class PaperTable:
    """A table or figure of `fra reproduce`."""

    title: str
    blocks: list[tuple[str, Any]]
    """In reading order: "title" or "text" with a string, "list" with strings, "table" with rows of cells."""
    figure: Path | None = None


@dataclass(frozen=True)
class Runs:
    """Everything a report is made of."""

    crop: list[CropRun] = field(default_factory=list)
    pretrain: list[PretrainRun] = field(default_factory=list)
    transfer: list[TransferRun] = field(default_factory=list)
    regions: list[RegionsRun] = field(default_factory=list)
    compare: list[CompareRun] = field(default_factory=list)
    paper: list[PaperTable] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def read_runs(folders: list[Path]) -> Runs:
    """The runs in `folders`; a folder that is no run itself stands for the runs below it (two floors down).

    Raises ValueError when a folder does not exist or no run is found at all.
    """
    runs = Runs()
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder: give run folders, such as those of fra pretrain")
        below = sorted([*folder.glob("*"), *folder.glob("*/*")])
        inside = [folder] if _kind(folder) else [candidate for candidate in below if _kind(candidate)]
        tables = paper_tables(folder)
        runs.paper.extend(tables)
        if not inside and not tables:
            runs.unknown.append(folder.name)
        for run in inside:
            _add(runs, run)
    if not (runs.crop or runs.pretrain or runs.transfer or runs.regions or runs.compare or runs.paper):
        raise ValueError(f"no run found in {', '.join(str(f) for f in folders)}: give folders written by fra commands")
    return runs


def _kind(folder: Path) -> str | None:
    """The command that wrote the folder: by its mark, else by its key files."""
    if not folder.is_dir():
        return None
    command = str(_json(folder / MARK).get("command", ""))
    by_files = {
        "transfer": "results.json",
        "pretrain": "health.csv",
        "regions": "heatmaps.npz",
        "crop": "crops.csv",
        "compare": "compare.json",
    }
    if command in by_files:
        return command
    for kind, name in by_files.items():
        if (folder / name).is_file():
            return kind
    trained = any((folder / name).is_file() for name in ("summary.json", "model.safetensors", "encoder.safetensors"))
    return "pretrain" if trained else None


def _add(runs: Runs, folder: Path) -> None:
    kind, name = _kind(folder), folder.resolve().name
    if kind == "pretrain":
        runs.pretrain.append(_pretrain(folder))
    elif kind == "transfer":
        results = _json(folder / "results.json")
        if results:
            runs.transfer.append(TransferRun(name, folder, results, _pictures(folder)))
        else:
            runs.unknown.append(f"{name} (an unfinished transfer run: no results.json)")
    elif kind == "compare":
        content = _json(folder / "compare.json")
        if content:
            runs.compare.append(CompareRun(name, content))
        else:
            runs.unknown.append(f"{name} (an unfinished comparison: no compare.json)")
    elif kind == "regions":
        sheet, gif = folder / "regions.png", folder / "timeline.gif"
        numbers, score = _json(folder / "regions.json"), _json(folder / "score.json")
        runs.regions.append(RegionsRun(name, numbers, score, _existing(sheet), _existing(gif)))
    elif kind == "crop":
        rows = read_journal(folder) if os.path.lexists(folder / TABLE) else ()
        skipped = Counter(any(row[COLUMNS.index("reason") :]) for row in rows)
        runs.crop.append(CropRun(name, skipped[False], skipped[True], _existing(folder / "contact_sheet.jpg")))


def _pretrain(folder: Path) -> PretrainRun:
    file, summary = folder / "recipe.yaml", _json(folder / "summary.json")
    recipe = read_text(file, LEFT_OUT) if os.path.lexists(file) else None
    method = _method_in(recipe)
    if recipe is not None and not method:
        print(f"fra: {printable(file)} names no method", file=sys.stderr)
    with reading(folder / "health.csv", LEFT_OUT):
        rows = _rows(folder / "health.csv")
        warnings = [(int(float(row.get("epoch") or 0)), row["warning"]) for row in rows if row.get("warning")]
    return PretrainRun(
        name=folder.resolve().name,
        folder=folder,
        method=method or str(summary.get("method", "")),
        summary=summary,
        log=_whole(folder / "log.csv", summary),
        health=_whole(folder / "health.csv", summary),
        warnings=warnings,
        recipe=recipe,
        snapshots=load_snapshots(folder / "snapshots"),
        pictures=_pictures(folder),
    )


def _whole(path: Path, summary: dict[str, Any]) -> Table:
    """The columns of a table by steps. Raises DamagedFile when a finished run's ends before its last step."""
    with reading(path, LEFT_OUT):
        table = _table(path)
        steps = table.get("step", [0 if path.exists() and not table else math.inf])
        if max(steps) < summary.get("steps", 0):
            raise ValueError(f"it ends at step {max(steps):.0f} of {summary['steps']:,}")
    return table


def _method_in(recipe: str | None) -> str:
    """The name of a recipe's method; empty for a recipe that says none, or that cannot be understood."""
    try:
        method = (yaml.safe_load(recipe or "") or {}).get("method")
    except (yaml.YAMLError, AttributeError):
        return ""
    return str(method.get("name", "")) if isinstance(method, dict) else ""


def paper_tables(folder: Path) -> list[PaperTable]:
    """What `fra reproduce` wrote into its folder."""
    found = []
    for file in sorted(folder.glob("table*.md")):
        title, blocks = read_page(read_text(file, LEFT_OUT))
        found.append(PaperTable(title or file.stem, blocks))
    figure = _existing(folder / "figure1.png")
    if figure:
        found.append(PaperTable("Figure 1. Heatmaps with the highest variance", [], figure))
    return found


def read_page(text: str) -> tuple[str, list[tuple[str, Any]]]:
    """The title and the blocks of a page as `fra reproduce` writes it: a small part of Markdown."""
    title = ""
    blocks: list[tuple[str, Any]] = []
    for line in filter(None, text.splitlines()):
        if line.startswith("# "):
            title = line.removeprefix("# ")
        elif line.startswith("## "):
            blocks.append(("title", line.removeprefix("## ")))
        elif line.startswith("|---"):
            continue
        else:
            kind = {"|": "table", "-": "list"}.get(line[0], "text")
            content: Any = line.removeprefix("- ").replace("`", "")
            if kind == "table":
                content = [cell.strip() for cell in line.strip("|").split("|")]
            if kind != "text" and blocks and blocks[-1][0] == kind:
                blocks[-1][1].append(content)
            else:
                blocks.append((kind, content if kind == "text" else [content]))
    return title, blocks


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _pictures(folder: Path, *, most: int = 4) -> list[Path]:
    inside = [*folder.glob("*"), *(folder / "pictures").glob("*")]
    shown = (file for file in sorted(inside) if not file.name.startswith("."))
    return [file for file in shown if file.suffix.lower() in PICTURE_SUFFIXES][:most]


def _json(path: Path) -> dict[str, Any]:
    return read_json(path, LEFT_OUT) if os.path.lexists(path) else {}


def _rows(path: Path) -> list[dict[str, str]]:
    return read_rows(path, LEFT_OUT) if os.path.lexists(path) else []


def _table(path: Path) -> Table:
    rows = _rows(path)
    return {name: np.array([_number(row[name]) for row in rows]) for name in (rows[0] if rows else ())}


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan
