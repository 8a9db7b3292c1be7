"""`scripts/gpu_check --out DIR [--faces SHARDS]`: one GPU in one shot, without network.

Checks, speeds and views first; what is left of the minutes goes into pre-training ResNet-50 with FRA. DIR gets
results.jsonl (a line as soon as it is known), table.md and the encoder in half precision, in pieces of at most 15 MiB;
`--join DIR --out encoder.safetensors` puts them together. Exit status 1 when a check failed or broke.
"""

import argparse
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import checks, encoder, speed
from benchmarks.gpu.report import markdown
from benchmarks.gpu.shot import BROKEN, FAILED, Shot, Target
from fra.training.devices import choose_device

SLOWEST = 100.0
"""Pairs per second with which the epochs are planned when no rate was measured (ours)."""


def check(shot: Shot, target: Target, work: Path) -> None:
    """What must hold."""
    for name, found in checks.CHECKS.items():
        seconds = checks.SECONDS.get(name, 0.0)
        shot.do(name, lambda found=found: found(target), needs=0.0 if target.miniature else seconds)


def measure_views(shot: Shot, target: Target, work: Path) -> None:
    """Views per second."""
    shot.do("views per second", lambda: speed.views_per_second(target))


def measure_speed(shot: Shot, target: Target, work: Path) -> None:
    """Steps per second, cell by cell."""
    for cell in speed.cells(target):
        needed = 0.0 if target.miniature else speed.needs(cell)
        shot.do(cell.name, lambda cell=cell: speed.measure(cell, target), needs=needed)


def train(shot: Shot, target: Target, work: Path) -> None:
    """An encoder, and its pieces."""
    if target.miniature and target.faces is None:
        checks.drawn_faces(work / "faces", 16)
        target = Target(target.device, target.miniature, work / "faces")
    rate = 0.0 if target.miniature else encoder.rate_of(shot.rows, otherwise=SLOWEST)
    run, seconds = work / "run", shot.left - 5  # in miniature one epoch is planned
    shot.do("pre-training", lambda: encoder.pretrain_for(seconds, target, run, pairs_per_second=rate), needs=10)


def bring_back(shot: Shot, target: Target, work: Path) -> None:
    """The encoder in half precision, in pieces."""
    if (work / "run" / "encoder.safetensors").exists():
        shot.do("encoder", lambda: encoder.into_pieces(work / "run" / "encoder.safetensors", shot.file.parent))


STAGES: Mapping[str, tuple[float, Callable[[Shot, Target, Path], None]]] = {
    "checks": (0.28, check),
    "views": (0.32, measure_views),
    "speed": (0.62, measure_speed),
    "training": (0.96, train),
    "encoder": (1.0, bring_back),
}
"""When each ends at the latest, as a share of all minutes."""


def machine(target: Target) -> Mapping[str, Any]:
    """What this is."""
    gpu = torch.cuda.get_device_name() if target.device == "cuda" else None
    return dict(gpu=gpu, torch=torch.__version__, python=platform.python_version(), threads=torch.get_num_threads())


def shoot(target: Target, out: Path, *, seconds: float, only: Sequence[str] = ()) -> Shot:
    """Do all stages (or some), and write the table after each."""
    shot = Shot(out, seconds=seconds)
    work = Path(tempfile.mkdtemp())
    try:
        with shot.stage("machine", until=1.0):
            shot.do("machine", lambda: machine(target))
        for name, (until, stage) in STAGES.items():
            if not only or name in only:
                with shot.stage(name, until=until):
                    stage(shot, target, work)
                (out / "table.md").write_text(markdown(shot.rows))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return shot


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; with --join the file")
    parser.add_argument("--faces", type=Path, help="faces to pre-train on: a folder, or .tar shards")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--miniature", action="store_true", help="tiny sizes, to try the script on a processor")
    parser.add_argument("--only", nargs="+", choices=list(STAGES), default=[], help="some stages, with all the minutes")
    parser.add_argument("--join", type=Path, metavar="DIR", help="put the encoder's pieces in DIR together")
    asked = parser.parse_args(arguments)
    try:
        if asked.join:
            print(f"wrote {encoder.joined(asked.join, asked.out)}")
            return 0
        target = Target(choose_device(asked.device), asked.miniature, asked.faces)
    except (ValueError, OSError) as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    shot = shoot(target, asked.out, seconds=60 * asked.minutes, only=asked.only)
    bad = [row["name"] for row in shot.rows if row["stage"] == "checks" and row["status"] in (FAILED, BROKEN)]
    print(f"wrote {asked.out / 'table.md'}" + (f"; failed: {', '.join(bad)}" if bad else ""))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
