"""Changing the colours of faces, each by its own amount. N images of S x S pixels, RGB in [0, 1]."""

import torch
from jaxtyping import Float
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # grey as ITU-R BT.601 and Pillow's mode L weigh red, green, blue


def grey(faces: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N 1 S S"]:
    """The grey image."""
    red, green, blue = faces.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def brighten(faces: Float[Tensor, "N 3 S S"], factor: Float[Tensor, "N 1 1 1"]) -> None:
    """Blend with black, in place."""
    faces.mul_(factor).clamp_(0, 1)


def change_contrast(faces: Float[Tensor, "N 3 S S"], factor: Float[Tensor, "N 1 1 1"]) -> None:
    """Blend with the image's mean grey level, in place."""
    # NumPy adds the pixels of an image in the same order whatever its neighbours and the number of threads.
    colours = torch.from_numpy(faces.flatten(2).numpy().mean(2)) if faces.is_cpu else faces.mean((2, 3))
    torch.lerp(grey(colours[..., None, None]), faces, factor, out=faces).clamp_(0, 1)


def saturate(faces: Float[Tensor, "N 3 S S"], factor: Float[Tensor, "N 1 1 1"]) -> None:
    """Blend with the grey image, in place."""
    torch.lerp(grey(faces), faces, factor, out=faces).clamp_(0, 1)
