"""Drawn faces with exact labels: the project's default data and the fixture of its tests.

A seed is one picture of one person: a 3-D wire model is posed, projected and painted (ours; after no data set's
faces). Every label comes from the same numbers as the picture, so labels are exact, also under an occluder.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fra.drawing.canvas import REGION_NAMES, Canvas, Palette
from fra.drawing.extras import paint_earrings, paint_glasses, paint_hat, paint_occluder
from fra.drawing.features import paint_brow, paint_eye, paint_lines, paint_mouth, paint_nose
from fra.drawing.hair import beard_shapes, paint_back_hair, paint_beard, paint_hair
from fra.drawing.person import EXPRESSIONS, Dice, Person, person
from fra.drawing.scene import background, ear_shapes, paint_body, paint_ear_folds, photograph
from fra.drawing.shape import FROM_98_TO_68, Points, Projection, landmarks98, moved, smooth, wire_model
from fra.drawing.skin import skin_texture

__all__ = ["ATTRIBUTES", "EXPRESSIONS", "REGION_NAMES", "DrawnFace", "draw_face"]

ATTRIBUTES = (
    "5_o_Clock_Shadow", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose", "Black_Hair", "Blond_Hair",
    "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup",
    "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Receding_Hairline",
    "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat",
    "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie",
)  # fmt: skip
"""The attributes of CelebA's 40 that are drawn, in CelebA's order. Left out: judgements of taste, age and sex."""


@dataclass(frozen=True)
class DrawnFace:
    """One picture and everything known about it; S is its side in pixels.

    image: RGB bytes. expression: index into `EXPRESSIONS`. attributes: one truth value for each of `ATTRIBUTES`.
    points68: iBUG's order; points98: WFLW's; five_points: the detector's (the picture's left eye, right eye, nose
    tip, left and right mouth corner). All points (x, y) in pixels, centre of the first pixel at (0, 0), also where
    hair or an occluder covers them. regions: index into `REGION_NAMES` of what is visible at each pixel.
    """

    image: UInt8[Tensor, "3 S S"]
    expression: int
    attributes: Bool[Tensor, " A"]
    points68: Float[Tensor, "68 2"]
    points98: Float[Tensor, "98 2"]
    five_points: Float[Tensor, "5 2"]
    regions: UInt8[Tensor, "S S"]


def draw_face(seed: int, *, size: int = 128) -> DrawnFace:
    """Draws the face of `seed` (0 or more), `size` pixels wide and high; the same bytes in every process.

    The face fills the picture like a RetinaFace crop with margin 0.25. Another size shows the same person.
    """
    who = person(seed)
    model = wire_model(who)
    project = Projection(who, model, size=size)
    drawn = project.each(model)
    canvas, dice = _paint(seed, who, project, drawn, size=size)
    picture = canvas.image.reduce(canvas.factor)
    points98 = landmarks98(drawn)
    corners = points98[[76, 82]]
    five = np.concatenate([_eye_centres(drawn), points98[54:55], corners])
    return DrawnFace(
        image=torch.from_numpy(photograph(dice, picture, who, size=size)),
        expression=who.expression,
        attributes=torch.tensor(_attributes(who)),
        points68=torch.from_numpy(points98[FROM_98_TO_68].astype(np.float32)),
        points98=torch.from_numpy(points98.astype(np.float32)),
        five_points=torch.from_numpy(five.astype(np.float32)),
        regions=torch.from_numpy(np.array(canvas.labels)),
    )


def _eye_centres(drawn: dict[str, Points]) -> Points:
    return np.stack([drawn["eye_left"][:8].mean(0), drawn["eye_right"][:8].mean(0)])


def _paint(seed: int, who: Person, project: Projection, drawn: dict[str, Points], *, size: int) -> tuple[Canvas, Dice]:
    """Paints from the back to the front."""
    factor = 2
    dice = Dice(seed + (1 << 40), count=200)
    palette, unit = Palette(who), project.unit
    canvas = Canvas(background(dice, size=size, factor=factor), size=size, factor=factor)
    paint_back_hair(canvas, who, palette, project)
    paint_body(canvas, dice, who, palette, project)
    beard = beard_shapes(who, drawn, project)
    texture = skin_texture(who, palette, drawn, project, size=size, beard=beard)
    ears = ear_shapes(who, project)
    jaw = smooth(drawn["jaw"], 16)[::5]
    head = np.concatenate([jaw, smooth(drawn["skull"], 4)[1:-1]])
    for drop, alpha in ((0.2, 50), (0.1, 60)):
        canvas.fill(moved(jaw[6:27], 0, drop * unit), palette.line, alpha=alpha)
    canvas.paste(texture, [*ears, head])
    for ear in ears:
        canvas.mark(ear, "ears")
    canvas.mark(head, "skin")
    paint_ear_folds(canvas, palette, project, ears)
    paint_lines(canvas, who, palette, drawn, unit=unit)
    paint_nose(canvas, who, palette, drawn, unit=unit)
    paint_beard(canvas, who, palette, drawn, unit=unit)
    paint_mouth(canvas, who, palette, drawn, unit=unit)
    # the picture's left is the subject's right
    for side, theirs in (("left", "right"), ("right", "left")):
        paint_eye(canvas, who, palette, drawn[f"eye_{side}"], side=theirs, unit=unit)
        paint_brow(canvas, who, palette, drawn[f"brow_{side}"], side=theirs, unit=unit)
    paint_hair(canvas, who, palette, project)
    if who.extras.earrings:
        paint_earrings(canvas, who, project)
    paint_glasses(canvas, who, drawn, project)
    paint_hat(canvas, dice, who, project)
    paint_occluder(canvas, dice, who, palette, project)
    return canvas, dice


def _attributes(who: Person) -> list[bool]:
    """What is visible, in the order of `ATTRIBUTES`."""
    extras, hair, build, mimic = who.extras, who.hair, who.build, who.mimic
    hidden = extras.hat != "" and hair.style == "short"
    seen = {
        "5_o_Clock_Shadow": extras.beard == "shadow",
        "Bags_Under_Eyes": extras.bags and extras.glasses != "sun",
        "Bald": hair.style == "bald",
        "Bangs": hair.front == "bangs",
        "Big_Lips": build.big_lips,
        "Big_Nose": build.big_nose,
        "Black_Hair": hair.colour_name == "black",
        "Blond_Hair": hair.colour_name == "blond",
        "Blurry": extras.blurry,
        "Brown_Hair": hair.colour_name == "brown",
        "Bushy_Eyebrows": build.brow_weight > 1.5,
        "Chubby": build.chubby,
        "Eyeglasses": extras.glasses != "",
        "Goatee": extras.beard == "goatee",
        "Gray_Hair": hair.colour_name == "gray",
        "Heavy_Makeup": extras.makeup,
        "Mouth_Slightly_Open": mimic.gape > 0.03,
        "Mustache": extras.mustache,
        "Narrow_Eyes": build.narrow_eyes and extras.glasses != "sun",
        "No_Beard": extras.beard == "" and not extras.mustache,
        "Oval_Face": build.oval,
        "Pale_Skin": who.pale,
        "Receding_Hairline": hair.front == "receding",
        "Rosy_Cheeks": extras.rosy,
        "Sideburns": extras.sideburns,
        "Smiling": mimic.corner > 0.08,
        "Straight_Hair": hair.style != "bald" and not hair.wavy and not hidden,
        "Wavy_Hair": hair.wavy and not hidden,
        "Wearing_Earrings": extras.earrings,
        "Wearing_Hat": extras.hat != "",
        "Wearing_Lipstick": extras.lipstick,
        "Wearing_Necklace": extras.necklace,
        "Wearing_Necktie": extras.necktie,
    }
    return [seen[name] for name in ATTRIBUTES]
