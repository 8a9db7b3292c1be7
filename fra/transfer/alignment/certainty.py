"""How sure a landmark is: from the spread of its heatmap to a probability. N faces, P landmarks.

The STAR loss lets a heatmap be wide where annotators disagree. What such a width is worth is learned from held-out
faces, by Platt's two numbers (Platt, Probabilistic outputs for support vector machines, 1999): the logarithm of the
deviation in eye distances goes in, the probability that the landmark is right comes out.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

WITHIN = 0.05
"""A landmark is right when it is that close to the annotated place, in distances of the outer eye corners (ours)."""
FEWEST = 50
"""Held-out faces below which nothing is claimed (ours)."""
SMALLEST = 1e-12
"""Of a variance and of an eye distance, in units of the image, so that logarithms are finite."""


@dataclass(frozen=True)
class Certainty:
    """From deviations to probabilities."""

    offset: float
    slope: float
    """Below 0 when wide heatmaps are wrong more often."""

    def __call__(
        self, points: Float[Tensor, "N P 2"], variances: Float[Tensor, "N P"], eyes: tuple[int, int]
    ) -> Float[Tensor, "N P"]:
        """The probability, 0 to 1, that each landmark is within WITHIN eye distances of its true place.

        `points` and `variances` (the sum over both directions) in one unit, whatever it is; `eyes` are the points whose
        distance counts.
        """
        return torch.sigmoid(self.offset + self.slope * _deviation(points, variances, eyes))


def fit_certainty(
    points: Float[Tensor, "N P 2"],
    variances: Float[Tensor, "N P"],
    truth: Float[Tensor, "N P 2"],
    eyes: tuple[int, int],
) -> Certainty | None:
    """What held-out faces say; None for few of them, or when all or none of the landmarks are right."""
    from scipy.optimize import minimize

    hit = right(points, truth, eyes).double()
    if len(points) < FEWEST or hit.min() == hit.max():
        return None
    deviation = _deviation(points, variances, eyes).double()

    def loss(weights: NDArray[np.float64]) -> tuple[float, list[float]]:
        scores = float(weights[0]) + float(weights[1]) * deviation
        off = torch.sigmoid(scores) - hit
        value = F.binary_cross_entropy_with_logits(scores, hit)
        return float(value), [float(off.mean()), float((off * deviation).mean())]

    offset, slope = minimize(loss, [0.0, 0.0], jac=True, method="BFGS").x.tolist()
    return Certainty(offset, slope)


def right(points: Float[Tensor, "N P 2"], truth: Float[Tensor, "N P 2"], eyes: tuple[int, int]) -> Bool[Tensor, "N P"]:
    """Which landmarks are within WITHIN true eye distances of their true places."""
    return (points - truth).norm(dim=-1) <= WITHIN * _between(truth, eyes)[:, None]


def certainty_error(stated: Float[Tensor, "N P"], hit: Bool[Tensor, "N P"]) -> float:
    """How far stated and true certainty lie apart on average, percent: the expected calibration error of 15 bins."""
    from torchmetrics.functional.classification import binary_calibration_error

    return 100 * float(binary_calibration_error(stated.flatten().float(), hit.flatten().long(), n_bins=15))


def _deviation(
    points: Float[Tensor, "N P 2"], variances: Float[Tensor, "N P"], eyes: tuple[int, int]
) -> Float[Tensor, "N P"]:
    """Logarithm of the heatmap's standard deviation in eye distances."""
    return variances.clamp(min=SMALLEST).log() / 2 - _between(points, eyes).clamp(min=SMALLEST).log()[:, None]


def _between(points: Float[Tensor, "N P 2"], eyes: tuple[int, int]) -> Float[Tensor, "N"]:
    left, right = eyes
    return (points[:, left] - points[:, right]).norm(dim=-1)
