"""Contrast and structure of images compared: the part of structural similarity that leaves brightness out.

B images, C channels, S pixels a side, V = S - window + 1 places of the window.
"""

import torch
from jaxtyping import Float
from torch import Tensor

SMALL_SHARE = 0.03
"""K2 of structural similarity (Wang et al., 2004, Sec. III.B): keeps flat windows from dividing by nothing."""


def contrast_structure(
    first: Float[Tensor, "B C S S"],
    second: Float[Tensor, "B C S S"],
    *,
    window: int = 31,
    sigma: float = 1.5,
    span: float = 2.0,
) -> Float[Tensor, "B"]:
    """(2 cov + c) / (var + var' + c) under a Gaussian window, its mean over the places and channels of each image.

    1 for equal structure, at least -1. `window` and `sigma` are in pixels, the window no wider than the image; `span`
    is the range of the pixels' values, and c = (SMALL_SHARE * span)². In 32 bits, because variances are differences of
    nearly equal numbers.
    """
    with torch.autocast(first.device.type, enabled=False):
        one, other = first.float(), second.float()
        rows = _window_rows(one.shape[-1], window, sigma, like=one)

        def mean(values: Tensor) -> Tensor:
            return rows @ values @ rows.mT

        middle, others_middle = mean(one), mean(other)
        covariance = mean(one * other) - middle * others_middle
        variances = mean(one * one + other * other) - middle * middle - others_middle * others_middle
        c = (SMALL_SHARE * span) ** 2
        return ((2 * covariance + c) / (variances + c)).mean((1, 2, 3))


def _window_rows(side: int, window: int, sigma: float, *, like: Tensor) -> Float[Tensor, "V S"]:
    """A row for each place at which the whole window lies in the image: the Gaussian's weights there, which sum to 1.

    As matrices, because two products are faster than convolutions of so wide a window.
    """
    window = min(window, side)
    taps = torch.exp(
        -0.5 * ((torch.arange(window, device=like.device, dtype=like.dtype) - (window - 1) / 2) / sigma) ** 2
    )
    rows = like.new_zeros(side - window + 1, side)
    for place, row in enumerate(rows):
        row[place : place + window] = taps / taps.sum()
    return rows
