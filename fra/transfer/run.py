"""`fra transfer`: an encoder and labelled faces to scores."""

import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fra.data.datasets import find_dataset
from fra.data.labelled import WARNING, LabelledFaces
from fra.data.own import CutPhotos, of_crops
from fra.files import claim_folder, one_writer, read_json, read_rows, write_json, write_rows, write_text
from fra.models.encoder import Encoder
from fra.recipe import plain, recipe_text
from fra.runtime import Runtime
from fra.system.printable import counted, printable
from fra.tasks.regression import SCORES
from fra.tasks.task import Task
from fra.training.batch_norm import require_enough_images
from fra.training.devices import begin, choose_precision, make_fabric
from fra.training.peers import launch, with_peers
from fra.transfer.alignment.star import StarRecipe
from fra.transfer.features import FrozenFeatures
from fra.transfer.fewshot.fabrec import FabRecHead
from fra.transfer.network import WholeNetwork
from fra.transfer.protocol import Learner, NetworkRecipe, Protocol, TransferRecipe, batch_for, first_head
from fra.transfer.recipes import PROTOCOLS, own_settings
from fra.transfer.results import load_seed, save_seed, seed_file, write_run
from fra.transfer.subsets import draw_subset, hold_out
from fra.weights.load import encoder_fingerprint, load_encoder
from fra.weights.source import EncoderSource

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from rich.console import Console


@dataclass(frozen=True)
class NamedEncoder:
    """A network at hand."""

    network: nn.Module
    """Any module from (B, 3, H, W) in [0, 1] to (B, C) with `.image_size`; all protocols but the linear one need an
    `Encoder`."""
    source: str
    """Where `fra predict` will find it again: anything `load_encoder` knows."""
    label: str
    """What tables call it."""
    frozen: FrozenFeatures | None = None
    """What it says of this dataset, where that is known; the linear protocol then computes no features."""


@with_peers()
@one_writer
def transfer(
    recipe: TransferRecipe,
    *,
    encoder: str | Path | EncoderSource | NamedEncoder,
    data: Path | CutPhotos | LabelledFaces,
    out: Path,
    fraction: float | None = None,
    seeds: int = 1,
    first_seed: int = 0,
    runtime: Runtime = Runtime(),
) -> dict[str, Any]:
    """Evaluate an encoder on a recipe's task; returns the content of `results.json`, which is written to `out`.

    `encoder` is anything `load_encoder` knows, or a network at hand; `data` is the dataset's official layout, photos of
    people's own with their crops, or faces that were read before.
    `fraction` replaces the recipe's. Each of the `seeds`, from `first_seed` on, draws its own labels and head. A
    resumed run keeps those that are finished; others give the numbers they would have given. Of several processes only
    the first writes, and only it gets the results. Raises ValueError when anything does not fit together.
    """
    runtime = replace(runtime, device=begin(runtime))
    if fraction is not None:
        recipe = replace(recipe, fraction=fraction)
    named = encoder if isinstance(encoder, NamedEncoder) else load_named(encoder, runtime)
    network = named.network
    faces, task = read_dataset(recipe, data)
    recipe = replace(recipe, task=faces.word(recipe.task))
    if seeds < 1:
        raise ValueError(f"--seeds is {seeds}: give at least 1")
    splits = {seed: split_labels(recipe, faces, seed) for seed in range(first_seed, first_seed + seeds)}
    fingerprint = encoder_fingerprint(network)
    learned: dict[str, Any] = {}
    beside: dict[str, Any] = {}
    _, kind = PROTOCOLS[recipe.protocol]
    if issubclass(kind, Learner):
        if not isinstance(network, Encoder):
            raise ValueError(
                f"protocol {recipe.protocol} trains only encoders of fra (`load_encoder`): use a linear recipe"
            )
        learned = {"encoder_config": asdict(network.config)}
        beside = kind.prepare(network, named.source)
        head = first_head(lambda: kind.new_head(recipe, task, network), seed=first_seed)
        require_enough_images(
            nn.ModuleList([network, head]),
            batch_size=recipe.batch_size,
            processes=runtime.processes,
            synchronised=runtime.processes > 1 and runtime.device == "cuda",
        )
        if isinstance(recipe, StarRecipe):
            learned["alignment"] = asdict(recipe.alignment)
        if isinstance(head, FabRecHead):
            learned["fabrec"] = asdict(head.shape)
    fabric, precision = _prepare(recipe, out, runtime)
    first = fabric.is_global_zero
    runtime = replace(runtime, quiet=runtime.quiet or not first)
    if first:
        _say_notes(faces, quiet=runtime.quiet)
    settings = {"encoder": fingerprint, "data": faces.fingerprint(recipe.task), "recipe": plain(recipe), **beside}

    def claim() -> list[int]:
        claim_folder(out, command="transfer", resume=runtime.resume)
        _check_settings(out, settings | {"precision": precision})
        write_text(out / "recipe.yaml", recipe_text(recipe))
        finished = [seed for seed in splits if seed_file(out, seed).exists()]
        for seed in finished:  # what a kill after saving the seed left
            shutil.rmtree(seed_file(out, seed).with_suffix(""), ignore_errors=True)
        return sorted(splits.keys() - set(finished))

    missing = _on_first(fabric, claim)
    if missing:
        if not runtime.quiet:
            _say_steps(recipe, task, len(splits[first_seed][0]))
        # Images of all seeds, also when some are finished: the same batches give the same numbers.
        every = torch.cat([torch.cat(parts) for parts in splits.values()]).unique()
        train = every[~torch.isin(every, faces.splits["val"])]
        build: Callable[..., Protocol] = partial(WholeNetwork, kind) if issubclass(kind, Learner) else kind
        known: dict[str, Any] = {} if issubclass(kind, Learner) else {"known": named.frozen}
        learn = build(recipe, task, faces, network, train=train, fabric=fabric, runtime=runtime, **known)
        if learn.unreadable and first:
            write_rows(out / "unreadable.csv", [asdict(item) for item in learn.unreadable], checked=True)
        for seed in missing:
            labels, val = splits[seed]
            folder = seed_file(out, seed).with_suffix("")
            fitted = learn.fit(labels, val=val, seed=seed, folder=folder, calibrate=seed == first_seed)
            if fitted is not None:
                save_seed(out, seed, fitted, labels)
                shutil.rmtree(folder, ignore_errors=True)
            fabric.barrier()
    if not first:
        fabric.barrier()
        return {}
    results = write_run(
        out,
        task,
        recipe.task,
        faces,
        [load_seed(out, seed) for seed in splits],
        about={
            "protocol": recipe.protocol,
            "fraction": recipe.fraction,
            "encoder": named.label,
            "encoder_hash": fingerprint,
            "image_size": recipe.side(network),
            "recipe": recipe.name,
            "unreadable": _count_unreadable(out),
            "val_images": len(splits[first_seed][1]),
            **({"title": faces.title} if faces.title else {}),
            **({"notes": list(faces.notes)} if faces.notes else {}),
        },
        notes={
            "encoder": named.source,
            "encoder_hash": fingerprint,
            "protocol": recipe.protocol,
            "dataset": recipe.dataset,
            "crop": faces.crop,
            "recipe": recipe.name,
            **learned,
        },
        size=recipe.side(network),
    )
    fabric.barrier()
    if not runtime.quiet:
        print_results(results, out)
    return results


def split_labels(recipe: TransferRecipe, faces: LabelledFaces, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the images that train in a seed's run, and of those that validate; the same in every process."""
    train, val = faces.splits["train"], faces.splits["val"]
    chosen = train[draw_subset(len(train), fraction=recipe.fraction, seed=seed, rule=recipe.subset)]
    if len(val) or not recipe.hold_out:
        return chosen, val
    return hold_out(chosen, faces.targets[recipe.task][chosen], seed=seed)


def load_named(encoder: str | Path | EncoderSource, runtime: Runtime) -> NamedEncoder:
    """The encoder, on the runtime's device, with its names."""
    source = EncoderSource.parse(encoder)
    return NamedEncoder(load_encoder(source, device=runtime.device, quiet=runtime.quiet), str(source), source.label)


def _prepare(recipe: TransferRecipe, out: Path, runtime: Runtime) -> tuple["Fabric", str]:
    """Where and how precisely the protocol computes; a resumed run keeps its precision.

    The linear protocol takes one device and 32 bits: its encoder only answers.
    """
    precision = runtime.precision
    if not isinstance(recipe, NetworkRecipe):
        if runtime.processes > 1:
            raise ValueError("the linear protocol runs on one device: leave out --devices and --nodes")
        precision = "32"
    elif runtime.resume and precision == "auto" and (out / "settings.json").exists():
        precision = read_json(out / "settings.json").get("precision", "auto")
    precision = choose_precision(runtime.device, precision, processes=runtime.processes)
    fabric = make_fabric(replace(runtime, precision=precision))
    launch(fabric)
    return fabric, precision


def _on_first(fabric: "Fabric", work: Callable[[], Any]) -> Any:
    """Do `work` in process 0; all get what it gives, or the error it raises."""
    found, problem = None, None
    if fabric.is_global_zero:
        try:
            found = work()
        except (ValueError, OSError) as error:
            problem = error
    found, problem = fabric.broadcast((found, problem))
    if problem is not None:
        raise problem
    return found


def read_dataset(recipe: TransferRecipe, data: Path | CutPhotos | LabelledFaces) -> tuple[LabelledFaces, Task]:
    """The dataset and task of a recipe. Raises ValueError when one is unknown, or a split is empty."""
    if isinstance(data, LabelledFaces):
        faces, folder = data, data.root
    else:
        dataset = find_dataset(recipe.dataset)
        folder = data.folder if isinstance(data, CutPhotos) else Path(data)
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder: give the dataset's folder as --data")
        faces = dataset(folder, crop=recipe.crop)
    if isinstance(data, CutPhotos):
        faces = of_crops(faces, data.crops)
    recipe = replace(recipe, task=faces.word(recipe.task))
    faces = faces.labelled(recipe.task)
    for split in ("train", "test"):
        if not len(faces.splits[split]):
            raise ValueError(f"{folder} has no {split} images: is the download complete?")
    return faces, recipe.prepare(faces.tasks[recipe.task], faces.targets[recipe.task])


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Note what this run is made of, or stop when a resumed run is made of something else."""
    file = out / "settings.json"
    if file.exists() or any(out.glob("seeds/*.safetensors")):
        before = read_json(file)
        protocol, written = settings["recipe"]["protocol"], before.get("recipe")
        # It may be from before protocols had settings of their own.
        if isinstance(written, dict) and written.get("protocol") == protocol:
            before["recipe"] = own_settings(written, protocol, where=str(file))
        changed = [name for name in settings if before.get(name, settings[name]) != settings[name]]
        if changed:
            raise ValueError(f"{out} was started with a different {', '.join(changed)}: choose another --out")
    else:
        write_json(file, settings, indent=1)


def _say_notes(faces: LabelledFaces, *, quiet: bool) -> None:
    """What the labels were taken for; what is doubtful also when nothing else is said."""
    for note in faces.notes:
        if note.startswith(WARNING):
            print(f"fra: {printable(note)}", file=sys.stderr)
        elif not quiet:
            print(printable(note))


def _count_unreadable(out: Path) -> int:
    table = out / "unreadable.csv"
    return len(read_rows(table)) if table.exists() else 0


def _say_steps(recipe: TransferRecipe, task: Task, count: int) -> None:
    """Where few labels change what the recipe says."""
    if task.least_squares and not isinstance(recipe, NetworkRecipe):
        return
    batch = batch_for(count, recipe)
    steps = math.ceil(count / batch)
    epochs = recipe.epochs_of(steps)
    given = f"{counted(count, 'training image')}:"
    if batch < recipe.batch_size:
        why = "all of them" if batch == count else f"so that an epoch has {counted(steps, 'step')}"
        print(f"{given} batch size {batch} instead of {recipe.batch_size}, {why}")
    if isinstance(recipe, NetworkRecipe) and epochs > recipe.epochs:
        print(
            f"{given} {counted(epochs, 'epoch')} instead of {recipe.epochs}, so that there are at least "
            f"{counted(recipe.min_steps, 'step')}"
        )


def print_results(results: dict[str, Any], out: Path) -> None:
    """The table at the end: what the encoder reached beside what the constant answer does."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    def shown(values: dict[str, Any]) -> str:
        return f"{values['mean']:.2f}" + (f" ± {values['std']:.2f}" if len(results["seeds"]) > 1 else "")

    averaged = any("averaged" in values for values in results["metrics"].values())
    table = Table(
        title=f"{results['task']} on {results.get('title') or results['dataset']}: {results['encoder']}, "
        f"{results['protocol']}",
        caption=f"{counted(results['train_images'], 'training image')}, "
        f"{counted(results['test_images'], 'test image')}",
    )
    unit = "value" if SCORES.keys() & results["metrics"].keys() else "percent"
    columns = ["", unit, *(["averaged network"] if averaged else []), "95 % interval", results["baseline"]["name"]]
    for column in columns:
        table.add_column(column, justify="left" if not column else "right")
    for name, values in results["metrics"].items():
        interval = results["confidence"].get(name)
        table.add_row(
            name,
            shown(values),
            *([shown(values["averaged"])] if averaged else []),
            f"{interval['low']:.1f} – {interval['high']:.1f}" if interval else "",
            f"{results['baseline']['metrics'][name]:.2f}",
        )
    console = Console()
    console.print(table)
    for kind, groups in results.get("groups", {}).items():
        _print_groups(console, kind, groups)
    if results.get("crop", {}).get("name"):
        outside = results["crop"]["outside"]
        console.print(
            f"faces are cropped as {results['crop']['name']}, around the annotated face: "
            f"{counted(outside['landmarks'], 'landmark')} of {counted(outside['faces'], 'test face')} "
            "outside of the image"
        )
    if results["unreadable"]:
        where = escape(printable(out / "unreadable.csv"))
        console.print(f"left out {counted(results['unreadable'], 'image')} that could not be read: {where}")
    console.print(escape(f"results are in {printable(out)}"))


def _print_groups(console: "Console", kind: str, groups: dict[str, dict[str, Any]]) -> None:
    """The main metric for each group, because a mean over all can hide that some are served worse."""
    from rich.table import Table

    metric = next(name for name in next(iter(groups.values())) if name != "images")
    table = Table(title=f"by {kind}")
    for column in ("", "images", metric, "95 % interval"):
        table.add_column(column, justify="left" if not column else "right")
    for group, values in groups.items():
        interval = f"{values['low']:.1f} – {values['high']:.1f}" if "low" in values else ""
        table.add_row(group, f"{values['images']:,}", f"{values[metric]:.2f}", interval)
    console.print(table)
