"""`fra cluster`: a command of fra as a job file, for SLURM or for machines that are started by hand.

The file is bash, with a comment at every choice, and is meant to be read and changed. Whatever ends a job, the same
file continues it: the command in it resumes.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import fra
from fra.files import atomic, numbered
from fra.recipe import Count, Range, Settings
from fra.system.printable import counted

TRAINS, READS, REPEATS = ("pretrain", "transfer"), ("crop", "embed"), ("reproduce",)
COMMANDS = TRAINS + READS + REPEATS
"""What may be a job: one training on all machines, photos shared out to them, many small runs that each takes from."""
OURS = {"--devices": True, "--nodes": True, "--resume": False, "--cluster": True, "--no-wait": False}
"""Flags that the job file gives the command itself, and whether a value follows."""
System = Literal["slurm", "torchrun"]


@dataclass(frozen=True)
class Machines(Settings):
    """What a job runs on. Raises ValueError for numbers out of their range."""

    nodes: Count = 1
    """Machines."""
    gpus: Annotated[int, Range(0, 1024)] = 1
    """GPUs of each machine; 0 trains on processors."""
    cpus: Count = 16
    """Processor cores for each process (ours: what loading for one GPU usually takes)."""
    time: str = "24:00:00"
    """How long SLURM lets the job run before it is stopped and requeued."""
    partition: str = ""
    account: str = ""

    @property
    def processes(self) -> int:
        """Processes of a training on each machine."""
        return max(1, self.gpus)


def without_ours(words: Sequence[str]) -> list[str]:
    """The words of a command without those that the job file adds by itself."""
    kept, skip = [], False
    for word in words:
        flag, equals, _ = word.partition("=")
        if not skip and flag not in OURS:
            kept.append(word)
        skip = not skip and not equals and OURS.get(flag, False)
    return kept


def job_text(system: System, words: Sequence[str], machines: Machines, *, file: str) -> str:
    """The job file for the command `words` (a name in COMMANDS first, without the flags in OURS), in bash.

    It changes to the working directory of now, and finds the fra that wrote it first.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Not from the network, and bash, not HTML.
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    name = words[0]
    where = f"{counted(machines.nodes, 'machine')}, {counted(machines.gpus, 'GPU')} each"
    known: dict[str, Any] = dict(
        command=shlex.join(["fra", *words]),
        arguments=shlex.join(words),
        kind="trains" if name in TRAINS else "reads" if name in READS else "repeats",
        name=name,
        machines=machines,
        where=where,
        file=file,
        version=fra.__version__,
        folder=shlex.join([os.getcwd()]),
        programs=shlex.join([str(Path(sys.executable).parent)]),
        workers="--workers" not in words and name == "crop",
    )
    return templates.get_template(f"{system}.sh.j2").render(known)


def write_job(system: System, words: Sequence[str], machines: Machines, *, file: Path | None = None) -> Path:
    """Write the job file and return its path: `file`, or a new one called by the command. ValueError when it exists."""
    path = file or numbered(Path(f"fra-{words[0]}"), ending=".sh")
    if path.exists():
        raise ValueError(f"{path} exists: choose another --job, or remove it")
    with atomic(path) as temporary:  # without a checksum: it is to be changed
        temporary.write_text(job_text(system, words, machines, file=str(path)))
    return path


def how_to_start(system: System, path: Path, machines: Machines) -> str:
    """The next line to type."""
    file = shlex.join([str(path)])
    if system == "slurm":
        return f"sbatch {file}"
    if machines.nodes == 1:
        return f"bash {file}"
    return f"NODE_RANK=0 MASTER_ADDR=ADDRESS bash {file}, and with NODE_RANK 1, 2, ... on the other machines"
