"""Transfer results side by side: one table per task, dataset, protocol and share of labels; one row per encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fra.report.folders import TransferRun
from fra.system.printable import counted
from fra.transfer.compare import Comparison, compare, lower_is_better, real
from fra.weights.source import EncoderSource


@dataclass(frozen=True)
class Cell:
    mean: float
    std: float | None
    best: bool


@dataclass(frozen=True)
class Row:
    encoder: str
    kind: str
    """`ours`, `random`, `other` or `baseline`."""
    cells: list[Cell | None]


@dataclass(frozen=True)
class TransferTable:
    title: str
    note: str
    metrics: list[str]
    rows: list[Row]
    comparisons: list[Comparison]
    values: dict[str, list[float]]
    """Of the first metric: one list of per-seed values for each encoder."""
    missing: str | None
    """A plain sentence when there is nothing to compare with."""


def kind_of(encoder: str) -> str:
    source = EncoderSource.parse(encoder)
    if source.random:
        return "random"
    return "other" if source.network else "ours"


def transfer_tables(runs: Sequence[TransferRun]) -> list[TransferTable]:
    groups: dict[tuple[str, ...], list[TransferRun]] = {}
    for run in runs:
        key = tuple(str(run.results.get(part, "")) for part in ("task", "dataset", "protocol", "fraction", "title"))
        groups.setdefault(key, []).append(run)
    return [_table(key, members) for key, members in groups.items()]


def _table(key: tuple[str, ...], runs: list[TransferRun]) -> TransferTable:
    runs = sorted(runs, key=lambda run: ("ours", "other", "random").index(kind_of(_encoder(run))))
    metrics = list(dict.fromkeys(name for run in runs for name in _metrics(run)))
    labels = _labels(runs)
    entries = [(labels[i], kind_of(_encoder(run)), _metrics(run)) for i, run in enumerate(runs)]
    control = next((run.results["control"]["metrics"] for run in runs if "control" in run.results), None)
    if control and all(kind != "random" for _, kind, _ in entries):
        entries.append(("random weights", "random", control))
    baseline = next((b for run in runs if (b := _baseline(run))), None)
    if baseline:
        entries.append((baseline[0], "baseline", {m: {"mean": value} for m, value in baseline[1].items()}))
    comparisons = _comparisons(metrics, entries, int(runs[0].results.get("test_images") or 0))
    return TransferTable(
        title=f"{key[0].replace('_', ' ').capitalize()} on {key[4] or key[1]}",
        note=_note(runs[0].results),
        metrics=metrics,
        rows=[Row(name, kind, _cells(found, metrics, entries)) for name, kind, found in entries],
        comparisons=comparisons,
        values={name: list(map(float, found[metrics[0]].get("values") or [found[metrics[0]]["mean"]]))
                for name, kind, found in entries if kind != "baseline" and metrics[0] in found} if metrics else {},
        missing=None if comparisons else _why_not(entries),
    )  # fmt: skip


def _why_not(entries: list[tuple[str, str, dict[str, Any]]]) -> str:
    kinds = {kind for _, kind, _ in entries}
    if "random" not in kinds:
        return "No run of this task from random weights was given, so the gain from pre-training is not known."
    return "No run with a pre-trained encoder was given to compare with random weights."


def _encoder(run: TransferRun) -> str:
    return str(run.results.get("encoder", run.name))


def _labels(runs: list[TransferRun]) -> list[str]:
    """What the table calls each run; two runs of one encoder are told apart by their recipe or folder."""
    names = []
    for run in runs:
        encoder = _encoder(run)
        shown = "random weights" if kind_of(encoder) == "random" else encoder.rstrip("/").split("/")[-1]
        _, _, architecture = encoder.partition(":")
        if kind_of(encoder) == "random" and architecture:
            shown += f" ({architecture})"
        names.append(shown)
    return [f"{name} [{run.name}]" if names.count(name) > 1 else name for name, run in zip(names, runs, strict=True)]


def _metrics(run: TransferRun) -> dict[str, Any]:
    """The metrics that hold a number (a key such as `normaliser` may stand among them)."""
    found = run.results.get("metrics") or {}
    return {name: value for name, value in found.items() if isinstance(value, dict) and real(value.get("mean"))}


def _baseline(run: TransferRun) -> tuple[str, dict[str, float]] | None:
    """(name, metrics) of the answer that never looks at the image, as `fra transfer` leaves it."""
    found = run.results.get("baseline")
    if not isinstance(found, dict) or not isinstance(found.get("metrics"), dict):
        return None
    values = {m: float(v["mean"] if isinstance(v, dict) else v) for m, v in found["metrics"].items() if v is not None}
    return str(found.get("name", "without looking")), values


def _cells(
    found: dict[str, Any], metrics: list[str], entries: list[tuple[str, str, dict[str, Any]]]
) -> list[Cell | None]:
    cells: list[Cell | None] = []
    for metric in metrics:
        if metric not in found:
            cells.append(None)
            continue
        means = [other[metric]["mean"] for _, _, other in entries if metric in other]
        best = (min if lower_is_better(metric) else max)(means)
        values, mean = found[metric].get("values") or [], float(found[metric]["mean"])
        std = found[metric].get("std") if len(values) != 1 else None
        cells.append(Cell(mean, float(std) if real(std) else None, best=len(means) > 1 and mean == best))
    return cells


def _comparisons(metrics: list[str], entries: list[tuple[str, str, dict[str, Any]]], faces: int) -> list[Comparison]:
    random = next((found for _, kind, found in entries if kind == "random"), None)
    baseline = next((found for _, kind, found in entries if kind == "baseline"), {})
    return [
        compare(metric, name, found[metric], random[metric], faces=faces, baseline=baseline.get(metric, {}).get("mean"))
        for name, kind, found in entries
        for metric in metrics
        if kind == "ours" and random is not None and metric in found and metric in random
    ]


def _note(results: dict[str, Any]) -> str:
    parts = []
    if results.get("train_images"):
        parts.append(f"{counted(results['train_images'], 'labelled training face')}")
    fraction = results.get("fraction")
    if real(fraction) and fraction != 1:
        parts[-1:] = [f"{parts[-1] if parts else 'labels'} ({100 * fraction:g} % of the labels)"]
    if results.get("test_images"):
        parts.append(f"{counted(results['test_images'], 'test face')}")
    if results.get("protocol"):
        parts.append(f"protocol: {results['protocol']}")
    if results.get("seeds"):
        parts.append(f"{counted(len(results['seeds']), 'seed')}")
    normaliser = (results.get("metrics") or {}).get("nme", {}).get("normaliser")
    if normaliser:
        parts.append(f"NME: percent, {normaliser}")
    if "mae" in (results.get("metrics") or {}):
        parts.append("errors in the unit of the labels, CCC and Pearson from -1 to 1")
    return " · ".join(parts)
