"""Which training images a fraction of 1 % or 10 % keeps, and which of them validate."""

import hashlib
from collections.abc import Sequence
from decimal import ROUND_UP, Decimal
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, tensor

SubsetRule = Literal["random", "first"]


def draw_subset(count: int, *, fraction: float, seed: int, rule: SubsetRule = "random") -> Int[Tensor, "n"]:
    """Positions (rising) of floor(fraction * count), at least 1, of `count` images, drawn at random, not stratified.

    With the rule "first" they are the first ones, whatever the seed, as 3FabRec's authors take them.
    Nested: of the same seed, 1 % lies inside 10 %. The order comes from SHA-256 of seed and position, so every
    process, machine and library version draws the same images (paper, supplement Table 1a; its subset is not known).
    Raises ValueError unless 0 < fraction <= 1.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"--fraction is {fraction}: give a share above 0 and at most 1")
    size = max(1, int(Decimal(str(fraction)) * count))  # exact: the float product 0.29 * 100 is 28.999...
    return torch.arange(size) if rule == "first" else tensor(sorted(_shuffled(range(count), str(seed))[:size]))


def fraction_of(labels: int, count: int) -> float:
    """The shortest share by which `draw_subset` draws exactly so many of `count` images; 100 of 12,271 are .0082.

    Raises ValueError unless 1 <= labels <= count.
    """
    if not 1 <= labels <= count:
        raise ValueError(f"{labels} of {count} labels cannot be drawn: give from 1 to {count}")
    exact = Decimal(labels) / count
    for digits in range(1, 17):
        share = exact.quantize(Decimal(1).scaleb(-digits), ROUND_UP)
        if int(share * count) == labels:
            return float(share)
    raise AssertionError("sixteen digits tell any two counts apart")


def hold_out(images: Int[Tensor, "n"], targets: Tensor, *, seed: int) -> tuple[Int[Tensor, "_"], Int[Tensor, "_"]]:
    """Part images into those that train and a tenth that validates, at random; `targets` are those of the images.

    Of classes a tenth each, rounded, so that small ones are not lost by chance. Both keep the images' order.
    """
    groups = targets if targets.ndim == 1 else torch.zeros(len(images))
    held = torch.zeros(len(images), dtype=torch.bool)
    for group in groups.unique():
        members = (groups == group).nonzero().flatten().tolist()
        held[_shuffled(members, f"hold out/{seed}")[: round(len(members) / 10)]] = True
    return images[~held], images[held]


def _shuffled(positions: Sequence[int], key: str) -> list[int]:
    return sorted(positions, key=lambda position: hashlib.sha256(f"{key}/{position}".encode()).digest())


def subset_hash(files: Sequence[str]) -> str:
    """A short fingerprint of the images in a subset, in their order."""
    return hashlib.sha256("\n".join(files).encode()).hexdigest()[:16]
