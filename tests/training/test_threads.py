"""How many threads compute: those that pay under the load of the moment, and on resume as many as before."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_runs import METHODS, SETTINGS, run, same_bits

from fra.pretrain.run import load_pretrain_recipe, pretrain
from fra.runtime import Runtime
from fra.training import checkpoint, loop, threads
from fra.training.journal import Pace


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def have(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for module in (threads, loop, checkpoint):
        monkeypatch.setattr(module, "most_threads", lambda: count)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 0.010, 2: 0.006}, 2),
        ({1: 0.010, 2: 0.009}, 1),  # a tenth does not pay
        ({1: 0.010, 2: 0.040}, 1),  # other work has the core of one of them
        ({1: 0.040, 2: 0.022, 4: 0.012}, 4),
        ({1: 0.040, 2: 0.022, 4: 0.021}, 2),
        ({1: 0.040, 2: 0.038, 4: 0.016}, 4),
        ({1: 0.002}, 1),
    ],
)
def test_threads_are_taken_while_they_pay(
    seconds: dict[int, float], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, max(seconds))
    monkeypatch.setattr(threads, "_seconds", lambda step: seconds[torch.get_num_threads()])
    torch.set_num_threads(1)
    assert threads.threads_that_pay(lambda: None) == chosen
    assert torch.get_num_threads() == 1


def test_a_slow_first_time_and_a_burst_of_waiting_are_seen_for_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, 2)
    taken: dict[int, int] = {1: 0, 2: 0}

    def seconds(step: object) -> float:
        number = torch.get_num_threads()
        taken[number] += 1
        if taken[number] == 1:
            return 9.0 if number == 1 else 0.1  # memory is fetched
        return 0.1 if number == 1 else 0.02 + (taken[number] % 3 == 0) * 0.9

    monkeypatch.setattr(threads, "_seconds", seconds)
    assert threads.threads_that_pay(lambda: None) == 1


@pytest.mark.parametrize(
    ("runtime", "device"), [(Runtime(threads=3), "cpu"), (Runtime(devices=2), "cpu"), (Runtime(), "cuda")]
)
def test_nothing_is_tried_where_it_is_decided(runtime: Runtime, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, 2)
    threads.settle_threads(runtime, device, lambda: pytest.fail("tried"))


@pytest.mark.parametrize("method", METHODS)
def test_trying_threads_teaches_nothing(
    method: str, drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"smoke/resnet10_half.{method}"
    recipe = load_pretrain_recipe(name, [*SETTINGS[method], "schedule.epochs=2", "max_faces=16"])
    asked = Runtime("cpu", "32", workers=0, quiet=True, threads=1)
    pretrain(recipe, drawn_faces, tmp_path / "one", runtime=asked)
    have(monkeypatch, 2)
    tried = []
    monkeypatch.setattr(loop, "threads_that_pay", lambda step: tried.append(step() or step()) or 1)
    run(drawn_faces, tmp_path / "auto", "schedule.epochs=2", "max_faces=16", name=name)
    assert tried == [None]
    assert same_bits(tmp_path / "one", tmp_path / "auto")


def test_a_resumed_run_computes_with_as_many_threads_as_before(
    drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, short = "smoke/resnet10_half.byol", ("max_faces=16", "schedule.epochs=1")
    have(monkeypatch, 2)
    monkeypatch.setattr(loop, "threads_that_pay", lambda step: 2)
    out = run(drawn_faces, tmp_path / "run", *short, name=name)
    assert torch.load(out / "last.ckpt", weights_only=True)["threads"] == 2
    torch.set_num_threads(1)
    monkeypatch.setattr(loop, "threads_that_pay", lambda step: pytest.fail("tried again"))
    run(drawn_faces, out, *short, name=name, resume=True)
    assert torch.get_num_threads() == 2
    have(monkeypatch, 1)  # moved to a smaller machine
    assert checkpoint.kept_threads({"threads": 2}) is None
    assert checkpoint.kept_threads({}) is None


def test_a_rate_that_falls_to_a_third_for_a_minute_is_told_once() -> None:
    pace = Pace()
    rates = [(0, 90), (10, 30), (20, 31), (30, 29), (80, 20), (89, 30), (90, 30), (200, 10)]
    assert [now for now, rate in rates if pace.fell(rate, now)] == [90]


@pytest.mark.parametrize(("given", "held"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_leave_the_core_to_others(given: str | None, held: str) -> None:
    """OpenMP reads this when torch is imported."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    code = "import fra, os, sys; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == held


def test_a_number_that_was_asked_for_is_forgotten_by_the_next_command() -> None:
    code = """
import torch
from fra.runtime import Runtime
from fra.training.devices import begin
from fra.training.threads import most_threads
begin(Runtime("cpu", threads=1))
assert torch.get_num_threads() == 1
print(most_threads())
"""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"


def test_trying_ends_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, 2)
    began = time.monotonic()
    threads.threads_that_pay(lambda: time.sleep(0.005), seconds=0.05)
    assert time.monotonic() - began < 1
