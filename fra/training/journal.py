"""What training tells while it runs: a table on disk, a line on the screen."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fra.files import REMOVE_TABLE, append_rows, read_rows, reading, shortened, write_rows
from fra.system.printable import counted, printable

SECONDS_BETWEEN_EPOCHS = 5
"""On the screen: few images make short epochs, whose lines would run away."""
REMEDY = {
    "compute-bound": "processor; stop the run (Ctrl-C) and continue with --resume --threads 1, or end the other work",
    "data-bound": "disk or the processor; see --workers, or end the other work",
}


def keep_rows_until(path: Path, step: int) -> None:
    """Drop the rows of steps after `step`, and all of them at step 0: a resumed run writes them again.

    Raises DamagedFile when the table is not as it was written.
    """
    if not os.path.lexists(path):
        return
    with reading(path, REMOVE_TABLE):
        kept = [row for row in read_rows(path) if step and int(row["step"]) <= step]
    if kept:
        write_rows(path, kept, checked=True)
    else:
        path.unlink()


def tell_lost_rows(path: Path, steps: Sequence[int]) -> None:
    """Say on stderr when a table lacks rows of these steps: it was removed, or cut where a line ends."""
    with reading(path, REMOVE_TABLE):
        there = {int(row["step"]) for row in read_rows(path)} if path.exists() else set()
    if lost := len(set(steps) - there):
        print(f"fra: {printable(path)} has lost {counted(lost, 'row')} of {len(steps):,}", file=sys.stderr)


class Pace:
    """Notices, once, that a rate has been at most a third of the best for a minute."""

    def __init__(self) -> None:
        self._best = 0.0
        self._slow_since: float | None = None
        self._told = False

    def fell(self, rate: float, now: float) -> bool:
        """Whether this rate, measured `now` (seconds), is the one to tell."""
        self._best = max(self._best, rate)
        if rate > self._best / 3:
            self._slow_since = None
        elif self._slow_since is None:
            self._slow_since = now
        elif now - self._slow_since >= 60 and not self._told:
            self._told = True
            return True
        return False


class Journal:
    """Appends rows to `log.csv` and shows progress: images per second, time left, who waits for whom."""

    def __init__(self, path: Path, *, steps: int, unit: str, per_step: int, quiet: bool) -> None:
        self.path = path
        self.unit = unit
        self.per_step = per_step
        self._started = time.perf_counter()
        self._steps_here = 0
        self._waited = 0.0
        self._told = -float("inf")
        self._pace = Pace()
        self._progress = None
        if not quiet:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=30),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                refresh_per_second=2,
            )
            self._task = self._progress.add_task("step", total=steps, note="")

    def __enter__(self) -> "Journal":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def stepped(self, step: int, *, waited: float) -> None:
        """One optimiser step is done, after `waited` seconds without data."""
        self._steps_here += 1
        self._waited += waited
        if self._progress:
            self._progress.update(self._task, completed=step)

    def speed(self) -> dict[str, float]:
        """Units per second and the share of time spent waiting for data, since the last call."""
        seconds = max(time.perf_counter() - self._started, 1e-9)
        found = {
            f"{self.unit}_per_second": self._steps_here * self.per_step / seconds,
            "waiting": self._waited / seconds,
        }
        self._started, self._steps_here, self._waited = time.perf_counter(), 0, 0.0
        return found

    def write(self, row: dict[str, Any]) -> None:
        """Append a row that holds at least step and loss, with the speed since the last row."""
        speed = self.speed()
        append_rows(self.path, [shortened(row | speed)])
        if self._progress:
            bound = "data-bound" if speed["waiting"] > 0.2 else "compute-bound"
            rate = speed[f"{self.unit}_per_second"]
            if self._pace.fell(rate, time.monotonic()):
                self.tell(f"a third as fast as before, or less, for a minute: other work takes the {REMEDY[bound]}")
            note = f"loss {row['loss']:.3f}  {rate:.1f} {self.unit}/s, {bound}"
            self._progress.update(self._task, note=note)

    def tell(self, line: str) -> None:
        """A line above the progress bar."""
        if self._progress:
            self._progress.console.print(line)

    def tell_epoch(self, lines: list[str], *, last: bool) -> None:
        """An epoch's lines above the progress bar, unless another's are of just now; those of the last in any case."""
        if self._progress and lines and (last or time.monotonic() - self._told >= SECONDS_BETWEEN_EPOCHS):
            self._told = time.monotonic()
            for line in lines:
                self.tell(line)

    def paused(self, work: Callable[[], None]) -> None:
        """Do `work` (measuring, saving) without counting its time as training."""
        before = time.perf_counter()
        work()
        self._started += time.perf_counter() - before
