"""The minutes are planned: a stage has an end, an item begins only if it fits, and each result is written at once."""

import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

RESULTS = "results.jsonl"
Row = Mapping[str, Any]
"""stage, name, status, seconds, and whatever was found."""
PASSED, FAILED, BROKEN, LEFT_OUT = "passed", "failed", "broken", "did not fit"


class OutOfTime(BaseException):
    """The stage is over in the middle of an item. No Exception, so that nothing takes it for one of its own."""


@dataclass(frozen=True)
class Target:
    """What is measured on, and how large."""

    device: str
    miniature: bool = False
    """Sizes at which everything takes a minute on a laptop."""
    faces: Path | None = None

    @property
    def network(self) -> str:
        return "resnet10_quarter" if self.miniature else "resnet50"

    @property
    def size(self) -> int:
        return 32 if self.miniature else 128

    @property
    def batch(self) -> int:
        return 8 if self.miniature else 32


class Shot:
    """One run of `seconds`, whose rows go to `folder`/results.jsonl one by one."""

    def __init__(self, folder: Path, *, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / RESULTS
        self.file.write_text("")
        self.rows: list[Row] = []
        self._clock, self._begun, self._seconds = clock, clock(), seconds
        self._stage, self._ends = "", self._begun + seconds

    @property
    def left(self) -> float:
        """Seconds until the stage ends."""
        return self._ends - self._clock()

    @contextmanager
    def stage(self, name: str, *, until: float) -> Iterator[None]:
        """What is done inside belongs to this stage, which ends when the share `until` of all seconds is over."""
        self._stage, self._ends = name, self._begun + until * self._seconds
        yield

    def do(self, name: str, work: Callable[[], Mapping[str, Any]], *, needs: float = 0.0) -> Row:
        """One item and its row. It is left out unless `needs` seconds are left, and broken off when the stage ends.

        Work that returns `passed` is a check; one that raises is broken, and what it raised is in its row.
        """
        if self.left <= needs:
            return self._write(name, LEFT_OUT, 0.0, {"needs": round(needs, 1)})
        before = self._clock()
        try:
            with _alarm(self.left):
                found = dict(work())
        except OutOfTime:
            return self._write(name, LEFT_OUT, self._clock() - before, {"error": "broken off at the end of its stage"})
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            return self._write(name, BROKEN, self._clock() - before, {"error": text[:500]})
        status = {True: PASSED, False: FAILED}[bool(found.pop("passed"))] if "passed" in found else "measured"
        return self._write(name, status, self._clock() - before, found)

    def _write(self, name: str, status: str, seconds: float, found: Mapping[str, Any]) -> Row:
        row = dict(stage=self._stage, name=name, status=status, seconds=round(seconds, 2), **found)
        self.rows.append(row)
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{self._clock() - self._begun:6.1f} s  {self._stage}: {name}: {status}", flush=True)
        return row


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
