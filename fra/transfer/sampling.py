"""In which order labelled images are shown while a network is trained. N images, B at a time."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fra.training.loop import step_seed


def class_balance(classes: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Weight of each image so that all classes that occur are drawn equally often: 1 over the size of its class."""
    return 1 / torch.bincount(classes)[classes].double()


class Part(NamedTuple):
    """What one process takes of a step."""

    images: Int[Tensor, "B"]
    weight: float
    """Of its loss, so that the mean over processes is that over the step: 1, or about 1 where parts are uneven."""


class TrainingBatches:
    """The endless batches of one process.

    An epoch is a permutation of the images or, with `weights`, as many draws with replacement; a function of (seed,
    epoch). It is cut into the fewest steps of at most `batch_size` images, all about equally large, and process r of
    W takes every W-th image of a step from the r-th on. So a step holds the same images whatever W.
    """

    def __init__(
        self,
        images: Int[Tensor, "N"],
        *,
        batch_size: int,
        weights: Float[Tensor, "N"] | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        # Batch norm needs two images in each process.
        self.images = images.repeat(math.ceil(2 * world / len(images)))
        self.weights = None if weights is None else weights.repeat(len(self.images) // len(images))
        self.steps_per_epoch = math.ceil(len(self.images) / max(batch_size, 2 * world))
        self.seed, self.rank, self.world = seed, rank, world

    def epoch(self, epoch: int) -> list[Part]:
        """What this process takes of each step of an epoch."""
        draw = torch.Generator().manual_seed(step_seed(self.seed, epoch, 0))
        if self.weights is None:
            order = torch.randperm(len(self.images), generator=draw)
        else:
            order = torch.multinomial(self.weights, len(self.images), replacement=True, generator=draw)
        return [self._part(step) for step in self.images[order].tensor_split(self.steps_per_epoch)]

    def from_step(self, first: int) -> Iterator[Part]:
        """All steps from number `first` of the whole run on, without end."""
        epoch, skip = divmod(first, self.steps_per_epoch)
        while True:
            yield from self.epoch(epoch)[skip:]
            epoch, skip = epoch + 1, 0

    def _part(self, step: Int[Tensor, "n"]) -> Part:
        mine = step[self.rank :: self.world]
        return Part(mine, len(mine) * self.world / len(step))
