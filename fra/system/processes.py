"""Helper processes: they hear no signals, end with the process that started them, and are missed when they are lost.

The command line imports this file, so it imports multiprocessing only where that is used.
"""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor
    from multiprocessing.process import BaseProcess

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""What ends a command."""
NO_SHARED_MEMORY = (
    "shared memory (/dev/shm) is full: give the container more (docker run --shm-size=1g), or use --workers 0"
)
GOODBYE = 0.5
"""Seconds that commands which we have started get to end by themselves (ours)."""
LOOK = 2.0
"""Seconds between two looks whether those whom we wait for are alive."""
PR_SET_PDEATHSIG = 1
SOCKETS = "/tmp"
"""Where the sockets between processes lie when the path of the temporary files is longer than ROOM."""
ROOM = 70
"""Bytes: a socket's path has at most 103 (macOS), and multiprocessing adds 32."""
SILENT = "ignore:resource_tracker"
"""How Python's own process that frees what lost helpers shared is started: it frees, and tells nobody about it."""

Answer = TypeVar("Answer")

commands: list["subprocess.Popen[bytes]"] = []
"""Processes of ours that are no helpers of multiprocessing; they end with us."""


class Lost(RuntimeError):
    """A process that the command cannot go on without has ended, or cannot be reached: one line, exit status 1."""


def available_cores() -> int:
    """Cores that this process may use, which in a container or a batch job are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def starting_helpers() -> Iterator[None]:
    """Processes that are started in the block hear none of SIGNALS: Ctrl-C and batch systems send them to all.

    Who started them decides when they end. Raises Lost when they cannot be started.
    """
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # children inherit it; ours wait until it is gone
    sys.warnoptions.append(SILENT)
    try:
        _keep_sockets_short()
        yield
    except OSError as error:
        raise Lost(no_room(str(error), error.errno)) from error
    finally:
        sys.warnoptions.remove(SILENT)
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def _keep_sockets_short() -> None:
    """Helpers hand over tensors through sockets among the temporary files; batch systems give these long paths."""
    import tempfile
    from multiprocessing import util

    if len(os.fsencode(tempfile.gettempdir())) <= ROOM:
        return
    usual = tempfile.tempdir
    tempfile.tempdir = SOCKETS
    try:
        util.get_temp_dir()  # makes the folder of this process and its helpers; it goes when this process ends
    finally:
        tempfile.tempdir = usual


def no_room(reason: str, number: int | None) -> str:
    """Why no helper can be started, or cannot be talked to, after an error with this number."""
    if number == errno.ENOSPC:
        return NO_SHARED_MEMORY
    if number == errno.EMFILE:
        return "too many files are open: raise `ulimit -n`, or use fewer --workers"
    if number in (errno.ENOMEM, errno.EAGAIN):
        return f"no more worker processes can be started ({reason}): use fewer --workers"
    return f"worker processes cannot be used here ({reason}): use --workers 0"


def end_with_parent() -> None:
    """To be called first in a helper: one whose parent is killed would wait for it for ever."""
    import ctypes
    from multiprocessing import parent_process

    parent = parent_process()
    assert parent is not None
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:  # it has ended before
            os._exit(1)
        return

    def wait() -> None:
        while os.getppid() == parent.pid:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def end_children() -> None:
    """End everything that this process has started; helpers at once, commands after GOODBYE seconds."""
    from multiprocessing import active_children

    for helper in active_children():
        helper.kill()
    deadline = time.monotonic() + GOODBYE
    for command in commands:
        with suppress(subprocess.TimeoutExpired):
            command.wait(max(0, deadline - time.monotonic()))
    for command in commands:
        command.kill()
    commands.clear()


class Helpers:
    """The helper processes that were started since this object was made."""

    def __init__(self) -> None:
        self._ours: set[BaseProcess] = set()
        self._others = self._all()

    def notice(self) -> None:
        """To be called when some were started."""
        self._ours |= self._all() - self._others

    def _all(self) -> "set[BaseProcess]":
        from multiprocessing import active_children

        return set(active_children())

    def check(self) -> None:
        """Raises Lost, which says why, when one of them has ended."""
        ended = [helper.exitcode for helper in self._ours if helper.exitcode is not None]
        if ended:
            raise Lost(why_lost(min(ended, key=_is_consequence)))

    def wait(self, seconds: float) -> None:
        """Until all of them have ended, or so long."""
        until = time.monotonic() + seconds
        while any(helper.exitcode is None for helper in self._ours) and time.monotonic() < until:
            time.sleep(0.02)

    def end(self) -> None:
        for helper in self._ours:
            helper.kill()


def _is_consequence(exitcode: int) -> tuple[bool, int]:
    """Sorts those last that were told to end because another was lost."""
    return exitcode in (0, -signal.SIGTERM), exitcode


def why_lost(exitcode: int) -> str:
    """A line about a helper that has ended; `exitcode` as multiprocessing has it, below 0 for signals."""
    if exitcode == -signal.SIGBUS:
        return f"a worker process was killed: {NO_SHARED_MEMORY}"
    if exitcode == -signal.SIGKILL:
        return (
            "a worker process was killed, usually because memory ran out: use fewer --workers, then continue with "
            "--resume"
        )
    how = f"was killed by signal {-exitcode}" if exitcode < 0 else f"ended with status {exitcode}"
    return (
        f"a worker process {how}: use fewer --workers, then continue with --resume (in a script of your own, call fra "
        "below `if __name__ == '__main__':`)"
    )


class HelperPool:
    """Helpers that call functions; see `helper_pool`."""

    def __init__(self, executor: "ProcessPoolExecutor") -> None:
        self._executor = executor
        self._helpers = Helpers()

    def submit(self, function: Callable[..., Answer], *arguments: Any) -> "Future[Answer]":
        from concurrent.futures.process import BrokenProcessPool

        try:
            with starting_helpers():
                return self._executor.submit(function, *arguments)
        except BrokenProcessPool as error:
            raise self._lost() from error
        finally:
            self._helpers.notice()

    def result(self, work: "Future[Answer]") -> Answer:
        """What a submitted function gave, or raised. Raises Lost when a helper has ended meanwhile."""
        from concurrent.futures.process import BrokenProcessPool

        while True:
            try:
                return work.result(timeout=LOOK)
            except BrokenProcessPool as error:
                raise self._lost() from error
            except TimeoutError:
                if work.done():  # it was the function's own
                    raise
                self._helpers.check()  # one that dies while it answers leaves the others waiting

    def _lost(self) -> Lost:
        self._helpers.wait(2 * LOOK)  # the executor ends the others, and reaps them beside us
        try:
            self._helpers.check()
        except Lost as lost:
            return lost
        return Lost(why_lost(-signal.SIGKILL))

    def map(self, function: Callable[..., Answer], items: Iterable[Any]) -> Iterator[Answer]:
        """Results in the order of the items, all of which are submitted at once."""
        for work in [self.submit(function, item) for item in items]:
            yield self.result(work)


@contextmanager
def helper_pool(count: int, start: Callable[..., None] | None = None, *given: Any) -> Iterator[HelperPool]:
    """`count` helpers, each of which calls `start(*given)` first. They are gone after the block, however it ends."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    spawn = get_context("spawn")  # a fork of a process with threads (torch, onnxruntime) may hang
    with starting_helpers():
        executor = ProcessPoolExecutor(count, mp_context=spawn, initializer=_start, initargs=(start, given))
    pool = HelperPool(executor)
    try:
        yield pool
        executor.shutdown(wait=True)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        pool._helpers.end()


def _start(start: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    end_with_parent()
    if start is not None:
        start(*given)
