"""The card that lies beside the weights: what they are, what they were made of, what they are for."""

from pathlib import Path
from typing import Any

from fra.files import REMOVE_TABLE, read_rows, reading, write_text


def write_card(out: Path, summary: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Write `card.md` of a finished run from its own tables."""
    table = out / "health.csv"
    with reading(table, REMOVE_TABLE):
        last = read_rows(table)[-1] if table.exists() else {}
    measured = "\n".join(f"| {name} | {value} |" for name, value in last.items() if value and name != "warning")
    crop = metadata["crop"]
    crops = ", ".join(f"{key}: {value}" for key, value in crop.items()) if crop else "unknown (not made by `fra crop`)"
    text = f"""# {out.resolve().name}

A face encoder pre-trained without labels by {summary["method"]} ({metadata["library"]}; recipe
{metadata["recipe_hash"]}).

| | |
|---|---|
| encoder | {summary["encoder"]}, {summary["image_size"]} px, RGB in [0, 1] |
| trained on | {summary["faces"]:,} face crops, {summary["epochs"]} epochs, {summary["steps"]:,} steps |
| crops | {crops} |
| could not be read | {len(summary["unreadable"])} images |
| speed | {summary["pairs_per_second"]} pairs per second |

Load it with `fra.load_encoder("{out.name}")`; the whole recipe is in `recipe.yaml`.

## Health after the last epoch

| | |
|---|---|
{measured}

{last.get("warning") or "No warning."}

## Use

Features for further training: expression, attributes, landmarks. Not for deciding anything about a person. The licence
of these weights follows from the licence of the faces they were trained on, which only you know.
"""
    write_text(out / "card.md", text)
