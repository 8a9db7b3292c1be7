"""Faces as people have them in Python: paths, PIL images, NumPy arrays, tensors; one, or several of any sizes.

B images, S pixels a side. Pictures (all but tensors of floats) are resized to what a network sees, as everywhere in
`fra`; a batch of floats is taken as it is, so that nothing is computed twice, and what looks wrong in it is told.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from fra.faces.image import read_image, to_input

if TYPE_CHECKING:
    from PIL.Image import Image

Picture: TypeAlias = "str | os.PathLike[str] | Image | np.ndarray | Tensor"
"""A path, a PIL image of any mode, (H, W, 3) uint8, or a tensor (3, H, W) of uint8 or of floats in [0, 1]."""
Pictures: TypeAlias = "Picture | Sequence[Picture]"
"""One or several; arrays (B, H, W, 3) and tensors (B, 3, H, W) are several."""
SLACK = 0.01
"""By how much floats may leave [0, 1]: interpolation overshoots a little."""


def picture_of(given: Any) -> UInt8[Tensor, "3 H W"]:
    """One picture; a file is read upright. Raises ValueError for what is no picture, UnreadableImage for a file."""
    if isinstance(given, str | os.PathLike):
        return read_image(Path(given))
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3 or not given.size:
            raise ValueError(f"an array {given.shape} of {given.dtype} is not a picture: give (H, W, 3) of uint8, RGB")
        return torch.from_numpy(given.copy()).permute(2, 0, 1)
    if isinstance(given, Tensor):
        _require_colours(given, dimensions=3)
        if given.dtype == torch.uint8:
            return given
        _require_range(given)
        return (given.float().clamp(0, 1) * 255).round().to(torch.uint8)
    if hasattr(given, "convert"):  # PIL's, without importing it
        return torch.from_numpy(np.array(given.convert("RGB"))).permute(2, 0, 1)
    raise ValueError(f"{type(given).__name__} is not a picture: give a path, a PIL image, a NumPy array or a tensor")


def several(given: Any) -> list[Any] | None:
    """The single pictures of what holds several; None for one picture."""
    if isinstance(given, Tensor | np.ndarray):
        return list(given) if given.ndim == 4 else None
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else None


def images_of(
    given: Any, size: int, *, resize: bool = False, look: Callable[[Tensor], object] | None = None
) -> Float[Tensor, "B 3 S S"]:
    """A batch for a network trained at `size`, RGB in [0, 1]; of one picture a batch of one.

    Pictures are cut to their middle square and resized. A float tensor (B, 3, H, W), or (3, H, W), is only resized
    with `resize`: a warning tells of another size. `look` is shown the largest picture as it was given. Raises
    ValueError for other shapes and for floats that leave [0, 1].
    """
    if isinstance(given, Tensor) and given.is_floating_point():
        batch = given if given.ndim == 4 else given[None]
        _require_colours(batch, dimensions=4)
        _require_range(batch)
        if batch.shape[2:] == (size, size):
            return batch.float()
        if resize:
            return F.interpolate(batch.float(), size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)
        height, width = batch.shape[2:]
        warnings.warn(
            f"these images are {height} x {width} pixels and the network was trained at {size} x {size}: features "
            "differ; pass resize=True, or give pictures (paths, PIL, NumPy), which are always resized",
            stacklevel=4,
        )
        return batch.float()
    pictures = several(given)
    if pictures is not None and not pictures:
        raise ValueError("no pictures were given")
    every = [given] if pictures is None else pictures
    largest, inputs = None, []
    for one in every:
        picture = picture_of(one)
        if largest is None or picture.numel() > largest.numel():
            largest = picture
        inputs.append(to_input(picture, size))
    if look is not None and largest is not None:
        look(largest)
    return torch.stack(inputs).float() / 255


def _require_colours(images: Tensor, *, dimensions: int) -> None:
    if images.ndim != dimensions or images.shape[-3] != 3 or not images.numel():
        expected = "(3, H, W) or (B, 3, H, W)"
        channel = (
            " (grey: repeat the channel, .expand(-1, 3, -1, -1))" if images.ndim and images.shape[-3:-2] == (1,) else ""
        )
        raise ValueError(f"a tensor {tuple(images.shape)} is not an RGB image: give {expected}{channel}")


def _require_range(images: Tensor) -> None:
    low, high = (float(end) for end in images.detach().aminmax())
    if low >= -SLACK and high <= 1 + SLACK:
        return
    if high > 2 and low >= 0:
        raise ValueError(f"values go up to {high:.3g}, and RGB in [0, 1] is expected: divide by 255, or give uint8")
    raise ValueError(
        f"values go from {low:.3g} to {high:.3g}, and RGB in [0, 1] is expected: leave out any normalisation, the "
        "network has its own"
    )
