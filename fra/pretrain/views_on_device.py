"""Views that the training device finishes: workers decode and crop, a GPU does colours, blur and solarization.

B images, S view size. It carries out what was drawn for the views that workers would make, with the same arithmetic, so
that a view differs from theirs by rounding alone: by one of 255 levels, in few pixels. Nothing waits for the device.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from fra.faces.colour import grey
from fra.pretrain.views import Drawn, ViewMaker, beside, change_colours, chunks, gaussian, solarize, weighted_sums

AT_ONCE = 2**26
"""Values worked on at a time (ours: temporary tensors take a gigabyte or two)."""
REACHED = 0.4
"""Of the device's rate of multiplying matrices, by training (assumed; see `fra.pretrain.plan`)."""


def finish(crops: UInt8[Tensor, "B 3 S S"], drawn: Drawn) -> Float[Tensor, "B 3 S S"]:
    """The views, RGB in [0, 1], of crops that `fra.pretrain.views.crop_only` made; on the crops' device."""
    made = torch.empty(crops.shape, device=crops.device)
    for chosen in chunks(drawn.parameters.together(), drawn.config.size, AT_ONCE):
        places = beside(crops, torch.from_numpy(chosen))
        made.index_copy_(0, places, _finished(crops.index_select(0, places), drawn, chosen))
    return made


def _finished(crops: UInt8[Tensor, "N 3 S S"], drawn: Drawn, chosen: Int[np.ndarray, "N"]) -> Float[Tensor, "N 3 S S"]:
    config, what = drawn
    faces = crops.float().mul_(1 / 255)
    jittered = int(what.jitter[chosen].sum())  # they come first
    change_colours(faces[:jittered], what.order[chosen], what.amounts[chosen])
    _change(faces, what.grayscale[chosen], lambda some: grey(some).expand(-1, 3, -1, -1))
    sigma = what.sigma[chosen]
    reach = np.rint(3 * sigma).astype(int)
    for r in np.unique(reach[reach > 0]).tolist():
        weights = beside(faces, gaussian(sigma[reach == r], r))
        _change(faces, reach == r, partial(weighted_sums, weights=weights))
    _change(faces, what.solarize[chosen], partial(_solarized, threshold=config.solarize_threshold))
    return faces.mul_(255).add_(0.5).floor_().div_(255)  # to whole levels, as views travel that workers make


def _change(faces: Float[Tensor, "N 3 S S"], where: Bool[np.ndarray, "N"], change: Callable[[Tensor], Tensor]) -> None:
    """In place, those faces alone."""
    if where.any():
        places = beside(faces, torch.from_numpy(where.nonzero()[0]))
        faces.index_copy_(0, places, change(faces.index_select(0, places)))


def _solarized(faces: Float[Tensor, "N 3 S S"], threshold: float) -> Float[Tensor, "N 3 S S"]:
    solarize(faces, threshold)
    return faces


def device_should_finish(
    maker: ViewMaker, images: Sequence[UInt8[Tensor, "3 _ _"]], *, device: torch.device, cores: int, work: float
) -> bool:
    """Whether workers on so many cores make fewer views than the device can train on; `work`: multiply-adds per face.

    Both are measured, in half a second: views on this core, and matrices in bf16 on the device.
    """
    indices = torch.arange(len(images))
    made = max(1, cores) * len(images) / _seconds(lambda: maker.make(images, indices, epoch=0))
    return made < REACHED * multiply_adds_per_second(device) / work


def multiply_adds_per_second(device: torch.device, size: int = 4096) -> float:
    """How many multiply-adds the device does when it multiplies matrices in bf16."""
    matrix = torch.ones(size if device.type == "cuda" else size // 8, size, dtype=torch.bfloat16, device=device)

    def multiply() -> None:
        float((matrix @ matrix.T)[0, 0])  # which waits for it

    return len(matrix) ** 2 * size / _seconds(multiply)


def _seconds(work: Callable[[], object], *, tries: int = 4) -> float:
    """The shortest of a few tries; the first is not counted."""
    found = []
    for _ in range(tries):
        before = time.perf_counter()
        work()
        found.append(time.perf_counter() - before)
    return min(found[1:])
