"""How a command ends before it is done, wherever it stands: one way for signals and for lost processes.

The first of Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 raises `Stopped` in the main thread: at once, or where that would tear
something (`held`) at a place that suits, HOLD seconds later at the latest. A thread of ours hears the signal too,
because the main thread may stand in a library that lets no Python run: it says the last words after LAST_WORDS seconds,
and ends the process after LIMIT. Files are written whole or line by line, so nothing breaks by that.
"""

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NoReturn

from fra.system.processes import GOODBYE, SIGNALS, end_children

HOLD, LAST_WORDS, LIMIT = 3.0, 5.0, 9.0
"""Seconds after the signal (ours: Docker kills after ten)."""
ECHO = 0.3
"""Seconds in which a second Ctrl-C is taken for the first one, passed on by a program around us (ours)."""
POLL = 2.0
KEPT = "interrupted; what was finished is kept"


class Stopped(KeyboardInterrupt):
    """The command ends before it is done, with the exit status `status`; an empty message is not shown."""

    def __init__(self, message: str = KEPT, *, status: int = 128 + signal.SIGINT) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class _Reason:
    """Why the command has to end."""

    status: int
    message: str = KEPT
    raised: bool = False
    """The main thread is on its way out."""
    since: float = field(default_factory=time.monotonic)

    def age(self) -> float:
        return time.monotonic() - self.since

    def stopped(self) -> Stopped:
        self.raised = True
        return Stopped(self.message, status=self.status)


class Hold:
    """Tells code that must not be interrupted anywhere whether it has to end; see `held`."""

    def __init__(self, last_words: Callable[[], str]) -> None:
        self._last_words = last_words
        self._words: str | None = None
        self._lock = threading.Lock()
        self.whole = False
        """The main thread is at something that must not be torn."""

    @property
    def status(self) -> int:
        """The exit status with which the command has to end; 0 while it may go on."""
        reason = _now.reason
        return 0 if reason is None else reason.status

    def stop(self, status: int) -> Stopped:
        """To be raised where it suits. The signal that gave the `status` may have come to another process."""
        return _now.because(status).stopped()

    @contextmanager
    def untorn(self) -> Iterator[None]:
        """Nothing is raised in the block, and no last words are said before it ends."""
        self.whole = True
        try:
            with self._lock:
                yield
        finally:
            self.whole = False
        reason = _now.reason
        if reason is not None and reason.age() > HOLD and not reason.raised:
            raise reason.stopped()

    def say_last_words(self, *, patience: float = -1) -> str | None:
        """Once, by whoever comes first; None when something stays torn for `patience` seconds."""
        if not self._lock.acquire(timeout=patience):
            return None
        try:
            if self._words is None:
                self._words = self._last_words()
            return self._words
        finally:
            self._lock.release()


class _Now:
    """What holds for this process at the moment."""

    def __init__(self) -> None:
        self.listening = False
        self.reason: _Reason | None = None
        self.hold: Hold | None = None
        self.left: int | None = None
        """Exit status of a command that is over."""
        self.first_interrupt: float | None = None
        self.lock = threading.Lock()

    def because(self, status: int, message: str = KEPT) -> _Reason:
        """The first reason counts."""
        self.reason = self.reason or _Reason(status, message)
        return self.reason


_now = _Now()
_watcher: "_Watcher | None" = None


@contextmanager
def heard(*, for_good: bool = False) -> Iterator[None]:
    """While the block runs, signals end it as described above. Does nothing inside another one, or in another thread.

    Signals that are ignored (as `nohup` has SIGHUP) stay ignored. `for_good`: the process ends with the block, and what
    Python then waits for has LIMIT seconds too.
    """
    global _watcher
    if _now.listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    _watcher = _watcher or _Watcher()
    _now.reason, _now.first_interrupt, _now.left, _now.listening = None, None, None, True
    wakeup = signal.set_wakeup_fd(_watcher.writes, warn_on_full_buffer=False)
    earlier = listen()
    try:
        yield
    finally:
        if not for_good:
            with _now.lock:
                _now.listening = False
                for number, handler in earlier.items():
                    signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
            _now.reason = None


def listen() -> dict[int, "signal._HANDLER"]:
    """Take the signals, also back from a library that has taken them; who had them before."""
    earlier = {number: signal.getsignal(number) for number in SIGNALS}
    earlier = {number: handler for number, handler in earlier.items() if handler is not signal.SIG_IGN}
    if _now.listening:
        for number in earlier:
            signal.signal(number, _hear)
    return earlier


@contextmanager
def held(last_words: Callable[[], str]) -> Iterator[Hold]:
    """The code in the block asks the Hold whether to end; `Stopped` is raised only when it does not for HOLD seconds.

    `last_words` keeps what was finished and says so. It is called once: by the code itself through the Hold, or by
    another thread when the main thread does not come back from where it is.
    """
    with heard():
        _now.hold = Hold(last_words)
        try:
            yield _now.hold
        finally:
            _now.hold = None


def give_up(message: str, *, status: int = 1) -> None:
    """End the command as a signal would, from any thread, because something that it needs is lost."""
    if _now.listening and _now.reason is None:
        _now.because(status, message)
        _kick()


def interrupted() -> bool:
    """Whether the command has been told to end, whatever it made of that."""
    return _now.reason is not None


def settle(status: int) -> int:
    """The command is over: signals change nothing any more. Gives `status`."""
    if _now.listening:
        _now.because(status).raised = True
        _now.left = status
    return status


def leave(status: int) -> NoReturn:
    """End the process with everything that it has started, without freeing all memory, for seconds with torch."""
    end_children()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _kick() -> None:
    """Have the main thread run its handler, also when it waits in the kernel."""
    with _now.lock:
        if _now.listening:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _hear(number: int, frame: object) -> None:
    """The handler, in the main thread."""
    if not _now.listening:
        return
    reason = _now.because(128 + number)
    hold = _now.hold
    if not reason.raised and (hold is None or (reason.age() > HOLD and not hold.whole)):
        raise reason.stopped()


class _Watcher(threading.Thread):
    """Hears signals whatever the main thread does, and keeps to the deadlines."""

    def __init__(self) -> None:
        super().__init__(name="fra-stopping", daemon=True)
        self._reads, self.writes = os.pipe()
        for end in (self._reads, self.writes):
            os.set_blocking(end, False)
        self.start()

    def run(self) -> None:
        while True:
            self._hear(POLL if _now.reason is None else POLL / 10)
            if _now.reason is not None and _now.listening:
                self._keep_to(_now.reason)

    def _hear(self, seconds: float) -> None:
        if not select.select([self._reads], [], [], seconds)[0]:
            return
        for number in os.read(self._reads, 1024):
            if not _now.listening or number not in SIGNALS:
                continue
            _now.because(128 + number)
            if number == signal.SIGINT:
                now = time.monotonic()
                _now.first_interrupt = _now.first_interrupt or now
                if now - _now.first_interrupt > ECHO:
                    _exit_now("", 128 + number)

    def _keep_to(self, reason: _Reason) -> None:
        hold = _now.hold
        if reason.age() > LIMIT:
            _exit_now(
                "" if _now.left is not None else reason.message, reason.status if _now.left is None else _now.left
            )
        if hold is None or reason.raised or reason.age() < HOLD:
            return
        if reason.age() < LAST_WORDS:
            _kick()
            return
        guard = threading.Timer(LIMIT - LAST_WORDS, os._exit, [reason.status])
        guard.start()
        words = hold.say_last_words(patience=0.8 * (LIMIT - LAST_WORDS))
        if _now.reason is reason:
            _exit_now(words if words and reason.message == KEPT else reason.message, reason.status)
        guard.cancel()


def _exit_now(message: str, status: int) -> None:
    """End the process without the main thread, which may never come back."""
    with suppress(RuntimeError):  # Python is ending
        threading.Timer(1 + GOODBYE, os._exit, [status]).start()  # the terminal may not take the message
    cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar has hidden it
    with suppress(OSError):
        os.write(2, (cursor + (f"fra: {message}\n" if message else "")).encode(errors="replace"))
    end_children()
    os._exit(status)
