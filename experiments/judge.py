"""What the experiments measure of an encoder beyond the supplement's tables, and how they are run.

Their folders are those of `fra reproduce --scale laptop`: runs that are there are taken, killed ones resume, several
processes may share one. Tables land there too, also when the work is interrupted.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

from fra.files import atomic, claim_folder, read_rows
from fra.pretrain.health import pair_auc, read_pairs
from fra.regions.score import write_score
from fra.reproduce.run import do_runs
from fra.reproduce.runs import Place, Pretraining, Run, Source, Value
from fra.reproduce.supplement.scales import SCALES
from fra.reproduce.supplement.tables import Table
from fra.reproduce.write import write_table
from fra.runtime import Runtime
from fra.weights.load import load_encoder

LAPTOP = SCALES["laptop"]
ASLEEP = 0.9
"""Share of log K that the assignment's cross-entropy stays above while all masks are equal."""


@dataclass(frozen=True)
class Score(Run, Source):
    """What is measured of an encoder as it is: its regions on the faces of 300-W, or its features on LFW's pairs."""

    encoder: Pretraining
    of: str
    """`regions` or `pairs`."""
    random: bool = False

    @property
    def name(self) -> str:
        return f"{self.of}.{'random_' if self.random else ''}{self.encoder.name}"

    @property
    def needs(self) -> tuple[Run, ...]:
        return (self.encoder,)

    def finished(self, place: Place) -> bool:
        return (self.folder(place) / "score.json").exists()

    def work(self, place: Place) -> None:
        trained, out = self.encoder.folder(place), self.folder(place)
        if self.of == "regions":
            write_score(str(trained), place.dataset("300w"), out, runtime=place.runtime.continuing(out))
        else:
            encoder = load_encoder(f"random:{trained}" if self.random else trained, quiet=place.runtime.quiet).eval()
            found = pair_auc(encoder, read_pairs(place.dataset("lfw"), encoder.image_size))
            with atomic(out / "score.json") as temporary:
                temporary.write_text(json.dumps({"pair_auc": found}) + "\n")

    def command(self, place: Place) -> str:
        return ""

    def value(self, place: Place, metric: str) -> Value | None:
        """`metric` is a field of score.json, or smallest_region: its share of the positions in percent."""
        if not self.finished(place):
            return None
        found = json.loads((self.folder(place) / "score.json").read_text())
        return Value(100 * min(found["usage"]) if metric == "smallest_region" else found[metric])


@dataclass(frozen=True)
class Diary(Source):
    """What a pre-training wrote down about itself."""

    encoder: Pretraining

    def value(self, place: Place, metric: str) -> Value | None:
        """`metric` is a column of health.csv, whose last row counts, or waking_step: None when regions never woke."""
        if not self.encoder.finished(place):
            return None
        folder = self.encoder.folder(place)
        if metric != "waking_step":
            return Value(float(read_rows(folder / "health.csv")[-1][metric]))
        method = self.encoder.recipe.method
        step = waking_step(read_rows(folder / "log.csv"), regions=method.regions)
        return None if step is None else Value(step)


def waking_step(log: list[dict[str, str]], *, regions: int) -> int | None:
    """The logged step from which on the assignment is below ASLEEP * log K to the end; None when regions sleep at last.

    Ours: at the fixed point of equal masks it is log K exactly (spec fra.md, section 15).
    """
    awake = None
    for row in log:
        if float(row["assignment"]) >= ASLEEP * math.log(regions):
            awake = None
        elif awake is None:
            awake = int(row["step"])
    return awake


def parser(description: str) -> argparse.ArgumentParser:
    """With the arguments that all experiments have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--faces", type=Path, required=True, help="crops to train on")
    made.add_argument("--data", type=Path, required=True, help="folder of rafdb, celeba, 300w and lfw")
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--seeds", type=int, help="repetitions of what is repeated")
    made.add_argument("--precision", default="auto")
    made.add_argument("--workers", type=int)
    return made


def make(table: Table, given: argparse.Namespace) -> None:
    """Do what is missing, and write the table from what there is, whatever happens."""
    place = Place(given.out, given.faces, given.data, runtime=Runtime(precision=given.precision, workers=given.workers))
    claim_folder(given.out, command="reproduce", resume=True, shared=True)
    try:
        do_runs(table.runs(), LAPTOP, place)
    finally:
        print(write_table(table, LAPTOP, place))
