"""What the methods' encoders are worth beside each other: random weights, BYOL, SwAV, LEWEL, FRA as released, FRA.

    python -m experiments.comparison --faces fairface --data folder_of_rafdb_celeba_300w_lfw --out runs/comparison

All have the same network and faces (recipes `laptop/resnet10_half.METHOD`), and but for LEWEL, which takes as long in
fewer, the same number of epochs. Transfers are repeated with three seeds unless told otherwise. The table lands in
`OUT/comparison.md` and `.csv`; its last version is in docs/results/index.md.
"""

from experiments.judge import LAPTOP, Score, make, parser
from experiments.regions import FAITHFUL
from fra.reproduce.runs import Pretraining, Timing, Transfer
from fra.reproduce.supplement.tables import Cell, Part, Row, Table

ENCODERS = {
    "BYOL": LAPTOP.encoder("byol"),
    "SwAV": LAPTOP.encoder("swav"),
    "LEWEL": LAPTOP.encoder("lewel"),
    "FRA": LAPTOP.encoder("fra"),
}
RELEASED_FRA = Pretraining("laptop/resnet10_half.fra", tuple(FAITHFUL))
RANDOM, RELEASED = "Random weights", "FRA, regions as released"


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
    given = parser(__doc__).parse_args(arguments)
    make(comparison(given.seeds or 3), given)


if __name__ == "__main__":
    main()
