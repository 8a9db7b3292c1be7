"""What decoders written in C print beside the error that they return is not shown.

libjpeg (in torchvision) and libtiff (in Pillow) write lines such as "Corrupt JPEG data: premature end of data segment"
to C's `stderr`, and neither package lets one turn that off. glibc documents `stderr` as a variable that may be set.
`sys.stderr` and file descriptor 2 do not go through it, so what fra and other Python code print is still seen. With
another C library nothing is done, and those lines appear.
"""

import ctypes
import os
import sys
import threading
from types import TracebackType


class _Silent:
    """C's `stderr` leads nowhere while any thread is in a `with` block of it (2 microseconds)."""

    def __init__(self) -> None:
        self._inside, self._lock = 0, threading.Lock()
        self._variable: ctypes.c_void_p | None = None
        c = ctypes.CDLL(None) if sys.platform == "linux" else None
        if c is None or not hasattr(c, "gnu_get_libc_version"):  # in other libraries it may be a constant
            return
        c.fopen.restype = ctypes.c_void_p
        nowhere = c.fopen(os.devnull.encode(), b"we")
        if nowhere:
            self._variable = ctypes.c_void_p.in_dll(c, "stderr")
            self._shown, self._nowhere = self._variable.value, nowhere
            os.register_at_fork(after_in_child=self._forked)

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._variable is not None:
                self._variable.value = self._nowhere

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._variable is not None and not self._inside:
                self._variable.value = self._shown

    def _forked(self) -> None:
        """The other threads of the parent do not exist in the child, and may have held the lock."""
        self._inside, self._lock = 0, threading.Lock()
        assert self._variable is not None
        self._variable.value = self._shown


silent = _Silent()
