"""`fra` in which something goes wrong on purpose: FAULTS in the environment names functions of this file.

In the environment and not among the arguments, because processes that train together start each other with the same.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable


def in_step(number: int, do: Callable[[], object], *, rank: int = 0) -> None:
    """Have something done in the middle of a step: the forward pass is over, the backward pass is not."""
    from lightning_fabric import Fabric

    backward, seen = Fabric.backward, []

    def faulty(self: Fabric, *arguments: object, **named: object) -> None:
        seen.append(None)
        if len(seen) == number and self.global_rank == rank:
            do()
        backward(self, *arguments, **named)

    Fabric.backward = faulty  # type: ignore[method-assign]


def deaf() -> None:
    """Stand in a library in which no Python runs, for ever, as in a long backward pass or a lost connection."""
    print("DEAF", flush=True)
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def slow() -> None:
    """Python runs, for a minute."""
    print("SLOW", flush=True)
    for _ in range(6000):
        time.sleep(0.01)


def step_7_is_deaf() -> None:
    in_step(7, deaf)


def step_7_is_slow() -> None:
    in_step(7, slow)


def other_is_killed() -> None:
    in_step(7, lambda: os.kill(os.getpid(), signal.SIGKILL), rank=1)


def other_leaves() -> None:
    in_step(7, lambda: os._exit(3), rank=1)


def other_raises() -> None:
    def fail() -> None:
        raise ValueError("the second process cannot go on")

    in_step(7, fail, rank=1)


def other_is_suspended() -> None:
    from fra.training import peers

    peers.MISSED = 2
    in_step(7, lambda: os.kill(os.getpid(), signal.SIGSTOP), rank=1)


def first_is_killed() -> None:
    in_step(7, lambda: os.kill(os.getpid(), signal.SIGKILL), rank=0)


def main() -> int:
    for fault in os.environ["FAULTS"].split():
        globals()[fault]()
    from fra.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
