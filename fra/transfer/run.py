"""`fra transfer`: an encoder and labelled faces to scores."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fra.files import atomic, claim_folder, write_rows
from fra.recipe import load_recipe, plain, recipe_text
from fra.training.devices import choose_device
from fra.transfer.dataset import LabelledFaces
from fra.transfer.datasets import DATASETS
from fra.transfer.features import encoder_fingerprint
from fra.transfer.linear import Linear, batch_for
from fra.transfer.predict import TASKS, load_task_model
from fra.transfer.protocol import TransferRecipe
from fra.transfer.results import load_seed, save_seed, seed_file, write_run
from fra.transfer.subsets import draw_subset
from fra.transfer.task import Task

__all__ = [
    "PROTOCOLS",
    "TASKS",
    "TransferRecipe",
    "load_task_model",
    "load_transfer_recipe",
    "transfer",
    "transfer_network",
]

PROTOCOLS = {"linear": Linear}
"""Fine-tuning, EAC and STAR will be rows here."""


def load_transfer_recipe(name: str, overrides: Sequence[str] = ()) -> TransferRecipe:
    """A shipped recipe or a YAML file, with "key=value" overrides. ValueError names what is wrong and what there is."""
    return load_recipe(name, "transfer", TransferRecipe, overrides)


def transfer(
    recipe: TransferRecipe,
    *,
    encoder: str,
    data: Path,
    out: Path,
    fraction: float | None = None,
    seeds: int = 1,
    protocol: str | None = None,
    resume: bool = False,
    device: str = "auto",
    workers: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Judge an encoder on the task of a recipe; give the content of `results.json`, which `out` then holds.

    `encoder` is anything `load_encoder` knows, `data` the dataset's official layout. `fraction` and `protocol` replace
    the recipe's. Each of the `seeds` 0, 1, … draws its own labels and head. `resume` keeps the seeds that are finished;
    the others give the numbers they would have given. Raises ValueError when anything does not fit together.
    """
    from fra.training.weights import absolute, describe, load_encoder

    where = choose_device(device)
    if fraction is not None:
        recipe = dataclasses.replace(recipe, fraction=fraction)
    if protocol is not None:
        recipe = dataclasses.replace(recipe, protocol=protocol)  # type: ignore[arg-type]
    return transfer_network(
        recipe,
        load_encoder(encoder, device=where, quiet=quiet),
        source=absolute(encoder),
        label=describe(encoder),
        data=data,
        out=out,
        seeds=seeds,
        resume=resume,
        device=where,
        workers=workers,
        quiet=quiet,
    )


def transfer_network(
    recipe: TransferRecipe,
    encoder: nn.Module,
    *,
    source: str,
    label: str,
    data: Path,
    out: Path,
    seeds: int = 1,
    resume: bool = False,
    device: str = "cpu",
    workers: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """`transfer` with a network at hand: any module from (B, 3, H, W) in [0, 1] to (B, C) with `.image_size`.

    `source` is where `fra predict` will find the network again, `label` what tables call it.
    """
    faces, task = read_dataset(recipe, Path(data))
    if recipe.protocol not in PROTOCOLS:
        raise ValueError(f"the protocol '{recipe.protocol}' is not built yet: use {', '.join(PROTOCOLS)}")
    if seeds < 1:
        raise ValueError(f"{seeds} seeds give no number: give at least 1")
    train = faces.splits["train"]
    subsets = [train[draw_subset(len(train), fraction=recipe.fraction, seed=seed)] for seed in range(seeds)]
    size = recipe.image_size or int(encoder.image_size)  # type: ignore[arg-type]
    fingerprint = encoder_fingerprint(encoder)
    claim_folder(out, command="transfer", resume=resume)
    _check_settings(out, {"encoder": fingerprint, "data": faces.fingerprint(recipe.task), "recipe": plain(recipe)})
    with atomic(out / "recipe.yaml") as temporary:
        temporary.write_text(recipe_text(recipe))
    missing = [seed for seed in range(seeds) if not seed_file(out, seed).exists()]
    if missing:
        if not quiet:
            _say_batch(recipe, task, len(subsets[0]))
        # Features of all seeds' images, also when some are finished: the same batches give the same numbers.
        every = torch.cat(subsets).unique()
        learn = PROTOCOLS[recipe.protocol](
            recipe, task, faces, encoder, train=every, size=size, device=device, workers=workers, quiet=quiet
        )
        if learn.unreadable:
            write_rows(out / "unreadable.csv", [dataclasses.asdict(item) for item in learn.unreadable])
        for seed in missing:
            save_seed(out, seed, learn.fit(subsets[seed], seed=seed), subsets[seed])
    results = write_run(
        out,
        task,
        recipe.task,
        faces,
        [load_seed(out, seed) for seed in range(seeds)],
        about={
            "protocol": recipe.protocol,
            "fraction": recipe.fraction,
            "encoder": label,
            "encoder_hash": fingerprint,
            "image_size": size,
            "recipe": recipe.name,
            "unreadable": _count_unreadable(out),
        },
        notes={
            "encoder": source,
            "encoder_hash": fingerprint,
            "protocol": recipe.protocol,
            "dataset": recipe.dataset,
            "recipe": recipe.name,
        },
        size=size,
    )
    if not quiet:
        print_results(results, out)
    return results


def read_dataset(recipe: TransferRecipe, folder: Path) -> tuple[LabelledFaces, Task]:
    """The dataset and task of a recipe. Raises ValueError when one is unknown, or a split is empty."""
    if recipe.dataset not in DATASETS:
        raise ValueError(f"no dataset is called '{recipe.dataset}': there are {', '.join(DATASETS)}")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the dataset's as --data")
    faces = DATASETS[recipe.dataset](folder)
    if recipe.task not in faces.tasks:
        raise ValueError(f"{faces.name} has no task '{recipe.task}': it has {', '.join(faces.tasks)}")
    for split in ("train", "test"):
        if not len(faces.splits[split]):
            raise ValueError(f"{folder} has no {split} images: is the download complete?")
    return faces, faces.tasks[recipe.task]


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Note what this run is made of, or stop when a resumed run is made of something else."""
    file = out / "settings.json"
    if file.exists():
        before = json.loads(file.read_text())
        changed = [name for name in settings if before[name] != settings[name]]
        if changed:
            raise ValueError(f"{out} was started with another {', '.join(changed)}: choose another --out")
    else:
        with atomic(file) as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + "\n")


def _count_unreadable(out: Path) -> int:
    table = out / "unreadable.csv"
    return len(table.read_text().splitlines()) - 1 if table.exists() else 0


def _say_batch(recipe: TransferRecipe, task: Task, count: int) -> None:
    batch = batch_for(count, recipe)
    if not task.least_squares and batch < recipe.batch_size:
        print(f"{count:,} training images: {batch} a step (the recipe's {recipe.batch_size} would be too few steps)")


def print_results(results: dict[str, Any], out: Path) -> None:
    """The table at the end: what the encoder reached beside what the constant answer does."""
    from rich.console import Console
    from rich.table import Table

    many = len(results["seeds"]) > 1
    table = Table(
        title=f"{results['task']} on {results['dataset']}: {results['encoder']}, {results['protocol']}",
        caption=f"{results['train_images']:,} training and {results['test_images']:,} test images",
    )
    for column in ("", "percent", "95 % interval", results["baseline"]["name"]):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in results["metrics"].items():
        interval = results["confidence"].get(name)
        table.add_row(
            name,
            f"{values['mean']:.2f}" + (f" ± {values['std']:.2f}" if many else ""),
            f"{interval['low']:.1f} – {interval['high']:.1f}" if interval else "",
            f"{results['baseline']['metrics'][name]:.2f}",
        )
    console = Console()
    console.print(table)
    if results["unreadable"]:
        console.print(f"{results['unreadable']} images could not be read and were left out: {out / 'unreadable.csv'}")
    console.print(f"all of it is in {out}")
