"""The network in an exported file: pictures or inputs to named outputs, and how far a copy is from it.

B images, K regions, S pixels a side of what the network sees.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fra import __version__
from fra.models.encoder import Encoder
from fra.models.region_head import RegionHead
from fra.weights.bundled import MissingPart
from fra.weights.load import load_encoder, load_region_model
from fra.weights.source import EncoderSource, licence_of

LARGEST_DIFFERENCE = 1e-3
"""Of any value, as a share of the largest (ours: float32 summed in another order stays below)."""

Outputs = tuple[Tensor, ...]
Pixels = Literal["uint8", "float"]
"""Whole pictures (B, H, W, 3) as a file takes them: RGB in [0, 255], or in [0, 1]."""
Fit = Literal["middle", "whole"]
"""As in `fra.faces.image.to_input`."""


class Resized(nn.Module):
    """Pictures (B, H, W, 3) of any one size to inputs: `to_input` out of operations that every runtime has.

    Of uint8 also rounded as there, after each axis: the same pixels, but for one in thousands that is 1 of 255 off.
    """

    def __init__(self, size: int, *, fit: Fit, pixels: Pixels) -> None:
        super().__init__()
        self.size, self.fit, self.rounds = size, fit, pixels == "uint8"

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs (B, 3, S, S) in [0, 1]; height and width of the pictures, as tensors because files keep them open."""
        rows, columns = pictures.shape[1:3]
        height, width = (torch.full((), length, dtype=torch.float32) for length in (rows, columns))
        shown_height, shown_width = height, width
        if self.fit == "middle":
            shown_height = shown_width = torch.minimum(height, width)
        across, down = self._weights(columns, width, shown_width), self._weights(rows, height, shown_height)
        images = self._rounded(pictures.permute(0, 3, 1, 2).float() @ across.T)  # rows first, as Pillow does
        images = self._rounded(down @ images)
        return images / 255 if self.rounds else images, height, width

    def _weights(self, length: "int | torch.SymInt", whole: Tensor, shown: Tensor) -> Tensor:
        """(S, length): the share of each pixel in each of the input's, a triangle around its centre.

        Two input pixels wide, and no narrower than two of the picture's: bilinear, and anti-aliased where it shrinks.
        """
        begin = torch.floor((whole - shown) / 2)
        scale = shown / self.size
        centres = begin + (torch.arange(self.size) + 0.5) * scale
        places = torch.arange(length) + 0.5
        shares = (1 - (places - centres[:, None]).abs() / scale.clamp(min=1)).clamp(min=0)
        shares = shares * ((places > begin) & (places < begin + shown))
        shares = shares / shares.sum(1, keepdim=True)
        if not self.rounds:
            return shares
        # In 15 bits, as torch and Pillow weigh bytes: halves then fall to the same side, in every runtime.
        unit = torch.exp2(torch.floor(torch.log2((2**15 - 0.5) / shares.max())).clamp(max=22))
        return torch.floor(shares * unit + 0.5) / unit

    def _rounded(self, values: Tensor) -> Tensor:
        return torch.floor(values + 0.5) if self.rounds else values


class Portable(nn.Module, ABC):
    """Abstract: what an exported file computes, on the CPU and in eval mode."""

    fit: ClassVar[Fit]
    """How pictures that are not square become inputs."""

    def __init__(self, image_size: int, pixels: Pixels | None) -> None:
        """With `pixels` it takes whole pictures, otherwise inputs (B, 3, S, S), RGB in [0, 1]."""
        super().__init__()
        self.image_size, self.pixels = image_size, pixels
        self.resized = Resized(image_size, fit=self.fit, pixels=pixels) if pixels else None

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Their names."""

    @abstractmethod
    def answers(self, images: Float[Tensor, "B 3 S S"], *, width: int | Tensor, height: int | Tensor) -> Outputs:
        """The outputs for inputs that pictures of this size became."""

    @abstractmethod
    def notes(self) -> dict[str, Any]:
        """What the file says of itself, besides what all files say."""

    @abstractmethod
    def shown(self, names: str) -> list[str]:
        """Lines of Python that print the first output, `values`, of one `picture`; `names` reads the notes' `names`."""

    def forward(self, images: Tensor) -> Outputs:
        if self.resized is None:
            return self.answers(images, width=self.image_size, height=self.image_size)
        images, height, width = self.resized(images)
        return self.answers(images, width=width, height=height)

    def all_notes(self, name: str) -> dict[str, Any]:
        taken = "B x 3 x H x W, RGB in [0, 1]"
        if self.pixels:
            taken = f"B x H x W x 3, RGB in {'[0, 255], uint8' if self.pixels == 'uint8' else '[0, 1]'}, any H and W"
        facts = {"name": name, "images": taken, "image_size": self.image_size, "outputs": list(self.outputs)}
        return facts | self.notes() | {"library": f"fra {__version__}"}

    @property
    def open_axes(self) -> dict[int, str]:
        """The axes of the images whose length is not fixed."""
        return {0: "batch", 1: "height", 2: "width"} if self.pixels else {0: "batch"}

    def samples(self) -> list[Tensor]:
        """Random images to trace and to compare with: two, and one, which as a picture has another size."""
        draw, side = torch.Generator().manual_seed(0), self.image_size
        if self.pixels is None:
            images = torch.rand(2, 3, side, side, generator=draw)
            return [images, images[:1]]
        sizes = (2, side + 9, side + 21, 3), (1, 2 * side + 1, side // 2 + 3, 3)
        if self.pixels == "uint8":
            return [torch.randint(0, 256, size, dtype=torch.uint8, generator=draw) for size in sizes]
        return [torch.rand(*size, generator=draw) for size in sizes]


class PortableEncoder(Portable):
    """Features and, where there is a region head, heatmaps."""

    fit: ClassVar[Fit] = "middle"

    def __init__(
        self, encoder: Encoder, head: RegionHead | None, *, licence: str, pixels: Pixels | None = None
    ) -> None:
        super().__init__(encoder.image_size, pixels)
        self.encoder, self.head, self.licence = encoder, head, licence

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("features",) if self.head is None else ("features", "heatmaps")

    def answers(self, images: Float[Tensor, "B 3 S S"], *, width: int | Tensor, height: int | Tensor) -> Outputs:
        maps, features = self.encoder.both(images)
        if self.head is None:
            return (features,)
        return features, self.head(maps, embeddings=self.head.prototypes).heatmaps

    def notes(self) -> dict[str, Any]:
        return {"encoder": asdict(self.encoder.config), "licence": self.licence}

    def shown(self, names: str) -> list[str]:
        return ["print(*values[0])"]


def portable(run: str | Path, pixels: Pixels | None = None) -> PortableEncoder:
    """The network of a run, with its regions where the method has any, on the CPU and in eval mode."""
    encoder = load_encoder(run, quiet=True)
    try:
        head: RegionHead | None = load_region_model(run, quiet=True).head
    except MissingPart:
        head = None
    licence = licence_of(EncoderSource.parse(run)) or "that of the faces it was trained on, which fra does not know"
    return PortableEncoder(encoder, head, licence=licence, pixels=pixels).eval()


@torch.inference_mode()
def parity(
    model: Portable, copy: Callable[[Tensor], Sequence[Tensor]], *, path: Path, images: list[Tensor] | None = None
) -> dict[str, Any]:
    """How far a copy is from the model on some images (random ones), its size, and the time of both for one image.

    Raises ValueError when a value differs by more than LARGEST_DIFFERENCE of the largest.
    """
    two, one = images or model.samples()
    differences: dict[str, float] = {}
    sizes = {"images": list(two.shape)}
    for batch in (one, two):
        for what, ours, theirs in zip(model.outputs, model(batch), copy(batch), strict=True):
            sizes[what] = list(theirs.shape)
            difference = float((ours - theirs).abs().max())
            if not difference <= LARGEST_DIFFERENCE * float(ours.abs().max()):
                raise ValueError(f"the exported {what} differ from PyTorch's by {difference:.2g}; nothing was written")
            differences[what] = max(difference, differences.get(what, 0.0))
    return dict(
        outputs=list(model.outputs),
        max_difference=differences,
        sizes=sizes,
        bytes=path.stat().st_size,
        latency_ms=_latency(copy, one),
        torch_latency_ms=_latency(model, one),
    )


def _latency(network: Callable[[Tensor], object], image: Tensor, *, tries: int = 10) -> float:
    """Milliseconds for one image, the median of some tries after a first one."""
    network(image)
    times = []
    for _ in range(tries):
        before = time.perf_counter()
        network(image)
        times.append(time.perf_counter() - before)
    return round(1000 * sorted(times)[tries // 2], 2)
