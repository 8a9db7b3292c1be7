"""Training over machines that can be cut off, in network namespaces: the weights are those of one process."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hosts import Hosts
from running import ROOT, Running, Starter, pretraining
from tiny_runs import SETTINGS
from torch.testing import assert_close

from fra import cli
from fra.files import read_rows
from fra.pretrain.run import build_method, load_pretrain_recipe

pytestmark = pytest.mark.slow
MINUTE = 60.0
DOUBLE = "in_double"
"""In 32 bits these small networks multiply a rounding error by about ten in each step."""
FEW = ["schedule.epochs=4", "schedule.warmup_epochs=1", "max_faces=32", "batch_size=16"]
"""Eight steps, two in each epoch."""
KINDS = {
    "byol": ["smoke/resnet10_half.byol"],
    "swav": ["smoke/resnet10_half.swav", "method.queue=32", "method.queue_from_epoch=1"],
    "lewel": ["smoke/resnet10_half.lewel", "method.follow_buffers=true"],
    "fra": ["smoke/resnet10_half.fra", "method.decoder.dropout=0"],
}
"""Recipe and settings: SwAV uses its queue, LEWEL has the EMAN form, and no process draws anything for itself."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    hosts = Hosts(4)
    yield hosts
    hosts.close()


def words(kind: str, faces: Path, out: Path) -> list[object]:
    recipe, *own = KINDS[kind]
    settings = [*SETTINGS[kind], *FEW, *own]
    where = ["--faces", faces, "--out", out, "--device", "cpu", "--precision", "32", "--workers", "0", "--quiet"]
    return ["pretrain", recipe, *where, *(word for setting in settings for word in ("--set", setting))]


def on_hosts(
    hosts: Hosts, count: int, command: list[object], folder: Path, *, faults: str = "", port: int = 29500
) -> list[Running]:
    """A process on each machine, as srun starts them."""
    known = {
        "SLURM_JOB_ID": str(port),
        "SLURM_NTASKS": str(count),
        "SLURM_NNODES": str(count),
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NODELIST": hosts.address(0),
        "SLURM_LOCALID": "0",
    }
    return [
        Running(
            hosts.starter(rank),
            *command,
            "--nodes",
            count,
            log=folder / f"log{rank}",
            faults=faults,
            **known,
            SLURM_PROCID=str(rank),
            SLURM_NODEID=str(rank),
        )
        for rank in range(count)
    ]


def state(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "last.ckpt", weights_only=True)["model"]


def assert_same_weights(one: Path, other: Path) -> None:
    mine, theirs = state(one), state(other)
    assert mine.keys() == theirs.keys()
    recipe = load_pretrain_recipe(str(one / "recipe.yaml"), [])
    begun = build_method(recipe).encoder.state_dict()
    encoder = {name: mine[f"online.encoder.{name}"] for name in begun if name.endswith("conv1.weight")}
    assert min((begun[name] - weight).abs().max() for name, weight in encoder.items()) > 1e-3  # they did learn
    for key in mine:
        assert_close(theirs[key], mine[key], atol=1e-9, rtol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("kind, count", [("byol", 4), ("swav", 2), ("lewel", 2), ("fra", 2)])
def test_hosts_together_learn_what_one_process_learns(
    kind: str, count: int, hosts: Hosts, starter: Starter, drawn_faces: Path, tmp_path: Path
) -> None:
    alone = Running(starter, *words(kind, drawn_faces, tmp_path / "alone"), log=tmp_path / "log", faults=DOUBLE)
    assert alone.ends(3 * MINUTE) == 0, alone.said
    together = on_hosts(hosts, count, words(kind, drawn_faces, tmp_path / "together"), tmp_path, faults=DOUBLE)
    for process in together:
        assert process.ends(3 * MINUTE) == 0, process.said
    assert_same_weights(tmp_path / "alone", tmp_path / "together")


def test_a_host_that_is_cut_off_ends_the_others_and_the_run_goes_on_with_fewer(
    hosts: Hosts, starter: Starter, drawn_faces: Path, tmp_path: Path
) -> None:
    """Nobody says goodbye: packets just stop. Step 5 is the first of an epoch of 2."""
    out = tmp_path / "run"
    both = on_hosts(hosts, 2, words("byol", drawn_faces, out), tmp_path, faults=f"{DOUBLE} other_pauses")
    try:
        both[1].until_it_says("HERE")
        hosts.cut(1)
        began = time.monotonic()
        first, second = (process.ends(MINUTE) for process in both)
        assert time.monotonic() - began < MINUTE
    finally:
        hosts.mend(1)
    assert (first, second) == (1, 1)
    for number, process in enumerate(both):
        (line,) = [
            line for line in process.said.splitlines() if line and not line.startswith(("HERE", "[W"))
        ]  # torch has no name for an address
        assert line == (
            f"fra: process {1 - number} of 2 has not responded for 30 seconds: it is suspended, or its machine is "
            "down; continue with --resume"
        )
    assert torch.load(out / "last.ckpt", weights_only=True)["step"] in (4, 5)
    resumed = Running(starter, *words("byol", drawn_faces, out), "--resume", log=tmp_path / "log", faults=DOUBLE)
    assert resumed.ends(2 * MINUTE) == 0, resumed.said
    whole = Running(starter, *words("byol", drawn_faces, tmp_path / "whole"), log=tmp_path / "log", faults=DOUBLE)
    assert whole.ends(2 * MINUTE) == 0
    assert_same_weights(tmp_path / "whole", out)


@pytest.mark.parametrize("number, rank", [(signal.SIGUSR1, 1), (signal.SIGTERM, 0)])
def test_a_signal_on_one_host_stops_all_after_the_same_step_with_the_status_that_requeues(
    number: signal.Signals, rank: int, hosts: Hosts, drawn_faces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    both = on_hosts(hosts, 2, pretraining(drawn_faces, out, "--workers", "0"), tmp_path)
    both[0].until_steps(out)
    both[rank].send(number)
    assert [process.ends(20) for process in both] == [128 + number] * 2
    assert "is saved, continue with --resume" in both[0].said
    assert "fra: " not in both[1].said


def test_the_job_file_for_torchrun_trains_on_two_hosts(hosts: Hosts, drawn_faces: Path, tmp_path: Path) -> None:
    command = [str(word) for word in words("byol", drawn_faces, tmp_path / "together")]
    job = tmp_path / "job.sh"
    flags = ["--nodes", "2", "--gpus", "0", "--job", str(job), "--quiet"]
    assert cli.main(["cluster", "torchrun", *flags, *command]) == 0
    known = os.environ | {"MASTER_ADDR": hosts.address(0), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [*hosts.inside(rank), "bash", str(job)],
            env=known | {"NODE_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        said, _ = process.communicate(timeout=4 * MINUTE)
        assert process.returncode == 0, said
    assert len(read_rows(tmp_path / "together" / "log.csv")) == 8
    assert torch.load(tmp_path / "together" / "last.ckpt", weights_only=True)["step"] == 8
