"""Tables on disk: tableN.md to read, tableN.csv to compute with. Published numbers never look like measured ones."""

from pathlib import Path
from typing import Any

from fra.engine import about, cost_of
from fra.files import write_rows, write_text
from fra.reproduce.runs import Place, Run, Value
from fra.reproduce.supplement.scales import Scale
from fra.reproduce.supplement.tables import Cell, Part, Row, Table
from fra.system.printable import counted

NOTHING = "–"


def write_table(table: Table, scale: Scale, place: Place) -> Path:
    """Write both files into `place.out` from finished runs; give the first.

    Raises ValueError, after writing, when a table that must hold the published numbers does not.
    """
    page = place.out / f"{table.name}.md"
    write_text(page, "\n".join(_lines(table, scale, place)) + "\n")
    write_rows(
        place.out / f"{table.name}.csv", [row for each in table.cells() for row in _records(table, scale, place, *each)]
    )
    if table.exact:
        _check(table, place)
    return page


def _lines(table: Table, scale: Scale, place: Place) -> list[str]:
    lines = [f"# {table.title}", "", _head(table, scale), ""]
    for part in table.parts:
        lines += [
            f"## {part.title}",
            "",
            f"| | | {' | '.join(part.columns)} |",
            "|---|---|" + "---|" * len(part.columns),
        ]
        lines += [line for row in part.rows for line in _row(part, row, scale, place)]
        lines += ["", *_images(part, place)]
    lines += [*(f"- {note}" for note in table.notes), "", _made(table.runs(), place)]
    return lines


def _head(table: Table, scale: Scale) -> str:
    """What stands in for what, before any number."""
    if not table.runs():
        return "*Published*: the supplement's numbers. **Ours**: those of the recipes."
    if not any(cell.published for *_, cell in table.cells()):
        return f"Scale `{scale.name}`, pre-trained on {scale.faces}."
    used = dict.fromkeys(name for part in table.parts for name in part.used)
    stand_ins = {"VGGFace2 (pre-training)": scale.faces} if scale.faces != "VGGFace2" else {}
    stand_ins |= {name: scale.data[name].name for name in used if _another(scale, name)}
    others = [f"{other} for {name}" for name, other in stand_ins.items()]
    text = f"Scale `{scale.name}`. *Published*: the supplement's numbers, from the paper's data. **Ours**: measured"
    if not others:
        return f"{text} on the same data."
    warning = ", with small networks" + (" that show only that everything runs" if scale.drawing else "")
    return f"{text} on stand-ins{warning}: {', '.join(others)}. The two are not comparable."


def _another(scale: Scale, name: str) -> bool:
    plain = [text.replace("-", "") for text in (scale.data[name].name, name)]
    return plain[0] != plain[1]


def _row(part: Part, row: Row, scale: Scale, place: Place) -> list[str]:
    """A line for the published numbers and one for ours, where there are any."""
    lines = []
    if any(cell.published for cell in row.cells):
        numbers = (f"*{cell.published}*" if cell.published else NOTHING for cell in row.cells)
        lines.append(f"| {row.label} | *published* | {' | '.join(numbers)} |")
    if any(cell.source for cell in row.cells):
        values = (_value(cell, place) for cell in row.cells)
        numbers = (NOTHING if value is None else f"**{_shown(value, part.form)}**" for value in values)
        where = (
            ", ".join(scale.data[name].name for name in part.used if _another(scale, name))
            if len(part.used) == 1
            else ""
        )
        ours = ", ".join(filter(None, ("**ours**", where, row.here)))
        lines.append(f"| {row.label} | {ours} | {' | '.join(numbers)} |")
    return lines


def _value(cell: Cell, place: Place) -> Value | None:
    return cell.source.value(place, cell.metric) if cell.source else None


def _shown(value: Value, form: str) -> str:
    """`47.20 ± 1.10` over seeds, or `47.20 (44.7 – 49.7)` with an interval."""
    text = f"{value.mean:{form}}".replace("e-0", "e-")
    if value.std is not None:
        return f"{text} ± {value.std:{form}}"
    if value.low is not None and value.high is not None and value.low < value.high:
        return f"{text} ({value.low:{form}} – {value.high:{form}})"
    return text


def _images(part: Part, place: Place) -> list[str]:
    """How many images our numbers of a part come from."""
    values = [value for row in part.rows for cell in row.cells if (value := _value(cell, place)) and value.test_images]
    if not values or len(part.used) != 1:
        return []
    train = max(value.train_images for value in values)
    seeds = sorted({value.seeds for value in values})
    repeated = " to ".join(str(seed) for seed in {seeds[0]: 0, seeds[-1]: 0})
    return [
        f"Ours: at most {counted(train, 'training image')}, {counted(values[0].test_images, 'test image')}, "
        f"{repeated} seed{'s' if seeds[-1] > 1 else ''}; ± is the standard deviation over seeds, brackets the 95 % "
        "interval over test images.",
        "",
    ]


def _made(runs: list[Run], place: Place) -> str:
    """When, by what, on what, and what it cost."""
    costs = [cost for run in runs if (cost := cost_of(run, place))]
    known = costs or [about(place)]
    when = f", {max(cost['finished'] for cost in costs)}" if costs else ""
    versions, machines = ("; ".join(dict.fromkeys(cost[key] for cost in known)) for key in ("version", "machine"))
    text = f"Made by {versions}{when}, on {machines}."
    if not runs:
        return text
    hours = sum(cost["seconds"] for cost in costs) / 3600
    missing = f" ({len(runs) - len(costs)} made elsewhere and not counted)" if len(costs) < len(runs) else ""
    return f"{text} Cost: {hours:.2f} hours for {counted(len(runs), 'run')}{missing}, which other tables share."


def _records(
    table: Table, scale: Scale, place: Place, part: Part, row: Row, column: str, cell: Cell
) -> list[dict[str, Any]]:
    """Rows of the .csv: one for a published number, one for ours."""
    about_cell = {"table": table.name, "part": part.title, "row": row.label, "column": column}
    records: list[dict[str, Any]] = []
    if cell.published:
        records.append(about_cell | {"source": "published", "value": cell.published})
    value = _value(cell, place)
    if value is not None:
        made_by = cell.source.name if isinstance(cell.source, Run) else ""
        spread = {"std": value.std, "low": value.low, "high": value.high}
        numbers = {name: "" if number is None else f"{number:.6g}" for name, number in spread.items()}
        counts = {
            "seeds": value.seeds,
            "train_images": value.train_images or "",
            "test_images": value.test_images or "",
        }
        records.append(
            about_cell
            | {"source": f"ours, {scale.name if made_by else 'recipe'}", "value": f"{value.mean:.6g}"}
            | numbers
            | counts
            | {"run": made_by}
        )
    return records


def _check(table: Table, place: Place) -> None:
    for _, row, column, cell in table.cells():
        value = _value(cell, place)
        if cell.published and value is not None and value.mean != float(cell.published):
            raise ValueError(
                f"{table.name}: {row.label.lower()} of {column} is {cell.published} in the supplement and"
                f" {value.mean:g} in the recipe {getattr(cell.source, 'recipe_name', '')}: fix the recipe"
            )
