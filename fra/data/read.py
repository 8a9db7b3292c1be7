"""Images of a dataset, read once. N images, B images at a time, S pixels a side."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from fra.data.labelled import LabelledFaces
from fra.faces.image import UnreadableImage

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
def reading_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that read images, as many as cores for 0 workers.

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
    workers: int = 0,
    ahead: bool = False,
    what: str = "",
) -> Iterator[list[Read]]:
    """Batches of images, as squares of `size`, in the order given; threads read.

    `ahead` reads the next batch while this one is used; `what` describes the progress bar, without it there is none.
    Raises ValueError for an unreadable image of the test split: on a smaller one the score would not be comparable.
    """
    from rich.progress import track

    def read(image: int) -> Read:
        try:
            return image, faces.image(image, size=size)
        except (UnreadableImage, OSError) as error:
            return image, Unreadable(faces.files[image], split, str(error))

    def finish(coming: list[Future[Read]]) -> list[Read]:
        found = [future.result() for future in coming]
        bad = next((item for _, item in found if isinstance(item, Unreadable)), None)
        if bad and split == "test":
            raise ValueError(
                f"test image {faces.root / bad.file} cannot be used ({bad.reason}): a score on the others would "
                "not be comparable, so mend the dataset first"
            )
        return found

    with reading_threads(workers) as pool:
        waiting: list[Future[Read]] = []
        parts = list(images.split(BATCH)) if len(images) else []
        for part in track(parts, description=what, disable=not what or not parts):
            coming = [pool.submit(read, image) for image in part.tolist()]
            if not ahead:
                yield finish(coming)
            elif waiting:
                yield finish(waiting)
            waiting = coming
        if ahead and waiting:
            yield finish(waiting)


class FaceImages:
    """The images of a run, all of them read once when it starts, so that damaged ones are known before training.

    The first KEPT_BYTES of them stay in memory as bytes; the others are read again each time they are asked for.
    """

    def __init__(
        self, faces: LabelledFaces, splits: dict[str, Int[Tensor, "_"]], *, size: int, workers: int = 0, quiet: bool
    ) -> None:
        """`splits` in the order in which their images are kept. Raises ValueError as `read_images`."""
        self.faces, self.size, self.workers = faces, size, workers
        images = sum(map(len, splits.values()))
        self._kept = torch.empty(min(images, KEPT_BYTES // (3 * size * size)), 3, size, size, dtype=torch.uint8)
        self._row = torch.full((len(faces.files),), -1)
        self._usable = torch.zeros(len(faces.files), dtype=torch.bool)
        unreadable: list[Unreadable] = []
        row = 0
        for split, chosen in splits.items():
            what = "" if quiet else f"reading {len(chosen):,} {split} images"
            for found in read_images(faces, chosen, split=split, size=size, workers=workers, what=what):
                for image, item in found:
                    if isinstance(item, Unreadable):
                        unreadable.append(item)
                        continue
                    self._usable[image] = True
                    if row < len(self._kept):
                        self._kept[row], self._row[image] = item, row
                        row += 1
        self.unreadable = tuple(unreadable)

    def usable(self, images: Int[Tensor, "n"]) -> Int[Tensor, "m"]:
        """Those of them that could be read."""
        return images[self._usable[images]]

    def __getitem__(self, images: Int[Tensor, "B"]) -> UInt8[Tensor, "B 3 S S"]:
        """Usable images by their positions in the dataset. Raises ValueError when one has become unreadable since."""
        rows = self._row[images]
        batch = self._kept[rows.clamp(min=0)]
        places = (rows < 0).nonzero().flatten()
        found = read_images(self.faces, images[places], split="", size=self.size, workers=self.workers)
        for place, (_, item) in zip(places.tolist(), chain.from_iterable(found), strict=True):
            if isinstance(item, Unreadable):
                raise ValueError(f"{self.faces.root / item.file} cannot be read any more ({item.reason})")
            batch[place] = item
        return batch
