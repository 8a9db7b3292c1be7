"""Features of a frozen encoder, computed once. N images, C channels, B images at a time, S pixels a side."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from fra.data.labelled import LabelledFaces
from fra.data.read import Unreadable, read_images, with_bar
from fra.files import read_tensors, reading, write_tensors
from fra.runtime import Runtime
from fra.system.printable import counted
from fra.training.devices import choose_device
from fra.training.threads import settle_threads

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Features:
    """Features of the readable images of a split, kept in memory on the CPU."""

    images: Int[Tensor, "N"]
    """Positions in the dataset, rising."""
    plain: Float[Tensor, "N C"]
    mirrored: Float[Tensor, "N C"] | None
    """Of the left-right mirrored images, when asked for."""
    unreadable: tuple[Unreadable, ...]

    def unreadable_among(self, files: Collection[str]) -> tuple[Unreadable, ...]:
        """Those of these files."""
        return tuple(item for item in self.unreadable if item.file in files)

    def rows(self, images: Int[Tensor, "n"]) -> Int[Tensor, "m"]:
        """Where these images are in `plain`; unreadable ones are left out."""
        return torch.isin(self.images, images).nonzero().flatten()


@dataclass(frozen=True)
class FrozenFeatures:
    """What a frozen encoder says of the images of all splits: computed once, read by any number of linear heads."""

    train: Features
    val: Features
    test: Features

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        tensors: dict[str, Tensor] = {}
        notes = {}
        for split in SPLITS:
            found: Features = getattr(self, split)
            tensors |= {f"{split}.images": found.images, f"{split}.plain": found.plain}
            if found.mirrored is not None:
                tensors[f"{split}.mirrored"] = found.mirrored
            notes[split] = json.dumps([asdict(item) for item in found.unreadable])
        write_tensors(path, tensors, notes)

    @classmethod
    def load(cls, path: Path) -> "FrozenFeatures":
        """What `save` wrote. Raises DamagedFile."""
        with reading(path, "remove it: the same command makes it again"):
            tensors, notes = read_tensors(path)
            return cls(
                *(
                    Features(
                        tensors[f"{split}.images"],
                        tensors[f"{split}.plain"],
                        tensors.get(f"{split}.mirrored"),
                        tuple(Unreadable(**item) for item in json.loads(notes[split])),
                    )
                    for split in SPLITS
                )
            )


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
        if not plain:
            settle_threads(runtime, device, partial(_encode, encoder, batch))
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
