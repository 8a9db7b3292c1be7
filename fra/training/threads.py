"""How many threads compute on the CPU: as many as pay under the load of the moment.

The threads of a team wait for each other after every operation. While other work holds the core of one of them, all
stand still: two threads on two cores are a third faster than one when nothing else runs, and slower beside two busy
processes (docs/dev/performance.md).
"""

import functools
import math
import time
from collections.abc import Callable

import torch

from fra.runtime import Runtime

PAYS = 1.25
"""How much faster twice the threads must be. Ours: what is lost without them is then a fifth, and not a multiple."""
SECONDS = 0.5
"""How long each number is tried where a run begins that lasts."""


@functools.cache
def most_threads() -> int:
    """The threads that torch has begun with: as many as there are cores, or OMP_NUM_THREADS."""
    return torch.get_num_threads()


def settle_threads(runtime: Runtime, device: str, step: Callable[[], object]) -> None:
    """Give torch the threads that pay for `step`, unless a number was asked for or no CPU computes."""
    if runtime.threads is None and runtime.processes == 1 and device == "cpu":
        torch.set_num_threads(threads_that_pay(step, seconds=SECONDS / 5))


def threads_that_pay(step: Callable[[], object], *, seconds: float = SECONDS) -> int:
    """One, half or all threads, by what `step` takes with each; torch's number is what it was when this returns.

    They are tried in turns, because load changes, and compared by their mean, because waiting comes in bursts.
    """
    most, before = most_threads(), torch.get_num_threads()
    numbers = sorted({1, max(1, most // 2), most})
    if len(numbers) == 1:
        return most
    spent = dict.fromkeys(numbers, 0.0)
    rounds = 0
    try:
        while rounds < 2 or (rounds < 20 and min(spent.values()) < seconds):
            for number in numbers:
                torch.set_num_threads(number)
                took = _seconds(step)
                spent[number] += took if rounds else 0.0  # the first time memory is fetched and threads are started
            rounds += 1
    finally:
        torch.set_num_threads(before)
    chosen = 1
    for number in numbers[1:]:
        if spent[chosen] >= PAYS ** math.log2(number / chosen) * spent[number]:
            chosen = number
    return chosen


def _seconds(step: Callable[[], object]) -> float:
    before = time.perf_counter()
    step()
    return time.perf_counter() - before
