"""Make a folder of shipped weights, fra/weights/NAME, from a finished run of `fra pretrain` or `fra transfer`.

    python scripts/ship_weights.py runs/x --name laptop --faces FAIRFACE --results runs/x.rafdb runs/x.score
    python scripts/ship_weights.py runs/age --name laptop_age --faces FAIRFACE
    python scripts/ship_weights.py runs/marks --name landmarks68 --faces FAIRFACE --marks MARKS --results NME.json

Encoder and, where the method has regions, the region head, or else the learned task, are written as half precision,
with a manifest and a card. Refused: a run on other faces than FairFace (no other set permits it), an unfinished run,
weights whose answers half precision would change, more than 30 MB together. MARKS is what
scripts/annotate_landmarks.py wrote for these faces. RESULTS are run folders of `fra transfer` and of
`fra regions --score`, and files of `python -m benchmarks.peers`; nothing is copied from them but the numbers.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fra import __version__
from fra.data.datasets import find_dataset
from fra.drawing.drawn_face import draw_face
from fra.faces.image import read_image
from fra.files import read_rows
from fra.models.encoder import Encoder
from fra.pools.unlabelled import FirstImages, Pool, open_pool
from fra.predict.task_model import load_task_model
from fra.pretrain.loader import face_batch
from fra.pretrain.run import PretrainRecipe, load_pretrain_recipe, shown, watched_faces
from fra.recipe import plain, recipe_hash
from fra.tasks.landmarks import Landmarks
from fra.tasks.years import Years
from fra.transfer.recipes import load_transfer_recipe
from fra.weights import bundled
from fra.weights.card import bundled_card
from fra.weights.load import load_encoder, load_region_model, read_weights, save_weights

ATTRIBUTION = (
    "Trained on images of FairFace (Kärkkäinen and Joo, FairFace: Face Attribute Dataset for Balanced Race, Gender, and"
    " Age for Bias Measurement and Mitigation, WACV 2021), which is under CC BY 4.0"
    " (https://creativecommons.org/licenses/by/4.0/); changes: images resized to 112x112."
)
INTENDED_USE = (
    "Features and regions of faces for further training and for study: expression, attributes, landmarks, segmentation"
    " of faces, teaching. Not for deciding anything about a person, not for identifying or watching people."
)
LIMITS = [
    "Trained on tight crops of single faces: cut photographs by `fra crop` first.",
    "A small network trained for hours on two processor cores: far from the accuracy of the paper's ResNet-50.",
    "FairFace is balanced over seven races as annotators saw them, not over ages, cameras, lighting or occlusions;"
    " nothing was done about bias beyond that, and results by group should be measured before any use.",
]
LIMIT_OF_REGIONS = (
    "Regions are found without names; left and right are not told apart, because views are mirrored at random."
)
INTENDED_USE_OF_TASKS = (
    "Trying out `fra predict` and `fra app`, teaching, a start for tasks of one's own. Not for deciding anything about"
    " a person."
)
LIMITS_OF_TASKS = [
    "Its answers are a small network's guesses of what annotators wrote down, not facts about a person.",
    "The encoder was pre-trained on all faces of FairFace, those it is tested on too, though without labels.",
    "It is less often right for some groups of faces than for others: see above.",
]
PRECISION = (
    "Matrices and filters are stored in half precision, the rest in single, and computed in single. On drawn faces that"
    " moves {}."
)
MARKED = (
    " Landmarks were marked on them by the face mesh of MediaPipe (Google, Apache-2.0,"
    " https://www.apache.org/licenses/LICENSE-2.0), which is not part of fra. Drawn faces"
    " with exact landmarks joined them."
)
LIMITS_OF_MARKS = [
    "Its landmarks are a small network's imitation of another program's, whose jaw follows the face's outline: nobody"
    " has marked these faces by hand.",
    "The encoder was pre-trained on all faces of FairFace, those it is tested on too, though without landmarks.",
    "Faces that the annotating program was not sure of, or marked otherwise in a mirror, were left out of training and"
    " test: 20 % of FairFace, by annotated race 17 to 25 %, by age 9 (0-2) to 25 % (40-49).",
]
LARGEST_CHANGE = (
    0.01  # of features and scores by half precision, as a share of their size (ours: below any seed's luck)
)


def ship(run: Path, *, name: str, faces: Path, results: list[Path], marks: Path | None = None) -> Path:
    """Write fra/weights/NAME whole, in place of one that was there. ValueError says why a run cannot be shipped."""
    bundled.SHIPPED.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=bundled.SHIPPED))
    target, old = bundled.SHIPPED / name, bundled.SHIPPED / f".{name}-old"
    try:
        building.chmod(0o755)
        is_task = (run / bundled.TASK).is_file()
        facts = build_task(run, building, faces, marks) if is_task else build_weights(run, building, faces)
        facts["results"] += [row for folder in results for row in read_results(folder)]
        files = {path.name: bundled.file_facts(path) for path in sorted(building.glob("*.safetensors"))}
        facts.setdefault("attribution", ATTRIBUTION)
        manifest = bundled.Manifest(name=name, licence="CC BY 4.0", files=files, **facts)
        write_manifest(building, manifest)
        others = [path for path in bundled.SHIPPED.glob("[!.]*/*.safetensors") if path.parent != target]
        total = sum(path.stat().st_size for path in [*others, *building.glob("*.safetensors")])
        if total > bundled.MOST_BYTES:
            raise ValueError(f"all shipped weights would take {total:,} bytes, more than {bundled.MOST_BYTES:,}")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            os.replace(target, old)
        os.replace(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target


def build_weights(run: Path, building: Path, faces: Path) -> dict[str, Any]:
    """Encoder and regions of a run of `fra pretrain`, and what the manifest says of them."""
    for needed in ("summary.json", "recipe.yaml", "encoder.safetensors", "model.safetensors"):
        if not (run / needed).is_file():
            raise ValueError(f"{run} holds no {needed}: give a finished run of `fra pretrain`, or of `fra transfer`")
    recipe = load_pretrain_recipe(str(run / "recipe.yaml"), [])
    _, metadata = read_weights(run / "encoder.safetensors")
    data = training_data(run, recipe, metadata, faces)
    notes = {key: metadata[key] for key in ("encoder", "method", "recipe_hash", "faces", "library")}
    save_half(building / bundled.ENCODER, load_encoder(run).backbone.float().state_dict(), notes)
    has_regions = "regions" in read_weights(run / "model.safetensors")[1]
    if has_regions:
        model = load_region_model(run)
        regions = {"regions": dataclasses.asdict(model.head.config)}
        save_half(building / bundled.REGIONS, model.head.float().state_dict(), notes | regions)
    kept = ("method", "encoder", "recipe", "recipe_hash", "library")
    return {key: metadata[key] for key in kept} | dict(
        training_data=data,
        training=training_facts(run),
        precision=PRECISION.format(change(run, building, has_regions)),
        results=[],
        intended_use=INTENDED_USE,
        limits=[*LIMITS, LIMIT_OF_REGIONS] if has_regions else LIMITS,
    )


def build_task(run: Path, building: Path, faces: Path, marks: Path | None) -> dict[str, Any]:
    """The learned task of a run of `fra transfer`, and what the manifest says of it.

    ValueError unless it was learned from FairFace's labels or from landmarks marked on its faces, with an encoder that
    comes with fra.
    """
    if not (run / "results.json").is_file():
        raise ValueError(f"{run} holds no results.json: give a finished run of `fra transfer`")
    found, recipe = json.loads((run / "results.json").read_text()), load_transfer_recipe(str(run / "recipe.yaml"), [])
    if recipe.dataset not in ("fairface", "points"):
        raise ValueError(f"{run} was learned from {recipe.dataset}: only FairFace's labels can be shipped")
    if recipe.dataset == "points":
        if marks is None:
            raise ValueError(f"{run} was learned from landmarks: give --marks, which says on whose faces")
        only_of(faces, marks)
    labelled = find_dataset(recipe.dataset)(marks or faces, **({"crop": recipe.crop} if marks else {}))
    seen = json.loads((run / "settings.json").read_text())["data"]
    if seen != labelled.fingerprint(recipe.task):
        raise ValueError(f"the faces and labels that {run} was learned from are not those in {marks or faces}")
    tensors, notes = read_weights(run / bundled.TASK)
    if notes["encoder"] not in bundled.shipped_names(bundled.ENCODER):
        raise ValueError(f"{run} began with {notes['encoder']}: ship that first, and learn the task from its name")
    if marks:
        notes["learned"] |= {"from": "FairFace and drawn faces, landmarks by MediaPipe's face mesh"}
    save_half(building / bundled.TASK, tensors, notes)
    model, copy = load_task_model(run), load_task_model(building)
    images = drawn_faces(model.image_size)
    with torch.inference_mode():
        answers = model(images), copy(images)
    if isinstance(model.task, Landmarks):
        labels = f"{model.task.points} landmarks as MediaPipe's face mesh (Apache-2.0) marked them"
    else:
        asked = "age, read as years," if isinstance(model.task, Years) else recipe.task
        labels = f"{asked} as annotators saw it: {', '.join(getattr(model.task, 'labels', ()))}"
    return dict(
        attribution=ATTRIBUTION + (MARKED if marks else ""),
        training_data={
            "name": "FairFace and drawn faces" if marks else "FairFace",
            "faces": found["train_images"],
            "labels": labels,
            "licence": "CC BY 4.0",
        },
        method=recipe.protocol,
        encoder=dataclasses.asdict(model.encoder.config) | {"image_size": model.image_size},
        recipe=plain(recipe),
        recipe_hash=recipe_hash(recipe),
        library=f"fra {__version__}",
        training={"from": notes["encoder"], "epochs": recipe.epochs, "batch": recipe.batch_size},
        precision=PRECISION.format(moved({"answers": answers})),
        results=read_results(run) if marks is None else [on_marked_faces(run, faces)],
        intended_use=INTENDED_USE_OF_TASKS,
        limits=LIMITS_OF_MARKS if marks else LIMITS_OF_TASKS,
    )


def on_marked_faces(run: Path, faces: Path) -> dict[str, Any]:
    """The run's own test, also by FairFace's groups, which the landmarks' list does not name."""
    data = find_dataset("fairface")(faces)
    errors = {row["file"]: float(row["nme"]) for row in read_rows(run / "predictions.csv")}
    groups: dict[str, dict[str, Any]] = {}
    for kind, known in data.groups.items():
        groups[kind] = {}
        for number, name in enumerate(known.names):
            members = [data.files[image] for image in (known.of == number).nonzero()[:, 0].tolist()]
            found = [errors[file] for file in members if file in errors]
            if found:
                groups[kind][name] = {"images": len(found), "nme": sum(found) / len(found)}
    return read_results(run)[0] | {"dataset": "FairFace as the mesh marked it", "groups": groups}


def only_of(faces: Path, marks: Path) -> None:
    """ValueError unless every marked face is one of FairFace's or a drawn one, drawn again."""
    listed = set(find_dataset("fairface")(faces).files)
    points = find_dataset("points")(marks)
    for file in points.files:
        path = points.root / file
        if Path(file).parts[-2] == "drawn":
            shown = read_image(path)
            if not torch.equal(shown, draw_face(int(path.stem), size=shown.shape[-1]).image):
                raise ValueError(f"{path} is not the face that is drawn from its number")
        elif not (path.resolve().is_relative_to(faces.resolve()) and _in(listed, path, faces)):
            raise ValueError(f"{path} is not in the list of FairFace, {faces}/labels.csv")


def write_manifest(folder: Path, manifest: bundled.Manifest) -> None:
    (folder / "manifest.json").write_text(bundled.manifest_text(manifest))
    (folder / "card.md").write_text(bundled_card(manifest))


def training_data(run: Path, recipe: PretrainRecipe, metadata: dict[str, Any], faces: Path) -> dict[str, Any]:
    """What the run was trained on. ValueError unless `faces` is FairFace and the run has seen these very faces.

    FairFace is known by its list: its age groups and races are no other set's. The run keeps some of its faces
    (snapshots/faces.npz), which must be those at the same places of `faces`.
    """
    listed = set(find_dataset("fairface")(faces).files)
    pool: Pool = open_pool(faces)
    if recipe.max_faces is not None:
        pool = FirstImages(pool, recipe.max_faces)
    strange = next((path for path in map(pool.path, range(len(pool))) if not _in(listed, path, faces)), None)
    if strange is not None:
        raise ValueError(f"{strange} is not in the list of FairFace, {faces}/labels.csv")
    if len(pool) != metadata["faces"]:
        raise ValueError(f"{run} was trained on {metadata['faces']:,} faces, and {faces} gives {len(pool):,}")
    with np.load(run / "snapshots" / "faces.npz") as archive:
        seen = torch.from_numpy(archive["images"])
    now = face_batch(pool, shown(watched_faces(recipe, pool)), size=recipe.encoder.image_size)
    # Decoders of different versions round differently.
    if now.shape != seen.shape or float((255 * now - seen).abs().mean()) > 2:
        raise ValueError(
            f"the faces that {run} was trained on are not those in {faces}: only FairFace's can be shipped"
        )
    return {"name": "FairFace", "faces": len(pool), "labels": "none were used", "licence": "CC BY 4.0"}


def _in(listed: set[str], path: Path, faces: Path) -> bool:
    return path.resolve().relative_to(faces.resolve()).as_posix() in listed


def training_facts(run: Path) -> dict[str, Any]:
    """Epochs, steps, hours and the health after the last epoch."""
    summary = json.loads((run / "summary.json").read_text())
    last = read_rows(run / "health.csv")[-1]
    facts = {key: summary[key] for key in ("epochs", "steps")} | {"hours": round(summary["seconds"] / 3600, 2)}
    kept = ("effective_rank", "mask_cosine", "assignment_entropy")
    return facts | {name: float(last[name]) for name in kept if last.get(name)}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The numbers of a run of `fra transfer` or of `fra regions --score`, or of a file of `python -m benchmarks.peers`.

    ValueError when it is none of them.
    """
    if folder.is_file():
        return [judged(json.loads(folder.read_text()))]
    if (folder / "results.json").is_file():
        found = json.loads((folder / "results.json").read_text())
        metrics = {name: {key: value[key] for key in ("mean", "std")} for name, value in found["metrics"].items()}
        kept = {key: found[key] for key in ("task", "dataset", "protocol", "fraction", "train_images", "test_images")}
        beside = {key: found[key] for key in ("baseline", "groups", "calibration") if found.get(key)}
        return [kept | {"seeds": len(found["seeds"]), "metrics": metrics} | beside]
    if (folder / "score.json").is_file():
        found = json.loads((folder / "score.json").read_text())
        metrics = {name: value for name, value in found.items() if isinstance(value, float)}
        return [
            {
                "task": "regions",
                "dataset": "synthetic" if "iou" in found else "300w",
                "protocol": "region score",
                "metrics": metrics,
            }
        ]
    raise ValueError(f"{folder} holds neither results.json nor score.json")


def judged(found: dict[str, Any]) -> dict[str, Any]:
    """Landmarks on the test photographs of 300-W, on which nothing was learned or chosen."""
    metrics = {"nme": found["nme"]["mean"], "nme with a constant offset": found["nme with offset"]["mean"]}
    metrics["failure_rate@10"] = found["failure_rate@10 nme"]
    return {
        "task": "landmarks68",
        "dataset": "300w",
        "protocol": "as shipped, faces found by RetinaFace",
        "test_images": found["faces"],
        "seeds": 1,
        "metrics": {name: {"mean": value, "std": 0.0} for name, value in metrics.items()},
    }


def save_half(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Matrices and filters as half precision; vectors (batch norm's variances have a wide range) and counters as is."""
    save_weights(path, Stored({name: _half(tensor) for name, tensor in tensors.items()}), notes)


def _half(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.ndim > 1 and tensor.is_floating_point() else tensor


class Stored(nn.Module):
    """Tensors under names that may hold dots."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.tensors = tensors

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        return self.tensors


@torch.inference_mode()
def change(run: Path, building: Path, has_regions: bool) -> str:
    """How far half precision moves what the run says of drawn faces. ValueError when that is far."""
    encoder = load_encoder(run)
    images = drawn_faces(encoder.image_size)
    copy: Encoder = load_encoder(building / bundled.ENCODER)
    pairs = {"features": (encoder(images), copy(images))}
    if has_regions:
        model, other = load_region_model(run), load_region_model(run)
        state, _ = read_weights(building / bundled.REGIONS)
        other.head.load_state_dict(state)
        other.encoder = copy
        pairs["scores"] = (model(images).scores, other(images).scores)
    return moved(pairs)


def drawn_faces(size: int) -> Tensor:
    return torch.stack([draw_face(seed, size=size).image for seed in range(8)]).float() / 255


def moved(pairs: dict[str, tuple[Tensor, Tensor]]) -> str:
    """How far apart the two of each pair are, in words. ValueError when that is far."""
    far = {what: float((old - new).norm() / old.norm().clamp(min=1e-9)) for what, (old, new) in pairs.items()}
    if max(far.values()) > LARGEST_CHANGE or not all(map(np.isfinite, far.values())):
        raise ValueError(f"half precision would change {far} (as shares of their size): these weights need single")
    return ", ".join(f"{what} by {100 * value:.2g} %" for what, value in far.items())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run of `fra pretrain` or `fra transfer`")
    parser.add_argument("--name", required=True, help="what users will call the weights")
    parser.add_argument("--faces", type=Path, required=True, metavar="DIR", help="the FairFace it was trained on")
    parser.add_argument("--marks", type=Path, metavar="DIR", help="landmarks of scripts/annotate_landmarks.py")
    parser.add_argument("--results", type=Path, nargs="*", default=[], metavar="RUN")
    options = parser.parse_args(arguments)
    try:
        folder = ship(options.run, name=options.name, faces=options.faces, results=options.results, marks=options.marks)
    except (ValueError, OSError) as error:
        print(f"ship_weights: {error}", file=sys.stderr)
        return 2
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
