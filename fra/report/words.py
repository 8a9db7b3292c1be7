"""Numbers in plain words: is it learning, are the regions alive, did pre-training help. Nothing is glossed over."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fra.report.folders import PretrainRun, Table
from fra.report.tables import Comparison, TransferTable, metric_name

ALIVE = 0.02
"""A region counts as alive when it wins at least this share of the pixels (ours; a balanced one of 8 wins 12.5 %)."""


@dataclass(frozen=True)
class Finding:
    """One health measure: what good looks like, what was seen, and how it stands (`good`, `watch` or `bad`)."""

    column: str
    title: str
    good: str
    seen: str
    state: str


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 20 s, 5 h 12 min, 2 d 3 h."""
    whole = round(seconds)
    for large, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {large}" + (f" {rest} {small}" if rest else "")
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def count(number: float) -> str:
    """Large numbers with a unit a person reads: 23.5 million, 12,345."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"


def plural(number: float, noun: str) -> str:
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def usage(health: Table) -> np.ndarray:
    """Shares of pixels, rows = epochs, columns = regions; no columns when the method has no regions."""
    names = sorted((n for n in health if n.startswith("usage_")), key=lambda name: int(name.removeprefix("usage_")))
    return np.stack([health[name] for name in names], axis=1) if names else np.empty((0, 0))


def findings(health: Table) -> list[Finding]:
    """All measures of health.csv that are there, features first, regions after."""
    found = [_spread(health), _rank(health), _cosine(health), _entropy(health)]
    neighbours = "the share of faces whose nearest others have their label rises (percent)"
    pairs = "the ranking of face pairs by feature distance rises above 50, which is chance (percent)"
    found += [
        _plain(health, "neighbour_accuracy", "Nearest neighbours", neighbours),
        _plain(health, "pair_auc", "Same person or not", pairs),
        _plain(health, "prototype_usage", "Prototypes in use", "many prototypes are the nearest of some face (share)"),
        _maps(health),
        _usage(health),
    ]
    return [finding for finding in found if finding is not None]


def _ends(health: Table, column: str) -> tuple[float, float] | None:
    """First and last known value of a column."""
    values = health.get(column, np.empty(0))
    values = values[np.isfinite(values)]
    return (float(values[0]), float(values[-1])) if len(values) else None


def _spread(health: Table) -> Finding | None:
    ends = _ends(health, "feature_std")
    if ends is None:
        return None
    first, last = ends
    share = last / max(float(np.nanmax(health["feature_std"])), 1e-12)
    state = "bad" if share < 0.1 or last < 1e-4 else "watch" if share < 0.3 else "good"
    word = {"bad": "; the features have collapsed", "watch": "; it shrank a lot", "good": ""}[state]
    return Finding(
        "feature_std",
        "Spread of the features",
        "well away from 0, where every face gives the same features",
        f"from {first:.3g} to {last:.3g}{word}",
        state,
    )


def _rank(health: Table) -> Finding | None:
    ends = _ends(health, "effective_rank")
    if ends is None:
        return None
    first, last = ends
    highest = float(np.nanmax(health["effective_rank"]))
    collapsed = last < 1.2 or (last < 3 and last < 0.3 * highest)
    state = "bad" if collapsed else "watch" if last < 3 or last < 0.5 * first else "good"
    word = {"bad": "; almost one direction is left", "watch": "; few directions carry the features", "good": ""}
    return Finding(
        "effective_rank",
        "Effective rank",
        "high; it counts the independent directions that the features use, and 1 is a collapse",
        f"from {first:.1f} to {last:.1f}{word[state]}",
        state,
    )


def _cosine(health: Table) -> Finding | None:
    ends = _ends(health, "mask_cosine")
    if ends is None:
        return None
    first, last = ends
    state = "bad" if last > 0.9 else "watch" if last > 0.6 else "good"
    word = {
        "bad": "; the regions are copies of each other; this is BYOL with a second head",
        "watch": "; the regions still resemble each other",
        "good": "; the regions differ",
    }
    return Finding(
        "mask_cosine",
        "Likeness of the regions",
        "well below 1, where all regions would be the same",
        f"{_from_to(first, last)}{word[state]}",
        state,
    )


def _entropy(health: Table) -> Finding | None:
    ends = _ends(health, "assignment_entropy")
    if ends is None:
        return None
    first, last = ends
    limit = undecided(health)
    if limit is None:
        state = "good"
    else:
        state = "bad" if last > 0.98 * limit else "watch" if last > 0.9 * limit or last < 0.1 * limit else "good"
    sharp = limit is not None and last < 0.1 * limit
    word = {"bad": "; the pixels have not chosen any region", "good": ""}.get(
        state, "; very sharp: a pixel has no doubt left" if sharp else "; the pixels hardly choose"
    )
    level = f" {limit:.2f}, which is undecided," if limit else " its start"
    return Finding(
        "assignment_entropy",
        "Doubt of a pixel",
        f"falls below{level} as pixels choose their region, without falling to 0",
        f"{_from_to(first, last)}{word}",
        state,
    )


def _from_to(first: float, last: float) -> str:
    return f"from {first:.2f} to {last:.2f}".replace("-", "\N{MINUS SIGN}")


def undecided(health: Table) -> float | None:
    """Entropy of a pixel that gives every region the same share: log K."""
    regions = usage(health).shape[1]
    return math.log(regions) if regions > 1 else None


def _usage(health: Table) -> Finding | None:
    shares = usage(health)
    shares = shares[np.isfinite(shares).all(1)] if shares.size else shares
    if not shares.size:
        return None
    last = shares[-1]
    alive, regions = int((last >= ALIVE).sum()), len(last)
    state = "bad" if alive <= regions / 2 or last.max() > 0.6 else "watch" if alive < regions else "good"
    return Finding(
        "usage",
        "Share of pixels per region",
        f"every region keeps a share; balanced would be {100 / regions:.3g} % each",
        f"{alive} of {regions} regions are alive; shares run from {100 * last.min():.0f} % to {100 * last.max():.0f} %",
        state,
    )


def _plain(health: Table, column: str, title: str, good: str) -> Finding | None:
    ends = _ends(health, column)
    if ends is None:
        return None
    first, last = ends
    state = "good" if last > first else "watch"
    seen = f"from {first:.3g} to {last:.3g}" + ("" if last > first else "; no gain")
    return Finding(column, title, good, seen, state)


def _maps(health: Table) -> Finding | None:
    """LEWEL's maps: at the published scale they are nearly uniform by design, so this is no fault."""
    ends = _ends(health, "map_uniformity")
    if ends is None:
        return None
    return Finding(
        "map_uniformity",
        "Uniformity of the maps",
        "below 1, where all maps would be the plain mean of the face",
        _from_to(*ends),
        "good" if ends[1] < 0.9 else "watch",
    )


def pretrain_verdict(run: PretrainRun) -> str:
    """One sentence: did the loss move, are features and regions alive."""
    states = {finding.column: finding.state for finding in findings(run.health)}
    parts = []
    ends = _ends(run.log, "loss")
    if ends is not None:
        parts.append(f"the loss went from {ends[0]:.2f} to {ends[1]:.2f}")
    if "bad" in (states.get("feature_std"), states.get("effective_rank")):
        parts.append("but the features have collapsed")
    elif "feature_std" in states or "effective_rank" in states:
        parts.append("the features stayed alive")
    if "bad" in (states.get("mask_cosine"), states.get("assignment_entropy"), states.get("usage")):
        parts.append("and the regions did not come alive")
    elif "usage" in states:
        last = usage(run.health)[-1]
        parts.append(f"and {int((last >= ALIVE).sum())} of {len(last)} regions share the face")
    if not parts:
        return "This run left no log and no health table, so nothing can be said about its training."
    sentence = ", ".join(parts).replace(", and", " and").replace(", but", " but")
    return sentence[0].upper() + sentence[1:] + "."


def paper_lead(pretrained: Sequence[PretrainRun], transfers: int) -> str:
    """What stands behind the paper's tables, and what it cost."""
    if not pretrained:
        return "Published numbers are in italics."
    seconds = sum(run.summary.get("seconds") or 0 for run in pretrained)
    trained = f"{plural(len(pretrained), 'encoder')}, pre-trained for {duration(seconds)}"
    return f"{trained}, judged in {plural(transfers, 'run')}. Published numbers are in italics, ours in bold."


def comparison_sentence(comparison: Comparison) -> str:
    """`nme: 1.2 points better than random weights.`, with the seeds' noise, honest when it is worse."""
    size = f"{abs(comparison.difference):.1f} points"
    name = metric_name(comparison.metric)
    against = "random weights"
    if comparison.difference == 0:
        text = f"{name}: the same as {against}"
    elif comparison.verdict == "even":
        text = f"{name}: no clear difference from {against} ({size} {comparison.direction},"
        text += f" within the noise of {comparison.noise_of})"
    else:
        text = f"{name}: {size} {comparison.verdict} than {against}"
        text += " (one seed only, so the noise is not known)" if comparison.noise is None else ""
    if comparison.baseline_beaten is False:
        text += ", and no better than an answer that never looks at the face"
    return text[0].upper() + text[1:] + "."


def transfer_verdict(tables: Sequence[TransferTable]) -> str | None:
    """One sentence over all tasks, each judged by its first metric."""
    first = [table.comparisons[0] for table in tables if table.comparisons]
    if not first:
        return None
    better = sum(c.verdict == "better" for c in first)
    worse = sum(c.verdict == "worse" for c in first)
    if len(first) == 1:
        word = {"better": "better than", "worse": "worse than", "even": "no clearly different from"}[first[0].verdict]
        return f"Judged on one task, its features are {word} random weights."
    text = f"Judged on {len(first)} tasks, its features are better than random weights on {better}"
    text += f", worse on {worse}" if worse else ""
    even = len(first) - better - worse
    return text + (f" and not clearly different on {even}" if even else "") + "."
