"""One writer: which of several processes or machines may write a folder, a file, or a run of `fra reproduce`.

A claim is the file NAME.N. It is created exclusively, which is atomic on local disks and on NFS, locked (`flock`), and
touched every BEAT seconds while its owner lives; it goes when the owner gives it back. A claim is free when

- the kernel of the machine that made it says that its owner is gone: the lock dies with its process, also by `kill -9`;
- it was not touched for STALE seconds, for a claim of another machine (one that is off cannot say so) and on disks that
  have no locks.

A free claim N is taken over by creating N + 1 and looking again: of several that see the same free claim one succeeds.

What is assumed of a shared disk: exclusive creation and times of modification are the same for all machines (NFS 3 and
later, Lustre, GPFS, BeeGFS, SMB). Locks need not travel between machines; where they do (NFS 4), they are heard.
Workers do not keep a claim alive: forked children close it, and programs that are started do not get it.
"""

import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # no Unix: there the beat alone tells
    fcntl = None  # type: ignore[assignment]

BEAT = 15.0
STALE = 180.0
"""Seconds; ours: many missed beats, and more than NFS keeps a time of modification in its cache (a minute)."""
LOOK = 0.5
"""Seconds between two looks at a claim that may be dead."""

_ours: set[int] = set()
"""Descriptors of the claims of this process."""


class InUse(ValueError):
    """Another process is writing there."""


@contextmanager
def only_writer(folder: Path, name: str, what: object) -> Iterator[None]:
    """While the block runs nobody else writes `what`, for which the claim `name` in `folder` stands.

    Raises InUse when another process does. Of a claim of another machine that was made or touched lately nobody knows
    whether its owner lives (a batch job that was ended and starts again elsewhere): it is watched for a beat, STALE
    seconds at most.
    """
    with claim(folder, name, watch=True) as mine:
        if not mine:
            who = holder(folder, name) or "one that has just ended"
            raise InUse(f"{what} is being written by another process ({who}): wait for it, or choose another --out")
        yield


@contextmanager
def claim(folder: Path, name: str, *, beat: float = BEAT, stale: float = STALE, watch: bool = False) -> Iterator[bool]:
    """Whether `name` is ours while the block runs; False when a living process has it.

    With `watch` one that may be dead is watched until that is known. A process that was suspended so long that another
    has taken its claim over ends at once, as if killed: what it would write then belongs to somebody else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    latest = max(_numbers(folder, name), default=0)
    if latest and _is_held(folder / f"{name}.{latest}", stale, watch):
        yield False
        return
    mine = folder / f"{name}.{latest + 1}"
    try:
        descriptor = os.open(mine, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o666)
    except FileExistsError:  # somebody was quicker
        yield False
        return
    _ours.add(descriptor)
    process = os.getpid()
    done = threading.Event()
    keeper = threading.Thread(target=_keep, args=(mine, name, beat, done), daemon=True)
    try:
        if fcntl is not None:
            with suppress(OSError):  # a disk without locks has the beat alone
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # After the lock: who reads our machine's name here must find it locked.
        os.write(descriptor, f"{_machine()}\n{socket.gethostname()}, process {process}\n".encode())
        others = [folder / f"{name}.{number}" for number in _numbers(folder, name) if number != latest + 1]
        # An older list of the folder may have hidden one that was made since.
        alone = not any(_is_held(other, stale, watch=False) for other in others)
        if alone:
            for other in others:
                other.unlink(missing_ok=True)
            keeper.start()
        yield alone
    finally:
        if os.getpid() == process:  # not in a forked child that leaves this block
            done.set()
            if keeper.ident is not None:
                keeper.join()
            with suppress(OSError):
                mine.unlink()
            _ours.discard(descriptor)
            os.close(descriptor)


def holder(folder: Path, name: str, *, stale: float = STALE) -> str | None:
    """The machine and process that have `name` now, or None."""
    latest = max(_numbers(folder, name), default=0)
    path = folder / f"{name}.{latest}"
    if not latest or not _is_held(path, stale, watch=False):
        return None
    try:
        lines = path.read_text().splitlines()
    except OSError:  # it has just been given back
        return None
    return lines[1] if len(lines) > 1 else "a process that has just started"


def is_claim(file: str, name: str) -> bool:
    """Whether a file of this name is a claim of `name`."""
    return file.startswith(f"{name}.") and file.removeprefix(f"{name}.").isdigit()


def _numbers(folder: Path, name: str) -> list[int]:
    """Every N of the claims NAME.N."""
    if not folder.is_dir():
        return []
    return [int(entry.removeprefix(f"{name}.")) for entry in os.listdir(folder) if is_claim(entry, name)]


def _is_held(path: Path, stale: float, watch: bool) -> bool:
    """Whether the owner of a claim lives; without `watch` also when that is not known."""
    seen = None
    while True:
        try:
            with open(path) as stream:
                touched, maker = os.fstat(stream.fileno()).st_mtime, stream.readline().strip()
                locked = _locked(stream.fileno()) if maker else None
        except FileNotFoundError:  # given back
            return False
        if touched == 0:  # given back, by an earlier version
            return False
        if locked or (locked is False and maker == _machine()):
            return locked
        if disk_time(path.parent) - touched >= stale:
            return False
        if not watch or (seen is not None and touched != seen):
            return True
        if seen is None:
            print(
                f"fra: checking whether the owner of {path} is still running (up to {stale:g} seconds)", file=sys.stderr
            )
        seen = touched
        time.sleep(LOOK)


def _locked(descriptor: int) -> bool | None:
    """Whether a process has locked the file; None where the disk cannot tell."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def disk_time(folder: Path) -> float:
    """The time by the clock of the disk, which all machines share."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".now-") as probe:
        return os.stat(probe.name).st_mtime


def _machine() -> str:
    """A name for the running kernel: claims of one that was started again are not mistaken for living ones."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()


def _keep(mine: Path, name: str, beat: float, done: threading.Event) -> None:
    """Touch the claim until `done`."""
    while not done.wait(beat):
        with suppress(OSError):  # a disk that is away for a moment; the next beat tries again
            if _is_older(mine, name):
                time.sleep(LOOK)  # one that sees ours, and gives up, is gone by then
                if _is_older(mine, name):
                    print(
                        f"fra: {name} was taken over by another process while this one was suspended", file=sys.stderr
                    )
                    os._exit(1)
            os.utime(mine)


def _is_older(mine: Path, name: str) -> bool:
    return max(_numbers(mine.parent, name), default=0) > int(mine.suffix[1:])


def _after_fork() -> None:
    """A lock lives as long as any copy of its descriptor."""
    for descriptor in _ours:
        with suppress(OSError):
            os.close(descriptor)
    _ours.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
