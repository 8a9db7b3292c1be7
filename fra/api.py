"""The Python API: what `import fra` offers besides `Runtime`.

Networks that take pictures as people have them, and the detector. B images, C features, h x w positions of the last
map, S pixels a side.
"""

import functools
import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fra.crop.cut import Alignment, CropSettings, cut_face
from fra.crop.detectors import Face
from fra.crop.tiles import shared_detector
from fra.crop.whole import photos_among, warn_of_photos
from fra.faces import MARGIN
from fra.faces.given import Picture, Pictures, images_of, picture_of
from fra.faces.image import UnreadableImage, to_input
from fra.models.encoder import Encoder, Seen
from fra.models.region_head import RegionModel, RegionOutput
from fra.pools.listing import image_files
from fra.predict.task_model import TaskModel, load_task_model
from fra.system.printable import counted
from fra.weights import load
from fra.weights.source import EncoderSource

__all__ = [
    "Face",
    "FaceEncoder",
    "FaceRegions",
    "TaskModel",
    "crop_faces",
    "detect",
    "load_encoder",
    "load_region_model",
    "load_task_model",
]

AT_ONCE = 64
"""Pictures of a folder that go through the network together."""


class FaceEncoder(Encoder):
    """An encoder that takes face crops as people have them (`fra.faces.given`), and checks them.

    `encoder(faces)` gives features (B, C), `encoder.maps(faces)` the last map (B, C, h, w), both without gradients
    unless in training mode (`encoder.train()`). Pictures are resized to `image_size`; of float tensors (B, 3, H, W) in
    [0, 1] another size is told by a warning, unless `resize`; so are whole photos. Raises ValueError for what is not
    RGB in [0, 1].
    """

    def forward(self, faces: Pictures, *, resize: bool = False) -> Float[Tensor, "B C"]:
        """Features of one face or several; for one, B is 1."""
        return self.both(faces, resize=resize).features

    def maps(self, faces: Pictures, *, resize: bool = False) -> Float[Tensor, "B C h w"]:
        """The last map."""
        return self.both(faces, resize=resize).maps

    def both(self, faces: Pictures, *, resize: bool = False) -> Seen:
        """Maps and features."""
        images = images_of(faces, self.image_size, resize=resize, look=_look).to(self.mean.device)
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            return super().both(images)

    @property
    def transform(self) -> Callable[[Picture], Float[Tensor, "3 S S"]]:
        """One picture to an input of the network, for a dataset of one's own; normalisation is part of the network."""
        return functools.partial(_transform, self.image_size)

    def features(self, folder: str | os.PathLike[str]) -> Iterator[tuple[str, Float[Tensor, "C"]]]:
        """Path and features of each picture below a folder, or in a .txt list, in order; no number fills the memory.

        Files that cannot be read are left out, with one warning at the end that counts them and names the first.
        """
        if not isinstance(folder, str | os.PathLike):
            raise ValueError(f"features takes a folder or a .txt list, not {type(folder).__name__}: call the encoder")
        if told := photos_among(Path(folder)):
            warnings.warn(told, stacklevel=2)
        unreadable: list[UnreadableImage] = []

        def readable() -> Iterator[tuple[str, Tensor]]:
            for path in image_files(Path(folder)):
                try:
                    yield str(path), self.transform(path)
                except UnreadableImage as error:
                    unreadable.append(error)

        inputs = readable()
        while batch := list(itertools.islice(inputs, AT_ONCE)):
            names, images = zip(*batch, strict=True)
            yield from zip(names, self(torch.stack(images)), strict=True)
        if unreadable:
            left_out = counted(len(unreadable), "unreadable file")
            warnings.warn(f"left out {left_out}, the first: {unreadable[0]}", stacklevel=2)


class FaceRegions(RegionModel):
    """A region model that takes face crops as `FaceEncoder` does: `regions(faces).heatmaps` is (B, K, h, w)."""

    def forward(self, images: Pictures, *, resize: bool = False) -> RegionOutput:
        """Heatmaps of one face or several; for one, B is 1. Never with gradients."""
        batch = images_of(images, self.encoder.image_size, resize=resize, look=_look)
        return super().forward(batch.to(self.encoder.mean.device))


def load_encoder(
    what: str | Path | EncoderSource, *, device: str | torch.device = "cpu", quiet: bool = False
) -> FaceEncoder:
    """The encoder that `what` names, in eval mode.

    `what` is one of
    - the name of bundled weights (`fra recipes`): `laptop`, `laptop_fine`, `laptop_byol` ...;
    - a run folder of `fra pretrain`, or its `encoder.safetensors`;
    - a foreign checkpoint: the released FRA, LEWEL, Bulat et al., SwAV, MoCo, torchvision and others
      (docs/guides/foreign_weights.md); unless `quiet`, a line on stderr says what was read and what was skipped;
    - `timm:NAME=FILE`, the local weights FILE of timm's network NAME;
    - `timm:NAME`, timm's pre-trained weights, which timm downloads;
    - `random` (the laptop recipes' network with random weights), or `random:WHAT` (the network of another run, file or
      timm name, with random weights; `random:hourglass` is STAR's own network, for the star protocol).
    Raises ValueError with a remedy for anything else. Unless `random` is given, no weight is ever random.
    """
    encoder = load.load_encoder(what, device=device, quiet=quiet)
    return FaceEncoder(encoder.config, backbone=encoder.backbone).to(device).eval()


def load_region_model(what: str | Path, *, device: str | torch.device = "cpu", quiet: bool = False) -> FaceRegions:
    """The region model in a run folder, its `model.safetensors`, a checkpoint of the released FRA, or bundled weights.

    In eval mode. Raises MissingPart, a ValueError, if the method has no regions. For a foreign file a line on stderr
    says what was read, unless `quiet`.
    """
    model = load.load_region_model(what, device=device, quiet=quiet)
    return FaceRegions(model.encoder, model.head).eval()


def detect(photo: Picture, *, detector: str = "retinaface", min_score: float = 0.6) -> list[Face]:
    """The faces in a photo, the surest first: `box` (x1, y1, x2, y2), `five_points` and `score`, in its pixels."""
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score is {min_score:g}: give a number from 0 to 1")
    return shared_detector(detector, min_score).find_faces(picture_of(photo))


def crop_faces(
    photo: Picture, *, size: int = 128, margin: float = MARGIN, align: Alignment = "none", detector: str = "retinaface"
) -> list[UInt8[Tensor, "3 S S"]]:
    """The faces in a photo as crops, the surest first: the pixels that `fra crop --choose all` compresses.

    `margin` is added to the box, as a share of its longer side; `align` may be `five-point`.
    """
    settings = CropSettings(detector=detector, size=size, margin=margin, align=align)
    image = picture_of(photo)
    return [cut_face(image, face, settings) for face in detect(image, detector=detector, min_score=settings.min_score)]


def _look(picture: UInt8[Tensor, "3 _ _"]) -> None:
    """Warn of a whole photo where a face crop should be."""
    warn_of_photos([picture], remedy="give the crops of `fra.crop_faces(photo)`")


def _transform(size: int, picture: Picture) -> Float[Tensor, "3 S S"]:
    return to_input(picture_of(picture), size).float() / 255
