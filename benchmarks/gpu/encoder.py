"""What is left of the minutes goes into an encoder, which comes back in half precision, in pieces that travel."""

import csv
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from benchmarks.gpu.shot import LEFT_OUT, Row, Target
from fra.files import atomic
from fra.pools.unlabelled import open_pool
from fra.weights.load import read_weights

MIB = 2**20
LARGEST = 15 * MIB
"""Of a piece, in bytes: what a machine that is lent gives back may be limited per file."""
LIST = "pieces.json"
USED = 0.8
"""Of the seconds, for training: the rest is for starting, measuring health and a rate that was too hopeful (ours)."""
START = 25.0
"""Seconds to start a process and CUDA (assumed)."""


def epochs_for(seconds: float, *, faces: int, pairs_per_second: float) -> int:
    """How many epochs fit; at least one."""
    return max(1, int(USED * (seconds - START) * pairs_per_second / faces))


def rate_of(rows: Sequence[Row], *, otherwise: float) -> float:
    """FRA's measured rate in the setting that is trained with: bf16 at the first size of the table."""
    found = [row for row in rows if row.get("candidate") == "fra" and row.get("precision") == "bf16"]
    return next((float(row["pairs_per_second"]) for row in found if row["status"] != LEFT_OUT), otherwise)


def pretrain_for(seconds: float, target: Target, run: Path, *, pairs_per_second: float) -> Mapping[str, Any]:
    """`fra pretrain` in a process of its own, which is ended after `seconds`; the encoder of its last epoch counts."""
    if target.faces is None:
        raise ValueError("no faces were given: --faces FOLDER, such as packed shards")
    faces = len(open_pool(target.faces))
    epochs = epochs_for(seconds, faces=faces, pairs_per_second=pairs_per_second)
    settings = [f"schedule.epochs={epochs}", f"schedule.warmup_epochs={min(5, epochs // 10)}"]
    if target.miniature:
        settings += ["encoder.image_size=32", "views.size=32", "batch_size=8", "health_faces=8"]
        settings += ["method.head={hidden: 32, out: 16}", "method.decoder.width=16"]
    recipe = "smoke/resnet10_half.fra" if target.miniature else "one_gpu/resnet50.fra"
    command = [sys.executable, "-m", "fra.cli", "pretrain", recipe, "--faces", str(target.faces), "--out", str(run)]
    command += ["--device", target.device, "--quiet", *(f"--set={setting}" for setting in settings)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        said, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    if not (run / "encoder.safetensors").exists():
        raise RuntimeError(f"pre-training left no encoder: {said.strip()[-300:]}")
    return dict(faces=faces, epochs=epochs, exit_status=process.returncode, **_log(run / "log.csv"))


def _log(table: Path) -> Mapping[str, Any]:
    """How fast it was, and which share of the time it waited for data; medians of the rows."""
    if not table.exists():
        return {}
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rates, waiting = (torch.tensor([float(row[name]) for row in rows]) for name in ("pairs_per_second", "waiting"))
    return dict(
        steps=int(rows[-1]["step"]), pairs_per_second=float(rates.median()), waiting_for_data=float(waiting.median())
    )


def into_pieces(encoder: Path, folder: Path, *, largest: int = LARGEST) -> Mapping[str, Any]:
    """Write an encoder's weights in half precision as `folder`/encoder.safetensors.00, .01, ... and pieces.json.

    Whatever half precision cannot hold stays as it is.
    """
    state, metadata = read_weights(encoder)
    halved = {
        name: tensor.half() if tensor.is_floating_point() and bool(tensor.half().isfinite().all()) else tensor
        for name, tensor in state.items()
    }
    content = safetensors.torch.save(halved, {key: json.dumps(value) for key, value in metadata.items()})
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, start in enumerate(range(0, len(content), largest)):
        names.append(f"encoder.safetensors.{number:02d}")
        (folder / names[-1]).write_bytes(content[start : start + largest])
    described = dict(pieces=names, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    (folder / LIST).write_text(json.dumps(described) + "\n")
    return described


def joined(folder: Path, out: Path) -> Path:
    """The encoder of `into_pieces` as one file again. ValueError when pieces are missing or damaged."""
    described = json.loads((folder / LIST).read_text())
    missing = [name for name in described["pieces"] if not (folder / name).exists()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}: fetch all pieces")
    content = b"".join((folder / name).read_bytes() for name in described["pieces"])
    if hashlib.sha256(content).hexdigest() != described["sha256"]:
        raise ValueError(f"{folder}: the pieces together are not what was written: fetch them again")
    with atomic(out) as building:
        building.write_bytes(content)
    return out
