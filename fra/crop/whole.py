"""Are these face crops, or the photos that they should be cut from? A cheap look, for what only knows crops."""

import warnings
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from fra.crop.tiles import shared_detector
from fra.faces.image import UnreadableImage, read_image
from fra.pools.listing import image_folder, image_names, named
from fra.system.printable import counted
from fra.system.text import command

LARGEST_CROP, FLATTEST_CROP = 320, 0.75  # ours: datasets give crops of 48 to 256 pixels, square or like 178 x 218
SMALLEST_SHARE = 0.5
"""Of a picture's shorter side, the least longer side of the largest face in a crop (ours: `fra crop` leaves .8; of the
crops of 300-W, CelebA, FairFace and LFW that were looked at, the widest .54)."""
SAMPLE, AMONG = 16, 2000
"""Pictures of a pool that are looked at, evenly spread among its first ones."""
ENOUGH = 0.25
"""The share of photos among them that is told of (ours: a few wide crops are no mistake)."""


def sized_like_a_crop(height: int, width: int) -> bool:
    """Small, and square or nearly so."""
    short, long = sorted((height, width))
    return long <= LARGEST_CROP and short >= FLATTEST_CROP * long


def is_a_photo(image: UInt8[Tensor, "3 H W"]) -> bool:
    """Whether a picture is no face crop: its largest face is small, or it is large and no face is found in it."""
    faces = shared_detector("retinaface", 0.6, "whole").find_faces(image)
    if not faces:
        return not sized_like_a_crop(*image.shape[1:])
    longest = max(float((face.box[2:] - face.box[:2]).max()) for face in faces)
    return longest < SMALLEST_SHARE * min(image.shape[1:])


def photos_among(faces: Path) -> str:
    """What to say of a folder or list of face crops that are photos, "" when they are crops, or packed in shards.

    Looks at a sample, in a second or two. Errors are left to who reads the faces.
    """
    with suppress(ValueError, OSError):
        if (image_folder(faces) if faces.is_dir() else faces) != faces or faces.suffix == ".tar":
            return ""  # made by `fra crop`
        root, names = image_names(faces)
        some = list(islice(names, AMONG))
        looked = photos = 0
        for name in some[:: max(1, len(some) // SAMPLE)][:SAMPLE]:
            with suppress(UnreadableImage):
                photos += is_a_photo(read_image(named(root, name)))
                looked += 1
        if photos and photos >= ENOUGH * looked:
            seen = f"{photos} of {counted(looked, 'picture')} looked at"
            return f"{seen} show a small face or none: cut the faces out of photos with {command('fra', 'crop', faces)}"
    return ""


def warn_of_photos(images: Iterable[UInt8[Tensor, "3 _ _"]], *, remedy: str) -> None:
    """Warn once of pictures that are larger than crops and are photos; small ones cost nothing."""
    large = [image for image in images if max(image.shape[1:]) > LARGEST_CROP]
    if large and is_a_photo(large[0]):
        height, width = large[0].shape[1:]
        warnings.warn(
            f"a picture of {width} x {height} pixels looks like a whole photo, and only the face is expected: {remedy}",
            stacklevel=3,
        )
