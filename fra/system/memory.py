"""The most memory that this process has had."""

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
