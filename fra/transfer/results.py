"""From the finished seeds of a run to its files: `results.json`, `log.csv`, `predictions.csv`, weights, a picture."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fra.data.datasets import find_dataset
from fra.data.labelled import LabelledFaces
from fra.files import atomic, read_tensors, reading, shortened, write_json, write_rows, write_tensors
from fra.tasks.landmarks import Landmarks
from fra.tasks.metrics import wilson
from fra.tasks.task import Baseline, Task
from fra.transfer.calibration import calibration
from fra.transfer.protocol import Fitted
from fra.transfer.subsets import subset_hash

PICTURE_FACES = 8
OPTIONAL = ("best_outputs", "averaged_outputs")
"""Of `Fitted` and `SeedResult`."""


@dataclass(frozen=True)
class SeedResult:
    """One finished seed, as kept in `seeds/`."""

    seed: int
    outputs: Tensor
    best_outputs: Tensor | None
    averaged_outputs: Tensor | None
    tensors: dict[str, Tensor]
    log: list[dict[str, Any]]
    subset: Tensor
    train_images: int
    temperature: float | None = None
    held_out: int = 0
    certainty: dict[str, float] | None = None


def seed_file(out: Path, seed: int) -> Path:
    return out / f"seeds/seed_{seed}.safetensors"


def save_seed(out: Path, seed: int, fitted: Fitted, subset: Tensor) -> None:
    """One file, whole or not at all: a run that is killed loses only the seed it was at."""
    tensors = {"outputs": fitted.outputs, "subset": subset, **fitted.tensors}
    for name in OPTIONAL:
        if getattr(fitted, name) is not None:
            tensors[name] = getattr(fitted, name)
    kept = ("log", "train_images", "temperature", "held_out", "certainty")
    notes = {name: json.dumps(getattr(fitted, name)) for name in kept}
    write_tensors(seed_file(out, seed), tensors, notes)


def load_seed(out: Path, seed: int) -> SeedResult:
    """What `save_seed` wrote. Raises DamagedFile."""
    path = seed_file(out, seed)
    with reading(path, "remove it and train this seed again with --resume"):
        tensors, notes = read_tensors(path)
        return SeedResult(
            seed,
            tensors.pop("outputs"),
            tensors.pop("best_outputs", None),
            tensors.pop("averaged_outputs", None),
            tensors,
            json.loads(notes["log"]),
            tensors.pop("subset"),
            int(notes["train_images"]),
            json.loads(notes.get("temperature", "null")),  # not in runs from before there was one
            int(notes.get("held_out", 0)),
            json.loads(notes.get("certainty", "null")),
        )


def score(task: Task, targets: Tensor, seeds: Sequence[SeedResult]) -> dict[str, dict[str, Any]]:
    """`metrics` of results.json: mean, standard deviation (n - 1; 0 for one seed) and values of the last epoch.

    Beside them, where there are such, those of the best epoch on the validation split and of the averaged network.
    """
    last = [task.metrics(seed.outputs, targets) for seed in seeds]
    beside = {"best_on_validation": "best_outputs", "averaged": "averaged_outputs"}
    others = {
        word: [task.metrics(getattr(seed, name), targets) for seed in seeds if getattr(seed, name) is not None]
        for word, name in beside.items()
    }
    metrics: dict[str, dict[str, Any]] = {}
    for name in last[0]:
        metrics[name] = {**spread([values[name] for values in last]), "selected": "last"}
        for word, found in others.items():
            if len(found) == len(last):
                metrics[name][word] = spread([values[name] for values in found])
        if isinstance(task, Landmarks):
            metrics[name]["normaliser"] = task.normaliser_of(name)
    return metrics


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Of one number over seeds: mean, standard deviation (n - 1; 0 for one seed) and values."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": std, "values": values}


def summarise(
    task: Task, word: str, faces: LabelledFaces, seeds: Sequence[SeedResult], about: dict[str, Any]
) -> dict[str, Any]:
    """The content of `results.json`; `about` holds what the run knows of itself (encoder, recipe, fraction, …).

    `confidence` is Wilson's 95 % interval of the mean over the test images. The cells of one image are not independent,
    so images are counted for attributes too, which makes that interval a wide one.
    """
    test = faces.splits["test"]
    targets = faces.targets[word][test]
    metrics = score(task, targets, seeds)
    baselines = [task.baseline(faces.targets[word][seed.subset], targets) for seed in seeds]
    every = torch.cat([seed.outputs for seed in seeds])
    return {
        "task": word,
        "dataset": faces.name,
        **about,
        "train_images": min(seed.train_images for seed in seeds),
        "test_images": len(test),
        "seeds": [seed.seed for seed in seeds],
        "metrics": metrics,
        "baseline": {"name": baselines[0].name, "metrics": _mean_metrics(baselines)},
        "confidence": {
            name: {**dataclasses.asdict(wilson(metrics[name]["mean"], len(test))), "level": 0.95, "form": "wilson"}
            for name in task.proportions
        },
        "subset_hash": [subset_hash([faces.files[image] for image in seed.subset.tolist()]) for seed in seeds],
        **_calibration(task, seeds[0], targets),
        **task.details(every, targets.repeat(len(seeds), *[1] * (targets.ndim - 1))),
        **({"crop": {"name": faces.crop, "outside": task.outside(targets)}} if isinstance(task, Landmarks) else {}),
        **({"groups": by_group(task, faces, targets, seeds)} if faces.groups else {}),
    }


def _calibration(task: Task, seed: SeedResult, targets: Tensor) -> dict[str, Any]:
    """Of the seed whose weights `task.safetensors` holds, if its answers say how sure they are."""
    if seed.certainty is not None:
        return {"calibration": {**seed.certainty, "held_out_images": seed.held_out}}
    found = calibration(task, seed.outputs, targets, temperature=seed.temperature, held_out=seed.held_out)
    return {} if found is None else {"calibration": found}


def by_group(
    task: Task, faces: LabelledFaces, targets: Tensor, seeds: Sequence[SeedResult]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Per kind and group: test images and the metrics on them (mean over seeds), the task's main one first.

    For a share of decisions with Wilson's 95 % interval.
    """
    name, test = task.selects, faces.splits["test"]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, groups in faces.groups.items():
        found[kind] = {}
        for number, group in enumerate(groups.names):
            mine = groups.of[test] == number
            count = int(mine.sum())
            if count:
                by_seed = [task.metrics(seed.outputs[mine], targets[mine]) for seed in seeds]
                means = {key: statistics.fmean(values[key] for values in by_seed) for key in by_seed[0]}
                interval = dataclasses.asdict(wilson(means[name], count)) if name in task.proportions else {}
                found[kind][group] = {"images": count, name: means[name], **means, **interval}
    return found


def _mean_metrics(baselines: Sequence[Baseline]) -> dict[str, float]:
    return {name: statistics.fmean(baseline.metrics[name] for baseline in baselines) for name in baselines[0].metrics}


def write_run(
    out: Path,
    task: Task,
    word: str,
    faces: LabelledFaces,
    seeds: Sequence[SeedResult],
    *,
    about: dict[str, Any],
    notes: dict[str, Any],
    size: int,
) -> dict[str, Any]:
    """Write everything that is made from the finished seeds, `results.json` last; give its content."""
    test = faces.splits["test"]
    targets = faces.targets[word][test]
    results = summarise(task, word, faces, seeds, about)
    (out / "results.json").unlink(missing_ok=True)  # killed in between, the run is not finished
    write_rows(out / "log.csv", [shortened(row) for seed in seeds for row in seed.log])
    write_rows(out / "predictions.csv", _predictions(task, faces, targets, seeds))
    labels = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}  # type: ignore[arg-type]
    notes = notes | {"task": task.name, "settings": labels, "image_size": size, "learned": learned_facts(results)}
    notes = {name: json.dumps(value) for name, value in notes.items()}
    write_tensors(out / "task.safetensors", seeds[0].tensors, notes)
    order = task.order(seeds[0].outputs, targets)
    images = [faces.image(index, size=size) for index in test[order[:PICTURE_FACES]].tolist()]
    with atomic(out / f"{task.name}.png") as temporary:
        task.picture(seeds[0].outputs[order], targets[order], images).savefig(temporary, dpi=120)
    write_json(out / "results.json", results, indent=1)
    return results


def learned_facts(results: dict[str, Any]) -> dict[str, Any]:
    """What `task.safetensors` says of how it was learned, for those who meet only its answers."""
    metric, calibrated = next(iter(results["metrics"])), results.get("calibration", {})
    return {
        "from": results.get("title") or results["dataset"],
        "terms": find_dataset(results["dataset"]).terms,
        "images": results["train_images"],
        "encoder": results["encoder"],
        "metric": metric,
        "score": results["metrics"][metric]["values"][0],
        "test_images": results["test_images"],
        "temperature": calibrated.get("temperature"),
        "certainty": [calibrated["offset"], calibrated["slope"]] if "slope" in calibrated else None,
    }


def _predictions(
    task: Task, faces: LabelledFaces, targets: Tensor, seeds: Sequence[SeedResult]
) -> list[dict[str, Any]]:
    files = [faces.files[image] for image in faces.splits["test"].tolist()]
    kinds = {
        f"group_{kind}": [(*groups.names, "")[number] for number in groups.of[faces.splits["test"]].tolist()]
        for kind, groups in faces.groups.items()
    }
    rows = []
    for seed in seeds:
        columns = task.columns(seed.outputs, targets) | kinds
        for file, values in zip(files, zip(*columns.values(), strict=True), strict=True):
            rows.append({"seed": seed.seed, "file": file, **dict(zip(columns, values, strict=True))})
    return rows
