"""The memory of this process: that what is freed is used again, and the most that it has had."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

_PROCESS = Path("/proc/self")


def forget_peak() -> None:
    """Count from now on; where the system cannot (it is no Linux), `peak_memory` stays unknown."""
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")


def peak_memory() -> int | None:
    """The most physical memory since `forget_peak`, in bytes, libraries included; None where nobody knows."""
    with suppress(OSError, ValueError, IndexError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # numbers of mallopt(3)
ALONE = (2**30, 2**25)
"""Bytes from which a piece of memory has pages of its own, given back when it is freed; glibc below 2.35 takes no more
than the second."""
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed and hand it out again, for this process and those forked from it; whether it does.

    By default it gives tensors' pages back to the system and fetches them again, filled with zeros, in every step: half
    the time of small networks (docs/dev/performance.md). What the process has at most stays the same, and it has that
    until it ends. Nothing is changed where glibc's own settings say what to do, or where malloc is another.
    """
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or any(name in os.environ for name in SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return False
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in ALONE) and bool(mallopt(M_TRIM_THRESHOLD, -1))
