"""What a comparison found, in sentences. Nothing is called better whose interval holds 0."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from fra.transfer.comparison.differences import Difference, labels_needed

BETTER, WORSE, LEVEL = "better", "worse", "level"


@dataclass(frozen=True)
class Curve:
    """An encoder's mean scores by number of labels."""

    name: str
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Pair:
    """Two encoders under one protocol, by number of labels."""

    first: Curve
    second: Curve
    labels: tuple[int, ...]
    """Rising."""
    differences: tuple[Difference, ...]
    """With the same number of labels."""
    second_with_most: tuple[Difference, ...]
    """The first encoder with each number of labels against the second with the most."""
    first_with_most: tuple[Difference, ...]
    """The second encoder with each number of labels against the first with the most."""
    train_images: int
    """What `all` labels are."""
    percent: bool = True
    """Whether the metric is in percent, so that differences are points."""
    lower_is_better: bool = False

    def turned(self) -> "Pair":
        """The same, seen from the second encoder."""
        turned = tuple(Difference(-one.value, one.half, one.images, one.seeds) for one in self.differences)
        return Pair(
            self.second,
            self.first,
            self.labels,
            turned,
            self.first_with_most,
            self.second_with_most,
            self.train_images,
            self.percent,
            self.lower_is_better,
        )

    def times(self) -> dict[int, float]:
        """By number of labels with which the first is better: how many times as many the second needs to be as good.

        Only where its curve gets there.
        """
        found = {}
        for labels, score, gain in zip(self.labels, self.first.scores, self.differences, strict=True):
            if gain.verdict == BETTER:
                needed = labels_needed(self.labels, self.second.scores, score, lower_is_better=self.lower_is_better)
                if needed is not None:
                    found[labels] = needed / labels
        return found

    def never(self) -> int | None:
        """The fewest labels with which the first is still better than the second with the most."""
        pairs = zip(self.labels[:-1], self.second_with_most, strict=False)
        return next((labels for labels, gain in pairs if gain.verdict == BETTER), None)


def pair_sentence(pair: Pair) -> str:
    """Who is better with how many labels, by how much, and how many times the labels the other needs."""
    clauses: list[str] = []
    rows = list(zip(pair.labels, pair.differences, strict=True))
    for verdict, group in groupby(rows, key=lambda row: row[1].verdict):
        clauses.append(_clause(pair, verdict, list(group), first=not clauses))
    clauses += _times_clauses(pair)
    if any(gain.verdict == WORSE for gain in pair.differences):
        clauses += _times_clauses(pair.turned())
    text = "; ".join(clauses) + "."
    return text[0].upper() + text[1:]


def curve_sentence(
    curve: Curve, labels: Sequence[int], *, metric: str, unit: str, baseline: tuple[str, float] | None
) -> str:
    """Where an encoder begins and ends, and what the answer reaches that ignores the face."""
    reached = f"{curve.scores[0]:.1f}{unit} with {_count(labels[0])}"
    if len(labels) > 1:
        reached = f"from {reached} to {curve.scores[-1]:.1f}{unit} with {labels[-1]:,}"
    ignoring = (
        f"; the trivial baseline ({baseline[0].replace(' (', ', ').rstrip(')')}) has {baseline[1]:.1f}{unit}"
        if baseline
        else ""
    )
    verb = "goes" if len(labels) > 1 else "is"
    return f"{metric[0].upper()}{metric[1:]} of `{curve.name}` {verb} {reached}{ignoring}."


def _clause(pair: Pair, verdict: str, group: list[tuple[int, Difference]], *, first: bool) -> str:
    whole = len(group) == len(pair.labels)
    if not whole and not first and len(group) > 1 and group[-1][0] == pair.labels[-1]:
        when = f"from {_count(group[0][0])} on"
    else:
        when = f"with {_labels([labels for labels, _ in group])}"
    names = (f"`{pair.first.name}`", f"`{pair.second.name}`")
    if verdict == LEVEL:
        who = f"{names[0]} and {names[1]}" if first else "they"
        return f"{when} {who} are level ({_amount(pair, [gain for _, gain in group], level=True)})"
    amount = _amount(pair, [gain for _, gain in group])
    whom = f" than {names[1]}" if first else ""
    doubt = max(gain.half for _, gain in group)
    most = f" (± {doubt:.{1 if pair.percent else 2}f} at most)" if len(group) > 1 else ""
    return f"{when} {names[0]} is {amount} {verdict}{whom}{most}"


def _amount(pair: Pair, gains: Sequence[Difference], *, level: bool = False) -> str:
    """`9.1 ± 2.0 points`, or of several `5.2 to 9.1 points`."""
    digits, unit = (1, " points") if pair.percent else (2, "")
    if len(gains) == 1:
        value = gains[0].value if level else abs(gains[0].value)
        return f"{value:.{digits}f} ± {gains[0].half:.{digits}f}{unit}".replace("-", "−")
    sizes = sorted(f"{abs(gain.value):.{digits}f}" for gain in gains)
    sizes.sort(key=float)
    if level:
        return f"at most {sizes[-1]}{unit} apart, less than the uncertainty"
    spread = sizes[0] if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
    return f"{spread}{unit}"


def _times_clauses(pair: Pair) -> list[str]:
    """What the second encoder has to make up for where the first is better."""
    clauses = []
    name = f"`{pair.second.name}`"
    times = [_factor(value) for value in pair.times().values()]
    if times:
        low, high = min(times, key=float), max(times, key=float)
        spread = low if low == high else f"{low} to {high}"
        if float(high) > 1:
            clauses.append(f"{name} needs about {spread} times the labels for the same score")
    least = pair.never()
    if least is not None:
        every = "all " if pair.labels[-1] == pair.train_images else ""
        clauses.append(
            f"with {every}{pair.labels[-1]:,} labels {name} is still worse than `{pair.first.name}` with {least:,}"
        )
    return clauses


def _factor(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:.0f}"


def _labels(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return _count(numbers[0])
    return f"{numbers[0]:,} {'and' if len(numbers) == 2 else 'to'} {numbers[-1]:,} labels"


def _count(number: int) -> str:
    return f"{number:,} label{'' if number == 1 else 's'}"
