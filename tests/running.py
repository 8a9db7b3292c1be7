"""Commands of fra as processes of their own: started, signalled, and looked after until all are gone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STARTER = Path(__file__).parent / "starter.py"
PATIENCE = 90.0


class Starter:
    """A process that has imported what commands need, and is forked for each: seconds less than a new Python."""

    def __init__(self, *before: str) -> None:
        """`before`: words that start it elsewhere, such as in a network of its own."""
        self._process = subprocess.Popen(
            [*before, sys.executable, str(STARTER)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **what: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate(timeout=30)


def pretraining(faces: Path, out: Path, *more: str, epochs: int = 200) -> list[object]:
    """The words of a pre-training of 3 steps an epoch, each of which is in its log."""
    settings = ["method.head={hidden: 32, out: 16}", "encoder.image_size=32", "views.size=32", "batch_size=8"]
    settings += ["health_faces=8", f"schedule.epochs={epochs}", "max_faces=24"]
    words = [word for setting in settings for word in ("--set", setting)]
    where = ["--faces", faces, "--out", out, "--device", "cpu", "--precision", "32", "--quiet"]
    return ["pretrain", "smoke/resnet10_half.byol", *where, *words, *more]


class Running:
    """`fra WORDS` in a session of its own; `faults` are functions of faulty.py."""

    def __init__(self, starter: Starter, *words: object, log: Path, faults: str = "", **environment: str) -> None:
        self._starter, self._log = starter, log
        log.write_text("")
        self.pid: int = starter.ask(
            words=[str(word) for word in words], log=str(log), environment={"FAULTS": faults, **environment}
        )
        self.status: int | None = None

    @property
    def said(self) -> str:
        """Everything on stdout and stderr so far."""
        return self._log.read_text()

    def poll(self) -> int | None:
        """The exit status, negative for the signal that killed it; None while it runs."""
        if self.status is None:
            self.status = self._starter.ask(wait=self.pid)
        return self.status

    def until(self, something: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not something():
            assert self.poll() is None, f"it ended with {self.status}: {self.said}"
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)

    def until_steps(self, out: Path, steps: int = 1) -> None:
        """Until so many rows are in the log of training."""
        table = out / "log.csv"
        self.until(lambda: table.exists() and len(table.read_text().splitlines()) > steps)

    def until_it_says(self, words: str) -> None:
        self.until(lambda: words in self.said)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def ends(self, within: float) -> int:
        """Its exit status. Fails when it, or anything that it has started, is still there after so many seconds."""
        deadline = time.monotonic() + within
        try:
            while self.poll() is None or self.processes():
                assert time.monotonic() < deadline, f"status {self.status}, left {self.processes()}: {self.said}"
                time.sleep(0.02)
            assert self.status is not None
            return self.status
        finally:
            self.kill()

    def kill(self) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def processes(self) -> list[int]:
        """All of its session that run."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue  # it ended meanwhile
            if session == str(self.pid) and state != "Z":
                found.append(int(stat.parent.name))
        return sorted(found)

    def helpers(self) -> list[int]:
        """Processes that it has started to do work, which is not multiprocessing's bookkeeper."""
        found = []
        for pid in self.processes():
            try:
                bookkeeper = b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if pid != self.pid and not bookkeeper:
                found.append(pid)
        return found
