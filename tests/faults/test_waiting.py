"""Waiting without an end: whatever a command waits for, a signal ends it within ten seconds, and keeps what was done.

The first half tries the mechanism by programs that import nothing heavy, with its seconds made short; the second half
tries commands as they are.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
import torch
from running import ROOT, Running, Starter, pretraining

from fra.files import read_rows

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
SOON = 10.0

# --- the mechanism

PROGRAM = """
import atexit, ctypes, os, queue, select, signal, sys, threading, time
from fra.system import processes, stopping
from fra.system.stopping import Stopped, heard, held, leave, settle

stopping.HOLD, stopping.LAST_WORDS, stopping.LIMIT = 0.4, 0.8, 1.6

def deaf():
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)

def ready():
    print("ready", flush=True)

def main(work):
    with heard(for_good=True):
        try:
            work()
            return settle(0)
        except KeyboardInterrupt as stopped:
            settle(stopped.status)
            print("said:", stopped, flush=True)
            return stopped.status
"""
PLACES = {
    "asleep": "ready(); time.sleep(60)",
    "at a queue": "ready(); queue.Queue().get()",
    "at a pipe": "ready(); os.read(os.pipe()[0], 1)",
    "at a thread": "t = threading.Thread(target=time.sleep, args=[60], daemon=True); t.start(); ready(); t.join()",
    "computing": "ready()\n    while True: pass",
    "deaf": "ready(); deaf()",
    "in a loop that tries again": """
    ready()
    while True:
        try:
            time.sleep(0.05)
        except BaseException:
            pass""",
}


def start(body: str) -> subprocess.Popen[str]:
    """A program that does `body`; it has printed `ready`."""
    text = PROGRAM + f"\ndef work():\n    {body}\nsys.exit(main(work))\n"
    begun = subprocess.Popen(
        [sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert line(begun.stdout) == "ready"
    return begun


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


def end(begun: subprocess.Popen[str], within: float = SOON) -> tuple[int, str]:
    """Exit status and everything that was said."""
    try:
        said, _ = begun.communicate(timeout=within)
        return begun.returncode, said
    finally:
        begun.kill()


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_ends_a_program_wherever_it_stands(place: str) -> None:
    begun = start(PLACES[place])
    time.sleep(0.2)  # until it stands there
    begun.send_signal(signal.SIGTERM)
    status, said = end(begun)
    assert status == 128 + signal.SIGTERM
    assert "interrupted; what was finished is kept" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_has_its_exit_status(number: signal.Signals) -> None:
    begun = start(PLACES["asleep"])
    begun.send_signal(number)
    assert end(begun)[0] == 128 + number


def test_a_second_interrupt_ends_at_once_and_an_echo_of_the_first_does_not() -> None:
    held = "with held(lambda: 'words'):"
    slow = f"stopping.LIMIT = stopping.LAST_WORDS = 60\n    {held}\n        ready(); deaf()"
    for pause, at_once in ((0.0, False), (0.6, True)):
        begun = start(slow)
        begun.send_signal(signal.SIGINT)
        time.sleep(pause)
        begun.send_signal(signal.SIGINT)
        try:
            assert begun.wait(2) == 130
            assert at_once
        except subprocess.TimeoutExpired:
            assert not at_once
        finally:
            begun.kill()
            begun.communicate()


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT])
def test_what_nohup_and_shells_have_ignored_stays_ignored(ignored: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM + "def work():\n    ready(); time.sleep(60)\nsys.exit(main(work))"]
    begun = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(ignored, signal.SIG_IGN),
    )
    assert line(begun.stdout) == "ready"
    begun.send_signal(ignored)
    with pytest.raises(subprocess.TimeoutExpired):
        begun.wait(1)
    begun.send_signal(signal.SIGTERM)
    assert end(begun)[0] == 128 + signal.SIGTERM


HELD = """
    def last_words():
        print("last words from", threading.current_thread() is threading.main_thread(), flush=True)
        return "kept step 7"
    with held(last_words) as hold:
        try:
            {}
        except Stopped as stopped:
            raise Stopped(hold.say_last_words(), status=stopped.status) from None"""


def test_held_code_stops_where_it_suits() -> None:
    body = "ready()\n            while not hold.status: time.sleep(0.01)\n            raise hold.stop(hold.status)"
    begun = start(HELD.format(body))
    begun.send_signal(signal.SIGUSR1)
    assert end(begun) == (128 + signal.SIGUSR1, "last words from True\nsaid: kept step 7\n")


def test_held_code_that_does_not_come_to_an_end_is_stopped_later() -> None:
    begun = start(HELD.format("ready(); time.sleep(60)"))
    before = time.monotonic()
    begun.send_signal(signal.SIGTERM)
    assert end(begun) == (128 + signal.SIGTERM, "last words from True\nsaid: kept step 7\n")
    assert time.monotonic() - before > 0.4


def test_the_last_words_of_held_code_that_is_deaf_are_said_for_it() -> None:
    begun = start(HELD.format("ready(); deaf()"))
    begun.send_signal(signal.SIGTERM)
    assert end(begun) == (128 + signal.SIGTERM, "last words from False\nfra: kept step 7\n")


@pytest.mark.parametrize("inside, words", [("time.sleep(1)", "last words from"), ("deaf()", "")])
def test_what_must_not_be_torn_is_not(inside: str, words: str) -> None:
    """An update that ends in time is finished first; of one that does not, nothing is kept."""
    body = f"with hold.untorn():\n                ready(); {inside}; print('whole', flush=True)"
    begun = start(HELD.format(body))
    begun.send_signal(signal.SIGTERM)
    status, said = end(begun)
    assert status == 128 + signal.SIGTERM
    assert said.startswith(f"whole\n{words}" if words else "fra: interrupted")


@pytest.mark.parametrize(
    "hang",
    [
        "threading.Thread(target=time.sleep, args=[60]).start()",
        "atexit.register(time.sleep, 60)",
        "threading.Thread(target=deaf).start()",
    ],
)
def test_python_may_not_wait_for_ever_at_its_end(hang: str) -> None:
    begun = start(f"{hang}; ready()")
    assert end(begun) == (0, "")


def test_what_is_lost_ends_the_command_from_any_thread() -> None:
    give_up = "threading.Timer(0.1, stopping.give_up, ['the other one is gone']).start()"
    for place in ("time.sleep(60)", "deaf()"):
        begun = start(f"{give_up}; ready(); {place}")
        status, said = end(begun)
        assert (status, said.split(":", 1)[1].strip()) == (1, "the other one is gone")


def test_outside_of_commands_signals_are_as_they_were() -> None:
    from fra.system.stopping import heard

    before = [signal.getsignal(number) for number in SIGNALS]
    with heard():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in SIGNALS] == before


# --- commands


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "last.ckpt", weights_only=True)["model"]


@pytest.mark.slow
def test_a_step_without_an_end_loses_nothing(
    starter: Starter, drawn_faces: Path, tmp_path: Path, whole_run: Path
) -> None:
    """Stopped in the middle of the fifth step, after a forward pass has moved the statistics of batch norm."""
    out = tmp_path / "run"
    command = pretraining(drawn_faces, out, "--workers", "0", epochs=2)
    running = Running(starter, *command, log=tmp_path / "log", faults="deaf_step")
    running.until_it_says("HERE")
    running.send(signal.SIGTERM)
    assert running.ends(SOON) == 128 + signal.SIGTERM
    assert running.said == f"HERE\nfra: stopped at step 4 of 6; {out / 'last.ckpt'} is saved, continue with --resume\n"
    assert Running(starter, *command, "--resume", log=tmp_path / "log").ends(60) == 0
    for name, tensor in weights(whole_run).items():
        assert torch.equal(weights(out)[name], tensor), name
    for table in ("log.csv", "health.csv"):
        steps = [row["step"] for row in read_rows(out / table)]
        assert steps == [row["step"] for row in read_rows(whole_run / table)]


@pytest.fixture(scope="module")
def whole_run(starter: Starter, drawn_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    command = pretraining(drawn_faces, folder / "run", "--workers", "0", epochs=2)
    assert Running(starter, *command, log=folder / "log").ends(60) == 0
    return folder / "run"


@pytest.mark.parametrize(
    "fault, number",
    [
        ("slow_step", signal.SIGTERM),
        ("no_batch_comes", signal.SIGTERM),
        ("measuring_never_ends", signal.SIGUSR1),
        ("saving_never_ends", signal.SIGHUP),
        ("workers_do_not_end", signal.SIGINT),
    ],
)
def test_pretraining_ends_in_every_wait(
    fault: str, number: signal.Signals, starter: Starter, drawn_faces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    running = Running(starter, *pretraining(drawn_faces, out, "--workers", "1"), log=tmp_path / "log", faults=fault)
    running.until_it_says("HERE")
    running.send(number)
    assert running.ends(SOON) == 128 + number
    assert "Traceback" not in running.said
    assert len([line for line in running.said.splitlines() if line.startswith("fra: ")]) == 1
    step = torch.load(out / "last.ckpt", weights_only=True)["step"] if (out / "last.ckpt").exists() else 0
    rows = read_rows(out / "log.csv") if (out / "log.csv").exists() else []
    assert int(rows[-1]["step"]) - step <= 3 if rows else step == 0


@pytest.mark.parametrize("place", ["importing", "exporting"])
def test_other_commands_end_too(place: str, starter: Starter, tmp_path: Path) -> None:
    commands = {
        "importing": (["report", tmp_path], "import_never_ends"),
        "exporting": (["export", "laptop", "--format", "torch", "--out", tmp_path / "out"], "export_never_ends"),
    }
    words, fault = commands[place]
    running = Running(starter, *words, log=tmp_path / "log", faults=fault)
    running.until_it_says("HERE")
    running.send(signal.SIGTERM)
    assert running.ends(SOON) == 128 + signal.SIGTERM
    assert running.said.splitlines()[-1] == "fra: interrupted; what was finished is kept"


def test_reproduce_ends_while_it_waits_for_a_run_of_another_process(starter: Starter, tmp_path: Path) -> None:
    out = tmp_path / "out"
    running = Running(
        starter, "reproduce", "table1", "--scale", "smoke", "--out", out, log=tmp_path / "log", faults="runs_are_taken"
    )
    running.until_it_says("waiting for")
    running.send(signal.SIGINT)
    assert running.ends(SOON) == 130
    assert running.said.splitlines()[-1].startswith("fra: ")


def test_drawing_ends_in_its_pool_and_leaves_nothing_half(starter: Starter, tmp_path: Path) -> None:
    out = tmp_path / "faces"
    words = ("data", "synthetic", "--out", out, "--count", "100000", "--size", "32", "--workers", "2")
    running = Running(starter, *words, log=tmp_path / "log")
    running.until(lambda: len(running.helpers()) == 2)
    running.send(signal.SIGTERM)
    assert running.ends(SOON) == 128 + signal.SIGTERM
    assert running.said == "fra: interrupted; what was finished is kept\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


def test_a_signal_to_the_whole_group_is_one_line(starter: Starter, drawn_faces: Path, tmp_path: Path) -> None:
    """Ctrl-C in a terminal, and `scancel`, reach helpers too."""
    out = tmp_path / "run"
    running = Running(starter, *pretraining(drawn_faces, out, "--workers", "2"), log=tmp_path / "log")
    running.until_steps(out)
    os.killpg(running.pid, signal.SIGINT)
    assert running.ends(SOON) == 130
    assert running.said.count("\n") == 1
    assert "is saved, continue with --resume" in running.said
    assert torch.load(out / "last.ckpt", weights_only=True)["step"] == int(read_rows(out / "log.csv")[-1]["step"])
    assert json.loads((out / ".fra-run").read_text())
