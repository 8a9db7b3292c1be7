"""68 landmarks by other people's models on 300-W's faces. N faces.

All models are told the same face: the box that our RetinaFace finds. How much of it each wants to see is chosen on
training faces, because their makers' detectors frame a face otherwise; the test faces choose nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from benchmarks.peers.faceapi import Dense
from benchmarks.peers.judge import DRAWS, interval
from benchmarks.peers.mesh import FaceMesh, Offset, ibug68
from benchmarks.peers.pins import pinned
from fra.crop.tiles import shared_detector
from fra.data.crops import PADDING
from fra.data.datasets.w300 import picture_of, pts_files, read_pts
from fra.data.framing import LANDMARK_SIDES, LANDMARKS_DOWN
from fra.faces.geometry import box_matrix, crop_box, invert_matrix, square_box, transform_points, whole_box
from fra.faces.image import read_image
from fra.files import read_json, write_json
from fra.predict.task_model import load_task_model
from fra.tasks.metrics import inter_ocular_error

Model = Callable[[UInt8[Tensor, "3 H W"], Float[Tensor, "4"]], Float[Tensor, "68 2"]]
"""From a photo and a square to points in pixels of the photo."""
SCALES = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25)
SHIFTS = (0.0, 0.05, 0.1)
CHOOSING, FITTING = 40, 200
"""Training faces on which the framing is chosen, and an offset is fitted."""


@dataclass(frozen=True)
class Framing:
    """A square about a detected face."""

    scale: float
    """Its side, in longer sides of the box."""
    down: float
    """How far its centre lies below the box's, in the same unit."""

    def square(self, box: Float[Tensor, "4"]) -> Float[Tensor, "4"]:
        shift = torch.tensor([0.0, self.down]) * (box[2:] - box[:2]).max()
        return square_box(box + shift.repeat(2), self.scale - 1)


@dataclass(frozen=True, eq=False)
class Annotated:
    """A face of 300-W."""

    photo: UInt8[Tensor, "3 H W"]
    box: Float[Tensor, "4"]
    points: Float[Tensor, "68 2"]


def dlib_68(archives: Path) -> Model:
    """dlib's regression trees."""
    import dlib

    trees = dlib.shape_predictor(str(pinned("dlib_68", archives)))

    def find(photo: UInt8[Tensor, "3 H W"], square: Float[Tensor, "4"]) -> Float[Tensor, "68 2"]:
        left, top, right, bottom = square.round().int().tolist()
        found = trees(photo.permute(1, 2, 0).contiguous().numpy(), dlib.rectangle(left, top, right, bottom))
        return torch.tensor([[point.x, point.y] for point in found.parts()], dtype=torch.float32)

    return find


def faceapi_68(archives: Path) -> Model:
    """face-api's small network."""
    network = Dense.read(pinned("faceapi_68_manifest", archives), pinned("faceapi_68", archives))

    @torch.inference_mode()
    def find(photo: UInt8[Tensor, "3 H W"], square: Float[Tensor, "4"]) -> Float[Tensor, "68 2"]:
        size = network.image_size
        places = network(crop_box(photo, square, size, "edge")[None].float() / 255).view(68, 2)
        return transform_points(places * size - 0.5, invert_matrix(box_matrix(square, size)))

    return find


def mesh_68(archives: Path) -> Model:
    """MediaPipe's mesh, two passes; it adds its own margin."""
    mesh = FaceMesh(pinned("mesh", archives))
    return lambda photo, square: ibug68(mesh.find(photo, square).points)


def ours_68(archives: Path) -> Model:
    """The landmarks that come with fra."""
    task = load_task_model("landmarks68")

    @torch.inference_mode()
    def find(photo: UInt8[Tensor, "3 H W"], square: Float[Tensor, "4"]) -> Float[Tensor, "68 2"]:
        size = task.image_size
        crop = crop_box(photo, square, size, PADDING["hrnet"])
        answer = task.answer(task(crop[None].float() / 255)[0], width=size, height=size)
        return transform_points(torch.tensor(answer["landmarks"]), invert_matrix(box_matrix(square, size)))

    return find


MODELS: dict[str, Callable[[Path], Model]] = {
    "landmarks68": ours_68,
    "mesh": mesh_68,
    "dlib_68": dlib_68,
    "faceapi_68": faceapi_68,
}


KNOWN = {"landmarks68": Framing(LANDMARK_SIDES["hrnet"][0], LANDMARKS_DOWN)}
"""Framings that are not chosen here, because the model's own program has one: `fra predict`."""


@cache
def faces_of(split: str, folder: Path, limit: int | None = None) -> list[Annotated]:
    """The first faces of a split with the box of the detected face that overlaps the annotated one most."""
    found = []
    files = pts_files(folder)[split]
    for path in files[:: max(1, len(files) // limit) if limit else 1][:limit]:
        photo, points = read_image(picture_of(path)), read_pts(path)
        found.append(Annotated(photo, _box(photo, points), points))
    return found


def _box(photo: UInt8[Tensor, "3 H W"], points: Float[Tensor, "68 2"]) -> Float[Tensor, "4"]:
    """Where no detected face holds most of the points, the middle half of the picture, which is cut about them."""
    best, share = square_box(whole_box(*photo.shape[1:]), -0.5), 0.5
    for face in shared_detector("retinaface", 0.3).find_faces(photo):
        inside = float(((points >= face.box[:2]) & (points <= face.box[2:])).all(1).float().mean())
        if inside > share:
            best, share = face.box, inside
    return best


def errors(model: Model, framing: Framing, faces: list[Annotated]) -> Float[Tensor, "N"]:
    """NME of each face in percent, by the distance of the outer eye corners."""
    return inter_ocular_error(*_both(model, framing, faces))


def _both(model: Model, framing: Framing, faces: list[Annotated]) -> tuple[Tensor, Tensor]:
    found = torch.stack([model(face.photo, framing.square(face.box)) for face in faces])
    return found, torch.stack([face.points for face in faces])


def chosen_framing(model: Model, few: list[Annotated]) -> Framing:
    """The one with the lowest mean error on these faces."""
    framings = (Framing(*both) for both in product(SCALES, SHIFTS))
    return min(framings, key=lambda one: float(errors(model, one, few).mean()))


def measure(name: str, *, work: Path, faces: Path) -> dict[str, Any]:
    """NME with its interval on the test faces, as found and with a constant offset fitted on training faces; kept."""
    file = work / "scores" / "landmarks" / f"{name}.json"
    if file.exists():
        return read_json(file)
    model, folder = MODELS[name](work), faces / "300w"
    framing = KNOWN.get(name) or chosen_framing(model, faces_of("train", folder, CHOOSING))
    offset = Offset.fit(*_both(model, framing, faces_of("train", folder, FITTING)))
    found, truth = _both(model, framing, faces_of("test", folder))
    scores = {
        "nme": inter_ocular_error(found, truth),
        "nme with offset": inter_ocular_error(torch.stack([offset(points) for points in found]), truth),
    }
    draw = torch.Generator().manual_seed(0)
    samples = torch.randint(len(truth), (DRAWS, len(truth)), generator=draw)
    result: dict[str, Any] = {
        metric: interval(torch.cat((values.mean()[None], values[samples].mean(1)))) for metric, values in scores.items()
    }
    result |= {"scale": framing.scale, "down": framing.down, "faces": len(truth)}
    result |= {
        f"failure_rate@10 {metric}": 100 * float((values > 10).float().mean()) for metric, values in scores.items()
    }
    write_json(file, result, indent=1)
    return result
