"""`fra` in which something goes wrong on purpose: FAULTS in the environment names functions of this file.

In the environment and not among the arguments, because processes that train together start each other with the same.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# --- what can happen


def deaf() -> None:
    """Stand in a library in which no Python runs, for ever, as in a long backward pass or at a lost connection."""
    print("HERE", flush=True)
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def slow() -> None:
    """Python runs, for a minute."""
    print("HERE", flush=True)
    for _ in range(6000):
        time.sleep(0.01)


def die(number: int) -> None:
    print("HERE", flush=True)
    os.kill(os.getpid(), number)


# --- where


def instead(
    owner: Any, name: str, do: Callable[[], object], *, when: Callable[..., bool] = lambda *_, **__: True
) -> None:
    """Calls of `owner.name` for whose arguments `when` holds begin with `do()`."""
    whole = getattr(owner, name)

    def faulty(*arguments: Any, **named: Any) -> Any:
        if when(*arguments, **named):
            do()
        return whole(*arguments, **named)

    setattr(owner, name, faulty)


def in_step(number: int, do: Callable[[], object], *, rank: int = 0) -> None:
    """In the middle of a step: what a forward pass changes has changed, what the optimiser does has not."""
    from fra.training import loop

    whole, seen = loop.forward_and_backward, []

    def faulty(fabric: Any, *arguments: Any, **named: Any) -> Any:
        done = whole(fabric, *arguments, **named)
        seen.append(None)
        if len(seen) == number and fabric.global_rank == rank:
            do()
        return done

    loop.forward_and_backward = faulty


def in_helper(do: Callable[[], object], *, batch: int = 5) -> None:
    """In a process that loads faces, when it is to make its fifth batch."""
    from fra.pretrain.loader import ViewBatches

    seen: list[None] = []
    instead(ViewBatches, "_batch", do, when=lambda *_: seen.append(None) or len(seen) == batch)


# --- waiting


def slow_step() -> None:
    in_step(5, slow)


def deaf_step() -> None:
    in_step(5, deaf)


def no_batch_comes() -> None:
    in_helper(slow)


def workers_do_not_end() -> None:
    in_helper(lambda: die(signal.SIGSTOP))


def measuring_never_ends() -> None:
    from fra.pretrain.run import Watch

    instead(Watch, "epoch", deaf, when=lambda watch, method, epoch, step: epoch == 1)


def saving_never_ends() -> None:
    from fra.training import loop

    instead(loop, "save_checkpoint", deaf, when=lambda *_, position, **__: position.step > 0)


def import_never_ends() -> None:
    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "fra.report.run":
                slow()

    sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]


def export_never_ends() -> None:
    from fra.weights import portable

    instead(portable, "export_portable", deaf)


def runs_are_taken() -> None:
    from fra import engine

    @contextmanager
    def claim(*_: object, **__: object) -> Iterator[bool]:
        yield False

    engine.claim, engine.holder = claim, lambda *_, **__: "another machine"


# --- computing


def in_double() -> None:
    """Train in 64 bits, in which no rounding error grows to what a test could see. Views are made as always."""
    import torch

    from fra.pretrain.views import ViewMaker

    single = torch.Tensor.float

    def compute_in(kind: torch.dtype, to_float: Callable[..., torch.Tensor]) -> None:
        torch.set_default_dtype(kind)
        torch.Tensor.float = to_float

    def as_always(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **named: Any) -> Any:
            compute_in(torch.float32, single)
            try:
                return make(*arguments, **named)
            finally:
                compute_in(torch.float64, torch.Tensor.double)

        return made

    compute_in(torch.float64, torch.Tensor.double)
    ViewMaker.make = as_always(ViewMaker.make)
    ViewMaker.make_with_frames = as_always(ViewMaker.make_with_frames)


# --- losing


def helper_is_killed() -> None:
    in_helper(lambda: die(signal.SIGKILL))


def helper_crashes() -> None:
    in_helper(lambda: die(signal.SIGSEGV))


def helper_has_a_bus_error() -> None:
    in_helper(lambda: die(signal.SIGBUS))


def helper_leaves() -> None:
    in_helper(lambda: os._exit(5))


def helper_cannot_send() -> None:
    def refuse(handle: int) -> None:
        raise OSError(24, "Too many open files")

    def forbid() -> None:
        from multiprocessing import reduction

        print("HERE", flush=True)
        reduction.DupFd = refuse

    in_helper(forbid)


def memory_is_full() -> None:
    def fail() -> None:
        raise MemoryError

    in_helper(fail)


def small_shared_memory() -> None:
    """/dev/shm of this process alone, which must be root's, has room for what helpers are started with."""
    _mount_shared_memory("size=64k")


def full_shared_memory() -> None:
    _mount_shared_memory("size=4k")
    with open("/dev/shm/full", "wb") as file:
        file.write(bytes(4096))


def _mount_shared_memory(options: str) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    new_namespace, private_below = 0x20000, 0x4000 | 0x40000
    for done in (
        library.unshare(new_namespace),
        library.mount(b"none", b"/", None, private_below, None),
        library.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, options.encode()),
    ):
        if done != 0:
            raise SystemExit(f"not allowed: {os.strerror(ctypes.get_errno())}")


def other_is_killed() -> None:
    in_step(5, lambda: die(signal.SIGKILL), rank=1)


def other_leaves() -> None:
    in_step(5, lambda: os._exit(3), rank=1)


def other_raises() -> None:
    def fail() -> None:
        raise ValueError("the second process cannot go on")

    in_step(5, fail, rank=1)


def other_is_suspended() -> None:
    from fra.training import peers

    peers.MISSED = 2
    in_step(5, lambda: die(signal.SIGSTOP), rank=1)


def other_pauses() -> None:
    def pause() -> None:
        print("HERE", flush=True)
        time.sleep(5)

    in_step(5, pause, rank=1)


def first_is_killed() -> None:
    in_step(5, lambda: die(signal.SIGKILL), rank=0)


def main() -> int:
    for fault in os.environ["FAULTS"].split():
        globals()[fault]()
    from fra.cli import main

    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # freeing all memory takes seconds with torch


if __name__ == "__main__":
    sys.exit(main())
