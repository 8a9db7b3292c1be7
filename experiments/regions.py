"""What makes FRA's regions come alive and stay alive: one change at a time from the faithful design.

    python -m experiments.regions --faces fairface --data folder_of_rafdb_300w_lfw --out runs/regions

Every run starts from the same seed, sees the same faces in the same order, and has the same optimiser; it is judged by
the region score (300-W), by RAF-DB in linear evaluation and by LFW's pairs. `--only NAME ...` takes some of the
variants, `--seeds 2` repeats them with other first weights and orders. The table lands in `OUT/regions.md` and
`OUT/regions.csv`; its last version is in docs/dev/studies/regions.md.
"""

from experiments.judge import Diary, Score, make, parser
from fra.reproduce.runs import Pretraining, Transfer
from fra.reproduce.supplement.tables import Cell, Part, Row, Table

BASE = "laptop/resnet10_half.fra"
EQUAL = ["method.face_weight=0.5", "method.region_weight=0.5"]
"""As released; the recipe has weighed the face more since the study."""
SHORT = ["encoder.name=resnet10_quarter", "schedule.epochs=2", "method.head.hidden=512", *EQUAL]
ALIVE = [*EQUAL, "method.cluster_views=same", "method.cluster_weight=0.1", "method.heatmap_scale=1"]
"""Regions that start apart, as the recipe's do, but with the released cluster term."""
FAITHFUL = [
    *ALIVE,
    "method.decoder.content=zeros",
    "method.decoder.mask_mlp=default",
    "method.assignment=probabilities",
]
"""The released design of the regions, in a small network and a short run."""
VARIANTS: dict[str, list[str]] = {
    "faithful": FAITHFUL,
    "decoder starts from the queries": [*FAITHFUL, "method.decoder.content=queries"],
    "mask MLP orthogonal": [*FAITHFUL, "method.decoder.mask_mlp=orthogonal"],
    "Sinkhorn on exponentials": [*FAITHFUL, "method.assignment=exponentials"],
    "teacher's temperature .02": [*FAITHFUL, "method.teacher_temperature=0.02"],
    "student's temperature .05": [*FAITHFUL, "method.student_temperature=0.05"],
    "cluster term x 5": [*FAITHFUL, "method.cluster_weight=0.5"],
    "cluster term crossed": [*FAITHFUL, "method.cluster_views=crossed"],
    "no mean-entropy term": [*FAITHFUL, "method.mean_entropy_weight=0"],
    "no negative term": [*FAITHFUL, "method.negative_weight=0"],
    "two decoder layers": [*FAITHFUL, "method.decoder.layers=2"],
    "16 regions": [*FAITHFUL, "method.regions=16"],
    "projectors not normalised": [*FAITHFUL, "method.head.normalised=false"],
    "predictors at rate 1": [*FAITHFUL, "optimizer.predictor_rate=1"],
    "queries, orthogonal": [*FAITHFUL, "method.decoder.content=queries", "method.decoder.mask_mlp=orthogonal"],
    "alive": ALIVE,
    "alive, coarser map": [*ALIVE, "encoder.last_stride=2"],
    "alive, finer map": [*ALIVE, "encoder.third_stride=1"],
    "alive, crossed": [*ALIVE, "method.cluster_views=crossed"],
    "alive, aligned": [*ALIVE, "method.cluster_views=aligned"],
    "alive, cluster term x 5": [*ALIVE, "method.cluster_weight=0.5"],
    "alive, sharper heatmaps": [*ALIVE, "method.heatmap_scale=0.1"],
    "alive, 16 regions": [*ALIVE, "method.regions=16"],
    "aligned (laptop)": [],  # the recipe's own design
    "aligned, cluster term as alive": ["method.cluster_weight=0.1"],
    "aligned, cluster term x 2.5": ["method.cluster_weight=0.5"],
    "aligned, heatmaps as alive": ["method.heatmap_scale=1"],
    "aligned, finer map": ["encoder.third_stride=1"],
    "aligned, 16 regions": ["method.regions=16"],
    "aligned, detached": ["method.detached_regions=true"],
}


def study(names: list[str], seeds: int, changes: list[str]) -> Table:
    """The table of some variants; `changes` are settings that all runs share."""
    columns = {
        "awake from step": ("waking_step", Diary),
        "mask cosine": ("mask_cosine", _regions),
        "smallest region, %": ("smallest_region", _regions),
        "entropy, nats": ("entropy", _regions),
        "landmarks from centroids, NME, % ↓": ("landmark_nme", _regions),
        "the mean face": ("mean_face_nme", _regions),
        "flip consistency ↑": ("flip_consistency", _regions),
        "RAF-DB, linear, accuracy, % ↑": ("accuracy", _expression),
        "LFW pairs, AUC, % ↑": ("pair_auc", _pairs),
        "effective rank ↑": ("effective_rank", Diary),
    }
    rows = []
    for name in names:
        for seed in range(seeds):
            encoder = Pretraining(BASE, (*SHORT, *VARIANTS[name], *changes, f"seed={seed}"))
            cells = tuple(Cell(source=source(encoder), metric=metric) for metric, source in columns.values())
            rows.append(Row(name, cells, f"seed {seed}"))
    return Table(
        "regions",
        "What makes regions come alive",
        (Part("One change at a time", tuple(columns), tuple(rows)),),
        ("Awake: the assignment stays below .9 log K from there on; – when it never does.",),
    )


def _regions(encoder: Pretraining) -> Score:
    return Score(encoder, "regions")


def _pairs(encoder: Pretraining) -> Score:
    return Score(encoder, "pairs")


def _expression(encoder: Pretraining) -> Transfer:
    return Transfer("laptop/rafdb.linear", encoder)


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change all runs alike")
    given = options.parse_args(arguments)
    make(study(given.only, given.seeds or 1, given.set), given)


if __name__ == "__main__":
    main()
