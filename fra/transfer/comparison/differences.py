"""Is one encoder better than another, and how many times the labels does the weaker one need?

S seeds (draws of labels), N test images. Scores of an image are such that their mean over images is the metric.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """Of two encoders with the same labels on the same test images; positive when the first is better."""

    value: float
    """In the metric's unit."""
    half: float
    """Half the width of the 95 % interval around it."""
    images: float
    """Standard error from the choice of test images."""
    seeds: float | None
    """Standard error from the draw of labels and the training; None for one seed."""

    @property
    def low(self) -> float:
        return self.value - self.half

    @property
    def high(self) -> float:
        return self.value + self.half

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `level` where the interval holds 0."""
        if self.low <= 0 <= self.high:
            return "level"
        return "better" if self.value > 0 else "worse"


def difference(ours: np.ndarray, theirs: np.ndarray, *, lower_is_better: bool = False) -> Difference:
    """Compare scores (S, N) of two encoders, seed by seed and image by image.

    The interval has two parts. Another test set: the paired bootstrap over images of the difference, mean over seeds.
    Another draw of labels: the variance of the differences of seeds. Their sum has Satterthwaite's degrees of freedom
    and the quantile of Student's t, so that few seeds which disagree give a wide interval (ours).
    """
    gained = (theirs - ours) if lower_is_better else (ours - theirs)
    images = bootstrap_error(gained.mean(0))
    by_seed = gained.mean(1)
    count = len(by_seed)
    seeds = float(by_seed.std(ddof=1)) / math.sqrt(count) if count > 1 else None
    variance = images**2 + (seeds or 0.0) ** 2
    freedom = math.inf
    if seeds:
        freedom = (count - 1) * (variance / seeds**2) ** 2
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(variance)
    return Difference(float(gained.mean()), half, images, seeds)


def bootstrap_error(differences: np.ndarray, *, resamples: int = RESAMPLES) -> float:
    """Standard error of the mean of N paired differences: the deviation of the means of resampled ones.

    The same draws of images for every pair of encoders.
    """
    draw = np.random.default_rng(0)
    count = len(differences)
    block = max(1, 2_000_000 // count)
    means: list[np.ndarray] = []
    for begun in range(0, resamples, block):
        chosen = draw.integers(count, size=(min(block, resamples - begun), count))
        means.append(differences[chosen].mean(1))
    return float(np.concatenate(means).std())


def labels_needed(
    labels: Sequence[int], scores: Sequence[float], target: float, *, lower_is_better: bool = False
) -> float | None:
    """How many labels a curve needs to reach a score, straight between its points over the logarithm of labels.

    The fewest labels for a score that it has from the start; None where it never reaches it. No curve is continued.
    """
    sign = -1 if lower_is_better else 1
    for place, score in enumerate(scores):
        if sign * (score - target) >= 0:
            if place == 0:
                return float(labels[0])
            low, high = scores[place - 1], score
            share = (target - low) / (high - low)
            return float(labels[place - 1] * (labels[place] / labels[place - 1]) ** share)
    return None
