"""Points in boxes and pictures. N faces, P landmarks."""

import torch
from jaxtyping import Float
from torch import Tensor


def tight_boxes(points: Float[Tensor, "N P 2"]) -> Float[Tensor, "N 4"]:
    """The smallest boxes x1 y1 x2 y2 that hold the landmarks."""
    return torch.cat([points.amin(1), points.amax(1)], 1)


def place_in(boxes: Float[Tensor, "N 4"], points: Float[Tensor, "N P 2"]) -> Float[Tensor, "N P 2"]:
    """Points of the picture as x, y in [-1, 1] of their box."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return 2 * (points - low) / (high - low) - 1


def place_out_of(boxes: Float[Tensor, "N 4"], places: Float[Tensor, "N P 2"]) -> Float[Tensor, "N P 2"]:
    """Undo `place_in`."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return low + (places + 1) / 2 * (high - low)


def place_in_image(points: Float[Tensor, "N P 2"], size: int) -> Float[Tensor, "N P 2"]:
    """Pixels of an image of `size` as x, y in [-1, 1] from its edge to its edge."""
    return (points + 0.5) * (2 / size) - 1
