"""Features of a frozen encoder, computed once. N images, C channels, B images at a time, S pixels a side."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from fra.data.labelled import LabelledFaces
from fra.data.read import Unreadable, read_images, with_bar
from fra.runtime import Runtime
from fra.system.printable import counted
from fra.training.devices import choose_device


@dataclass(frozen=True)
class Features:
    """Features of the readable images of a split, kept in memory on the CPU."""

    images: Int[Tensor, "N"]
    """Positions in the dataset, rising."""
    plain: Float[Tensor, "N C"]
    mirrored: Float[Tensor, "N C"] | None
    """Of the left-right mirrored images, when asked for."""
    unreadable: tuple[Unreadable, ...]

    def rows(self, images: Int[Tensor, "n"]) -> Int[Tensor, "m"]:
        """Where these images are in `plain`; unreadable ones are left out."""
        return torch.isin(self.images, images).nonzero().flatten()


def compute_features(
    encoder: nn.Module,
    faces: LabelledFaces,
    images: Int[Tensor, "n"],
    *,
    split: str,
    size: int,
    mirror: bool = False,
    runtime: Runtime = Runtime(),
) -> Features:
    """Put images, read as squares of `size`, through the encoder in eval mode; threads read the images.

    Training and validation images that cannot be read are left out and listed. Raises ValueError for one of the test
    split: on a smaller test set the score would not be comparable.
    """
    device = choose_device(runtime.device)
    encoder.eval().to(device).to(memory_format=torch.channels_last)
    kept: list[int] = []
    plain: list[Tensor] = []
    mirrored: list[Tensor] = []
    unreadable: list[Unreadable] = []
    what = "" if runtime.quiet else f"features of {counted(len(images), f'{split} image')}"
    # On a CPU, reading ahead would take the cores from the encoder: measured twice as slow.
    ahead = device != "cpu"
    batches = read_images(faces, images.sort().values, split=split, size=size, workers=runtime.workers, ahead=ahead)
    for found in with_bar(batches, len(images), what):
        unreadable += [item for _, item in found if isinstance(item, Unreadable)]
        good = [(image, item) for image, item in found if isinstance(item, Tensor)]
        if not good:
            continue
        kept += [image for image, _ in good]
        batch = torch.stack([item for _, item in good]).to(device)
        plain.append(_encode(encoder, batch))
        if mirror:
            mirrored.append(_encode(encoder, batch.flip(-1)))
    if not kept and len(images):
        raise ValueError(
            f"none of the {counted(len(images), f'{split} image')} can be read ({unreadable[0].reason}): check --data"
        )
    return Features(
        images=torch.tensor(kept, dtype=torch.long),
        plain=torch.cat(plain) if plain else torch.empty(0, 0),
        mirrored=torch.cat(mirrored) if mirrored else None,
        unreadable=tuple(unreadable),
    )


@torch.inference_mode()
def _encode(encoder: nn.Module, batch: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B C"]:
    return encoder((batch.float() / 255).contiguous(memory_format=torch.channels_last)).float().cpu()
