"""Measure other people's networks beside ours: `python -m benchmarks.peers.run WHAT --work DIR --faces DIR [NAME ...]`.

`--work` holds the archives of npm's packages (`npm pack`), and gets features, runs and scores: every step is kept
there, and done once. See docs/results/peers.md.
"""

import argparse
import itertools
from pathlib import Path

import torch

from benchmarks.peers import cost, detection, expression, landmarks, rows
from benchmarks.peers.encoders import PEERS
from benchmarks.peers.judge import EXAMS, LFW, sit, weigh


def encoders(names: list[str], *, work: Path, faces: Path) -> None:
    """Linear scores on RAF-DB, CelebA and FairFace, and LFW's pairs."""
    for exam, name in itertools.product((LFW, *EXAMS), names or PEERS):
        sit(name, exam, work=work, faces=faces)
        print(f"{exam}: {name} is done", flush=True)
    scores(names, work=work, faces=faces)


def scores(names: list[str], *, work: Path, faces: Path) -> None:
    """Intervals and differences of the exams that have been sat."""
    for exam in (LFW, *EXAMS):
        for name, metrics in weigh(exam, work=work, faces=faces).items():
            for metric, found in metrics.items():
                print(f"{exam} {name} {metric}: {found['mean']:.2f} ({found['low']:.2f} – {found['high']:.2f})")


def landmarks_of(names: list[str], *, work: Path, faces: Path) -> None:
    """68 points on 300-W's held-back faces."""
    for name in names or landmarks.MODELS:
        print(name, landmarks.measure(name, work=work, faces=faces), flush=True)


def detectors(names: list[str], *, work: Path, faces: Path) -> None:
    """Recall on the photographs."""
    for name in names or detection.DETECTORS:
        print(name, detection.measure(name, work=work, faces=faces), flush=True)


def expressions(names: list[str], *, work: Path, faces: Path) -> None:
    """Ready models on RAF-DB's test faces."""
    for name in names or expression.MODELS:
        print(name, expression.measure(name, work=work, faces=faces), flush=True)


def costs(names: list[str], *, work: Path, faces: Path) -> None:
    """Faces per second and memory."""
    for name, found in cost.measure(names or [*PEERS, *landmarks.MODELS], work=work).items():
        print(f"{name}: {found['rate']:.0f} faces a second, {found['memory']:.0f} MiB")


def write_rows(names: list[str], *, work: Path, faces: Path) -> None:
    """All scores into results/results.csv; `python scripts/make_results.py` then makes the pages' tables."""
    print(f"{rows.write(work / 'scores')} rows are in {rows.TABLE}")


COMMANDS = {
    "encoders": encoders,
    "scores": scores,
    "landmarks": landmarks_of,
    "detectors": detectors,
    "expressions": expressions,
    "costs": costs,
    "rows": write_rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.run", description=__doc__)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all, unless some are named")
    parser.add_argument("--work", type=Path, required=True, help="archives, features, runs and scores")
    parser.add_argument("--faces", type=Path, required=True, help="the folder of real faces")
    chosen = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    COMMANDS[chosen.what](chosen.names, work=chosen.work, faces=chosen.faces)


if __name__ == "__main__":
    main()
