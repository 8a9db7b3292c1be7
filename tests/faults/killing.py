"""Commands that are killed (`kill -9`) at random moments and go on with --resume: a harness for tests.

    killer = Killer()                                # starts one process that has imported everything
    seconds = killer.whole(words, whole)             # undisturbed
    killer.kills(words, out, moments=[...])          # killed so many seconds after each start
    killer.whole([*words, "--resume"], out)
    assert leftovers(out) == []

A command runs in a fork of that process, so that a try costs what the command costs and not ten seconds of imports.
`words` are those behind `fra`, without --out; what a command has to give is compared by whoever calls.
"""

import contextlib
import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from fra.files import LOCK, TEMPORARY

PRELOADED = [
    "torch",
    "fra.cli",
    "fra.crop.run",
    "fra.pretrain.run",
    "fra.transfer.run",
    "fra.transfer.comparison.run",
    "fra.predict.predictor",
    "fra.regions.run",
    "fra.report.run",
    "fra.weights.export",
    "lightning_fabric",
]
PATIENCE = 120.0
"""Seconds that a command may take."""


class Killer:
    """Runs commands and kills them; its process ends with that of the caller."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def whole(self, words: Sequence[str], out: Path) -> float:
        """Run a command to its end, and give the seconds it took. AssertionError when it fails."""
        began = time.monotonic()
        process, _ = self._start(words, out)
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"fra {' '.join(words)} did not end")
        assert process.exitcode == 0, f"fra {' '.join(words)} ended with {process.exitcode}"
        return time.monotonic() - began

    def kills(self, words: Sequence[str], out: Path, *, moments: Sequence[float]) -> int:
        """Start a command and kill it after each of `moments` (seconds), with --resume from the second start on.

        Give the number of tries in which it still lived. AssertionError when a try ended by itself with an error.
        """
        killed = 0
        for moment in moments:
            process, begun = self._start([*words, "--resume"], out)
            begun.wait(PATIENCE)
            process.join(moment)
            if process.is_alive():
                killed += 1
                process.kill()
            process.join()
            assert process.exitcode in (0, -9), f"fra {' '.join(words)} ended with {process.exitcode}"
        return killed

    def _start(self, words: Sequence[str], out: Path) -> tuple[BaseProcess, "multiprocessing.synchronize.Event"]:
        begun = self.context.Event()
        process = self.context.Process(target=_command, args=([*words, "--out", str(out), "--quiet"], begun))
        process.start()
        return process, begun


def _command(words: list[str], begun: "multiprocessing.synchronize.Event") -> None:
    import torch

    from fra import cli

    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        begun.set()
        os._exit(cli.main(words))


def moments(seconds: float, count: int, *, seed: int) -> list[float]:
    """When to kill a command that takes `seconds`: anywhere, the same for the same seed."""
    draw = random.Random(seed)
    return [draw.uniform(0, seconds) for _ in range(count)]


def leftovers(out: Path) -> list[str]:
    """Temporary files and claims in a folder in which nothing runs."""
    return [path.name for path in out.rglob(".*") if path.name.startswith((TEMPORARY, LOCK))]


def contents(out: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}
