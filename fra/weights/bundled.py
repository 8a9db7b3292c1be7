"""Bundled pretrained weights: a folder of `fra/weights` each, described by its manifest and checked by it.

    fra/weights/NAME/manifest.json         what `Manifest` says
    fra/weights/NAME/encoder.safetensors   the backbone's tensors by timm's names
    fra/weights/NAME/regions.safetensors   the region head's, where the method has regions
    fra/weights/NAME/task.safetensors      instead of both: a learned task, as `fra transfer` writes it
    fra/weights/NAME/card.md               the manifest in words

`scripts/ship_weights.py` makes such a folder from a run.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fra.system.printable import did_you_mean

SHIPPED = Path(__file__).parents[1] / "weights"
ENCODER, REGIONS, TASK = "encoder.safetensors", "regions.safetensors", "task.safetensors"
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
    """Of pre-training, or of a task its protocol."""
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
    """What was measured, by dataset: metrics with mean and deviation over seeds, or a region score."""
    intended_use: str
    limits: list[str]
    files: dict[str, dict[str, Any]]
    """File → bytes and sha256."""


class MissingPart(ValueError):
    """Weights lack what was asked of them, such as the regions of a method that has none."""


def shipped_names(file: str | None = None) -> list[str]:
    """The names that `fra.load_encoder`, `fra regions`, `--encoder` and `--task` take beside folders and files.

    With `file` only of those weights that have one: ENCODER, REGIONS or TASK.
    """
    names = sorted(path.parent.name for path in SHIPPED.glob("*/manifest.json"))
    return names if file is None else [name for name in names if file in read_manifest(name).files]


def no_such(path: Path, what: str, names: Sequence[str]) -> str:
    """That nothing is at `path`; a plain name is taken for that of a bundled `what`, the nearest of `names` is
    offered."""
    if len(path.parts) > 1 or path.suffix:
        return f"no such file or folder: {path}"
    return f"no {what} named '{path}'{did_you_mean(str(path), names)}"


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
        raise MissingPart(_lack(manifest, file))
    path, promised = SHIPPED / name / file, manifest.files[file]
    if not path.is_file():
        raise ValueError(_damaged(name, f"{file} is missing"))
    found = file_facts(path)
    for what, value in found.items():
        if value != promised.get(what):
            raise ValueError(_damaged(name, f"{file} has {what} {value}, but its manifest says {promised.get(what)}"))
    return path


def file_facts(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as a manifest holds them."""
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _damaged(name: str, why: str) -> str:
    return f"the bundled weights '{name}' are damaged ({why}): reinstall fra (pip install --force-reinstall)"


def _lack(manifest: Manifest, file: str) -> str:
    if TASK in manifest.files:
        return (
            f"'{manifest.name}' is a trained task, not an encoder; use it with `fra predict PHOTO --task "
            f"{manifest.name}`"
        )
    if file == TASK:
        return f"'{manifest.name}' is an encoder, not a trained task; train one on it with `fra transfer`"
    return f"'{manifest.name}' was trained with {manifest.method} and has no regions: use a model of method fra"


def manifest_text(manifest: Manifest) -> str:
    """The content of manifest.json."""
    return json.dumps(dataclasses.asdict(manifest), indent=2) + "\n"
