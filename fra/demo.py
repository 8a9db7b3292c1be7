"""`fra demo`: the whole story in a few minutes, on drawn faces or on a folder of photographs."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import yaml

from fra.crop.cut import CropSettings
from fra.crop.run import crop
from fra.data.datasets.synthetic import write as write_drawn_faces
from fra.files import claim_folder, one_writer, read_text, reading
from fra.pools.listing import image_files
from fra.pretrain.run import load_pretrain_recipe, pretrain
from fra.regions.run import draw_regions
from fra.report.run import write_report
from fra.runtime import Runtime
from fra.system.printable import counted, printable
from fra.transfer.recipes import load_transfer_recipe
from fra.transfer.run import transfer

DRAWN_FACES = 4000
FEW_LABELS = 0.1
SEEDS = 3
TASKS = ("synthetic_expression", "synthetic_attributes", "synthetic_landmarks")
FEWEST_FACES = 8
PHOTO_STEPS = 1125  # about as much training as on drawn faces
MOST_EPOCHS = 400  # 95 faces then have 800 steps; with 100 no region woke (docs/dev/log.md)


@one_writer
def demo(out: Path, *, photos: Path | None = None, runtime: Runtime = Runtime()) -> Path:
    """Pre-train FRA, draw its regions, judge it against random weights where labels exist; the report's path.

    Everything stays in `out`; called again it goes on where it stopped. Raises ValueError for unusable photos, and
    when `out` is not the demo's or was begun on other faces.
    """
    started = time.monotonic()

    def say(text: str) -> None:
        if not runtime.quiet:
            print(f"\n== {text}", flush=True)

    if photos is not None:
        photos = Path(os.path.abspath(photos.expanduser()))
        image_files(photos)  # says what is wrong with them before anything is written
    _claim(out, photos)
    if photos is None:
        runs = _on_drawn_faces(out, runtime, say)
        title = "FRA on drawn faces"
    else:
        runs = _on_photos(out, photos, runtime, say)
        title = f"FRA on {photos.name}"
    page = write_report(runs, out, title=title)
    if not runtime.quiet:
        minutes = (time.monotonic() - started) / 60
        print(f"\nDone in {minutes:.1f} minutes. Open the report: {printable(page.resolve())}")
    return page


def _claim(out: Path, photos: Path | None) -> None:
    """Mark `out` as the demo's, unless it was begun on other faces: what these have taught would stay."""
    claim_folder(out, command="demo", resume=True)
    record = out / "crops/crop.yaml"
    asked = "drawn faces" if photos is None else os.fsencode(photos).decode("utf-8", "replace")  # as in crop.yaml
    begun = None
    if record.exists():
        with reading(record):
            begun = yaml.safe_load(read_text(record))["photos"]["from"]
    elif (out / "faces").exists():
        begun = "drawn faces"
    if begun not in (None, asked):
        raise ValueError(f"{out} holds a demo on {begun}: choose another --out for {asked}")


def _on_drawn_faces(out: Path, runtime: Runtime, say: Callable[[str], None]) -> list[Path]:
    drawn, run, found = out / "faces", out / "pretrain", out / "regions"
    if not (drawn / "labels.csv").exists():
        say(f"Drawing {DRAWN_FACES:,} faces (no photographs needed, nothing downloaded)")
        write_drawn_faces(drawn, DRAWN_FACES, runtime=runtime)
    say("Pre-training FRA on them, without labels")
    recipe = load_pretrain_recipe("laptop/demo.fra", [])
    pretrain(recipe, drawn / "images", run, runtime=runtime.continuing(run))
    say("Drawing the facial regions it found")
    draw_regions(str(run), drawn / "images", found, runtime=runtime.continuing(found))
    runs = [run, found]
    for name in TASKS:
        what = name.removeprefix("synthetic_").capitalize()
        say(f"{what} from {FEW_LABELS:.0%} of the labels, compared with random weights")
        for encoder, label in ((str(run), "pretrain"), (f"random:{run}", "random")):
            folder = out / f"{name}.{label}"
            task = load_transfer_recipe(f"laptop/{name}", [f"fraction={FEW_LABELS}"])
            transfer(task, encoder=encoder, data=drawn, out=folder, seeds=SEEDS, runtime=runtime.continuing(folder))
            runs.append(folder)
    return runs


def _on_photos(out: Path, photos: Path, runtime: Runtime, say: Callable[[str], None]) -> list[Path]:
    crops, run, found = out / "crops", out / "pretrain", out / "regions"
    say(f"Cropping the faces in {photos}")
    crop(photos, crops, CropSettings(choose="all"), runtime=runtime.continuing(crops))
    faces = len(image_files(crops))
    if faces < FEWEST_FACES:
        raise ValueError(
            f"only {counted(faces, 'face')} found in {photos}: give at least {FEWEST_FACES}, preferably thousands"
        )
    recipe = load_pretrain_recipe("laptop/demo.fra", [])
    batch = min(faces, recipe.batch_size)
    epochs = min(MOST_EPOCHS, max(1, round(PHOTO_STEPS / (faces // batch))))
    recipe = replace(recipe, batch_size=batch, schedule=replace(recipe.schedule, epochs=epochs))
    say(f"Pre-training FRA on {counted(faces, 'face')}")
    if faces < 1000:
        say(f"{faces} faces are few: expect pictures to look at, not a useful encoder")
    pretrain(recipe, crops, run, runtime=runtime.continuing(run))
    say("Drawing the facial regions it found")
    draw_regions(str(run), crops, found, runtime=runtime.continuing(found))
    return [run, found]
