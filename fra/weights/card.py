"""The card that lies beside weights: what they are, what they were made of, what they are for.

One form for the weights of a run, and for encoders and trained tasks that come with fra.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fra.files import REMOVE_TABLE, read_rows, reading, write_text
from fra.system.printable import counted
from fra.system.text import python_text
from fra.weights.bundled import REGIONS, TASK, Manifest

PURPOSE = (
    "Features for further training: expression, attributes, landmarks. Not for deciding anything about a person. The"
    " licence\nof these weights follows from the licence of the faces they were trained on, which only you know."
)


def card(title: str, begin: str, sections: Mapping[str, str]) -> str:
    """A page of Markdown: the title, what comes first, and the sections by their headings."""
    parts = [f"# {title}", begin, *(f"## {heading}\n\n{text}" for heading, text in sections.items())]
    return "\n\n".join(parts) + "\n"


def table(rows: Iterable[tuple[object, object]], *, heading: str = "| | |") -> str:
    """Two columns, without a heading unless one is given."""
    return "\n".join([heading, "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


# --- of a run


def write_card(out: Path, summary: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Write `card.md` of a finished run from its own tables."""
    health = out / "health.csv"
    with reading(health, REMOVE_TABLE):
        last = read_rows(health)[-1] if health.exists() else {}
    write_text(out / "card.md", run_card(out.resolve().name, summary, metadata, last))


def run_card(name: str, summary: dict[str, Any], metadata: dict[str, Any], health: Mapping[str, str]) -> str:
    """The card of the run called `name`; `health` is the last row of health.csv."""
    crop = metadata["crop"]
    crops = ", ".join(f"{key}: {value}" for key, value in crop.items()) if crop else "unknown (not made by `fra crop`)"
    facts = {
        "encoder": f"{summary['encoder']}, {summary['image_size']} px, RGB in [0, 1]",
        "trained on": ", ".join(
            counted(summary[key], word)
            for key, word in (("faces", "face crop"), ("epochs", "epoch"), ("steps", "step"))
        ),
        **_start(metadata.get("start")),
        "crops": crops,
        "could not be read": counted(len(summary["unreadable"]), "image"),
        "speed": f"{summary['pairs_per_second']} pairs per second",
    }
    made = f"A face encoder pre-trained without labels by {summary['method']} ({metadata['library']}; recipe"
    load = f"Load it with `fra.load_encoder({python_text(name)})`; the whole recipe is in `recipe.yaml`."
    measured = table((column, value) for column, value in health.items() if value and column != "warning")
    return card(
        name,
        f"{made}\n{metadata['recipe_hash']}).\n\n{table(facts.items())}\n\n{load}",
        {"Health after the last epoch": f"{measured}\n\n{health.get('warning') or 'No warning.'}", "Use": PURPOSE},
    )


def _start(start: Mapping[str, Any] | None) -> dict[str, str]:
    """The weights that a run started from, and their licence, which the run's weights inherit."""
    if start is None:
        return {}
    heads = ", with its heads" if start["with_heads"] else ""
    begun = f"`{start['label']}`, {start['encoder']['name']} ({start['fingerprint']}){heads}"
    return {"started from": begun, "licence of those weights": start["licence"]}


# --- of what comes with fra


def bundled_card(manifest: Manifest) -> str:
    """A manifest in words."""
    kind = "bundled trained task" if TASK in manifest.files else "bundled pretrained encoder"
    recipe = f"recipe {manifest.recipe_hash}, which manifest.json holds whole"
    results = [(_what(row), _measured(row)) for row in manifest.results]
    measured = table(results or [("nothing yet", "")], heading="| what | result |")
    sizes = table((name, f"{facts['bytes']:,} bytes") for name, facts in manifest.files.items())
    limits = "\n".join(f"- {limit}" for limit in manifest.limits)
    return card(
        f"{manifest.name}: {kind}",
        f"{_made(manifest)} ({manifest.library},\n{recipe}).\n\n```\n{_used(manifest)}\n```",
        {
            "Licence": f"{manifest.licence}. {manifest.attribution}",
            "Training data": table(_plain(manifest.training_data)),
            "Training": table(_plain(manifest.training)),
            "Measured": "\n\n".join([measured, *_groups(manifest)]),
            "Use": f"{manifest.intended_use}\n\n{limits}",
            "Files": f"{sizes}\n\n{manifest.precision}",
        },
    )


def _plain(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(key.replace("_", " "), value) for key, value in facts.items()]


def _made(manifest: Manifest) -> str:
    network = f"{manifest.encoder['name']}, {manifest.encoder['image_size']} px"
    if TASK in manifest.files:
        return f"{network}, trained by labels from `{manifest.training['from']}`, protocol {manifest.method}"
    return f"{network}, pre-trained without labels by {manifest.method}"


def _used(manifest: Manifest) -> str:
    name = manifest.name
    if TASK in manifest.files:
        python = f"task = fra.load_task_model('{name}')"
        return f'fra predict photo.jpg --task {name}\npython -c "import fra; {python}"'
    lines = [f"fra transfer RECIPE --encoder {name} --data DIR --out DIR"]
    if REGIONS in manifest.files:
        lines.append(f"fra regions {name} --faces photo.jpg --out regions")
    return "\n".join([*lines, f"python -c \"import fra; encoder = fra.load_encoder('{name}')\""])


def _groups(manifest: Manifest) -> list[str]:
    """A table of each kind of groups of faces for which results were measured."""
    tables = []
    for row in manifest.results:
        for kind, groups in row.get("groups", {}).items():
            if len(groups) < 2:
                continue
            metric = next(key for found in groups.values() for key in found if key != "images")  # the task's main one
            title = f"| {_what(row)}: {kind} | test images | {metric.replace('_', ' ')} |"
            lines = [f"| {name} | {found['images']:,} | {found[metric]:.1f} |" for name, found in groups.items()]
            tables.append("\n".join([title, "|---|---|---|", *lines]))
    return tables


def _what(row: dict[str, Any]) -> str:
    words = [row["dataset"], row["protocol"]]
    if row.get("fraction", 1) < 1:
        words.append(f"{row['fraction']:.0%} of the labels")
    if row.get("seeds") == 1:
        words.append("one seed")
    return ", ".join(words)


def _measured(row: dict[str, Any]) -> str:
    seeds = row.get("seeds", 1)
    found = ", ".join(f"{name.replace('_', ' ')} {_number(value, seeds)}" for name, value in row["metrics"].items())
    if "baseline" not in row:
        return found
    name, metrics = row["baseline"]["name"], row["baseline"]["metrics"]
    found = f"{found}; {name}: {', '.join(f'{value:.2f}' for value in metrics.values())}"
    if "calibration" in row:
        found += f"; stated probabilities are off by {row['calibration']['error']:.1f} points on average"
    return found


def _number(value: Any, seeds: int) -> str:
    if isinstance(value, dict):
        return f"{value['mean']:.2f} ± {value['std']:.2f}" if seeds > 1 else f"{value['mean']:.2f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
