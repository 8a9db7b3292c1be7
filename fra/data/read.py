"""Images of a dataset, read once. N images, B images at a time, S pixels a side."""

import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fra.data.labelled import LabelledFaces
from fra.faces.image import UnreadableImage
from fra.runtime import Runtime
from fra.system.printable import counted

BATCH = 128
KEPT_BYTES = 4 * 2**30
"""What FaceImages keeps of a dataset: all of RAF-DB at 224 pixels, a sixth of CelebA (ours)."""


@dataclass(frozen=True)
class Unreadable:
    """A picture that could not be used, and why."""

    file: str
    split: str
    reason: str


Read = tuple[int, Tensor | Unreadable]
"""Position in the dataset, and the image or what was wrong with it."""


@contextmanager
def reading_threads(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """Threads that read images, as many as cores for no or 0 workers.

    Each keeps to one core: teams of torch's threads inside it would only wait for each other.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers or os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def read_images(
    faces: LabelledFaces,
    images: Int[Tensor, "n"],
    *,
    split: str,
    size: int,
    margin: int = 0,
    workers: int | None = None,
    ahead: bool = False,
    shown: Float[Tensor, "N 2"] | None = None,
) -> Iterator[list[Read]]:
    """Batches of images, as squares of `size` and `margin` more on every side, in the order given; threads read.

    Into `shown` goes, at its position in the dataset, how many of its picture's pixels an image is made of.
    `ahead` reads the next batch while this one is used. Raises ValueError for an unreadable image of the test split:
    on a smaller one the score would not be comparable.
    """

    def read(image: int) -> Read:
        try:
            picture = faces.picture(image)
            if shown is not None:
                shown[image] = faces.shown(image, picture)
            return image, faces.cut(image, picture, size=size, margin=margin)
        except (UnreadableImage, OSError) as error:
            reason = error.reason if isinstance(error, UnreadableImage) else str(error)
            return image, Unreadable(faces.files[image], split, reason)

    def finish(coming: list[Future[Read]]) -> list[Read]:
        found = [future.result() for future in coming]
        bad = next((item for _, item in found if isinstance(item, Unreadable)), None)
        if bad and split == "test":
            raise ValueError(
                f"test image {faces.root / bad.file} cannot be read ({bad.reason}): a score without it "
                "would not be comparable, so repair the dataset first"
            )
        return found

    with reading_threads(workers) as pool:
        waiting: list[Future[Read]] = []
        for part in images.split(BATCH) if len(images) else ():
            coming = [pool.submit(read, image) for image in part.tolist()]
            if not ahead:
                yield finish(coming)
            elif waiting:
                yield finish(waiting)
            waiting = coming
        if ahead and waiting:
            yield finish(waiting)


def with_bar(batches: Iterator[list[Read]], count: int, what: str) -> Iterable[list[Read]]:
    """The batches of `count` images with a progress bar that is described by `what`; without it there is none."""
    from rich.progress import track

    return track(batches, total=math.ceil(count / BATCH), description=what, disable=not what or not count)


class FaceImages:
    """The images of a run, all of them read once when it starts, so that damaged ones are known before training.

    The first KEPT_BYTES of them stay in memory as bytes; the others are read again each time they are asked for.
    Training images may be kept with a margin, for random changes that show more of the picture than the image does.
    """

    def __init__(
        self,
        faces: LabelledFaces,
        splits: dict[str, Int[Tensor, "_"]],
        *,
        size: int,
        margin: int = 0,
        runtime: Runtime = Runtime(),
    ) -> None:
        """`splits` in the order in which their images are kept; those of "train" have `margin` more pixels on every
        side. Raises ValueError as `read_images`."""
        self.faces, self.size, self.margin, self.runtime = faces, size, margin, runtime
        self._margins = torch.zeros(len(faces.files), dtype=torch.long)
        self._margins[splits.get("train", torch.empty(0, dtype=torch.long))] = margin
        bytes_of = 3 * (size + 2 * self._margins) ** 2
        wanted = int(sum(bytes_of[chosen].sum() for chosen in splits.values()))
        self._kept = torch.empty(min(wanted, KEPT_BYTES), dtype=torch.uint8)
        self.shown = torch.zeros(len(faces.files), 2)
        """Height and width of each usable image in pixels of its picture."""
        self._start = torch.full((len(faces.files),), -1)
        self._usable = torch.zeros(len(faces.files), dtype=torch.bool)
        unreadable: list[Unreadable] = []
        end = 0
        for split, chosen in splits.items():
            what = "" if runtime.quiet else f"reading {counted(len(chosen), f'{split} image')}"
            for image, item in self._read(chosen, split=split, what=what):
                if isinstance(item, Unreadable):
                    unreadable.append(item)
                    continue
                self._usable[image] = True
                if end + item.numel() <= len(self._kept):
                    self._kept[end : end + item.numel()] = item.flatten()
                    self._start[image], end = end, end + item.numel()
        self.unreadable = tuple(unreadable)

    def usable(self, images: Int[Tensor, "n"]) -> Int[Tensor, "m"]:
        """Those of them that could be read."""
        return images[self._usable[images]]

    def __getitem__(self, images: Int[Tensor, "B"]) -> UInt8[Tensor, "B 3 S S"]:
        """Usable images by their positions in the dataset. Raises ValueError when one has become unreadable since."""
        margins = self._margins[images].tolist()
        inner = (
            image[:, margin : margin + self.size, margin : margin + self.size]
            for image, margin in zip(self._whole(images), margins, strict=True)
        )
        return torch.stack(list(inner))

    def wide(self, images: Int[Tensor, "B"]) -> UInt8[Tensor, "B 3 W W"]:
        """Training images with their margin; errors as above."""
        return torch.stack(self._whole(images))

    def _whole(self, images: Int[Tensor, "B"]) -> list[Tensor]:
        """As they are kept, or read again."""
        found: dict[int, Tensor] = {}
        for image in images.tolist():
            start, side = int(self._start[image]), self.size + 2 * int(self._margins[image])
            if start >= 0:
                found[image] = self._kept[start : start + 3 * side * side].view(3, side, side)
        for image, item in self._read(images[self._start[images] < 0]):
            if isinstance(item, Unreadable):
                raise ValueError(f"{self.faces.root / item.file} can no longer be read ({item.reason})")
            found[image] = item
        return [found[image] for image in images.tolist()]

    def _read(self, images: Int[Tensor, "n"], *, split: str = "", what: str = "") -> Iterator[Read]:
        """Each image with the margin that it is to have."""
        for margin in self._margins[images].unique().tolist():
            some = images[self._margins[images] == margin]
            batches = read_images(
                self.faces,
                some,
                split=split,
                size=self.size,
                margin=margin,
                workers=self.runtime.workers,
                shown=self.shown,
            )
            yield from chain.from_iterable(with_bar(batches, len(some), what))
