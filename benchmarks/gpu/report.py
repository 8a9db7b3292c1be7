"""The rows of a shot as Markdown."""

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.shot import BROKEN, FAILED, LEFT_OUT, Row


def markdown(rows: Sequence[Row]) -> str:
    """Checks, speeds, other measurements, and what did not fit or broke; sections without rows are left out."""
    checks = [row for row in rows if row["stage"] == "checks"]
    speeds = [row for row in rows if "pairs_per_second" in row and row["stage"] == "speed"]
    others = [row for row in rows if row["stage"] not in ("checks", "speed") and row["status"] == "measured"]
    undone = [row for row in rows if row["status"] in (LEFT_OUT, BROKEN, FAILED)]
    parts = [
        _section("Checks", ["check", "", "found"], [[row["name"], row["status"], _found(row)] for row in checks]),
        _section("Speed", ["setting", *SPEED], _speeds(speeds)),
        *(_section(row["name"], ["", ""], [[key, _number(row[key])] for key in _keys(row)]) for row in others),
        _section(
            "Not done",
            ["stage", "what", "why"],
            [[row["stage"], row["name"], str(row.get("error", row["status"])).replace("|", "/")] for row in undone],
        ),
    ]
    return "\n".join(part for part in parts if part)


SPEED = ("fra, pairs/s", "byol", "bare network", "lightly byol", "fra's time over byol's", "fra, MiB")


def _speeds(rows: Sequence[Row]) -> list[list[str]]:
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["name"].rpartition(": ")[0], {})[row["candidate"]] = row
    table = []
    for setting, mine in found.items():
        rates = [
            mine[name]["pairs_per_second"] if name in mine else None
            for name in ("fra", "byol", "bare network", "lightly byol")
        ]
        ratio = rates[1] / rates[0] if rates[0] and rates[1] else None
        memory = mine["fra"].get("memory_mib") if "fra" in mine else None
        table.append([setting, *map(_number, [*rates, ratio, memory])])
    return table


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([f"## {title}", "", *lines, ""])


def _keys(row: Row) -> list[str]:
    return [key for key in row if key not in ("stage", "name", "status")]


def _found(row: Row) -> str:
    return ", ".join(f"{key} {_number(row[key])}" for key in _keys(row) if key != "seconds").replace("|", "/")


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
