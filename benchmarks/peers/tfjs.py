"""Networks of TensorFlow.js read with NumPy and computed by torch: weights of a manifest, and graphs of few operations.

B images, H x W pixels, C channels. TensorFlow's pictures are (B, H, W, C), which in torch is channels-last.
"""

import base64
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Node = dict[str, Any]
Compute = Callable[..., Tensor]


def read_weights(manifest: list[dict[str, Any]], content: bytes) -> dict[str, Tensor]:
    """Tensors by name, as float32 or int64; quantised ones are q * scale + min, as TensorFlow.js's format says."""
    tensors, place = {}, 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        packing = entry.get("quantization", {})
        numbers = np.dtype(packing.get("dtype", entry["dtype"])).newbyteorder("<")
        count = int(np.prod(entry["shape"], dtype=int))
        values = np.frombuffer(content, numbers, count, place)
        place += values.nbytes
        if "scale" in packing:
            values = values * np.float32(packing["scale"]) + np.float32(packing["min"])
        wanted = np.int64 if entry["dtype"] == "int32" else np.float32
        tensors[entry["name"]] = torch.from_numpy(values.astype(wanted).reshape(entry["shape"]))
    if place != len(content):
        raise ValueError(f"the manifest describes {place:,} bytes of weights, but the file has {len(content):,}")
    return tensors


def convolve(
    images: Tensor,
    filters: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    same: bool = True,
    deep: bool = False,
) -> Tensor:
    """TensorFlow's convolution of (B, H, W, C) by (h, w, C, C'), or `deep`, depthwise by (h, w, C, 1).

    `same` pads to ceil(H / stride) rows, the odd one below and on the right.
    """
    kernel = filters.permute(2, 3, 0, 1) if deep else filters.permute(3, 2, 0, 1)
    images = images.permute(0, 3, 1, 2)
    padding: Any = (0, 0)
    if same:
        left, right, above, below = _padding(images.shape[-2:], filters.shape[:2], stride)
        padding = (above, left)
        if (left, above) != (right, below):
            images, padding = F.pad(images, (left, right, above, below)), (0, 0)
    # Torch has fast convolutions for one thread in this memory format only.
    images, kernel = (x.contiguous(memory_format=torch.channels_last) for x in (images, kernel))
    found = F.conv2d(images, kernel, bias, stride, padding, groups=images.shape[1] if deep else 1)
    return found.permute(0, 2, 3, 1)


def max_pool(images: Tensor, *, side: int, stride: int, same: bool) -> Tensor:
    """TensorFlow's pooling of (B, H, W, C); what is padded never wins."""
    images = images.permute(0, 3, 1, 2)
    if same:
        images = F.pad(images, _padding(images.shape[-2:], (side, side), stride), value=-torch.inf)
    return F.max_pool2d(images, side, stride).permute(0, 2, 3, 1)


def _padding(size: Any, kernel: Any, stride: int) -> list[int]:
    """Left, right, above and below, for `same`."""
    missing = [max((-(-side // stride) - 1) * stride + wide - side, 0) for side, wide in zip(size, kernel, strict=True)]
    return [part for total in reversed(missing) for part in (total // 2, total - total // 2)]


class Graph(nn.Module):
    """A graph model of TensorFlow.js, for the operations of the small face networks."""

    def __init__(self, graph: Path, weights: Path) -> None:
        """Raises ValueError for an operation that is not known here."""
        super().__init__()
        described = json.loads(graph.read_text(encoding="utf-8"))
        tensors = read_weights(described["weightsManifest"], weights.read_bytes())
        self.nodes: dict[str, Node] = {node["name"]: node for node in described["modelTopology"]["node"]}
        unknown = {node["op"] for node in self.nodes.values()} - OPERATIONS.keys() - {"Placeholder", "Const"}
        if unknown:
            raise ValueError(f"{graph} has operations that are not known here: {', '.join(sorted(unknown))}")
        self.names = [name for name, node in self.nodes.items() if node["op"] == "Const"]
        for place, name in enumerate(self.names):
            self.register_buffer(f"constant{place}", tensors[name])
        (self.input,) = (name for name, node in self.nodes.items() if node["op"] == "Placeholder")

    def inputs(self, name: str) -> list[str]:
        """The nodes that a node reads."""
        return [word.partition(":")[0] for word in self.nodes[name].get("input", []) if not word.startswith("^")]

    def order(self, output: str) -> list[str]:
        """The nodes that `output` needs, each after those that it reads itself."""
        found: dict[str, None] = {}
        waiting = [output]
        while waiting:
            missing = [name for name in self.inputs(waiting[-1]) if name not in found]
            waiting += missing
            if not missing:
                found[waiting.pop()] = None
        return list(found)

    def forward(self, images: Tensor, output: str) -> Tensor:
        """The node `output` for images (B, H, W, C) in the network's own range."""
        values = {name: getattr(self, f"constant{place}") for place, name in enumerate(self.names)}
        values[self.input] = images
        order = self.order(output)
        readers = Counter(name for node in order for name in self.inputs(node))
        for name in order:
            if name in values:
                continue
            node, inputs = self.nodes[name], self.inputs(name)
            values[name] = OPERATIONS[node["op"]](node.get("attr", {}), *(values[one] for one in inputs))
            readers.subtract(inputs)
            for one in inputs:  # memory that is given back at once is used again, which is far faster
                if not readers[one]:
                    values.pop(one, None)
        return values[output]


def _numbers(attributes: Node, name: str) -> list[int]:
    return [int(number) for number in attributes[name]["list"]["i"]]


def _word(value: str) -> str:
    return base64.b64decode(value).decode()


def _conv(attributes: Node, images: Tensor, filters: Tensor, *more: Tensor, deep: bool = False) -> Tensor:
    fused = [_word(word) for word in attributes.get("fused_ops", {}).get("list", {}).get("s", [])]
    found = convolve(
        images,
        filters,
        more[0] if fused[:1] == ["BiasAdd"] else None,
        stride=_numbers(attributes, "strides")[1],
        same=_word(attributes["padding"]["s"]) == "SAME",
        deep=deep,
    )
    for word in fused[1:]:
        found = (
            F.prelu(found.movedim(-1, 1), more[1].flatten()).movedim(1, -1)
            if word == "Prelu"
            else ACTIVATIONS[word](found)
        )
    return found


def _pool(attributes: Node, images: Tensor) -> Tensor:
    same = _word(attributes["padding"]["s"]) == "SAME"
    return max_pool(images, side=_numbers(attributes, "ksize")[1], stride=_numbers(attributes, "strides")[1], same=same)


def _matmul(attributes: Node, left: Tensor, right: Tensor, *more: Tensor) -> Tensor:
    found = left @ right + (more[0] if more else 0)
    for word in attributes.get("fused_ops", {}).get("list", {}).get("s", [])[1:]:
        found = ACTIVATIONS[_word(word)](found)
    return found


def _over(function: Callable[..., Tensor]) -> Compute:
    """A function that takes axes as its second input."""

    def compute(attributes: Node, values: Tensor, axes: Tensor) -> Tensor:
        kept = attributes.get("keep_dims", attributes.get("keepDims", {})).get("b", False)
        return function(values, axes.flatten().tolist(), keepdim=bool(kept))

    return compute


def _plain(function: Callable[..., Tensor]) -> Compute:
    return lambda attributes, *values: function(*values)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"Relu": F.relu, "Relu6": F.relu6, "Elu": F.elu}
OPERATIONS: dict[str, Compute] = {
    "Conv2D": _conv,
    "_FusedConv2D": _conv,
    "DepthwiseConv2dNative": lambda *given: _conv(*given, deep=True),
    "FusedDepthwiseConv2dNative": lambda *given: _conv(*given, deep=True),
    "MaxPool": _pool,
    "MatMul": _matmul,
    "_FusedMatMul": _matmul,
    "Mean": _over(torch.mean),
    "Sum": _over(torch.sum),
    "Squeeze": lambda attributes, values: values.flatten(1),
    "Softmax": lambda attributes, values: values.softmax(-1),
    **{
        name: _plain(function)
        for name, function in {
            "Add": torch.add,
            "AddV2": torch.add,
            "Sub": torch.sub,
            "Mul": torch.mul,
            "Minimum": torch.minimum,
            "Maximum": torch.maximum,
            "Abs": torch.abs,
            "Square": torch.square,
            "Rsqrt": torch.rsqrt,
            "Sigmoid": torch.sigmoid,
            "Relu": F.relu,
            "Identity": torch.clone,
        }.items()
    },
}
