"""The canvas a face is painted on, its region labels, and a person's colours.

Shapes are given in pixels of the finished picture (centre of the first pixel at (0, 0)).
"""

from typing import no_type_check

import numpy as np
from PIL import Image, ImageDraw

from fra.drawing.person import Colour, Person
from fra.drawing.shape import Points, ribbon

REGION_NAMES = ("background", "skin", "left_brow", "right_brow", "left_eye", "right_eye", "nose", "mouth", "hair",
                "ears", "neck", "clothes", "glasses", "hat", "occluder")  # fmt: skip
"""Names of the labels in `DrawnFace.regions`; left and right are the subject's. Beards and jewellery count as what
they lie on, clear lenses as what is behind them."""

REGION = {name: index for index, name in enumerate(REGION_NAMES)}
_ANGLES = np.linspace(0, 2 * np.pi, 20, endpoint=False)
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)

TONES = np.array([
    (252, 226, 208), (247, 211, 184), (238, 192, 158), (222, 168, 128), (198, 140, 100), (168, 110, 76),
    (132, 84, 58), (102, 64, 46), (80, 51, 40),
], dtype=float)  # fmt: skip
"""Skin in full light, from light to dark."""


@no_type_check
def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` with `share` of `b`."""
    return (int(a[0] + share * (b[0] - a[0])), int(a[1] + share * (b[1] - a[1])), int(a[2] + share * (b[2] - a[2])))


@no_type_check
def tint(colour: Colour, red: float, green: float, blue: float) -> Colour:
    return (min(255, int(colour[0] * red)), min(255, int(colour[1] * green)), min(255, int(colour[2] * blue)))


# called hundreds of times a face: the tests' type checks would cost more than the work
@no_type_check
class Canvas:
    """A picture `factor` times finer than the finished one, and the label map at the finished size."""

    def __init__(self, background: Image.Image, *, size: int, factor: int) -> None:
        self.size, self.factor = size, factor
        self.image = background
        self.solid = ImageDraw.Draw(self.image)
        self.glaze = ImageDraw.Draw(self.image, "RGBA")
        self.labels = Image.new("L", (size, size))
        self.label = ImageDraw.Draw(self.labels)

    def scaled(self, points: Points) -> Points:
        return points * self.factor + (self.factor - 1) / 2

    def fill(self, points: Points, colour: Colour, *, alpha: int = 255, region: str = "") -> None:
        flat = self.scaled(points).ravel().tolist()
        if alpha == 255:
            self.solid.polygon(flat, fill=colour)
        else:
            self.glaze.polygon(flat, fill=(*colour, alpha))
        if region:
            self.mark(points, region)

    def mark(self, points: Points, region: str) -> None:
        self.label.polygon(points.ravel().tolist(), fill=REGION[region])

    def stroke(self, curve: Points, widths: Points | float, colour: Colour, *, alpha: int = 255) -> None:
        self.fill(ribbon(curve, widths), colour, alpha=alpha)

    def strands(self, curves: list[Points] | Points, colour: Colour, *, alpha: int, width: int = 1) -> None:
        """Thin lines, one for each curve."""
        ink = (*colour, alpha)
        for curve in self.scaled(np.asarray(curves)).reshape(len(curves), -1).tolist():
            self.glaze.line(curve, fill=ink, width=width)

    def disc(self, centre: Points, radius: float, colour: Colour, *, region: str = "") -> None:
        x, y = (centre * self.factor + (self.factor - 1) / 2).tolist()
        r = radius * self.factor
        self.solid.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        if region:
            x, y = centre.tolist()
            self.label.ellipse((x - radius, y - radius, x + radius, y + radius), fill=REGION[region])

    def paste(self, texture: Image.Image, shapes: list[Points]) -> None:
        """Shows `texture`, a smaller picture of the whole canvas, inside the shapes."""
        outlines = [self.scaled(points) for points in shapes]
        side = self.image.size[0]
        low = np.clip(np.floor(np.min([o.min(0) for o in outlines], 0)), 0, side - 2).astype(int)
        width, height = (
            np.clip(np.ceil(np.max([o.max(0) for o in outlines], 0)) + 1, low + 1, side).astype(int) - low
        ).tolist()
        mask = Image.new("L", (width, height))
        brush = ImageDraw.Draw(mask)
        for outline in outlines:
            brush.polygon((outline - low).ravel().tolist(), fill=255)
        x, y, ratio = int(low[0]), int(low[1]), texture.size[0] / side
        box = (x * ratio, y * ratio, (x + width) * ratio, (y + height) * ratio)
        self.image.paste(texture.resize((width, height), Image.Resampling.BILINEAR, box=box), (x, y), mask)


class Palette:
    """The colours of a person under their light."""

    def __init__(self, person: Person) -> None:
        place = person.tone * (len(TONES) - 1)
        low = min(int(place), len(TONES) - 2)
        base = TONES[low] + (place - low) * (TONES[low + 1] - TONES[low])
        self.skin: Colour = (int(base[0]), int(base[1]), int(base[2]))
        if person.pale:
            self.skin = (253, 227, 216)
        self.shadow = tint(self.skin, 0.62, 0.5, 0.48)
        self.light = mix(tint(self.skin, 1.22, 1.17, 1.12), (255, 240, 220), 0.08 if person.tone > 0.5 else 0.3)
        self.line = tint(self.skin, 0.4, 0.26, 0.24)
        self.blush = tint(mix(self.skin, (226, 70, 78), 0.5), 1.0, 0.92, 0.95)
        self.lip = mix(tint(self.skin, 0.86, 0.58, 0.58), (196, 82, 88), 0.35)
        if person.extras.lipstick:
            self.lip = (186, 24, 48) if person.tone < 0.6 else (150, 16, 56)
        hair = person.hair.colour
        self.hair = hair
        self.brow = mix(hair, (48, 32, 26), 0.55) if person.hair.colour_name != "black" else (26, 20, 22)
        self.beard = mix(hair, (46, 32, 26), 0.25)
        self.iris = ((92, 58, 34), (62, 40, 28), (76, 118, 150), (94, 122, 78), (70, 52, 40))[
            int(abs(person.light[0]) * 1e4) % (5 if person.tone < 0.5 else 2)
        ]
