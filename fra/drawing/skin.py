"""Lit skin, painted small and softly: the egg of the head under a lamp, sockets, cheeks, shadows, beards."""

from collections.abc import Callable
from typing import no_type_check

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fra.drawing.canvas import CIRCLE, Palette, mix
from fra.drawing.person import Colour, Person
from fra.drawing.shape import Points, Projection

SOFT = 64
"""Side of the picture on which soft light is painted before it is enlarged."""

Blob = Callable[[Points, Colour, int], None]
"""Paints an outline in a colour with an opacity of 0 to 255."""

Spot = Callable[[Points, float, float, Colour, int], None]
"""Paints an ellipse: centre, half width and half height in model units, colour, opacity."""


def skin_texture(person: Person, palette: Palette, drawn: dict[str, Points], project: Projection,
                 *, size: int, beard: list[Points]) -> Image.Image:  # fmt: skip
    """The lit skin as a small, soft picture of the whole scene; the head is cut out of it."""
    soft = Image.fromarray(_lit_ball(person, palette, project, size=size)).resize(
        (SOFT, SOFT), Image.Resampling.BILINEAR
    )
    brush = ImageDraw.Draw(soft, "RGBA")
    scale, unit = SOFT / size, project.unit * SOFT / size

    @no_type_check
    def blob(points: Points, colour: Colour, alpha: int) -> None:
        brush.polygon(((points + 0.5) * scale - 0.5).ravel().tolist(), fill=(*colour, alpha))

    @no_type_check
    def spot(centre: Points, rx: float, ry: float, colour: Colour, alpha: int) -> None:
        blob(centre + CIRCLE * np.array([rx, ry]) * unit / scale, colour, alpha)

    _soft_face(person, palette, drawn, blob, spot)
    soft = soft.filter(ImageFilter.BoxBlur(2.6))
    brush = ImageDraw.Draw(soft, "RGBA")
    _soft_features(person, palette, drawn, blob, spot)
    for shape in beard:
        blob(shape, palette.beard, 238)
    return soft.filter(ImageFilter.BoxBlur(1.0))


def _lit_ball(person: Person, palette: Palette, project: Projection, *, size: int, cells: int = 32) -> np.ndarray:
    """Skin on an egg under the lamp: shadow, skin and light colours by the angle of the surface."""
    pixels = (np.arange(cells) + 0.5) * size / cells - 0.5
    x = (pixels[None, :] - project.centre[0]) / project.unit
    y = (pixels[:, None] - project.centre[1]) / project.unit
    cos, sin = project.turn[0, 0], project.turn[1, 0]
    length = np.hypot(cos, sin)
    u, v = (cos * x + sin * y) / length / 1.12, (cos * y - sin * x) / length / 1.75
    z = np.sqrt(np.clip(1 - u * u - v * v, 0.03, 1))
    lx, ly, lz = person.light
    level = 0.52 + 0.58 * person.contrast * (u * lx + v * ly + z * lz - 0.55)
    stops = np.array([palette.shadow, palette.skin, palette.light], dtype=float)
    channels = [np.interp(level, [0.12, 0.5, 0.78], stops[:, c]) for c in range(3)]
    return np.stack(channels, 2).astype(np.uint8)


def _soft_face(person: Person, palette: Palette, drawn: dict[str, Points], blob: Blob, spot: Spot) -> None:
    """Broad soft shapes: eye sockets, cheeks, stubble, forehead."""
    extras, mimic = person.extras, person.mimic
    jaw = drawn["jaw"]
    if extras.beard in ("shadow", "full"):
        upper = np.stack([drawn["nose_right"][4], drawn["base"][2], drawn["nose_left"][4]])
        grey = mix(palette.shadow, (52, 56, 66), 0.62)
        blob(np.concatenate([jaw[1:10], upper]), grey, 120 if extras.beard == "shadow" else 60)
    for side in ("left", "right"):
        eye, other = drawn[f"eye_{side}"], 1.0 if side == "right" else -1.0
        spot(eye[8] - (0, 0.07), 0.3, 0.19, palette.shadow, 62)
        cheek = (eye[0] * 0.45 + eye[8] * 0.55) * 0.48 + drawn["outer_lip"][6 if side == "right" else 0] * 0.52
        rosy = 185 if extras.rosy else 70 if extras.makeup else 34
        spot(cheek, 0.27, 0.2, palette.blush, rosy)
        if mimic.corner > 0.08:
            spot(cheek - (other * 0.02, 0.1), 0.17, 0.1, palette.light, 80)
        if extras.bags:
            spot(eye[6] + (eye[6] - eye[2]) * 0.7, 0.2, 0.07, mix(palette.shadow, (84, 50, 90), 0.4), 170)
    spot(jaw[5] * 0.82 + drawn["outer_lip"][9] * 0.18, 0.16, 0.09, palette.light, 70)
    spot(drawn["bridge"][0] * 1.6 - drawn["bridge"][2] * 0.6, 0.42, 0.2, palette.light, 60)


def _soft_features(person: Person, palette: Palette, drawn: dict[str, Points], blob: Blob, spot: Spot) -> None:
    """Smaller soft shapes: eye shadow, sides of the nose, below nose and lip."""
    dark = "left" if person.light[0] > 0 else "right"
    bright = "right" if dark == "left" else "left"
    bridge, tip = drawn["bridge"], drawn["bridge"][3]
    if person.extras.makeup:
        lid_colour = ((124, 70, 142), (70, 92, 150), (150, 84, 70))[int(person.contrast * 997) % 3]
        for side in ("left", "right"):
            eye = drawn[f"eye_{side}"]
            lid = eye[:5] - (eye[6] - eye[2]) * 0.55
            blob(np.concatenate([eye[:1] + (eye[:1] - eye[4:5]) * 0.12, lid, eye[4::-1]]), lid_colour, 190)
    blob(np.concatenate([bridge[:4], drawn[f"nose_{dark}"][::-1]]), palette.shadow, int(70 + 40 * abs(person.light[0])))
    blob(np.concatenate([bridge[1:4], drawn[f"nose_{bright}"][3:0:-1]]), palette.light, 44)
    below = np.concatenate([drawn["base"], (drawn["base"][::-1] + drawn["outer_lip"][1:6][::-1]) / 2])
    blob(below, palette.shadow, 80)
    spot(tip, 0.09, 0.08, palette.light, 120)
    for side in ("left", "right"):
        spot(drawn[f"nose_{side}"][4], 0.09, 0.1, palette.shadow, 60)
    blob(bridge[:3].repeat(2, 0) + np.tile([[-1.0, 0.0], [1.0, 0.0]], (3, 1)), palette.light, 60)
    lower = drawn["outer_lip"][8:11].mean(0)
    spot(lower + (drawn["jaw"][5] - lower) * 0.22, 0.2, 0.06, palette.shadow, 120)
