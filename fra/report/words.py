"""Numbers in plain words: is it learning, did pre-training help. Nothing is glossed over."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from fra.pretrain.columns import HealthColumn, Judgement, Outcome, State, from_to, undeclared
from fra.pretrain.health import COMMON_COLUMNS
from fra.pretrain.method import Method
from fra.pretrain.run import METHODS
from fra.report.folders import PretrainRun
from fra.report.tables import TransferTable
from fra.system.printable import duration


@dataclass(frozen=True)
class Finding:
    """One measure of health, and how a run stands by it."""

    column: HealthColumn
    judgement: Judgement


def count(number: float) -> str:
    """Large numbers with a unit a person reads: 23.5 million, 12,345."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"


def plural(number: float, noun: str) -> str:
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def columns_of(method: str) -> list[HealthColumn]:
    """The declared columns of health.csv: those of all methods, of the run's own, then of all others.

    The last are for old runs, whose method may have another name by now.
    """
    _, known = METHODS.get(method, (None, Method))
    others = (other.health_columns for _, other in METHODS.values())
    every = chain(COMMON_COLUMNS, known.health_columns, *others)
    by_name: dict[str, HealthColumn] = {}
    for column in every:
        by_name.setdefault(column.name, column)
    return list(by_name.values())


def term_notes(method: str) -> dict[str, str]:
    """What the named terms of the losses mean, the run's own method first."""
    _, known = METHODS.get(method, (None, Method))
    others = {name: note for _, other in METHODS.values() for name, note in other.loss_terms.items()}
    return others | dict(known.loss_terms)


def findings(run: PretrainRun) -> list[Finding]:
    """All measures that health.csv holds, those of all methods first; what nobody declares comes last, unjudged."""
    declared = columns_of(run.method)
    columns = [*declared, *undeclared(run.health, declared)]
    judged = ((column, column.judged(run.health)) for column in columns)
    return [Finding(column, judgement) for column, judgement in judged if judgement is not None]


def pretrain_verdict(run: PretrainRun) -> str:
    """One sentence: did the loss move, and what do the measures say that decide about the run."""
    parts = []
    loss = run.log.get("loss", np.empty(0))
    loss = loss[np.isfinite(loss)]
    if len(loss):
        parts.append(f"the loss went {from_to(loss, '.2f')}")
    parts += _outcomes(findings(run))
    if not parts:
        return "This run left no log and no health table, so nothing can be said about its training."
    sentence = "; ".join(parts)
    return sentence[0].upper() + sentence[1:] + "."


def _outcomes(found: Sequence[Finding]) -> list[str]:
    """A clause for each thing that some measures decide: the worst of them speaks."""
    worst: dict[Outcome, State] = {}
    order: list[State] = ["good", "watch", "bad"]
    for finding in found:
        outcome, state = finding.column.outcome, finding.judgement.state
        if outcome and state:
            worst[outcome] = max(worst.get(outcome, state), state, key=order.index)
    return [getattr(outcome, state) for outcome, state in worst.items()]


def paper_lead(pretrained: Sequence[PretrainRun], transfers: int) -> str:
    """What stands behind the paper's tables, and what it cost."""
    if not pretrained:
        return "Published numbers are in italics."
    seconds = sum(run.summary.get("seconds") or 0 for run in pretrained)
    trained = f"{plural(len(pretrained), 'encoder')}, pre-trained for {duration(seconds)}"
    return f"{trained}, evaluated in {plural(transfers, 'run')}. Published numbers are in italics, ours in bold."


def transfer_verdict(tables: Sequence[TransferTable]) -> str | None:
    """One sentence over all tasks, each judged by its first metric."""
    first = [table.comparisons[0] for table in tables if table.comparisons]
    if not first:
        return None
    better = sum(c.verdict == "better" for c in first)
    worse = sum(c.verdict == "worse" for c in first)
    if len(first) == 1:
        word = {"better": "better than", "worse": "worse than", "even": "not clearly different from"}[first[0].verdict]
        return f"On one task, its features are {word} random weights."
    text = f"On {len(first)} tasks, its features are better than random weights on {better}"
    text += f", worse on {worse}" if worse else ""
    even = len(first) - better - worse
    return text + (f" and not clearly different on {even}" if even else "") + "."
