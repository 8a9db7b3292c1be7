"""How well landmarks were found, to look at: faces with both sets of points, and the cumulative error curve."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fra.system.printable import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUE, FOUND = "#2ca02c", "#e03030"
COLUMNS = 4


def draw_landmarks(
    images: Sequence[UInt8[Tensor, "3 S S"]],
    truth: Float[Tensor, "N P 2"],
    found: Float[Tensor, "N P 2"],
    errors: Float[Tensor, "N"],
    *,
    curve: Float[Tensor, "N"],
    thresholds: Sequence[float],
    normaliser: str,
) -> "Figure":
    """The images, which are the first of the N faces, with true (green) and found (red) points; below them the curve.

    Points in [-1, 1] of the images, `errors` of the titles in percent; those of the `curve` and `thresholds` in percent
    of the normaliser.
    """
    from matplotlib.figure import Figure

    rows = -(-len(images) // COLUMNS)
    figure = Figure(figsize=(2.4 * COLUMNS, 2.6 * rows + 2.8), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.6 * rows, 2.8))
    above, below = parts
    panels = above.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes in panels:
        axes.set_axis_off()
    for place, (image, axes) in enumerate(zip(images, panels, strict=False)):
        axes.imshow(image.permute(1, 2, 0).numpy())
        for points, colour in ((truth[place], TRUE), (found[place], FOUND)):
            pixels = (points + 1) * image.shape[-1] / 2 - 0.5
            axes.scatter(*pixels.T.tolist(), s=3, c=colour)
        axes.set_title(f"NME {errors[place]:.1f} %", fontsize=8)
    draw_curve(below.subplots(), curve, thresholds=thresholds, normaliser=normaliser)
    return figure


def draw_curve(axes: Any, errors: Float[Tensor, "N"], *, thresholds: Sequence[float], normaliser: str) -> None:
    """The share of faces whose NME is at most so much, up to half as much again as the largest threshold."""
    end = 1.5 * max(thresholds)
    values = errors.sort().values
    steps = torch.arange(1, len(values) + 1) * (100 / len(values))
    axes.step([0, *values.tolist(), float("inf")], [0, *steps.tolist(), 100], where="post", color=FOUND)
    for threshold in thresholds:
        axes.axvline(threshold, color="#999999", linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, end), ylim=(0, 100), xlabel=f"NME, percent of {normaliser}", ylabel="percent of faces")
    axes.set_title(f"{counted(len(errors), 'face')}, mean NME {float(errors.mean()):.2f} %", fontsize=8)
