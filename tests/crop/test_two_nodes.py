"""`fra crop --cluster` on a Ray cluster of two nodes on this machine: a worker is killed, and then a node."""

import os
import re
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
from small_photos import contents, photo

from fra.crop import cluster
from fra.crop.cut import CropSettings, Photo
from fra.crop.run import crop
from fra.crop.workers import in_order
from fra.runtime import Runtime

ROOT = Path(__file__).parents[2]


def workers_of(raylet: int) -> list[int]:
    """Ray's busy or idle workers below a node's main process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == raylet and name.startswith("ray::"):
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_and_then_a_node_are_killed_and_nothing_is_lost_or_doubled(tmp_path: Path):
    from ray.cluster_utils import Cluster

    for number in range(1200):
        photo(tmp_path / "photos" / f"{number:04}.jpg", seed=number)
    how = CropSettings(detector="none", size=64, shards=True, shard_faces=500)
    crop(tmp_path / "photos", tmp_path / "alone", how, runtime=Runtime(workers=1, quiet=True))
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        command = [sys.executable, "-m", "fra.cli", "crop", tmp_path / "photos", "--out", tmp_path / "cluster"]
        command += [
            "--detector",
            "none",
            "--size",
            "64",
            "--shards",
            "--shard-faces",
            "500",
            "--cluster",
            nodes.address,
        ]
        process = subprocess.Popen([str(word) for word in command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        until_photos(tmp_path / "cluster", 1, process)
        raylet = second.all_processes["raylet"][0].process.pid
        killed = workers_of(raylet)
        assert killed
        for worker in killed:
            os.kill(worker, signal.SIGKILL)
        assert process.poll() is None
        nodes.remove_node(second, allow_graceful=False)
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    finally:
        nodes.shutdown()
    assert contents(tmp_path / "alone") == contents(tmp_path / "cluster")
    told = re.findall(r"\(node \w{8}\): ([\d,]+) photos, [\d.]+ a second and core", said)
    assert sum(int(photos.replace(",", "")) for photos in told) == 1200


def until_photos(out: Path, least: int, process: "subprocess.Popen[str]") -> None:
    """Wait until so many photos are done."""
    deadline = time.monotonic() + 120
    while not (out / ".position.json").exists():
        assert process.poll() is None, "it ended before it was disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_slow_disk_holds_the_work_up():
    """Nothing is begun that is more than `room` chunks ahead of what has been written."""
    begun, written, ahead = count(), 0, []
    chunks = ([Photo(path=Path(f"{number}.jpg"), name="", stem="")] for number in range(50))

    def submit(chunk: list[Photo]) -> int:
        number = next(begun)
        ahead.append(number - written)
        return number

    for _, number in in_order(chunks, submit, lambda work: work, room=2 * cluster.WAITING):
        assert number == written  # the disk takes its time here
        written += 1
    assert (written, max(ahead)) == (50, 2 * cluster.WAITING - 1)


def test_what_nodes_have_done_is_told_per_core():
    done = cluster.Done()
    done.add(16, 2.0)
    done.add(8, 1.0)
    assert str(done) == "24 photos, 8.0 a second and core"
