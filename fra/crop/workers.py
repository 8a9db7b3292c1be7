"""Photos shared out to processes; results come back in the order of the photos."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from fra.crop.cut import Cropper, CropSettings, Made, Photo

WAITING = 4  # chunks in flight for each worker: enough that none idles while an older chunk is slow

Work = TypeVar("Work")

_cropper: Cropper | None = None


def available_cores() -> int:
    """Cores that this process may use, which in a container or a batch job are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def crop_in_order(chunks: Iterable[list[Photo]], cropper: Cropper, *, workers: int) -> Iterator[tuple[int, list[Made]]]:
    """For each chunk its number of photos and what was made; up to one worker means that `cropper` does it here."""
    if workers <= 1:
        for chunk in chunks:
            yield len(chunk), cropper.crop(chunk)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads (torch, onnxruntime) may hang
    pool = ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=_start_worker, initargs=(cropper.settings, cropper.out)
    )
    try:
        yield from in_order(
            chunks, lambda chunk: pool.submit(_crop_chunk, chunk), Future.result, room=WAITING * workers
        )
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process was ended from outside, most often for lack of memory: add --resume and use fewer "
            "--workers (in a script of your own, call crop() below `if __name__ == '__main__':`)"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_order(
    chunks: Iterable[list[Photo]],
    submit: Callable[[list[Photo]], Work],
    made: Callable[[Work], list[Made]],
    *,
    room: int,
) -> Iterator[tuple[int, list[Made]]]:
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _cropper = Cropper(settings, out)


def _end_with_parent() -> None:
    """A killed parent cannot end its workers, and they would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _crop_chunk(photos: list[Photo]) -> list[Made]:
    assert _cropper is not None
    return _cropper.crop(photos)
