"""dlib's recognition network, computed by torch from dlib's own file: its wheels have no fast convolutions.

The file is a stream of objects; its tensors are found by their headers and taken in their order, from input to output.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.faceapi import Recognition

TENSOR = b"\x01\x02"
"""How a tensor begins: the version of its format, 2, in dlib's packing of integers (how many bytes, then these)."""
BLOCKS = ((32, 3), (64, 3), (128, 2), (256, 2))
"""Width of a stage and its blocks that keep the map's size."""


def read_dlib(file: Path) -> Recognition:
    """The network on dlib's own weights. Raises ValueError for another file."""
    return Recognition(named(find_tensors(file.read_bytes())), unit=256)


def find_tensors(content: bytes) -> list[Tensor]:
    """All tensors of a serialised network whose sizes are N x C x 1 x 1, as they follow each other."""
    found, place = [], 0
    while (place := content.find(TENSOR, place)) >= 0:
        sizes, start = _integers(content, place + len(TENSOR), 4)
        count = math.prod(sizes)
        if sizes[2:] == [1, 1] and count >= 32 and start + 4 * count <= len(content):
            found.append(torch.from_numpy(np.frombuffer(content, "<f4", count, start).copy()))
            place = start + 4 * count
        else:
            place += 1
    return found


def _integers(content: bytes, place: int, count: int) -> tuple[list[int], int]:
    """So many packed integers, and where they end; zeros where there are none."""
    found = []
    for _ in range(count):
        length = content[place] if place < len(content) and content[place] <= 4 else 0
        found.append(int.from_bytes(content[place + 1 : place + 1 + length], "little"))
        place += 1 + length
    return found, place


def named(tensors: list[Tensor]) -> dict[str, Tensor]:
    """dlib's tensors by face-api's names, in its shapes: a convolution's filters and bias are one tensor in dlib."""
    layers = ["conv32_down"]
    for width, blocks in BLOCKS:
        names = [f"conv{width}_down"] * (width > 32) + [f"conv{width}_{number}" for number in range(1, blocks + 1)]
        layers += [f"{name}/{part}" for name in names for part in ("conv1", "conv2")]
    layers += ["conv256_down_out/conv1", "conv256_down_out/conv2"]
    if len(tensors) != 2 * len(layers) + 1:
        raise ValueError(
            f"this is no recognition network of dlib: {len(tensors)} tensors, expected {2 * len(layers) + 1}"
        )
    made = {"fc": tensors[-1].view(256, 128)}
    for name, conv, affine in zip(layers, tensors[:-1:2], tensors[1:-1:2], strict=True):
        width = len(affine) // 2
        side = 7 if name == "conv32_down" else 3
        made[f"{name}/conv/filters"] = conv[:-width].view(width, -1, side, side).permute(2, 3, 1, 0)
        made[f"{name}/conv/bias"] = conv[-width:]
        made[f"{name}/scale/weights"], made[f"{name}/scale/biases"] = affine[:width], affine[width:]
    return made
