"""Photos shared out to processes; results come back in the order of the photos."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from fra.crop.cut import Cropper, CropSettings, Made, Photo
from fra.system.processes import helper_pool

WAITING = 4  # chunks in flight for each worker: enough that none idles while an older chunk is slow

Work = TypeVar("Work")
Result = TypeVar("Result")

_cropper: Cropper | None = None


def crop_in_order(chunks: Iterable[list[Photo]], cropper: Cropper, *, workers: int) -> Iterator[tuple[int, list[Made]]]:
    """For each chunk its number of photos and what was made; up to one worker means that `cropper` does it here."""
    if workers <= 1:
        for chunk in chunks:
            yield len(chunk), cropper.crop(chunk)
        return
    with helper_pool(workers, _start_worker, cropper.settings, cropper.out) as pool:
        yield from in_order(chunks, lambda chunk: pool.submit(_crop_chunk, chunk), pool.result, room=WAITING * workers)


def in_order(
    chunks: Iterable[list[Photo]],
    submit: Callable[[list[Photo]], Work],
    made: Callable[[Work], Result],
    *,
    room: int,
) -> Iterator[tuple[int, Result]]:
    """For each chunk its number of photos and what was made, the oldest first; at most `room` chunks are in flight."""
    waiting: deque[tuple[int, Work]] = deque()
    for chunk in chunks:
        waiting.append((len(chunk), submit(chunk)))
        if len(waiting) >= room:
            count, work = waiting.popleft()
            yield count, made(work)
    for count, work in waiting:
        yield count, made(work)


def _start_worker(settings: CropSettings, out: Path) -> None:
    global _cropper
    _cropper = Cropper(settings, out)


def _crop_chunk(photos: list[Photo]) -> list[Made]:
    assert _cropper is not None
    return _cropper.crop(photos)
