"""Lost processes: a helper that ends, no shared memory, one of several that train together: one line, nothing left."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from running import ROOT, Running, Starter, pretraining

MINUTE = 60.0

# --- processes that load faces


@pytest.mark.parametrize(
    "fault, words",
    [
        (
            "helper_is_killed",
            "a worker process was killed, usually because memory ran out: use fewer --workers, then",
        ),
        (
            "helper_crashes",
            "a worker process was killed by signal 11: use fewer --workers, then continue with --resume",
        ),
        ("helper_has_a_bus_error", "a worker process was killed: shared memory (/dev/shm) is full: give the container"),
        ("helper_leaves", "a worker process ended with status 5: use fewer --workers, then continue with --resume"),
        ("helper_cannot_send", "a worker process ended with status 1: use fewer --workers, then continue with"),
    ],
)
def test_a_lost_loading_process_is_one_line_and_the_last_step_is_saved(
    fault: str, words: str, starter: Starter, drawn_faces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    running = Running(starter, *pretraining(drawn_faces, out, "--workers", "2"), log=tmp_path / "log", faults=fault)
    assert running.ends(MINUTE) == 1
    said = running.said.splitlines()  # torch has a word of its own for crashes, from inside the process
    [line] = [line for line in said if not line.strip("\0 ").startswith(("HERE", "ERROR: Unexpected"))]
    assert line.strip("\0 ").startswith(f"fra: {words}")
    assert torch.load(out / "last.ckpt", weights_only=True)["step"] >= 4


def test_a_loading_process_without_memory_is_one_line(starter: Starter, drawn_faces: Path, tmp_path: Path) -> None:
    words = pretraining(drawn_faces, tmp_path / "run", "--workers", "1")
    running = Running(starter, *words, log=tmp_path / "log", faults="memory_is_full")
    assert running.ends(MINUTE) == 2
    assert running.said == (
        "fra: memory is full: use fewer --workers or a smaller batch_size, then continue with --resume\n"
    )


def test_loading_processes_end_with_one_that_is_killed(starter: Starter, drawn_faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = Running(starter, *pretraining(drawn_faces, out, "--workers", "2"), log=tmp_path / "log")
    running.until_steps(out)
    assert len(running.helpers()) == 2
    os.kill(running.helpers()[0], signal.SIGSTOP)  # one that could not hear of it
    running.send(signal.SIGKILL)
    assert running.ends(5) == -signal.SIGKILL


def test_batches_arrive_where_temporary_files_have_a_long_path(drawn_faces: Path, tmp_path: Path) -> None:
    """Their sockets would lie there, and a socket's path has 107 bytes."""
    long = tmp_path / ("of_a_batch_job_" * 8)
    long.mkdir()
    words = map(str, pretraining(drawn_faces, tmp_path / "run", "--workers", "2", epochs=1))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(long)}
    begun = [sys.executable, "-m", "fra.cli", *words]
    ended = subprocess.run(begun, env=environment, capture_output=True, text=True, timeout=MINUTE)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert list(long.iterdir()) == []


# --- shared memory

FULL = "fra: shared memory (/dev/shm) is full: give the container more (docker run --shm-size=1g), or use --workers 0\n"


@pytest.fixture
def root(starter: Starter) -> Starter:
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True) if sys.platform == "linux" else None
    if done is None or done.returncode != 0:
        pytest.skip("only root may give a process shared memory of its own")
    return starter


@pytest.mark.parametrize("fault", ["small_shared_memory", "full_shared_memory"])
def test_full_shared_memory_is_one_line(fault: str, root: Starter, drawn_faces: Path, tmp_path: Path) -> None:
    """There is no room for a batch, or not even for what processes need to talk to each other."""
    out = tmp_path / "run"
    command = pretraining(drawn_faces, out, "--workers", "2")
    running = Running(root, *command, log=tmp_path / "log", faults=fault)
    assert running.ends(MINUTE) == 1
    assert running.said == FULL
    assert torch.load(out / "last.ckpt", weights_only=True)["step"] == 0
    running = Running(root, *command, "--workers", "0", "--resume", log=tmp_path / "log", faults=fault)
    running.until_steps(out)
    running.send(signal.SIGTERM)
    assert running.ends(10) == 128 + signal.SIGTERM


def test_full_shared_memory_while_drawing_is_one_line(root: Starter, tmp_path: Path) -> None:
    words = ("data", "synthetic", "--out", tmp_path / "faces", "--count", "1000", "--workers", "2")
    running = Running(root, *words, log=tmp_path / "log", faults="full_shared_memory")
    assert running.ends(MINUTE) == 1
    assert running.said == FULL


# --- helpers that are called

POOL = """
import os, signal, sys, time
from fra.system.processes import Lost, helper_pool
from fra.system.stopping import heard, leave, settle

def main():
    with heard(for_good=True):
        try:
            with helper_pool(2) as pool:
                assert pool.result(pool.submit(abs, -3)) == 3
                works = [pool.submit(*work) for work in WORKS]
                print("ready", flush=True)
                for work in works:
                    pool.result(work)
            return settle(0)
        except (Lost, KeyboardInterrupt) as error:
            print(error, flush=True)
            leave(settle(getattr(error, "status", 1)))

if __name__ == "__main__":
    sys.exit(main())
"""
LAST = "[(time.sleep, 60), (time.sleep, 60), (time.sleep, 60)]"


def begin_pool(folder: Path, works: str) -> subprocess.Popen[str]:
    script = folder / "pool.py"
    script.write_text(POOL.replace("WORKS", works))
    begun = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert begun.stdout is not None
    assert begun.stdout.readline() == "ready\n"
    return begun


def test_what_a_lost_helper_left_is_freed_without_a_word(tmp_path: Path) -> None:
    script = tmp_path / "leaves.py"
    script.write_text(
        POOL.replace("WORKS", "[]").replace(
            "            return settle(0)",
            "            from multiprocessing import resource_tracker\n"
            "            resource_tracker.register('/mp-nobody', 'semaphore')\n"
            "            leave(settle(0))",
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ready\n", "")


def gone(session: int, within: float) -> bool:
    """Whether nothing of a session runs any more after so many seconds."""
    deadline = time.monotonic() + within
    while subprocess.run(["pgrep", "-s", str(session)], capture_output=True).returncode == 0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    "works, words",
    [
        (
            "[(time.sleep, 60), (signal.raise_signal, signal.SIGKILL)]",
            "a worker process was killed, usually because",
        ),
        ("[(time.sleep, 60), (os._exit, 4)]", "a worker process ended with status 4: use fewer --workers"),
        ("[(time.sleep, 60), (signal.raise_signal, signal.SIGSEGV)]", "a worker process was killed by signal 11:"),
    ],
)
def test_a_lost_helper_is_told_and_the_others_end(works: str, words: str, tmp_path: Path) -> None:
    begun = begin_pool(tmp_path, works)
    said, _ = begun.communicate(timeout=MINUTE)
    assert (begun.returncode, said.count("\n")) == (1, 1), said
    assert said.startswith(words)
    assert gone(begun.pid, 2)


@pytest.mark.parametrize("number, to_all", [(signal.SIGTERM, False), (signal.SIGINT, True), (signal.SIGKILL, False)])
def test_helpers_end_with_the_command(number: signal.Signals, to_all: bool, tmp_path: Path) -> None:
    begun = begin_pool(tmp_path, LAST)
    (os.killpg if to_all else os.kill)(begun.pid, number)
    said, _ = begun.communicate(timeout=10)
    assert begun.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in said
    assert gone(begun.pid, 2)


def test_a_killed_cropping_process_is_one_line_and_the_run_goes_on(starter: Starter, tmp_path: Path) -> None:
    from small_photos import photo

    for number in range(400):
        photo(tmp_path / "photos" / f"{number:03d}.jpg", seed=number % 7)
    out = tmp_path / "out"
    words = ("crop", tmp_path / "photos", "--out", out, "--detector", "none", "--size", "64", "--quiet", "--workers")
    running = Running(starter, *words, "2", log=tmp_path / "log")
    running.until(lambda: (out / ".position.json").exists() or len(running.helpers()) == 2)
    os.kill(running.helpers()[0], signal.SIGKILL)
    assert running.ends(MINUTE) == 1
    assert running.said.startswith("fra: a worker process was killed, usually because memory ran out: use fewer")
    assert running.said.count("\n") == 1
    assert Running(starter, *words, "0", "--resume", log=tmp_path / "log").ends(MINUTE) == 0
    assert len(list((out / "crops").rglob("*.jpg"))) == 400


# --- processes that train together


class Two:
    """Two processes that torchrun, or a batch system, might have started; `faults` happen in one of them."""

    def __init__(self, starter: Starter, faces: Path, folder: Path, faults: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
        command = pretraining(faces, folder / "run", "--devices", "2", "--workers", "1")
        self.first, self.second = (
            Running(starter, *command, log=folder / f"log{rank}", faults=faults, LOCAL_RANK=str(rank), **where)
            for rank in range(2)
        )


@pytest.mark.parametrize(
    "fault, status, words",
    [
        (
            "other_is_killed",
            -signal.SIGKILL,
            "another of the 2 processes has ended: its own output says why, unless it was killed",
        ),
        ("other_raises", 2, "another of the 2 processes has ended: its own output says why, unless it was killed"),
        ("other_is_suspended", None, "process 1 of 2 has not responded for 4 seconds: it is suspended, or its"),
    ],
)
def test_when_one_process_is_lost_the_other_saves_and_ends(
    fault: str, status: int | None, words: str, starter: Starter, drawn_faces: Path, tmp_path: Path
) -> None:
    two = Two(starter, drawn_faces, tmp_path, fault)
    two.second.until_it_says("HERE") if fault != "other_raises" else None
    assert two.first.ends(MINUTE) == 1
    assert two.first.said.startswith(f"fra: {words}")
    assert two.first.said.count("\n") == 1
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["step"] == 5
    if status is None:
        two.second.kill()
    else:
        assert two.second.ends(MINUTE) == status


def test_when_the_first_process_is_lost_the_other_ends(starter: Starter, drawn_faces: Path, tmp_path: Path) -> None:
    two = Two(starter, drawn_faces, tmp_path, "first_is_killed")
    assert two.second.ends(MINUTE) == 1
    assert two.second.said.startswith("fra: ")
    assert two.second.said.count("\n") == 1
    assert two.first.ends(1) == -signal.SIGKILL
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["step"] == 3  # where the epoch ended


def test_a_signal_to_one_process_stops_both_after_the_same_step(
    starter: Starter, drawn_faces: Path, tmp_path: Path
) -> None:
    two = Two(starter, drawn_faces, tmp_path, "")
    two.first.until_steps(tmp_path / "run")
    two.second.send(signal.SIGUSR1)
    assert two.first.ends(10) == 128 + signal.SIGUSR1
    assert two.second.ends(10) == 128 + signal.SIGUSR1
    assert "is saved, continue with --resume" in two.first.said
    assert two.second.said == ""


def test_a_process_that_fra_has_started_itself_is_missed(starter: Starter, drawn_faces: Path, tmp_path: Path) -> None:
    words = pretraining(drawn_faces, tmp_path / "run", "--devices", "2", "--workers", "0")
    running = Running(starter, *words, log=tmp_path / "log", faults="other_leaves")
    assert running.ends(2 * MINUTE) == 1
    assert running.said == "fra: process 1 of 2 has ended with status 3; continue with --resume\n"
