"""How the faces of each dataset are framed, in terms of what a detector finds. S pixels a side.

A task has only seen faces cut as its training images were, so a face in a photo is cut the same way before it is asked.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fra.data.crops import PADDING, CropRule
from fra.faces import MARGIN
from fra.faces.geometry import (
    Padding,
    box_matrix,
    crop_box,
    invert_matrix,
    similarity_transform,
    square_box,
    transform_points,
    warp,
    whole_box,
)
from fra.faces.image import to_input

Crop = tuple[UInt8[Tensor, "3 S S"], Float[Tensor, "2 3"]]
"""A face as a task sees it, and the matrix from points of the photo to points of the crop."""


@dataclass(frozen=True)
class Upright:
    """A square about the detector's box, not turned."""

    side: float = 1 + MARGIN
    """Times the box's longer side."""
    down: float = 0.0
    """How far its centre lies below the box's, as a share of the box's longer side."""
    padding: Padding = "reflect"
    """What is shown where the photo ends."""

    def cut(
        self,
        image: UInt8[Tensor, "3 H W"],
        box: Float[Tensor, "4"],
        five_points: Float[Tensor, "5 2"] | None,
        size: int,
    ) -> Crop:
        shift = torch.tensor([0.0, self.down]) * (box[2:] - box[:2]).max()
        square = square_box(box + shift.repeat(2), self.side - 1)
        return crop_box(image, square, size, self.padding), box_matrix(square, size)


@dataclass(frozen=True)
class Aligned:
    """Turned, scaled and shifted so that the five points come to lie at fixed places."""

    five_points: tuple[tuple[float, float], ...]
    """The places: x as a share of the picture's width, y of its height, from its outer edges."""
    aspect: float = 1.0
    """Width by height that the pictures would need to show faces in their true proportions."""
    padding: Padding = "edge"

    def cut(
        self,
        image: UInt8[Tensor, "3 H W"],
        box: Float[Tensor, "4"],
        five_points: Float[Tensor, "5 2"] | None,
        size: int,
    ) -> Crop:
        """A detector without points leaves nothing to align: then the square of `fra crop`."""
        if five_points is None:
            return CROPS.cut(image, box, five_points, size)
        picture = torch.tensor([self.aspect * size, size])
        places = torch.tensor(self.five_points) * picture - 0.5
        squeeze = box_matrix(torch.cat((torch.tensor([-0.5, -0.5]), picture - 0.5)), size)
        similarity = similarity_transform(five_points, places)
        matrix = torch.cat(
            (squeeze[:, :2] @ similarity[:, :2], transform_points(similarity[:, 2], squeeze)[:, None]), 1
        )
        return warp(image, matrix, size, self.padding), matrix


@dataclass(frozen=True)
class Whole:
    """The whole picture, squeezed to a square: it already is framed as the task's training images were."""

    def cut(
        self,
        image: UInt8[Tensor, "3 H W"],
        box: Float[Tensor, "4"],
        five_points: Float[Tensor, "5 2"] | None,
        size: int,
    ) -> Crop:
        return to_input(image, size, fit="whole"), box_matrix(whole_box(*image.shape[1:]), size)


def edges_of(matrix: Float[Tensor, "2 3"], size: int) -> list[float]:
    """Left, top, right and bottom of what an upright crop shows, in its photo, counted from the photo's outer edges."""
    corners = torch.tensor([[-0.5, -0.5], [size - 0.5, size - 0.5]])
    return (transform_points(corners, invert_matrix(matrix)) + 0.5).flatten().tolist()


Framing = Upright | Aligned | Whole

CROPS = Upright()
"""What `fra crop` cuts by default, and drawn faces imitate."""

# Measured with RetinaFace on some hundred pictures of each, so that faces of 300-W, cut like this, show their
# five points where the dataset's own pictures do (medians). FERPlus and AffectNet were not at hand.
FRAMINGS: dict[str, Framing] = {
    "synthetic": CROPS,
    "rafdb": Aligned(
        ((0.265, 0.337), (0.735, 0.337), (0.5, 0.56), (0.3, 0.738), (0.7, 0.738)),
        aspect=0.88,  # its faces are a little wider than life
    ),
    "celeba": Aligned(
        ((0.388, 0.513), (0.61, 0.513), (0.493, 0.624), (0.406, 0.696), (0.592, 0.696)), aspect=178 / 218
    ),
    "lfwa": Aligned(((0.393, 0.44), (0.607, 0.44), (0.5, 0.559), (0.412, 0.665), (0.588, 0.665))),
    # twice the box of the landmarks, which reaches below the chin
    "300w": Upright(side=1.6, down=0.13, padding="edge"),
    "fairface": Upright(side=0.9, down=0.08, padding="zero"),  # cut tightly by dlib's detector
}
"""By the dataset's row in DATASETS."""


# Sides measured likewise on 230 pictures of 300-W: the landmarks' box is .79 of the detector's longer side, and .75 as
# high. COFW's and AFLW's landmarks leave out the jaw: their box was made from 300-W's without it, .75 and .74.
LANDMARK_SIDES: dict[CropRule, tuple[float, float]] = {
    "square": (1.6, 1.5),
    "hrnet": (1.0, 0.93),
    "star": (0.75, 0.74),
    "rect": (1.0, 1.0),  # not measured: taken for a detector's box
}
"""By crop: with the jaw, without."""
LANDMARKS_DOWN = 0.13  # these boxes reach from brows to chin, a detector's from forehead to chin
WITHOUT_JAW = ("cofw", "aflw")


def framing_of(dataset: str, crop: str = "") -> Framing:
    """How a photo is cut for a task learned from a dataset, whose faces with landmarks were cut as `crop` says.

    That of `fra crop` for a dataset whose framing nobody has measured.
    """
    for known, sides in LANDMARK_SIDES.items():
        if known == crop:
            down = 0.0 if crop == "rect" else LANDMARKS_DOWN
            return Upright(sides[dataset in WITHOUT_JAW], down, PADDING[known])
    return FRAMINGS.get(dataset, CROPS)
