"""What the methods' encoders are worth beside each other: random weights, BYOL, SwAV, LEWEL, FRA as released, FRA.

    python -m experiments.comparison --faces fairface --data folder_of_rafdb_celeba_300w_lfw --out runs/comparison

All have the same network, faces and number of epochs (recipes `laptop/resnet10_half.METHOD`). The folder is one of
`fra reproduce --scale laptop`: runs that are there are taken, killed ones resume, several processes may share it. The
table lands in `OUT/comparison.md` and `.csv`, also when it is interrupted; its last version is in docs/results.md.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from experiments.regions import FAITHFUL
from fra.files import MARK, atomic, claim_folder
from fra.paper.reproduce import do_runs
from fra.paper.runs import Place, Pretraining, Run, Source, Timing, Transfer, Value
from fra.paper.scales import SCALES
from fra.paper.tables import Cell, Part, Row, Table
from fra.paper.write import write_table
from fra.pretrain.health import pair_auc, read_pairs
from fra.regions.score import write_score
from fra.training.weights import load_encoder

LAPTOP = SCALES["laptop"]
ENCODERS = {
    "BYOL": LAPTOP.encoder("byol"),
    "SwAV": LAPTOP.encoder("swav"),
    "LEWEL": LAPTOP.encoder("lewel"),
    "FRA": LAPTOP.encoder("fra"),
}
RELEASED_FRA = Pretraining("laptop/resnet10_half.fra", tuple(FAITHFUL))
RANDOM, RELEASED = "Random weights", "FRA, regions as released"


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
            write_score(str(trained), place.dataset("300w"), out, resume=(out / MARK).exists(), quiet=place.quiet)
        else:
            encoder = load_encoder(f"random:{trained}" if self.random else trained, quiet=place.quiet).eval()
            found = pair_auc(encoder, read_pairs(place.dataset("lfw"), encoder.image_size))
            with atomic(out / "score.json") as temporary:
                temporary.write_text(json.dumps({"pair_auc": found}) + "\n")

    def command(self, place: Place) -> str:
        return ""

    def value(self, place: Place, metric: str) -> Value | None:
        if not self.finished(place):
            return None
        return Value(json.loads((self.folder(place) / "score.json").read_text())[metric])


def comparison(seeds: int) -> Table:
    """The table; what is cheap comes first."""
    encoders = ENCODERS | {RELEASED: RELEASED_FRA}
    everyone = {RANDOM: (ENCODERS["FRA"], True)} | {name: (encoder, False) for name, encoder in encoders.items()}
    with_regions = {name: encoders[name] for name in (RELEASED, "FRA")}

    def judged(recipe: str, metric: str, fraction: float = 1.0) -> list[Cell]:
        runs = [Transfer(recipe, encoder, fraction, seeds, random) for encoder, random in everyone.values()]
        return [Cell(source=run, metric=metric) for run in runs]

    pairs = [Cell(source=Score(encoder, "pairs", random), metric="pair_auc") for encoder, random in everyone.values()]
    as_it_is = {
        "LFW pairs, AUC, % ↑": pairs,
        "RAF-DB, linear, accuracy, % ↑": judged("laptop/rafdb.linear", "accuracy"),
        "CelebA, linear, mean attribute accuracy, % ↑": judged("laptop/celeba.linear", "attribute_accuracy"),
        "CelebA, linear, balanced, % ↑": judged("laptop/celeba.linear", "balanced_attribute_accuracy"),
    }
    fine_tuned = {
        "300-W, 10 %, NME, % ↓": judged("laptop/300w.star_fewshot", "nme", 0.1),
        "RAF-DB, accuracy, % ↑": judged("laptop/rafdb.finetune", "accuracy"),
        "300-W, 100 %, NME, % ↓": judged("laptop/300w.star", "nme"),
    }
    region_score = [
        Row(name, tuple(Cell(source=Score(encoder, "regions"), metric=metric) for metric in REGION_SCORE))
        for name, encoder in with_regions.items()
    ]
    timing = Timing(tuple(ENCODERS.values()))
    times = [
        Row(name, (Cell(source=timing, metric=f"{encoder.recipe.method.name}.with_loading"),))
        for name, encoder in ENCODERS.items()
    ]
    return Table(
        "comparison",
        "The methods beside each other",
        (
            Part("Frozen", tuple(as_it_is), _rows(list(everyone), as_it_is)),
            Part("Regions, on the faces of 300-W", tuple(REGION_SCORE.values()), tuple(region_score)),
            Part("Fine-tuned", tuple(fine_tuned), _rows(list(everyone), fine_tuned)),
            Part("Time of a pre-training step, relative to BYOL", ("with data loading",), tuple(times)),
        ),
    )


REGION_SCORE = {
    "landmark_nme": "landmarks from centroids, NME, % ↓",
    "mean_face_nme": "the mean face",
    "flip_consistency": "flip consistency ↑",
    "mask_cosine": "mask cosine ↓",
    "entropy": "entropy, nats ↓",
}


def _rows(names: list[str], columns: dict[str, list[Cell]]) -> tuple[Row, ...]:
    return tuple(Row(name, cells) for name, cells in zip(names, zip(*columns.values(), strict=True), strict=True))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="crops to train on")
    parser.add_argument("--data", type=Path, required=True, help="folder of rafdb, celeba, 300w and lfw")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="of the transfers")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--workers", type=int)
    given = parser.parse_args(arguments)
    place = Place(given.out, given.faces, given.data, precision=given.precision, workers=given.workers)
    claim_folder(given.out, command="reproduce", resume=True)
    table = comparison(given.seeds)
    try:
        do_runs(table.runs(), LAPTOP, place)
    finally:
        print(write_table(table, LAPTOP, place))


if __name__ == "__main__":
    main()
