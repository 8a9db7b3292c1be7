"""The three small networks of face-api that are measured, rebuilt on the weights of its package.

Their structure is that of the package's code: recognition is dlib's ResNet with weights of 8 bits, expression and
landmarks share four dense blocks of depthwise separable convolutions. B images of S x S pixels.
"""

import json
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.peers.tfjs import convolve, max_pool, read_weights

MEAN = (122.782, 117.001, 104.298)
"""Of each channel, RGB from 0 to 255, subtracted by all three."""
EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")


class FaceApi(nn.Module):
    """Abstract: a network of these weights, named and shaped as face-api has them."""

    image_size: int

    def __init__(self, tensors: dict[str, Tensor], *, unit: float = 255) -> None:
        """`unit` is how many grey values make one in the input: 255, or dlib's 256."""
        super().__init__()
        self.tensors, self.unit = tensors, unit

    @classmethod
    def read(cls, manifest: Path, weights: Path) -> Self:
        """From two files of the package."""
        return cls(read_weights(json.loads(manifest.read_text(encoding="utf-8")), weights.read_bytes()))

    def centred(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B S S 3"]:
        """Images in [0, 1], RGB, to what the networks see."""
        return (255 * images.permute(0, 2, 3, 1) - torch.tensor(MEAN)) / self.unit


class Recognition(FaceApi):
    """128 numbers of a face, from 150 x 150 pixels."""

    image_size = 150

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 128"]:
        x = self._layer("conv32_down", self.centred(images), stride=2, same=False).relu()
        x = max_pool(x, side=3, stride=2, same=False)
        for width, blocks in ((32, 3), (64, 3), (128, 2), (256, 2)):
            if width > 32:
                x = self._block(f"conv{width}_down", x, down=True)
            for number in range(1, blocks + 1):
                x = self._block(f"conv{width}_{number}", x)
        x = self._block("conv256_down_out", x, down=True)
        return x.mean((1, 2)) @ self.tensors["fc"]

    def _layer(self, name: str, x: Tensor, *, stride: int = 1, same: bool = True) -> Tensor:
        part = {
            word: self.tensors[f"{name}/{word}"]
            for word in ("conv/filters", "conv/bias", "scale/weights", "scale/biases")
        }
        found = convolve(x, part["conv/filters"], part["conv/bias"], stride=stride, same=same)
        return found * part["scale/weights"] + part["scale/biases"]

    def _block(self, name: str, x: Tensor, *, down: bool = False) -> Tensor:
        """A residual block; `down` halves the map, and new channels of the shortcut are zeros."""
        found = self._layer(f"{name}/conv1", x, stride=2 if down else 1, same=not down).relu()
        found = self._layer(f"{name}/conv2", found)
        if down:
            x = F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
            rows, columns = (a - b for a, b in zip(x.shape[1:3], found.shape[1:3], strict=True))
            found = F.pad(found, (0, 0, 0, columns, 0, rows))
            x = F.pad(x, (0, found.shape[3] - x.shape[3]))
        return (found + x).relu()


class Dense(FaceApi):
    """Expression (7 logits, see EXPRESSIONS) or 68 points as shares of the side, by the width of the last layer."""

    image_size = 112

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B T"]:
        x = self.centred(images)
        for number in range(4):
            x = self._block(f"dense{number}", x, first=number == 0)
        x = F.avg_pool2d(x.permute(0, 3, 1, 2), 7, 2).permute(0, 2, 3, 1)
        return x.flatten(1) @ self.tensors["fc/weights"] + self.tensors["fc/bias"]

    def _block(self, name: str, x: Tensor, *, first: bool) -> Tensor:
        """Four layers, each on the rectified sum of those before; the first halves the map."""
        if first:
            kernel, bias = (self.tensors[f"{name}/conv0/{word}"] for word in ("filters", "bias"))
            total = convolve(x, kernel, bias, stride=2).relu()
        else:
            total = self._separable(f"{name}/conv0", x, stride=2).relu()
        x = total
        for number in (1, 2, 3):
            total = total + self._separable(f"{name}/conv{number}", x)
            x = total.relu()
        return x

    def _separable(self, name: str, x: Tensor, *, stride: int = 1) -> Tensor:
        deep, point, bias = (
            self.tensors[f"{name}/{word}"] for word in ("depthwise_filter", "pointwise_filter", "bias")
        )
        return convolve(convolve(x, deep, stride=stride, deep=True), point, bias)
