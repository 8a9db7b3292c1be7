"""Pre-training that takes a second."""

import os
import signal
from pathlib import Path

import pytest
import torch

from fra.pretrain.run import load_pretrain_recipe, pretrain
from fra.runtime import Runtime
from fra.training import loop

TINY = [
    "method.head={hidden: 32, out: 16}",
    "encoder.image_size=32",
    "views.size=32",
    "batch_size=8",
    "health_faces=16",
]


FRA_TINY = [*TINY, "method.cluster_views=aligned", "method.decoder.width=16", "method.regions=4"]


# A queue of two steps that begins to fill in the second epoch, and is used in it.
SWAV_TINY = [*TINY, "views.small_size=16", "method.prototypes=6", "method.queue=16"]


LEWEL_TINY = [*TINY, "method.heads=2"]


FABREC_TINY = [*TINY[1:], "method.decoder_width=16", "method.discriminator_width=4", "method.structure_window=11"]


SETTINGS = {"fra": FRA_TINY, "byol": TINY, "swav": SWAV_TINY, "lewel": LEWEL_TINY, "fabrec": FABREC_TINY}


METHODS = list(SETTINGS)


def run(
    folder: Path,
    out: Path,
    *settings: str,
    name: str = "smoke/resnet10_half.fra",
    resume: bool = False,
    **options: object,
) -> Path:
    recipe = load_pretrain_recipe(name, [*SETTINGS[name.split(".")[-1]], *settings])
    return pretrain(recipe, folder, out, runtime=Runtime("cpu", "32", workers=0, resume=resume, quiet=True), **options)


def interrupt_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """SIGTERM arrives in the middle of this step, counted from 0, until the patch is undone."""
    seed_of = loop.step_seed

    def interrupted(seed: int, step: int, rank: int) -> int:
        if step == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return seed_of(seed, step, rank)

    monkeypatch.setattr(loop, "step_seed", interrupted)


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "last.ckpt", weights_only=True)["model"]


def same_bits(one: Path, other: Path) -> bool:
    mine, theirs = weights_of(one), weights_of(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
