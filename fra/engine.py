"""Runs of a longer command: done once, each by one process, whoever dies. `fra reproduce` and `fra compare` use it.

A run has a folder of its own below `runs/`, named by what it is and a hash of its settings. Several processes and
machines may share a folder: claims (`fra.system.lock`) say who has which run.
"""

import platform
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from fra import __version__
from fra.files import LOCK, read_json, reading, write_json
from fra.runtime import Runtime
from fra.system.lock import InUse, claim, holder
from fra.system.memory import forget_peak, peak_memory
from fra.system.printable import counted
from fra.system.processes import Lost
from fra.system.stopping import Stopped
from fra.training.devices import choose_device

POLL = 5.0
"""Seconds between two looks at runs that other processes have."""
AGAIN = "remove it: the same command makes it again"


@dataclass(frozen=True)
class Place:
    """Where runs lie and how they compute; commands add what their runs are given."""

    out: Path
    runtime: Runtime = field(default=Runtime(), kw_only=True)

    @property
    def runs(self) -> Path:
        return self.out / "runs"


P = TypeVar("P", bound=Place)


class Run(ABC, Generic[P]):
    """Abstract: work that is done once, in the folder `name` below `runs/`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Folder; two runs with the same name are the same run."""

    @property
    def needs(self) -> tuple["Run[P]", ...]:
        """Runs that must be finished before."""
        return ()

    @abstractmethod
    def finished(self, place: P) -> bool: ...

    @abstractmethod
    def work(self, place: P) -> None:
        """Begin, or go on from wherever a killed run was."""

    def folder(self, place: P) -> Path:
        return place.runs / self.name


def do_runs(
    runs: Sequence[Run[P]], place: P, *, before: Callable[[Run[P]], None] = lambda run: None, wait: bool = True
) -> bool:
    """Do what is missing and not done by somebody else, each run after what it needs; whether all is finished.

    `place.out` is a claimed folder; `before` is called with each run that could be begun. Without `wait` it returns
    when what is left is done by others. Raises ValueError for anything that is wrong with a run or what it is given.
    """
    waiting = ""
    while missing := [run for run in runs if not run.finished(place)]:
        done = len(runs) - len(missing)
        begun_with = done
        for run in missing:
            if not all(need.finished(place) for need in run.needs):
                continue
            before(run)
            done += _do_one(run, place, f"{done} of {counted(len(runs), 'run')} finished")
        if done > begun_with:
            continue
        held = [f"{run.name} ({who})" for run in missing if (who := _holder(run, place))]
        if not wait:
            if not place.runtime.quiet:
                print(f"left to other processes: {', '.join(held)}; the last one to finish writes the tables")
            return False
        if not place.runtime.quiet and waiting != (waiting := ", ".join(held)):
            print(f"waiting for {waiting}", flush=True)
        time.sleep(POLL)
    return True


def state(run: Run[P], place: P) -> str:
    """`finished`, `running on MACHINE, process N`, `started` or `to do`."""
    if run.finished(place):
        return "finished"
    who = holder(place.out / "claims", run.name)
    if who:
        return f"running on {who}"
    return "started" if run.folder(place).exists() else "to do"


def _holder(run: Run[P], place: P) -> str | None:
    return holder(place.out / "claims", run.name) or holder(run.folder(place), LOCK)


def _do_one(run: Run[P], place: P, standing: str) -> bool:
    """Whether the run could be had, and so is finished now."""
    with claim(place.out / "claims", run.name) as mine:
        if not mine:
            return False
        if run.finished(place):  # by somebody else, since we looked
            return True
        if holder(run.folder(place), LOCK):  # who has started it by hand
            return False
        if not place.runtime.quiet:
            print(f"\n== {standing}; now {run.name}", flush=True)
        try:
            with costed(run, place):
                run.work(place)
        except InUse:
            return False
        except ValueError as error:
            raise ValueError(f"{run.name}: {error}") from error
        except Lost as error:
            raise Lost(f"{run.name}: {error}") from error
        except KeyboardInterrupt as error:
            status = error.status if isinstance(error, Stopped) else 130
            raise Stopped(f"stopped in {run.name}; the same command continues from there", status=status) from None
    return True


@contextmanager
def costed(run: Run[P], place: P) -> Iterator[None]:
    """Leave `cost.json` in a run's folder when it ends well: seconds of this sitting, date, machine, version.

    Also the most memory that the process had meanwhile, in bytes, and the GPU's, where they are known.
    """
    started = time.monotonic()
    forget_peak()
    on_gpu = choose_device(place.runtime.device) == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    yield
    record: dict[str, Any] = {
        "seconds": round(time.monotonic() - started, 1),
        "finished": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    record |= {"memory": peak_memory()} if peak_memory() else {}
    record |= {"gpu_memory": torch.cuda.max_memory_allocated()} if on_gpu else {}
    write_json(run.folder(place) / "cost.json", record | about(place))


def cost_of(run: Run[P], place: P) -> dict[str, Any] | None:
    """What `costed` left; None for a run that was made by hand."""
    file = run.folder(place) / "cost.json"
    if not file.exists():
        return None
    with reading(file, f"remove it: the table then leaves out the time of {run.name}"):
        cost = read_json(file)
        known = {name: cost[name] for name in ("seconds", "finished", "version", "machine")}
        known |= {name: cost[name] for name in ("memory", "gpu_memory") if name in cost}
    summary = run.folder(place) / "summary.json"
    if summary.exists():  # of all sittings
        with reading(summary, "the same run with --resume writes it again"):
            known["seconds"] = max(known["seconds"], read_json(summary)["seconds"])
    return known


def about(place: Place) -> dict[str, str]:
    """Version and machine, without names."""
    if choose_device(place.runtime.device) == "cuda":
        machine = torch.cuda.get_device_name()
    else:
        threads = counted(torch.get_num_threads(), "thread")
        machine = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {threads}"
    return {"version": f"fra {__version__}{_commit()}", "machine": f"{machine}, torch {torch.__version__}"}


@cache
def _commit() -> str:
    """`, commit abc1234` when this is a checkout, `+` behind it for one with changes."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f", commit {found.stdout.strip()}" if found.returncode == 0 else ""
