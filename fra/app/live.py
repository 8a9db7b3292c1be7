"""A frame of a camera as the page draws over it: faces, what tasks say, points, a view of the regions. No web in here.

Places are shares of the frame's sides, counted from its outer edges. Nothing of a frame is kept for the next.
"""

import base64
import io
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fra.app.look import Looker
from fra.crop.detectors import Face
from fra.data.framing import edges_of
from fra.faces import pictures
from fra.faces.geometry import resized_points
from fra.faces.image import UnreadableImage, header_from_bytes, image_from_bytes
from fra.predict.annotate import SURE
from fra.predict.predictor import Seen, in_short, mark
from fra.regions import draw

MOST_FRAME_PIXELS = 4_000_000
"""Of a frame (ours: the page sends a fifteenth of it)."""
SEARCHED_SIDE = 320
"""Longer side at which faces are looked for: 25 ms on one core where 640, as for photos, take 90 (docs/guides/app.md).
A face must be as wide as a twentieth of the frame."""
MOST_LIVE_FACES = 8
VIEW_SIDE = 64
"""Of the picture of a face's regions, which the browser stretches."""


class LiveLooker:
    """What `Looker` has loaded, for frames."""

    def __init__(self, looker: Looker) -> None:
        self.looker = looker

    @property
    def views(self) -> list[str]:
        """What may be shown of the regions: their strongest per pixel, or one of them."""
        model = self.looker.regions
        if model is None:
            return []
        return ["strongest region per pixel", *(f"region {region + 1}" for region in range(model.regions))]

    def __call__(self, content: bytes, view: int | None) -> dict[str, Any]:
        """The faces in the bytes of one image file, the surest first; `view` is a place in `views`, None shows none.

        Bytes that are no image, or one of more than MOST_FRAME_PIXELS, give a sentence and no faces.
        """
        try:
            header = header_from_bytes(content, "the frame")
            if header.width * header.height > MOST_FRAME_PIXELS:
                raise UnreadableImage("the frame", f"the limit is {MOST_FRAME_PIXELS / 1e6:.0f} megapixels")
            frame = image_from_bytes(content, "the frame")
        except UnreadableImage as error:
            return {"sentence": f"This frame cannot be read: {error.reason.rstrip('.')}.", "faces": []}
        seen = [Seen(face, {}) for face in self._find(frame)[:MOST_LIVE_FACES]]
        self.looker.predictor.ask([(frame, one) for one in seen])
        shown = self._regions(frame, seen, view)
        faces = [_described(one, frame) | more for one, more in zip(seen, shown, strict=True)]
        return {"sentence": "" if faces else "No face in the frame.", "faces": faces}

    def _find(self, frame: UInt8[Tensor, "3 H W"]) -> list[Face]:
        """The faces, found in the reduced frame, in pixels of the frame."""
        small = pictures.fit(frame, SEARCHED_SIDE) if max(frame.shape[1:]) > SEARCHED_SIDE else frame
        there = partial(
            resized_points, factor=torch.tensor([frame.shape[2] / small.shape[2], frame.shape[1] / small.shape[1]])
        )
        return [
            Face(there(face.box), None if face.five_points is None else there(face.five_points), face.score)
            for face in self.looker.predictor.detector.find_faces(small)
        ]

    @torch.inference_mode()
    def _regions(self, frame: UInt8[Tensor, "3 H W"], seen: list[Seen], view: int | None) -> list[dict[str, Any]]:
        model = self.looker.regions
        if model is None or not seen or view is None or not 0 <= view <= model.regions:
            return [{} for _ in seen]
        size, framing = int(model.encoder.image_size), self.looker.framing
        cuts = [framing.cut(frame, one.face.box, one.face.five_points, size) for one in seen]
        output = model(torch.stack([crop for crop, _ in cuts]).to(self.looker.device) / 255)
        blank = torch.zeros(3, VIEW_SIDE, VIEW_SIDE, dtype=torch.uint8)
        return [
            {
                "square": _shares(torch.tensor(edges_of(matrix, size)).view(2, 2), frame).flatten().tolist(),
                "picture": _data_url(
                    draw.region_mosaic(blank, maps, strength=1)
                    if view == 0
                    else pictures.overlay(blank, maps[view - 1], strength=1)
                ),
            }
            for (_, matrix), maps in zip(cuts, output.heatmaps.float().cpu(), strict=True)
        ]


def _described(one: Seen, frame: UInt8[Tensor, "3 H W"]) -> dict[str, Any]:
    """A face for the page: its box, what tasks say, and its points with whether they are sure."""
    drawn = mark(one)
    points = [] if drawn.points is None else _shares(drawn.points + 0.5, frame).tolist()
    sure = [] if drawn.confidence is None else (drawn.confidence >= SURE).tolist()
    return {
        "box": _shares(one.face.box.view(2, 2) + 0.5, frame).flatten().tolist(),
        "score": one.face.score,
        "title": drawn.title,
        "said": {task: in_short(answer) for task, answer in one.answers.items()},
        "points": [[round(x, 5), round(y, 5)] for x, y in points],
        "sure": sure,
    }


def _shares(points: Float[Tensor, "N 2"], frame: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "N 2"]:
    return points / torch.tensor([frame.shape[2], frame.shape[1]])


def _data_url(image: UInt8[Tensor, "3 H W"]) -> str:
    stream = io.BytesIO()
    pictures.to_pillow(image).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
