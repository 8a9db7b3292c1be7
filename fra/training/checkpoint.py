"""Exact resume: everything a run needs to go on as if it had never stopped."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fra.files import atomic

UNREADABLE = (RuntimeError, EOFError, KeyError, OSError, ValueError, TypeError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Position:
    """What the recipe was when the checkpoint was written, and how many optimiser steps were done."""

    step: int
    identity: dict[str, Any]


def save_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: dict[str, Any],
    position: Position,
) -> None:
    """Write the state of training whole or not at all.

    No random state is kept: the loop seeds every step from (seed, step, process), and the order and augmentation
    of faces are functions of (seed, epoch, face).
    """
    state = dict(
        step=position.step,
        identity=position.identity,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        precision=precision,
    )
    with atomic(path) as temporary:
        torch.save(state, temporary)


def written_precision(path: Path) -> str | None:
    """The precision that the run of a checkpoint computes in; None when there is no readable checkpoint."""
    try:
        identity = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["identity"]
    except UNREADABLE:
        return None
    return identity.get("precision")


def load_checkpoint(path: Path, *, identity: dict[str, Any]) -> dict[str, Any]:
    """The state written by `save_checkpoint`, for a run with the same identity.

    Raises ValueError when the file is damaged, or names what differs when another run wrote it.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        written = state["identity"]
    except UNREADABLE as error:
        raise ValueError(
            f"{path} is not a readable checkpoint of fra ({type(error).__name__}): start again without it"
        ) from error
    differing = sorted(key for key in identity if identity[key] != written.get(key))
    if differing:
        key = differing[0]
        raise ValueError(
            f"{path} was written with {key} = {written.get(key)}, not {identity[key]}: "
            "resume with the same recipe and settings, or choose another --out"
        )
    return state
