"""What makes FRA's regions come alive and stay alive: one change at a time from the faithful design.

    python experiments/regions.py --faces fairface --data folder_of_300w_rafdb_lfw --out runs/regions

Every run starts from the same seed, sees the same faces in the same order, and has the same optimiser; it is judged by
the region score (300-W), by RAF-DB in linear evaluation and by LFW's pairs. Finished runs are kept, killed ones resume.
`--only NAME ...` takes some of the variants, `--seeds 2` repeats them with other first weights and orders. The table
lands in `OUT/regions.md` and `OUT/regions.csv`; its last version is in docs/regions.md.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

from fra.files import atomic, read_rows, write_rows
from fra.pretrain.run import load_pretrain_recipe, pretrain
from fra.regions.score import write_score
from fra.transfer.run import load_transfer_recipe, transfer

BASE = "laptop/resnet10_half.fra"
SHORT = ["encoder.name=resnet10_quarter", "schedule.epochs=2", "method.head.hidden=512"]
FAITHFUL = ["method.decoder.content=zeros", "method.decoder.mask_mlp=default", "method.assignment=probabilities"]
"""The released design of the regions, in a small network and a short run."""
ALIGNED = ["method.cluster_views=aligned", "method.cluster_weight=0.5", "method.heatmap_scale=0.1"]
"""Regions that must follow the face when it moves in its view: cluster term x 5, heatmaps that tell regions apart."""
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
    "alive (laptop)": [],  # the recipe's own design
    "alive, coarser map": ["encoder.last_stride=2"],
    "alive, finer map": ["encoder.third_stride=1"],
    "alive, crossed": ["method.cluster_views=crossed"],
    "alive, aligned": ["method.cluster_views=aligned"],
    "alive, cluster term x 5": ["method.cluster_weight=0.5"],
    "alive, sharper heatmaps": ["method.heatmap_scale=0.1"],
    "alive, 16 regions": ["method.regions=16"],
    "alive, aligned, strong, sharper": ALIGNED,
    "alive, aligned, strong, sharper, finer map": [*ALIGNED, "encoder.third_stride=1"],
}
ASLEEP = 0.9
"""Share of log K that the assignment's cross-entropy stays above while all masks are equal."""


@dataclass(frozen=True)
class Place:
    """Where faces and labels are, and how the runs compute."""

    faces: Path
    data: Path
    out: Path
    overrides: tuple[str, ...] = ()


def run(place: Place, name: str, seed: int) -> dict[str, object]:
    """One variant, trained and judged: a row of the table."""
    settings = [*SHORT, *VARIANTS[name], *place.overrides]
    recipe = load_pretrain_recipe(BASE, [*settings, f"seed={seed}"])
    folder = place.out / f"{name.replace(' ', '_')}.{seed}"
    trained, judged, scored = folder / "pretrain", folder / "rafdb", folder / "score"
    if not (trained / "summary.json").exists():
        pretrain(recipe, place.faces, trained, resume=trained.exists(), pairs=place.data / "lfw", workers=0, quiet=True)
    if not (scored / "score.json").exists():
        write_score(str(trained), place.data / "300w", scored, resume=scored.exists(), quiet=True)
    if not (judged / "results.json").exists():
        transfer(
            load_transfer_recipe("laptop/rafdb.linear"),
            encoder=str(trained),
            data=place.data / "rafdb",
            out=judged,
            resume=judged.exists(),
            quiet=True,
        )
    score = json.loads((scored / "score.json").read_text())
    health = read_rows(trained / "health.csv")[-1]
    expression = json.loads((judged / "results.json").read_text())["metrics"]["accuracy"]["mean"]
    awake = waking_step(read_rows(trained / "log.csv"), regions=recipe.method.regions)
    return dict(
        variant=name,
        seed=seed,
        awake="never" if awake is None else awake,
        mask_cosine=round(score["mask_cosine"], 3),
        smallest_region=round(100 * min(score["usage"]), 1),
        entropy=round(score["entropy"], 3),
        landmark_nme=round(score["landmark_nme"], 2),
        mean_face_nme=round(score["mean_face_nme"], 2),
        flip=round(score["flip_consistency"], 3),
        rafdb=round(expression, 2),
        lfw=round(float(health["pair_auc"]), 1),
        rank=round(float(health["effective_rank"]), 2),
    )


def waking_step(log: list[dict[str, str]], *, regions: int) -> int | None:
    """The logged step from which on the assignment is below ASLEEP * log K to the end; None when regions sleep at last.

    Ours: at the fixed point of equal masks it is log K exactly (spec, section 15).
    """
    awake = None
    for row in log:
        if float(row["assignment"]) >= ASLEEP * math.log(regions):
            awake = None
        elif awake is None:
            awake = int(row["step"])
    return awake


def write_table(rows: list[dict[str, object]], out: Path) -> None:
    titles = list(rows[0])
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    lines += ["| " + " | ".join(str(row[title]) for title in titles) + " |" for row in rows]
    with atomic(out / "regions.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    write_rows(out / "regions.csv", rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="crops to train on")
    parser.add_argument("--data", type=Path, required=True, help="folder of 300w, rafdb and lfw")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change all runs alike")
    given = parser.parse_args(arguments)
    place = Place(given.faces, given.data, given.out, tuple(given.set))
    rows: list[dict[str, object]] = []
    for name in given.only:
        for seed in range(given.seeds):
            rows.append(run(place, name, seed))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
            write_table(rows, given.out)


if __name__ == "__main__":
    main()
