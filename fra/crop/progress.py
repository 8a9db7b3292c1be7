"""The moving line while photos or frames are worked through."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(
    total: int | None, *, done: int = 0, quiet: bool = False, doing: str = "cropping", of: str = "photos"
) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes the number of photos just finished; shows photos, photos a second, time left.

    None for a total that nobody knows.
    """
    if quiet:
        yield lambda finished: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(of + ", {task.fields[rate]:.1f} a second,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(doing, total=total, completed=done, rate=0.0)
        began, here = time.monotonic(), 0

        def show(finished: int) -> None:
            nonlocal here
            here += finished
            progress.update(task, advance=finished, rate=here / max(time.monotonic() - began, 1e-9))

        yield show
