"""Weights that come with fra: a folder of `fra/weights` each, described by its manifest and checked by it.

    fra/weights/NAME/manifest.json         what `Manifest` says
    fra/weights/NAME/encoder.safetensors   the backbone's tensors by timm's names
    fra/weights/NAME/regions.safetensors   the region head's, where the method has regions
    fra/weights/NAME/card.md               the manifest in words

`scripts/ship_weights.py` makes such a folder from a run.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parents[1] / "weights"
ENCODER, REGIONS = "encoder.safetensors", "regions.safetensors"
MOST_BYTES = 30_000_000
"""What all shipped weights may take together, so that an installation stays small (ours)."""


@dataclass(frozen=True)
class Manifest:
    """What shipped weights are, what they were made of, and what they may be used for."""

    name: str
    licence: str
    attribution: str
    """Whose faces they were trained on, and what was changed in them, as their licence asks."""
    training_data: dict[str, Any]
    method: str
    encoder: dict[str, Any]
    """EncoderConfig as plain data."""
    recipe: dict[str, Any]
    recipe_hash: str
    training: dict[str, Any]
    """Epochs, steps, seconds, health after the last epoch."""
    library: str
    precision: str
    """How the numbers are stored, and how far that moves features and heatmaps."""
    results: list[dict[str, Any]]
    """What was measured, by data set: metrics with mean and deviation over seeds, or a region score."""
    intended_use: str
    limits: list[str]
    files: dict[str, dict[str, Any]]
    """File → bytes and sha256."""


class MissingPart(ValueError):
    """Weights lack what was asked of them, such as the regions of a method that has none."""


def shipped_names() -> list[str]:
    """The names that `fra.load_encoder`, `fra regions` and `--encoder` take beside folders and files."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/manifest.json"))


def read_manifest(name: str) -> Manifest:
    """The manifest of shipped weights. ValueError when it is damaged."""
    path = SHIPPED / name / "manifest.json"
    try:
        return Manifest(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(_damaged(name, f"manifest.json cannot be read: {error}")) from error


def shipped_file(name: str, file: str) -> Path | None:
    """A file of the weights shipped as `name`, after comparing size and sha256 with the manifest.

    None when no weights of this name came with fra. MissingPart when they lack the file, ValueError when it is damaged.
    """
    if name not in shipped_names():
        return None
    manifest = read_manifest(name)
    if file not in manifest.files:
        raise MissingPart(
            f"the shipped weights '{name}' were trained with {manifest.method} and have no regions: use a run of fra"
        )
    path, promised = SHIPPED / name / file, manifest.files[file]
    if not path.is_file():
        raise ValueError(_damaged(name, f"{file} is missing"))
    found = file_facts(path)
    for what, value in found.items():
        if value != promised.get(what):
            raise ValueError(_damaged(name, f"{file} has {what} {value}, its manifest says {promised.get(what)}"))
    return path


def file_facts(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as a manifest holds them."""
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _damaged(name: str, why: str) -> str:
    return f"the shipped weights '{name}' are damaged ({why}): install fra again (pip install --force-reinstall)"


def card(manifest: Manifest) -> str:
    """The manifest as a page for people."""
    files = "\n".join(f"| {name} | {facts['bytes']:,} bytes |" for name, facts in manifest.files.items())
    data = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in manifest.training_data.items())
    training = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in manifest.training.items())
    results = "\n".join(f"| {_what(row)} | {_measured(row)} |" for row in manifest.results) or "| nothing yet | |"
    limits = "\n".join(f"- {limit}" for limit in manifest.limits)
    encoder = manifest.encoder
    regions = f"\nfra regions {manifest.name} --faces photo.jpg --out regions" if REGIONS in manifest.files else ""
    return f"""# {manifest.name}: face weights that come with fra

{encoder["name"]}, {encoder["image_size"]} px, pre-trained without labels by {manifest.method} ({manifest.library},
recipe {manifest.recipe_hash}, which manifest.json holds whole).

```
fra transfer RECIPE --encoder {manifest.name} --data DIR --out DIR{regions}
python -c "import fra; encoder = fra.load_encoder('{manifest.name}')"
```

## Licence

{manifest.licence}. {manifest.attribution}

## Training data

| | |
|---|---|
{data}

## Training

| | |
|---|---|
{training}

## Measured

| what | result |
|---|---|
{results}

## Use

{manifest.intended_use}

{limits}

## Files

| | |
|---|---|
{files}

{manifest.precision}
"""


def _what(row: dict[str, Any]) -> str:
    words = [row["dataset"], row["protocol"]]
    if row.get("fraction", 1) < 1:
        words.append(f"{row['fraction']:.0%} of the labels")
    if row.get("seeds") == 1:
        words.append("one seed")
    return ", ".join(words)


def _measured(row: dict[str, Any]) -> str:
    seeds = row.get("seeds", 1)
    return ", ".join(f"{name.replace('_', ' ')} {_number(value, seeds)}" for name, value in row["metrics"].items())


def _number(value: Any, seeds: int) -> str:
    if isinstance(value, dict):
        return f"{value['mean']:.2f} ± {value['std']:.2f}" if seeds > 1 else f"{value['mean']:.2f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def manifest_text(manifest: Manifest) -> str:
    """The content of manifest.json."""
    return json.dumps(dataclasses.asdict(manifest), indent=2) + "\n"
