"""One photo as the page shows it: its faces, their regions, and what tasks say of them. No web in here."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fra.crop.tiles import Detail
from fra.crop.whole import sized_like_a_crop
from fra.data.framing import CROPS, Whole
from fra.faces import pictures
from fra.faces.geometry import resized_points, transform_points
from fra.faces.image import UnreadableImage, header_from_bytes, image_from_bytes
from fra.predict.annotate import SURE, Mark, annotate, dots
from fra.predict.predictor import Predictor, Seen, face_entry, in_short, mark
from fra.regions import draw
from fra.regions import heatmaps as measure
from fra.system.printable import counted
from fra.tasks.task import Task
from fra.training.devices import choose_device
from fra.weights.bundled import REGIONS, read_manifest, shipped_names
from fra.weights.load import load_region_model

DEFAULT_MODEL = "laptop_fine"  # of the weights that come with fra the one with the finest map
MOST_PIXELS = 80_000_000  # ours: such a photo takes about 1 GB while it is looked at
MOST_FACES = 24  # shown one by one; all have their box in the photo
SHOWN_SIDE, TILE = 1280, 192  # longer side of the photo and side of a face, in pixels of the page
DOT = 1.6  # radius of a landmark in a face, in pixels


@dataclass(frozen=True)
class Said:
    """What one task says of one face."""

    task: str
    short: str
    """A few words, as in the table of `fra predict`."""
    shares: list[tuple[str, float]]
    """Class or attribute and its probability in [0, 1], the likeliest first, or classes that are steps of a scale in
    their order; empty for landmarks."""
    unsure: int = 0
    """Landmarks whose confidence is below SURE: they are orange."""


@dataclass(frozen=True)
class FaceLook:
    """One face, in pictures of TILE pixels a side."""

    colour: tuple[int, int, int]
    """Of its box in the photo, 0..255."""
    score: float
    """The detector's confidence in [0, 1]."""
    box: tuple[float, float, float, float]
    """Left, top, width and height in shares of the photo's sides; no part of it is outside."""
    crop: UInt8[Tensor, "3 _ _"]
    views: UInt8[Tensor, "3 _ _"] | None
    """Side by side, as `Look.captions` calls them: the strongest region per pixel, then every region's heatmap over
    the crop; None without a region model."""
    said: list[Said]


@dataclass(frozen=True)
class Look:
    """A photo with boxes, and its faces; or only a sentence why there is nothing to show."""

    sentence: str
    photo: UInt8[Tensor, "3 _ _"] | None = None
    faces: list[FaceLook] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    """Of the views of every face; the regions whose heatmaps have the most structure come first."""
    answers: list[dict[str, Any]] = field(default_factory=list)
    """Of all faces what `predictions.json` holds of each."""


class Looker:
    """A detector, a region model and tasks, ready for photos."""

    def __init__(
        self,
        model: str | None = None,
        tasks: Sequence[str | Path] = (),
        *,
        detector: str = "retinaface",
        detail: Detail = "auto",
        device: str = "auto",
    ) -> None:
        """`model` as for `fra regions`, `tasks` and `detector` as for `fra predict`.

        Without model and tasks, DEFAULT_MODEL is taken. Raises ValueError when one of them cannot be used.
        """
        if model is None and not tasks:
            model = DEFAULT_MODEL
        self.device = choose_device(device)
        self.regions = None if model is None else load_region_model(model, device=self.device)
        self.predictor = Predictor(tasks, detector=detector, detail=detail, device=device)
        self.framing = Whole() if detector == "none" else CROPS
        origins = {} if model is None else {f"regions, {model}": _origin(model)}
        self.origins = origins | {name: task.provenance.sentence() for name, task in self.predictor.models.items()}
        """Where the regions and every task's answers come from."""

    def __call__(self, content: bytes) -> Look:
        """Look at the bytes of one image file. Those that cannot be used give a sentence instead of an error."""
        try:
            photo, several = _read(content)
        except UnreadableImage as error:
            return Look(f"This file cannot be shown: {error.reason.rstrip('.')}.")
        [seen] = self.predictor([photo])
        marked = annotate(*_reduced(photo, [replace(mark(one), title="", details=()) for one in seen]))
        marked = pictures.fit(marked, min(SHOWN_SIDE, max(marked.shape[1:])))
        captions, faces = self._faces(photo, seen[:MOST_FACES], pictures.region_colours(len(seen)))
        return Look(_sentence(photo, len(seen), several), marked, faces, captions, list(map(face_entry, seen)))

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Its networks' work for a few faces."""
        self.predictor.warm_up()
        if self.regions is not None:
            size = int(self.regions.encoder.image_size)
            self.regions(torch.zeros(8, 3, size, size, device=self.device))

    def _faces(
        self, photo: UInt8[Tensor, "3 H W"], seen: Sequence[Seen], colours: Sequence[tuple[int, int, int]]
    ) -> tuple[list[str], list[FaceLook]]:
        """The captions of the views, and each face."""
        cuts = [self.framing.cut(photo, one.face.box, one.face.five_points, TILE) for one in seen]
        captions, views = self._regions(photo, seen, [crop for crop, _ in cuts])
        looks = []
        for one, colour, (crop, matrix), view in zip(seen, colours, cuts, views, strict=False):
            drawn, face = mark(one), crop
            if drawn.points is not None:
                face = dots(crop, transform_points(drawn.points, matrix), drawn.confidence, DOT)
            said = [_said(task, answer, self.predictor.models[task].task) for task, answer in one.answers.items()]
            looks.append(FaceLook(colour, one.face.score, _shares_of(one.face.box, photo), face, view, said))
        return captions, looks

    def _regions(
        self, photo: UInt8[Tensor, "3 H W"], seen: Sequence[Seen], crops: Sequence[UInt8[Tensor, "3 S S"]]
    ) -> tuple[list[str], Sequence[UInt8[Tensor, "3 _ _"] | None]]:
        """Captions, the same for all faces, and the views of each."""
        if self.regions is None or not seen:
            return [], [None] * len(seen)
        size = int(self.regions.encoder.image_size)
        small = [self.framing.cut(photo, one.face.box, one.face.five_points, size)[0] for one in seen]
        maps = self.regions(torch.stack(small).to(self.device) / 255).heatmaps.float().cpu()
        order = measure.ranking(maps)[0].tolist()
        views = [
            torch.cat([draw.region_mosaic(crop, own), *(pictures.overlay(crop, own[region]) for region in order)], 2)
            for crop, own in zip(crops, maps, strict=True)
        ]
        return ["strongest region per pixel", *(f"region {region + 1}" for region in order)], views


def _origin(model: str) -> str:
    if model not in shipped_names(REGIONS):
        return "pre-trained without labels; licence: that of its training faces"
    card = read_manifest(model)
    faces = counted(card.training_data["faces"], "face")
    learned = f"pre-trained by {card.method.upper()} on {faces} of {card.training_data['name']} without labels"
    return f"{learned}; licence: {card.licence}"


def _reduced(photo: UInt8[Tensor, "3 H W"], marks: list[Mark]) -> tuple[UInt8[Tensor, "3 h w"], list[Mark]]:
    """The photo no larger than it is shown, with its marks: drawing on twelve megapixels takes half a second."""
    if max(photo.shape[1:]) <= SHOWN_SIDE:
        return photo, marks
    small = pictures.fit(photo, SHOWN_SIDE)
    there = partial(
        resized_points, factor=torch.tensor([small.shape[2] / photo.shape[2], small.shape[1] / photo.shape[1]])
    )
    return small, [
        replace(one, box=there(one.box), points=None if one.points is None else there(one.points)) for one in marks
    ]


def _shares_of(box: Float[Tensor, "4"], photo: UInt8[Tensor, "3 H W"]) -> tuple[float, float, float, float]:
    size = torch.tensor([photo.shape[2], photo.shape[1]] * 2)
    left, top, right, bottom = ((box + 0.5) / size).clamp(0, 1).tolist()
    return left, top, right - left, bottom - top


def _read(content: bytes) -> tuple[UInt8[Tensor, "3 H W"], bool]:
    """The photo, and whether the file holds further ones. UnreadableImage also for one that is too large."""
    header = header_from_bytes(content, "the photo")
    pixels = header.width * header.height
    if pixels > MOST_PIXELS:
        reason = f"it has {pixels / 1e6:.0f} megapixels; the limit is {MOST_PIXELS / 1e6:.0f}"
        raise UnreadableImage("the photo", reason)
    return image_from_bytes(content, "the photo"), header.several


def _said(name: str, answer: dict[str, Any], task: Task) -> Said:
    unsure = sum(value < SURE for value in answer.get("confidence", []))
    return Said(name, in_short(answer), _shares(answer, task), unsure)


def _shares(answer: dict[str, Any], task: Task) -> list[tuple[str, float]]:
    shares = [(name.replace("_", " "), share) for name, share in answer.get("probabilities", {}).items()]
    return shares if task.ordered else sorted(shares, key=lambda item: -item[1])


def _sentence(photo: UInt8[Tensor, "3 H W"], faces: int, several: bool) -> str:
    said = ["The file contains several images; only the first is shown."] if several else []
    if faces == 0:
        crop = sized_like_a_crop(*photo.shape[1:])
        hint = " If this is already a face crop, start `fra app` with --detector none." if crop else ""
        said.append(f"No face was found.{hint}")
    else:
        shown = f", the {MOST_FACES} with the highest detection scores in detail" if faces > MOST_FACES else ""
        said.append(f"{counted(faces, 'face')}{shown}.")
    return " ".join(said)
