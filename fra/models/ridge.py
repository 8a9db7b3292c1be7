"""Linear maps from features: their scales, and ridge regression with a cross-validated penalty.

N examples, C features, T targets.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(-8, 5))  # per example: 1e-4 … 1e2 (ours)
FOLDS = 5
STILLEST = 0.1
"""The least deviation that a feature is divided by, as a share of the mean over features (ours)."""

Solution = tuple[Float[Tensor, "C T"], Float[Tensor, "T"]]


def deviations(features: Float[Tensor, "N C"]) -> Float[Tensor, "C"]:
    """What to divide features by: their standard deviations, so that none counts more than ten times its size.

    A feature that hardly ever moves among few examples has next to no deviation, and one example in which it does
    would otherwise decide everything.
    """
    spread = features.std(0, correction=0)
    return spread.clamp(min=(STILLEST * spread.mean()).clamp(min=1e-12))


def ridge(features: Float[Tensor, "N C"], targets: Float[Tensor, "N T"]) -> list[Solution]:
    """Weight and bias that minimise |features @ weight + bias - targets|² / N + penalty |weight|², per penalty.

    One eigendecomposition, of the smaller of the two Gram matrices, serves all PENALTIES; the bias is not penalised.
    """
    count, channels = features.shape
    middle, average = features.mean(0), targets.mean(0)
    x, y = features - middle, targets - average
    if count < channels:
        values, vectors = torch.linalg.eigh(x @ x.T / count)
        left, right = x.T @ vectors, vectors.T @ y / count
    else:
        values, vectors = torch.linalg.eigh(x.T @ x / count)
        left, right = vectors, vectors.T @ (x.T @ y) / count
    weights = [left @ (right / (values.clamp(min=0) + penalty)[:, None]) for penalty in PENALTIES]
    return [(weight, average - middle @ weight) for weight in weights]


def cross_validated(
    features: Float[Tensor, "N C"], targets: Float[Tensor, "N T"], folds: Int[Tensor, "N"]
) -> Float[Tensor, "penalties"]:
    """Per penalty, the squared error of the examples (mean over targets, sum over examples), each one left out.

    `folds` says which examples are left out together; with a single fold there is nothing to learn from: all zeros.
    """
    errors = torch.zeros(len(PENALTIES), dtype=features.dtype)
    present = folds.unique()
    for fold in present if len(present) > 1 else ():
        out = folds == fold
        for number, (weight, bias) in enumerate(ridge(features[~out], targets[~out])):
            errors[number] += (features[out] @ weight + bias - targets[out]).square().mean(1).sum()
    return errors
