"""`fra regions MODEL --faces CLIP`: a model's regions on the faces in a video clip.

K regions, h x w positions of a heatmap.
"""

import base64
import io
import math
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

import fra
from fra.crop.tiles import Detail, close_detector
from fra.data.framing import CROPS, Whole, edges_of
from fra.faces import pictures
from fra.faces.clip import Clip
from fra.faces.geometry import invert_matrix, transform_points
from fra.files import atomic, one_writer
from fra.models.region_head import RegionModel, assignment, region_shares
from fra.models.similarity import mean_entropy
from fra.predict.annotate import Mark, overlay
from fra.predict.following import Inquiry, face_of, facts_of, follow_clip
from fra.predict.journal import Entry, entries
from fra.predict.predictor import Seen
from fra.regions import heatmaps as measure
from fra.regions.run import lines_of
from fra.regions.score import centroids
from fra.runtime import Runtime
from fra.training.devices import begin
from fra.weights.load import encoder_fingerprint, load_region_model

AT_ONCE = 32
"""Faces through the network."""
KIND = "regions"
"""What the answers are called in the document."""
MAPS, MAPS_DTYPE = "maps", "<f2"
"""Heatmaps stand in the journal with three digits: their values lie between 0 and 1."""
HEATMAPS = "heatmaps.npz"


@dataclass(frozen=True)
class Finding:
    """How faces are found in a clip."""

    detector: str = "retinaface"
    """`none`: every frame is a face crop."""
    min_score: float = 0.6
    detail: Detail = "auto"
    every: int = 1
    """Faces are detected in each n-th frame; in between their boxes move on as before."""


@one_writer
def regions_of_clip(
    model: str,
    path: Path,
    out: Path,
    *,
    region: int | None = None,
    finding: Finding = Finding(),
    runtime: Runtime = Runtime(),
) -> None:
    """Write `regions.json`, `faces.csv`, with pyarrow `faces.parquet`, `heatmaps.npz` and `annotated.mp4` into `out`.

    The annotated clip shows over each face the strongest region per pixel, or the heatmap of `region` (from 1) on one
    colour scale for the whole clip. Memory does not grow with the clip. Raises ValueError for a model without
    regions or without that one, what is no clip, or when `out` was begun with other ones.
    """
    clip = Clip.open(path)
    device = begin(runtime)
    region_model = load_region_model(model, device=device, quiet=runtime.quiet).eval()
    if region is not None and not 1 <= region <= region_model.regions:
        raise ValueError(f"--region is {region}: {model} has regions 1 to {region_model.regions}")
    inquiry = RegionInquiry(clip, region_model, Path(model).name, finding, region=region, device=device)
    follow_clip(clip, inquiry, out, every=finding.every, runtime=runtime)


class RegionInquiry(Inquiry):
    """Asks a region model."""

    command, document = "regions", "regions.json"

    def __init__(
        self, clip: Clip, model: RegionModel, name: str, finding: Finding, *, region: int | None, device: str
    ) -> None:
        self.clip, self.model, self.name, self.finding, self.device = clip, model, name, finding, device
        self.shown = None if region is None else region - 1
        self.detector = close_detector(finding.detector, min_score=finding.min_score, detail=finding.detail)
        self.framing = Whole() if finding.detector == "none" else CROPS
        self.size = int(model.encoder.image_size)
        self.sums = Sums(model.regions)

    @torch.inference_mode()
    def ask(self, faces: Sequence[tuple[UInt8[Tensor, "3 H W"], Seen]]) -> None:
        for start in range(0, len(faces), AT_ONCE):
            part = faces[start : start + AT_ONCE]
            cuts = [self.framing.cut(frame, one.face.box, one.face.five_points, self.size) for frame, one in part]
            output = self.model(torch.stack([crop for crop, _ in cuts]).to(self.device) / 255)
            maps, chosen = output.heatmaps.float().cpu(), assignment(output.scores).cpu()
            for (_, one), (_, matrix), own, sharp in zip(part, cuts, maps, chosen, strict=True):
                back = invert_matrix(matrix)
                places = (centroids(sharp[None])[0] + 1) / 2 * self.size - 0.5
                one.answers[KIND] = {
                    "areas": region_shares(sharp[None]).tolist(),
                    "centres": transform_points(places, back).tolist(),
                    "map_cosine": float(measure.map_cosine(sharp[None])),
                    "entropy": mean_entropy(sharp[None], dim=1),
                    "square": edges_of(matrix, self.size),
                    MAPS: _written(own),
                }

    @torch.inference_mode()
    def warm_up(self) -> None:
        self.model(torch.zeros(8, 3, self.size, self.size, device=self.device))

    def question(self) -> dict[str, Any]:
        return {
            "fra": fra.__version__,
            "detector": self.finding.detector,
            "min_score": self.finding.min_score,
            "detail": self.finding.detail,
            "model": self.name,
            "weights": encoder_fingerprint(self.model),  # with those of the region head
        }

    def about(self) -> dict[str, Any]:
        return {"clip": facts_of(self.clip), **self.sums.numbers()}

    def add(self, entry: Entry) -> None:
        for face in entry["faces"]:
            self.sums.add(face["track"], face["answers"][KIND])

    def public(self, entry: Entry) -> Entry:
        for face in entry["faces"]:
            del face["answers"][KIND][MAPS]
        return entry

    def cells(self, answers: Mapping[str, Any]) -> dict[str, Any]:
        said = answers[KIND]
        found: dict[str, Any] = {}
        for number, (area, (x, y)) in enumerate(zip(said["areas"], said["centres"], strict=True), 1):
            found |= {f"region{number}_area": area, f"region{number}_x": x, f"region{number}_y": y}
        return found | {"map_cosine": said["map_cosine"], "entropy": said["entropy"]}

    def draw(self, image: UInt8[Tensor, "3 H W"], faces: Sequence[Entry]) -> UInt8[Tensor, "3 H W"]:
        for face in faces:
            said = face["answers"][KIND]
            span = None if self.shown is None else (float(self.sums.low[self.shown]), float(self.sums.high[self.shown]))
            image = paint(image, _maps(said, self.sums.count), said["square"], region=self.shown, span=span)
        marks = [Mark(face_of(face).box) for face in faces]
        return overlay(image, marks, [face["track"] for face in faces])

    def write_more(self, out: Path) -> list[str]:
        _write_heatmaps(out, self.sums)
        return [HEATMAPS]

    def of_tracks(self) -> dict[str, Callable[[int], str]]:
        return {"largest regions": self._largest}

    def _largest(self, track: int) -> str:
        areas = self.sums.of_track[track] / self.sums.of_track[track].sum()
        order = areas.argsort(descending=True, stable=True).tolist()[:3]
        return "  ".join(f"{region + 1}: {areas[region]:.0%}" for region in order)

    def closing(self) -> list[str]:
        if not self.sums.faces:
            return []
        found = self.sums.numbers()
        return lines_of(found["shares"], map_cosine=found["map_cosine"], entropy=found["entropy"])


class Sums:
    """What is known of all faces so far."""

    def __init__(self, regions: int) -> None:
        self.count, self.faces = regions, 0
        self.areas, self.rest = torch.zeros(regions, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        self.of_track: dict[int, Tensor] = defaultdict(lambda: torch.zeros(regions, dtype=torch.float64))
        self.low, self.high = torch.full((regions,), math.inf), torch.full((regions,), -math.inf)
        """The least and largest value of each heatmap."""
        self.shape: tuple[int, ...] = ()
        """Of a face's heatmaps."""

    def add(self, track: int, said: Mapping[str, Any]) -> None:
        areas, maps = torch.tensor(said["areas"], dtype=torch.float64), _maps(said, self.count)
        self.faces += 1
        self.areas += areas
        self.of_track[track] += areas
        self.rest += torch.tensor([said["map_cosine"], said["entropy"]])
        self.low, self.high = torch.minimum(self.low, maps.amin((1, 2))), torch.maximum(self.high, maps.amax((1, 2)))
        self.shape = tuple(maps.shape)

    def numbers(self) -> dict[str, Any]:
        """As in the `regions.json` of face crops."""
        found = {"faces": self.faces, "regions": self.count}
        if not self.faces:
            return found
        map_cosine, entropy = (self.rest / self.faces).tolist()
        return {**found, "shares": (self.areas / self.faces).tolist(), "map_cosine": map_cosine, "entropy": entropy}


def paint(
    image: UInt8[Tensor, "3 H W"],
    maps: Float[Tensor, "K h w"],
    square: Sequence[float],
    *,
    region: int | None = None,
    span: tuple[float, float] | None = None,
) -> UInt8[Tensor, "3 H W"]:
    """The image with regions over the part that they were seen in, as far as it lies in the image.

    `square` has the part's outer edges, left, top, right and bottom. Shown is the strongest region per pixel, or the
    heatmap of `region` (from 0) in colours from `span`'s low to high.
    """
    left, top, right, bottom = (round(edge) for edge in square)
    x, y = max(left, 0), max(top, 0)
    part = image[:, y : max(bottom, 0), x : max(right, 0)]
    if not part.numel():
        return image
    height, width = part.shape[1:]
    grown = pictures.upsample(maps if region is None else maps[region, None], bottom - top, right - left)
    grown = grown[:, y - top : y - top + height, x - left : x - left + width]
    image = image.clone()
    image[:, y : y + height, x : x + width] = (
        pictures.mosaic(part, grown.argmax(0), regions=len(maps))
        if region is None
        else pictures.overlay(part, grown[0], span=span)
    )
    return image


def _written(maps: Float[Tensor, "K h w"]) -> list[Any]:
    return [*maps.shape[1:], base64.b64encode(maps.numpy().astype(MAPS_DTYPE).tobytes()).decode()]


def _maps(said: Mapping[str, Any], count: int) -> Float[Tensor, "K h w"]:
    height, width, written = said[MAPS]
    values = np.frombuffer(base64.b64decode(written), MAPS_DTYPE).astype(np.float32)
    return torch.from_numpy(values).view(count, height, width)


def _write_heatmaps(out: Path, sums: Sums) -> None:
    """`heatmaps` (faces x K x h x w, float32), `frames` and `tracks`: the rows of the table; one face in memory."""

    def faces() -> Iterator[tuple[int, Entry]]:
        return ((entry["frame"], face) for entry in entries(out) for face in entry["faces"])

    columns: dict[str, tuple[tuple[int, ...], str, Callable[[int, Entry], np.ndarray]]] = {
        "heatmaps": (sums.shape, "<f4", lambda _, face: _maps(face["answers"][KIND], sums.count).numpy()),
        "frames": ((), "<i8", lambda frame, _: np.array(frame)),
        "tracks": ((), "<i8", lambda _, face: np.array(face["track"])),
    }
    with atomic(out / HEATMAPS) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as target:
        for name, (shape, kind, value) in columns.items():
            head = io.BytesIO()
            about = {"descr": kind, "fortran_order": False, "shape": (sums.faces, *shape)}
            np.lib.format.write_array_header_1_0(head, about)
            with target.open(f"{name}.npy", "w", force_zip64=True) as stream:
                stream.write(head.getvalue())
                for frame, face in faces():
                    stream.write(value(frame, face).astype(kind).tobytes())
