"""Two encoders on the same labelled faces: how far one is better, and whether that is more than noise.

Metrics are those of `results.json`: for each name `mean`, `std` and `values` over seeds.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeGuard

from fra.system.printable import counted
from fra.tasks.regression import SCORES

NAMES = {
    "accuracy": "accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "attribute_accuracy": "attribute accuracy",
    "balanced_attribute_accuracy": "balanced attribute accuracy",
    "nme": "landmark error (NME)",
    "failure_rate": "failure rate",
    "auc": "area under the error curve",
    "mae": "mean absolute error",
    "ccc": "concordance (CCC)",
    "pearson": "correlation (Pearson)",
}
LOWER_IS_BETTER = {"nme", "failure_rate", "mae"}
SHARES_OF_DECISIONS = {"accuracy", "attribute_accuracy"}


@dataclass(frozen=True)
class Comparison:
    """Ours against random weights in one metric."""

    metric: str
    encoder: str
    difference: float
    """In the metric's unit, positive when ours is better whatever the metric's direction."""
    noise: float | None
    """Standard deviation of the difference, None when it is not known."""
    noise_of: str
    """Where the noise comes from: `the seeds`, or with a single seed `N test faces` (shares of decisions only)."""
    baseline_beaten: bool | None

    @property
    def direction(self) -> str:
        return "better" if self.difference > 0 else "worse"

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `even`: a difference below two of its own standard deviations is none."""
        if self.difference == 0 or (self.noise is not None and abs(self.difference) < 2 * self.noise):
            return "even"
        return self.direction


def metric_name(metric: str) -> str:
    base, _, rest = metric.partition("@")
    name = NAMES.get(base, base.replace("_", " "))
    threshold, _, normaliser = rest.partition("_")  # auc@7_diag
    by = f", {normaliser}" if normaliser else ""
    return f"{name} at {threshold} %{by}" if threshold else name


def lower_is_better(metric: str) -> bool:
    return metric.partition("@")[0] in LOWER_IS_BETTER


def is_percent(metric: str) -> bool:
    return metric not in SCORES


def real(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def compare(
    metric: str, encoder: str, ours: dict[str, Any], theirs: dict[str, Any], *, faces: int, baseline: float | None
) -> Comparison:
    """`encoder`'s `ours` against `theirs`, on so many test faces; `baseline` is what the constant answer reaches."""
    sign = -1 if lower_is_better(metric) else 1
    beaten = None if baseline is None else sign * (ours["mean"] - baseline) > 0
    noise, source = _noise(metric, ours, theirs, faces)
    return Comparison(metric, encoder, sign * (ours["mean"] - theirs["mean"]), noise, source, beaten)


def _noise(metric: str, ours: dict[str, Any], theirs: dict[str, Any], faces: int) -> tuple[float | None, str]:
    """Noise of the difference of two means: over seeds, or with one seed binomial over the test faces."""
    both = (ours, theirs)
    counts = [len(entry.get("values") or []) for entry in both]
    if min(counts) > 1 and all(real(entry.get("std")) for entry in both):
        return math.sqrt(sum(entry["std"] ** 2 / count for entry, count in zip(both, counts, strict=True))), "the seeds"
    if metric in SHARES_OF_DECISIONS and faces:
        means = [min(max(entry["mean"], 0.0), 100.0) for entry in both]
        return math.sqrt(sum(mean * (100 - mean) / faces for mean in means)), f"{counted(faces, 'test face')}"
    return None, ""


def comparison_sentence(comparison: Comparison) -> str:
    """`nme: 1.2 points better than random weights.`, with the seeds' noise, honest when it is worse."""
    size = f"{abs(comparison.difference):.1f} points"
    if not is_percent(comparison.metric):
        size = f"{abs(comparison.difference):.2f}"
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
        text += ", and no better than a trivial baseline that ignores the face"
    return text[0].upper() + text[1:] + "."
