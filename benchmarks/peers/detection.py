"""Face detectors on 55 photographs: how many annotated faces they find, and what they find where there is no face.

A face is found when a detection overlaps its box (brows to chin) by an IoU of 0.4 at least, as in the project's tests.
Other faces in the photographs are not annotated, so an extra detection counts as false only where there is no face.
"""

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.ops import box_iou, nms

from benchmarks.peers.pins import pinned
from fra.crop.detectors import make_detector
from fra.faces.image import read_image
from fra.files import read_json, write_json
from fra.tasks.metrics import wilson

Detect = Callable[[UInt8[Tensor, "3 H W"]], Float[Tensor, "M 4"]]
OVERLAP = 0.4


def retinaface(archives: Path) -> Detect:
    """Ours, as `fra crop` uses it."""
    detector = make_detector("retinaface", min_score=0.6)
    return lambda photo: (
        torch.stack([face.box for face in found]) if (found := detector.find_faces(photo)) else torch.empty(0, 4)
    )


def dlib_hog(archives: Path) -> Detect:
    """dlib's detector of histograms of gradients, photos enlarged twice as its examples do."""
    import dlib

    detector = dlib.get_frontal_face_detector()

    def detect(photo: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "M 4"]:
        found = detector(photo.permute(1, 2, 0).contiguous().numpy(), 1)
        return torch.tensor([[box.left(), box.top(), box.right(), box.bottom()] for box in found]).float().view(-1, 4)

    return detect


def mtcnn(archives: Path) -> Detect:
    """MTCNN of facenet-pytorch, its own thresholds."""
    from facenet_pytorch import MTCNN

    for part in "pro":
        pinned(f"mtcnn_{part}", archives)
    network = MTCNN(keep_all=True, device="cpu")

    @torch.inference_mode()
    def detect(photo: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "M 4"]:
        boxes, _ = network.detect(photo.permute(1, 2, 0).numpy())
        return torch.from_numpy(np.asarray(boxes, np.float32)) if boxes is not None else torch.empty(0, 4)

    return detect


class BlazeFace:
    """MediaPipe's detector: anchors on a map or two, boxes relative to these. Photos are letterboxed."""

    def __init__(self, model: Path, *, strides: tuple[tuple[int, int], ...], min_score: float = 0.5) -> None:
        """`strides` are those of the maps, each with its number of anchors."""
        from ai_edge_litert.interpreter import Interpreter

        self.network = Interpreter(str(model), num_threads=1)
        self.network.allocate_tensors()
        (entry,) = self.network.get_input_details()
        self.entry, self.side = entry["index"], int(entry["shape"][1])
        self.boxes, self.scores = (
            output["index"] for output in sorted(self.network.get_output_details(), key=lambda one: -one["shape"][2])
        )
        self.min_score = min_score
        self.anchors = anchors(self.side, strides)

    def __call__(self, photo: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "M 4"]:
        """Boxes in pixels of the photo, overlaps removed."""
        height, width = photo.shape[1:]
        longer = max(height, width)
        left, top = (longer - width) // 2, (longer - height) // 2
        square = F.pad(photo.float()[None], (left, longer - width - left, top, longer - height - top))
        small = F.interpolate(square, (self.side, self.side), mode="bilinear", antialias=True)[0]
        self.network.set_tensor(self.entry, (small / 127.5 - 1).permute(1, 2, 0)[None].contiguous().numpy())
        self.network.invoke()
        raw = torch.from_numpy(self.network.get_tensor(self.boxes)[0].copy())
        scores = torch.from_numpy(self.network.get_tensor(self.scores)[0, :, 0].copy()).sigmoid()
        sure = scores >= self.min_score
        centres = self.anchors[sure] + raw[sure, :2] / self.side
        half = raw[sure, 2:4] / self.side / 2
        boxes = torch.cat((centres - half, centres + half), 1) * longer - torch.tensor([left, top, left, top])
        return boxes[nms(boxes, scores[sure], 0.3)]


def anchors(side: int, strides: tuple[tuple[int, int], ...]) -> Float[Tensor, "A 2"]:
    """Centres as shares of the side: row by row, so many at each position."""
    found = []
    for stride, count in strides:
        places = (torch.arange(side // stride) + 0.5) * stride / side
        y, x = torch.meshgrid(places, places, indexing="ij")
        found.append(torch.stack((x, y), -1).view(-1, 2).repeat_interleave(count, 0))
    return torch.cat(found)


def blazeface(name: str, strides: tuple[tuple[int, int], ...]) -> Callable[[Path], Detect]:
    return lambda archives: BlazeFace(pinned(name, archives), strides=strides)


DETECTORS: dict[str, Callable[[Path], Detect]] = {
    "retinaface": retinaface,
    "blazeface_short": blazeface("blazeface_short", ((8, 2), (16, 6))),
    "blazeface_back": blazeface("blazeface_back", ((16, 2), (32, 6))),
    "blazeface_full": blazeface("blazeface_full", ((4, 1),)),
    "mtcnn": mtcnn,
    "dlib_hog": dlib_hog,
}


def measure(name: str, *, work: Path, faces: Path) -> dict[str, Any]:
    """Recall with Wilson's interval, false detections where there is no face, photos per second; kept."""
    file = work / "scores" / "detection" / f"{name}.json"
    if file.exists():
        return read_json(file)
    folder, detect = faces / "photos", DETECTORS[name](work)
    with (folder / "boxes.csv").open(newline="") as stream:
        boxes = [
            (row["file"], [float(row[side]) for side in ("x1", "y1", "x2", "y2")]) for row in csv.DictReader(stream)
        ]
    with (folder / "no_face.csv").open(newline="") as stream:
        empty = [row["file"] for row in csv.DictReader(stream)]
    photos = {name: read_image(folder / name) for name in dict.fromkeys([*(file for file, _ in boxes), *empty])}
    detect(photos[empty[0]])
    started = time.perf_counter()
    found = {name: detect(photo) for name, photo in photos.items()}
    seconds = time.perf_counter() - started
    hits = sum(bool((box_iou(torch.tensor([box]), found[file]) >= OVERLAP).any()) for file, box in boxes)
    recall = 100 * hits / len(boxes)
    spread = wilson(recall, len(boxes))
    result = {
        "recall": {"mean": recall, "low": spread.low, "high": spread.high},
        "found": hits,
        "annotated": len(boxes),
        "false": sum(len(found[name]) for name in empty),
        "detections": sum(map(len, found.values())),
        "photos_per_second": len(photos) / seconds,
    }
    write_json(file, result, indent=1)
    return result
