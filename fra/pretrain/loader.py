"""Unlabelled faces as batches of views: in which order the images of a pool come, and who loads them.

B images per batch and process, S view size.
"""

import atexit
import gc
import os
import re
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from fra.faces.image import to_input
from fra.pools.unlabelled import Pool
from fra.pretrain.views import Drawn, ViewMaker, crop_only, random_bits
from fra.pretrain.views_on_device import finish
from fra.system.printable import counted
from fra.system.processes import LOOK, Helpers, Lost, available_cores, end_with_parent, no_room, starting_helpers

PATIENCE = 1800.0
"""Seconds that a batch may take (ours: as long as processes that train together wait for each other)."""
START = "fork" if sys.platform == "linux" else "spawn"
"""How workers begin. Python 3.14 would put a server between them and us, and `end_with_parent` looks at the parent."""


class EpochBatches(Sampler[tuple[int, Int[Tensor, "B"]]]):
    """The endless batches of one process, as (epoch, indices), from batch `first_batch` on.

    An epoch is a permutation of the pool, a function of (seed, epoch). It is cut into steps of batch_size *
    accumulate * world images, the rest is left out; process r takes the r-th slice of every step and cuts it into
    `accumulate` batches. So a step holds the same images whatever the number of processes.
    """

    def __init__(
        self,
        count: int,
        *,
        batch_size: int,
        seed: int = 0,
        first_batch: int = 0,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        per_step = batch_size * accumulate * world
        if count < per_step:
            raise ValueError(
                f"{counted(count, 'face')} cannot fill a step of {per_step} (batch_size {batch_size} x accumulate "
                f"{accumulate} x processes {world}): give more faces or a smaller batch_size"
            )
        self.count, self.batch_size, self.seed, self.first_batch = count, batch_size, seed, first_batch
        self.rank, self.world, self.accumulate = rank, world, accumulate
        self.steps_per_epoch = count // per_step
        self.batches_per_epoch = self.steps_per_epoch * accumulate

    def epoch(self, epoch: int) -> Int[Tensor, "N B"]:
        """All batches of this process in one epoch."""
        order = random_bits(self.seed, epoch, indices=np.arange(self.count), count=1)[:, 0].argsort(kind="stable")
        used = self.batches_per_epoch * self.batch_size * self.world
        steps = order[:used].reshape(self.steps_per_epoch, self.world, self.accumulate * self.batch_size)
        return torch.from_numpy(steps[:, self.rank].reshape(-1, self.batch_size).copy())

    def __iter__(self) -> Iterator[tuple[int, Int[Tensor, "B"]]]:
        epoch, skip = divmod(self.first_batch, self.batches_per_epoch)
        while True:
            batches = self.epoch(epoch)
            for number in range(skip, len(batches)):  # not all views at once: a million faces have very many
                yield epoch, batches[number].clone()  # a view would take the whole epoch along to the worker
            epoch, skip = epoch + 1, 0


@dataclass(frozen=True)
class Batch:
    """Views of B faces."""

    views: list[UInt8[Tensor, "B 3 _ _"]]
    """One tensor per view, RGB."""
    frames: list[Float[Tensor, "B 4"]]
    """Where each lies in its image (`ViewParameters.frames`); empty unless the loader was asked for it."""
    indices: Int[Tensor, "B"]
    """Places in the pool, as asked for."""
    unreadable: list[int]
    """Places whose images could not be read; the next readable ones stand in for them."""
    unfinished: list[Drawn] = field(default_factory=list)
    """For each view what the device does with it: views are crops so far. Empty when they are done."""

    def pin_memory(self) -> "Batch":
        """Called by DataLoader: copies to a GPU are then faster."""
        return replace(self, views=[view.pin_memory() for view in self.views])

    def share(self) -> None:
        """Move it to shared memory here, where a lack of it can be told: on its way it would be lost without a word."""
        try:
            for tensor in (*self.views, *self.frames, self.indices):
                tensor.share_memory_()
        except RuntimeError as error:  # torch writes the system's number at the end: (28)
            number = re.search(r"\((\d+)\)\s*$", str(error))
            raise Lost(no_room(str(error), int(number[1]) if number else None)) from error

    def views_on(self, device: torch.device) -> list[Float[Tensor, "B 3 _ _"]]:
        """The views as methods take them: RGB in [0, 1]. They travel as bytes."""
        there = [view.to(device, non_blocking=True) for view in self.views]
        if self.unfinished:
            return [finish(crops, drawn) for crops, drawn in zip(there, self.unfinished, strict=True)]
        return [view.float().div_(255) for view in there]


class ViewBatches(Dataset[Batch | Exception]):
    """From (epoch, indices) to a batch: what a worker does. It hands over what went wrong in place of a batch."""

    def __init__(self, pool: Pool, maker: ViewMaker, *, with_frames: bool, crops_only: bool) -> None:
        self.pool, self.maker, self.with_frames, self.crops_only = pool, maker, with_frames, crops_only

    def __getitem__(self, which: tuple[int, list[int]]) -> Batch | Exception:
        epoch, indices = which
        try:
            batch = self._batch(epoch, torch.tensor(indices))
            if get_worker_info() is not None:
                batch.share()
            return batch
        except (ValueError, OSError, MemoryError, Lost) as error:  # as it is: torch would put a traceback into its text
            return error

    def _batch(self, epoch: int, indices: Int[Tensor, "B"]) -> Batch:
        images, missing = zip(*(self.pool.read(index) for index in indices.tolist()), strict=True)
        unreadable = sorted({index for each in missing for index in each})
        if self.crops_only:
            return self._crops(images, indices, epoch, unreadable)
        if self.with_frames:
            return Batch(*self.maker.make_with_frames(images, indices, epoch=epoch), indices, unreadable)
        return Batch(self.maker.make(images, indices, epoch=epoch), [], indices, unreadable)

    def _crops(
        self, images: Sequence[UInt8[Tensor, "3 _ _"]], indices: Int[Tensor, "B"], epoch: int, unreadable: list[int]
    ) -> Batch:
        drawn = self.maker.draw(images, indices, epoch=epoch)
        sizes = np.array([image.shape[1:] for image in images])
        frames = [torch.from_numpy(each.parameters.frames(sizes)).float() for each in drawn if self.with_frames]
        crops = [crop_only(config, images, parameters) for config, parameters in drawn]
        return Batch(crops, frames, indices, unreadable, drawn)


class _AsNumbers(Sampler[tuple[int, list[int]]]):
    """Batches as they can travel to a worker: tensors would need shared memory, and be lost without a word."""

    def __init__(self, order: EpochBatches) -> None:
        self.order = order

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return ((epoch, indices.tolist()) for epoch, indices in self.order)


class FaceLoader:
    """The endless batches of `order`, one after the other, made by workers that live as long as this object.

    With 0 workers the batches are made here. The same batches come in the same order whatever the number; they have
    frames only `with_frames`; with `crops_only` their views are finished where `Batch.views_on` puts them. Raises Lost
    when a worker has ended, or when none has made a batch for PATIENCE seconds.
    """

    def __init__(
        self,
        pool: Pool,
        maker: ViewMaker,
        order: EpochBatches,
        *,
        workers: int,
        with_frames: bool = False,
        crops_only: bool = False,
    ) -> None:
        self.pool = pool
        self.unreadable: dict[int, Path | str] = {}
        """The images met so far that could not be read, by index."""
        self._loader = DataLoader(
            ViewBatches(pool, maker, with_frames=with_frames, crops_only=crops_only),
            batch_size=None,
            sampler=_AsNumbers(order),
            num_workers=workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_prepare_worker,
            multiprocessing_context=START if workers else None,
            timeout=LOOK if workers else 0,
        )
        self._running: list[Iterator[Batch | Exception]] = []
        self._helpers = Helpers()
        end = partial(_end, self._running, self._helpers)
        _living.add(end)
        weakref.finalize(self, _end_and_forget, end)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if not self._running:
            self._running.append(self._start())
        batch = self._next()
        if isinstance(batch, Exception):
            raise batch
        for index in batch.unreadable:
            self.unreadable.setdefault(index, self.pool.path(index))
        return batch

    def _start(self) -> Iterator[Batch | Exception]:
        earlier = signal.getsignal(signal.SIGCHLD)
        with starting_helpers():
            running = iter(self._loader)
        # Torch's handler would raise where training happens to be; `_next` looks where it waits.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, earlier)
        self._helpers.notice()
        return running

    def _next(self) -> Batch | Exception:
        began = time.monotonic()
        while True:
            try:
                return next(self._running[0])
            except RuntimeError as error:
                self._helpers.check()
                if "timed out" not in str(error):
                    raise
                if time.monotonic() - began > PATIENCE:
                    raise Lost(
                        f"the data-loading workers have made no batch for {PATIENCE / 60:.0f} minutes: is the disk of "
                        "the faces still available? Continue with --resume"
                    ) from error


def _end(running: list[Iterator[Batch | Exception]], helpers: Helpers) -> None:
    running.clear()
    helpers.end()


def _end_and_forget(end: Callable[[], None]) -> None:
    _living.discard(end)
    end()


_living: set[Callable[[], None]] = set()
"""What ends the workers of the loaders that are in use."""


@atexit.register
def _end_all() -> None:
    """Before multiprocessing, at exit, waits for them: they hear no signals."""
    for end in list(_living):
        end()


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _prepare_worker(_: int) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    Queue._on_queue_feeder_error = staticmethod(_end_unheard)  # type: ignore[attr-defined]
    gc.freeze()  # garbage collection would touch all objects of the main process, and so copy them


def _end_unheard(error: Exception, batch: object) -> None:
    """A batch that cannot be sent (no file handle is left, say): who waits for it learns only from our end."""
    os._exit(1)


def default_workers(*, on_gpu: bool, processes: int = 1) -> int:
    """Workers for each of the processes on this machine (ours).

    Beside a GPU the processor has nothing else to do: one worker per core, less one for the main process. Without
    one, training itself needs the cores and is slow enough for a single worker.
    """
    return min(16, max(1, available_cores() // processes - 1)) if on_gpu else 1


def face_batch(pool: Pool, indices: Int[Tensor, "B"], *, size: int) -> Float[Tensor, "B 3 S S"]:
    """Faces without augmentation, `inputs_of` what is read at these places. For measuring and for pictures."""
    return inputs_of((pool.read(index)[0] for index in indices.tolist()), size=size)


def inputs_of(images: Iterable[UInt8[Tensor, "3 _ _"]], *, size: int) -> Float[Tensor, "B 3 S S"]:
    """The central square of each image, resized; RGB in [0, 1]."""
    return torch.stack([to_input(image, size) for image in images]) / 255
