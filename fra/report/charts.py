"""Charts as SVG text that takes its colours for ink and lines from the page, so that it is readable light and dark."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fra.faces.pictures import region_colours
from fra.transfer.comparison.chart import Line as LabelLine
from fra.transfer.comparison.chart import draw_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THIRD, HALF, WHOLE, TALL = (3.0, 1.75), (4.8, 2.1), (9.9, 2.0), (4.8, 3.2)
"""Sizes in inches for a third, half (also a tall one) and the whole of the page's width: text then has the same size
in all."""

BLUE, ORANGE, GREY = "#4e79a7", "#d9772b", "#8a8f98"

# Colours that stand for a role; the page's own variables take their place in the finished SVG.
_ROLES = {"#010101": "var(--ink)", "#020202": "var(--muted)", "#030303": "var(--rule)"}
_INK, _MUTED, _RULE = _ROLES

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fra",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _RULE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Line:
    x: np.ndarray
    y: np.ndarray
    name: str = ""
    colour: str = BLUE


@dataclass(frozen=True)
class Dots:
    """One row of a dot chart: the value of each seed, and their mean as a stroke."""

    name: str
    values: Sequence[float]
    ours: bool


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str = "epoch",
    size: tuple[float, float] = THIRD,
    percent: bool = False,
    reference: tuple[float, str] | None = None,
    from_zero: bool = False,
) -> str | None:
    """Curves over a common axis; `reference` (value, name) is a dashed level. None when there is nothing to draw."""
    drawn = [Line(*_thin(line.x, line.y), line.name, line.colour) for line in lines]
    drawn = [line for line in drawn if len(line.x)]
    if not drawn:
        return None
    with _canvas(*size) as (figure, axes):
        for line in drawn:
            marker = "o" if len(line.x) < 25 else None
            axes.plot(line.x, line.y, color=line.colour, label=line.name or None, marker=marker, markersize=2.4)
        if reference:
            axes.axhline(reference[0], color=_MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
            axes.annotate(
                reference[1], (1, reference[0]), xycoords=("axes fraction", "data"), xytext=(0, 3),
                textcoords="offset points", ha="right", color=_MUTED, fontsize=8,
            )  # fmt: skip
        if from_zero:
            axes.set_ylim(bottom=0)
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        _finish(axes, x_label)
        if len(drawn) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, fontsize=8, handlelength=1.2, borderpad=0)
        return _svg(figure)


def area_chart(x: np.ndarray, shares: np.ndarray, *, size: tuple[float, float] = WHOLE) -> str | None:
    """Shares (rows: epochs, columns: regions, each row sums to 1) stacked in the regions' colours."""
    if not len(x):
        return None
    if len(x) == 1:
        x, shares = np.array([x[0], x[0] + 1]), np.repeat(shares, 2, axis=0)
    colours = [(red / 255, green / 255, blue / 255) for red, green, blue in region_colours(shares.shape[1])]
    with _canvas(*size) as (figure, axes):
        axes.stackplot(x, np.nan_to_num(shares).T, colors=colours, linewidth=0.4, edgecolor="white")
        axes.set_ylim(0, 1)
        axes.set_xlim(x[0], x[-1])
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        _finish(axes, "epoch")
        return _svg(figure)


def dot_chart(rows: Sequence[Dots], *, x_label: str) -> str:
    """Encoders below each other, one dot per seed, a stroke at the mean; ours in colour."""
    with _canvas(WHOLE[0], 0.6 + 0.28 * len(rows)) as (figure, axes):
        for place, row in enumerate(reversed(rows)):
            colour = ORANGE if row.ours else GREY
            axes.plot(row.values, [place] * len(row.values), "o", color=colour, alpha=0.55, markersize=4.5)
            mean = float(np.mean(row.values))
            axes.plot([mean, mean], [place - 0.28, place + 0.28], color=colour, linewidth=2)
        axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)], color=_INK)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.06)
        axes.set_xlabel(x_label, fontsize=8)
        return _svg(figure)


def label_chart(lines: Sequence[LabelLine], *, score: str, baseline: tuple[str, float]) -> str:
    """Score against number of labels, a line per encoder, as `fra compare` draws it."""
    with _canvas(*TALL) as (figure, axes):
        draw_lines(axes, lines, score=score, baseline=baseline, ink=_INK)
        return _svg(figure)


def _finish(axes: "Axes", x_label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.margins(x=0.01)
    axes.set_xlabel(x_label, fontsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=x_label == "epoch"))


def _thin(x: np.ndarray, y: np.ndarray, *, points: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Known points only; a long curve becomes the means of `points` equal stretches, a calmer and smaller picture."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= points:
        return x, y
    parts = [np.array_split(values, points) for values in (x, y)]
    return np.array([p.mean() for p in parts[0]]), np.array([p.mean() for p in parts[1]])


@contextmanager
def _canvas(width: float, height: float) -> Iterator[tuple["Figure", "Axes"]]:
    """A figure of our style, in inches, without pyplot, whose global state other code may use."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def _svg(figure: "Figure") -> str:
    """The figure as an SVG element that can stand in a page: no header, no addresses, no ids that may repeat."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'^<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', text)
    text = re.sub(r"font: ?([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for placeholder, variable in _ROLES.items():
        text = text.replace(placeholder, variable)
    return text.strip()
