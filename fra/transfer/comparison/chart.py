"""The chart of a comparison: score against number of labels, a line per encoder with its name at its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fra.weights.source import RANDOM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Told apart by people who see few colours (Okabe and Ito, 2008)."""
MARKERS, GREY = ("o", "s", "^", "D", "v", "P"), "#7f7f7f"
SPACE = 0.075
"""Least distance of two names, in heights of the axes."""


@dataclass(frozen=True)
class Line:
    """An encoder's scores by number of labels."""

    name: str
    labels: Sequence[int]
    means: Sequence[float]
    deviations: Sequence[float]
    """Over seeds."""


def draw_lines(
    axes: "Axes",
    lines: Sequence[Line],
    *,
    score: str,
    baseline: tuple[str, float] | None = None,
    ink: str = "black",
) -> None:
    """Lines with bands of one standard deviation, on a logarithmic axis of labels; the baseline is a dotted level.

    Names stand in `ink` at the lines' ends, each behind its line's marker.
    """
    ends: list[tuple[float, str, str, str]] = []
    for number, line in enumerate(lines):
        plain = line.name == RANDOM
        colour = GREY if plain else COLOURS[number % len(COLOURS)]
        low, high = ([m + sign * d for m, d in zip(line.means, line.deviations, strict=True)] for sign in (-1, 1))
        axes.fill_between(line.labels, low, high, color=colour, alpha=0.18, linewidth=0)
        style = "--" if plain or number >= len(COLOURS) else "-"
        axes.plot(
            line.labels, line.means, style, color=colour, marker=MARKERS[number % len(MARKERS)], markersize=4.5, lw=1.6
        )
        ends.append((line.means[-1], line.name, colour, MARKERS[number % len(MARKERS)]))
    if baseline:
        axes.axhline(baseline[1], color=GREY, linewidth=0.9, linestyle=":")
        ends.append((baseline[1], baseline[0], GREY, ""))
    labels = sorted({label for line in lines for label in line.labels})
    axes.set_xscale("log")
    axes.set_xticks(labels, [f"{label:,}" for label in labels])
    axes.minorticks_off()
    if len(labels) == 1:
        axes.set_xlim(labels[0] / 2, labels[0] * 2)
    axes.set_xlabel("labelled training faces")
    axes.set_title(score, loc="left", fontsize="medium")
    bottom, top = axes.get_ylim()
    places = apart([(value - bottom) / (top - bottom) for value, *_ in ends])
    for place, (_, name, colour, marker) in zip(places, ends, strict=True):
        axes.plot([1.03], [place], marker, color=colour, markersize=4.5, transform=axes.transAxes, clip_on=False)
        axes.annotate(
            name, (1.03, place), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points",
            color=ink, va="center", fontsize="medium", annotation_clip=False,
        )  # fmt: skip


def apart(places: Sequence[float], *, space: float = SPACE) -> list[float]:
    """Places on an axis moved as little as it takes for neighbours to be `space` apart, in their order."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    # Neighbours that are too close become one block, which lies about the mean of its members.
    blocks: list[list[int]] = []
    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and _bottom(blocks[-1], places, space) < _top(blocks[-2], places, space) + space:
            last = blocks.pop()
            blocks[-1] += last
    moved = list(places)
    for block in blocks:
        for number, index in enumerate(block):
            moved[index] = _bottom(block, places, space) + number * space
    return moved


def _bottom(block: Sequence[int], places: Sequence[float], space: float) -> float:
    return sum(places[index] for index in block) / len(block) - space * (len(block) - 1) / 2


def _top(block: Sequence[int], places: Sequence[float], space: float) -> float:
    return _bottom(block, places, space) + space * (len(block) - 1)


def figure(panels: Sequence[tuple[str, Sequence[Line], tuple[str, float] | None]]) -> "Figure":
    """A figure with a panel below the other for each protocol."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(6.4, 4.0 * len(panels)), layout="constrained", dpi=150)
    for axes, (score, lines, baseline) in zip(made.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        draw_lines(axes, lines, score=score, baseline=baseline)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    return made
