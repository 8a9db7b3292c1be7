"""Candidates timed in turn, round after round, so that a machine that changes its mind disturbs all of them alike."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Work = Callable[[], float]
"""Does some work and says how many units it was (pairs, views, photos)."""


@dataclass(frozen=True)
class Row:
    """One candidate in one setting."""

    suite: str
    setting: str
    candidate: str
    rate: float
    """Units per second, median of the rounds."""
    unit: str
    against: str
    """The candidate it is compared with."""
    ratio: float
    """Rate over the other's rate of the same round, median of the rounds."""
    low: float
    """First quartile of that ratio."""
    high: float
    """Third quartile."""


def compare(
    suite: str,
    setting: str,
    candidates: Mapping[str, Work],
    *,
    unit: str,
    against: str | Sequence[str],
    rounds: int = 7,
) -> list[Row]:
    """Rates of all candidates and their ratios to each candidate in `against`; one untimed round comes first."""
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(rounds + 1):
        for name, work in candidates.items():
            started = time.perf_counter()
            units = work()
            if round_number:
                rates[name].append(units / (time.perf_counter() - started))
    rows = []
    for other, name in itertools.product([against] if isinstance(against, str) else against, rates):
        ratios = [mine / theirs for mine, theirs in zip(rates[name], rates[other], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
        rows.append(Row(suite, setting, name, statistics.median(rates[name]), unit, other, middle, low, high))
    return rows
