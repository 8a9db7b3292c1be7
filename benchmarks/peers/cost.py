"""Speed and memory of every encoder and landmark model on one core, in turn, each in a process of its own."""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.encoders import PEERS
from benchmarks.peers.landmarks import MODELS
from fra.files import write_json

ROUNDS, FACES = 3, 32


def work_of(name: str, archives: Path) -> Any:
    """A function that deals with FACES faces: encoders all at once, landmark models one by one."""
    if name in PEERS:
        network, size = PEERS[name].build(archives).eval(), PEERS[name].image_size
        images = torch.rand(FACES, 3, size, size).contiguous(memory_format=torch.channels_last)
        return lambda: network(images)
    model = MODELS[name](archives)
    photo = (255 * torch.rand(3, 256, 256)).byte()
    square = torch.tensor([64.0, 64.0, 192.0, 192.0])
    return lambda: [model(photo, square) for _ in range(FACES)]


def once(name: str, archives: Path) -> None:
    """Print faces per second of processor time and the process's largest memory in MiB, beyond what torch needs."""
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work = work_of(name, archives)
    with torch.inference_mode():
        work()
        started = time.process_time()
        work()
    rate = FACES / (time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"rate": rate, "memory": (peak - before) / 1024}))


def measure(names: list[str], *, work: Path) -> dict[str, dict[str, float]]:
    """Medians of ROUNDS rounds, in each of which every name has its turn; kept."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            asked = [sys.executable, "-m", "benchmarks.peers.cost", name, str(work)]
            answer = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
            found[name].append(json.loads(answer.splitlines()[-1]))
    medians = {
        name: {key: statistics.median(one[key] for one in many) for key in many[0]} for name, many in found.items()
    }
    write_json(work / "scores" / "cost.json", medians, indent=1)
    return medians


if __name__ == "__main__":
    once(sys.argv[1], Path(sys.argv[2]))
