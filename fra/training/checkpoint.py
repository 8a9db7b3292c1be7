"""Exact resume: everything a run needs to go on as if it had never stopped."""

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fra.files import RESTORE, DamagedFile, atomic, check_archive, reading
from fra.system.printable import printable
from fra.training.threads import most_threads

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
ENTRIES = ("step", "identity", "model", "optimizer", "precision")


@dataclass(frozen=True)
class Position:
    """What the recipe was when the checkpoint was written, and how many optimiser steps were done."""

    step: int
    identity: dict[str, Any]


def save_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: dict[str, Any],
    position: Position,
    keep: bool = True,
) -> None:
    """Write the state of training to `folder`/last.ckpt, whole or not at all; the one before becomes previous.ckpt.

    Without `keep` (it is known to be damaged) it does not. No random state is written: the loop seeds every step from
    (seed, step, process), and the order and augmentation of faces are functions of (seed, epoch, face). torch gives
    every member of the archive a checksum.
    """
    state = dict(
        step=position.step,
        identity=position.identity,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        precision=precision,
        threads=torch.get_num_threads(),
    )
    with atomic(folder / LAST) as temporary:
        torch.save(state, temporary)
        if keep and (folder / LAST).is_file():
            with atomic(folder / PREVIOUS) as second:  # a second name, so that there is a last one at any time
                second.unlink()
                _link(folder / LAST, second)


def _link(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:  # a disk without hard links
        os.replace(file, name)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    return [folder / name for name in (LAST, PREVIOUS) if os.path.lexists(folder / name)]


def written_identity(folder: Path) -> dict[str, Any] | None:
    """What a run was started with, as far as it must stay; None when there is no readable checkpoint."""
    for path in checkpoints(folder):
        with suppress(DamagedFile), reading(path):
            return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["identity"])
    return None


def latest_state(folder: Path, *, identity: dict[str, Any], tell: bool) -> tuple[dict[str, Any] | None, bool]:
    """The state to go on from, None without a checkpoint; and whether last.ckpt is whole.

    When that is damaged the state is previous.ckpt's, and a line on stderr says so (with `tell`). Raises DamagedFile
    when both are, and ValueError that names what differs when another run wrote them.
    """
    if (folder / LAST).is_dir():  # nothing could be written there later
        raise DamagedFile(f"{folder / LAST} is a folder, but a file of that name is written there", "move the folder")
    found = checkpoints(folder)
    damaged: list[DamagedFile] = []
    for path in found if not found or found[0].name == LAST else [folder / LAST, *found]:
        try:
            state = load_checkpoint(path, identity=identity)
        except DamagedFile as error:
            damaged.append(error)
            continue
        if damaged and tell:
            what = printable(f"{damaged[0].what}; continuing from {path}, step {state['step']}")
            print(f"fra: {what}", file=sys.stderr)
        return state, not damaged
    if damaged:
        raise DamagedFile(", and ".join(error.what for error in damaged), RESTORE)
    return None, True


def kept_threads(state: dict[str, Any]) -> int | None:
    """The CPU threads that a run computed with; None when it did not say, or this machine has fewer."""
    threads = state.get("threads")  # absent before version 0.2
    return threads if threads is not None and threads <= most_threads() else None


def load_checkpoint(path: Path, *, identity: dict[str, Any] | None) -> dict[str, Any]:
    """The state written by `save_checkpoint`, for a run with the same identity, or for any with None.

    Raises DamagedFile when the file is damaged, and ValueError that names what differs when another run wrote it.
    """
    older = path.name == LAST and (path.parent / PREVIOUS).is_file()
    with reading(path, f"the same command with --resume continues from {PREVIOUS}" if older else RESTORE):
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if missing := [name for name in ENTRIES if name not in state]:
            raise ValueError(f"{', '.join(missing)} missing")
        written = dict(state["identity"])
    if identity is None:
        return state
    differing = sorted(key for key in identity.keys() | written.keys() if identity.get(key) != written.get(key))
    if differing:
        key = differing[0]
        raise ValueError(
            f"{path} was written with {key} = {written.get(key)}, not {identity.get(key)}: "
            "resume with the same recipe and settings, or choose another --out"
        )
    return state
