"""What training tells while it runs: a table on disk, a line on the screen."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from fra.files import REMOVE_TABLE, append_rows, read_rows, reading, shortened, write_rows

SECONDS_BETWEEN_EPOCHS = 5
"""On the screen: few images make short epochs, whose lines would run away."""


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
            note = f"loss {row['loss']:.3f}  {rate:.1f} {self.unit}/s, {bound}"
            self._progress.update(self._task, note=note)

    def tell_epoch(self, lines: list[str], *, last: bool) -> None:
        """An epoch's lines above the progress bar, unless another's are of just now; those of the last in any case."""
        if self._progress and lines and (last or time.monotonic() - self._told >= SECONDS_BETWEEN_EPOCHS):
            self._told = time.monotonic()
            for line in lines:
                self._progress.console.print(line)

    def paused(self, work: Callable[[], None]) -> None:
        """Do `work` (measuring, saving) without counting its time as training."""
        before = time.perf_counter()
        work()
        self._started += time.perf_counter() - before
