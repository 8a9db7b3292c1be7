"""What a measure of health.csv is called, what healthy looks like, and how a run stands by it.

E epochs, N columns of a numbered family. Methods declare such columns, the report and the glossary show them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Table = Mapping[str, np.ndarray]
"""health.csv by column, a number per epoch; an empty cell is NaN."""
State = Literal["good", "watch", "bad"]
PLACES = ("epoch", "step")
"""Columns that say when, not how it stands."""


@dataclass(frozen=True)
class Judgement:
    """What was seen of a measure, and how it stands; no state where more or less is neither good nor bad."""

    observed: str
    state: State | None = None


def as_observed(values: np.ndarray, table: Table) -> Judgement:
    """No judgement."""
    return Judgement(from_to(values))


def should_rise(values: np.ndarray, table: Table) -> Judgement:
    """Good when the last value is above the first."""
    risen = values[-1] > values[0]
    return Judgement(from_to(values) + ("" if risen else "; no gain"), "good" if risen else "watch")


def from_to(values: np.ndarray, form: str = ".3g") -> str:
    """First and last value: `from 0.50 to −0.10`."""
    return f"from {values[0]:{form}} to {values[-1]:{form}}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Outcome:
    """What the worst state of several measures of one thing says about the run: one clause each."""

    good: str
    watch: str
    bad: str


@dataclass(frozen=True)
class HealthColumn:
    """A measure of health.csv, taken after every epoch."""

    name: str
    """In the table; of a numbered family (usage_0, usage_1, ...) what stands before the number."""
    title: str
    meaning: str
    """What is measured: a phrase."""
    good: str
    """What one sees when all is well: a phrase that follows "Expected:"."""
    judge: Callable[[np.ndarray, Table], Judgement] = as_observed
    """Of the known values, (E,) or for a family (E, N), at least one; the table where others matter."""
    outcome: Outcome | None = None
    """Where the measure decides what is said about the run as a whole."""
    family: bool = False
    """Shares that sum to 1 in N columns."""
    from_zero: bool = True
    """Whether its chart begins at 0."""
    reference: Callable[[Table], tuple[float, str] | None] = lambda table: None
    """A level to compare with, and its name."""

    def names(self, table: Iterable[str]) -> list[str]:
        """Those of a table's columns that are this one, in their order."""
        if not self.family:
            return [self.name] if self.name in table else []
        numbers = [name.removeprefix(f"{self.name}_") for name in table if name.startswith(f"{self.name}_")]
        return [f"{self.name}_{number}" for number in sorted(filter(str.isdecimal, numbers), key=int)]

    def values(self, table: Table) -> np.ndarray | None:
        """All values, (E,) or for a family (E, N); None when the table knows none."""
        names = self.names(table)
        if not names:
            return None
        found = np.stack([table[name] for name in names], axis=1) if self.family else table[self.name]
        return found if self._known(found).any() else None

    def judged(self, table: Table) -> Judgement | None:
        """How the run stands by this measure; None when the table knows no value."""
        found = self.values(table)
        return None if found is None else self.judge(found[self._known(found)], table)

    def _known(self, values: np.ndarray) -> np.ndarray:
        known = np.isfinite(values)
        return known.all(1) if self.family else known


def undeclared(table: Table, declared: Sequence[HealthColumn]) -> list[HealthColumn]:
    """The other columns of a table that hold numbers, each under its own name: those of methods not known here."""
    known = {name for column in declared for name in column.names(table)} | set(PLACES)
    rest = [name for name, values in table.items() if name not in known and np.isfinite(values).any()]
    return [HealthColumn(name, name.replace("_", " ").capitalize(), meaning="", good="") for name in rest]
