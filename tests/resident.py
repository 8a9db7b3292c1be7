"""How much memory a process holds."""

import os
from pathlib import Path


def resident(process: int | None = None) -> int:
    """Of this process, or the one of that number, in bytes (Linux)."""
    status = Path(f"/proc/{process or os.getpid()}/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])
