"""Where and how a command computes, which decides no result: the flags are declared here, once."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from fra.files import MARK
from fra.recipe import Count, Range, Settings, hints_of, range_of
from fra.system.text import shown


@dataclass(frozen=True)
class Runtime(Settings):
    """Built once per command and handed down; each function takes from it what it needs.

    Raises ValueError for numbers out of their range.
    """

    device: str = "auto"
    """`auto` (CUDA if there is one, else Apple's MPS, else the CPU), `cpu`, `cuda` or `mps`."""
    precision: str = "auto"
    """`auto` (bf16 where it is faster), `32`, `bf16` or `16`."""
    devices: Count = 1
    """GPUs, or processes, per machine."""
    nodes: Count = 1
    """Machines."""
    workers: Annotated[int, Range(0, 1024)] | None = None
    """Processes or threads that read and prepare images; None lets each function choose for this machine."""
    threads: Annotated[int, Range(1, 1024)] | None = None
    """Torch's threads on the CPU, in each process, from then on; None takes those that pay when work begins."""
    views_on: str = "auto"
    """Where pre-training finishes its views: `cpu` (by the workers), `device` (they crop, it does the rest), or `auto`:
    on a GPU that trains on more than the workers make."""
    resume: bool = False
    """Continue an interrupted run; without it a folder that holds a run is refused."""
    quiet: bool = False
    """Print errors only."""

    @property
    def processes(self) -> int:
        """How many train together."""
        return self.devices * self.nodes

    def continuing(self, folder: Path) -> "Runtime":
        """The same for a step of a longer command, which resumes what was begun in `folder`, if anything was."""
        return replace(self, resume=(folder / MARK).exists())

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Runtime":
        """From the flags that a command has; the rest is as by default."""
        given = vars(options)
        return cls(**{field.name: given[field.name] for field in fields(cls) if field.name in given})


def add_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the flags for these settings of Runtime, in this order."""
    flags: dict[str, dict[str, Any]] = {
        "device": dict(choices=("auto", "cpu", "cuda", "mps")),
        "precision": dict(choices=("auto", "32", "bf16", "16")),
        "devices": dict(type=_setting("devices"), metavar="N", help="GPUs (or processes) per machine"),
        "nodes": dict(type=_setting("nodes"), metavar="N", help="number of machines"),
        "workers": dict(
            type=_setting("workers"), metavar="N", help="data-loading workers (default: chosen for this machine)"
        ),
        "threads": dict(type=_threads, metavar="auto|N", help="CPU threads per process (default: as many as pay)"),
        "views_on": dict(
            choices=("auto", "cpu", "device"),
            help="what finishes the views: workers, or the GPU (default: measured)",
        ),
        "resume": dict(action="store_true", help="continue an interrupted run in --out"),
        "quiet": dict(action="store_true", help="print errors only"),
    }
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", default=getattr(Runtime, name), **flags[name])


def number(kind: type[int] | type[float], allowed: Range) -> Callable[[str], Any]:
    """For argparse: reads a number that lies in a Range."""

    def read(text: str) -> float:
        try:
            found = kind(text)
        except ValueError:
            advice = "give a whole number" if kind is int else "give a number"
            raise argparse.ArgumentTypeError(f"is {shown(text)}: {advice}") from None
        if found not in allowed:
            raise argparse.ArgumentTypeError(f"is {shown(text)}: {allowed.advice(found)}")
        return found

    return read


def _setting(name: str) -> Callable[[str], int]:
    """Reads a whole number in the range that this setting has."""
    allowed = range_of(hints_of(Runtime)[name])
    assert allowed is not None
    return number(int, allowed)


def _threads(text: str) -> int | None:
    return None if text == "auto" else _setting("threads")(text)
