"""Who does a run when several processes or machines share one folder: files that only one process can make.

A claim is the file NAME.N. It is created exclusively, which is atomic on local disks and on NFS, and touched every
BEAT seconds while its owner lives. It is free again when its owner gave it back (time of modification 0), when it has
not been touched for STALE seconds, or when the kernel of this machine says that its owner is gone (its lock is free).
A free claim N is taken over by creating N + 1: two processes that see the same free claim cannot both succeed, and
nothing is ever deleted that another process might have made since.
"""

import fcntl
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

BEAT = 20.0
STALE = 300.0
"""Seconds; ours: many missed beats, and more than NFS keeps a time of modification in its cache (a minute)."""


@contextmanager
def claim(folder: Path, name: str, *, beat: float = BEAT, stale: float = STALE) -> Iterator[bool]:
    """Whether the run `name` is ours while the block runs; False when a living process has it.

    A process that was suspended so long that another has taken its claim over ends at once, as if killed: what it would
    write then belongs to somebody else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    latest = _latest(folder, name)
    if latest and _is_held(folder / f"{name}.{latest}", stale):
        yield False
        return
    mine = folder / f"{name}.{latest + 1}"
    try:
        descriptor = os.open(mine, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    except FileExistsError:  # somebody was quicker
        yield False
        return
    with open(descriptor, "w") as stream:
        with suppress(OSError):  # a disk without locks has the beat alone
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # After the lock: who reads our machine's name here must find it locked.
        stream.write(f"{_machine()}\n{socket.gethostname()}, process {os.getpid()}\n")
        stream.flush()
        done = threading.Event()
        keeper = threading.Thread(target=_keep, args=(mine, name, beat, done), daemon=True)
        keeper.start()
        try:
            yield True
        finally:
            done.set()
            keeper.join()
            os.utime(mine, (0, 0))


def holder(folder: Path, name: str, *, stale: float = STALE) -> str | None:
    """The machine and process that have a run now, or None."""
    latest = _latest(folder, name)
    path = folder / f"{name}.{latest}"
    if not latest or not _is_held(path, stale):
        return None
    lines = path.read_text().splitlines()
    return lines[1] if len(lines) > 1 else "a process that has just begun"


def _latest(folder: Path, name: str) -> int:
    """The highest N of the claims NAME.N, 0 without any."""
    if not folder.is_dir():
        return 0
    numbers = (entry.removeprefix(f"{name}.") for entry in os.listdir(folder) if entry.startswith(f"{name}."))
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _is_held(path: Path, stale: float) -> bool:
    touched = path.stat().st_mtime
    if touched == 0:
        return False
    with open(path) as stream:
        if stream.readline().strip() == _machine() and _unlocked(stream):
            return False
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".now-") as probe:
        now = os.stat(probe.name).st_mtime  # by the clock of the disk, which all machines share
    return now - touched < stale


def _unlocked(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    fcntl.flock(stream, fcntl.LOCK_UN)
    return True


def _machine() -> str:
    """A name for the running kernel: claims of one that was started again are not mistaken for living ones."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()


def _keep(mine: Path, name: str, beat: float, done: threading.Event) -> None:
    """Touch the claim until `done`."""
    while not done.wait(beat):
        with suppress(OSError):  # a disk that is away for a moment; the next beat tries again
            if _latest(mine.parent, name) != int(mine.suffix[1:]):
                print(f"fra: {name} was taken over by another process while this one slept", file=sys.stderr)
                os._exit(1)
            os.utime(mine)
