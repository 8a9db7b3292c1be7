"""The moving line while photos are cropped."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, *, done: int = 0, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes the number of photos just finished; shows photos, photos a second, time left."""
    if quiet:
        yield lambda photos: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("cropping"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("photos, {task.fields[rate]:.1f} a second,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("cropping", total=total, completed=done, rate=0.0)
        began, here = time.monotonic(), 0

        def show(photos: int) -> None:
            nonlocal here
            here += photos
            progress.update(task, advance=photos, rate=here / max(time.monotonic() - began, 1e-9))

        yield show
