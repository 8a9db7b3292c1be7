"""Eyes, brows, nose, mouth and the lines of an expression, painted over the skin."""

from typing import no_type_check

import numpy as np
from PIL import Image, ImageDraw

from fra.drawing.canvas import CIRCLE, Canvas, Palette, mix, tint
from fra.drawing.person import Colour, Person
from fra.drawing.shape import Points, moved, smooth

_TAPER = np.sin(np.linspace(0.15, np.pi - 0.15, 17))
"""Thin, thick, thin: the widths of a 17-point brush stroke."""


def paint_eye(canvas: Canvas, person: Person, palette: Palette, eye: Points, *, side: str, unit: float) -> None:
    """Eyeball in the opening of the lids, then lashes and the crease. `eye` is the shape model's nine points."""
    opening = smooth(eye[:8], 4, closed=True)
    upper, lower = smooth(eye[:5], 4), smooth(np.concatenate([eye[4:8], eye[:1]]), 4)
    _eyeball(canvas, palette, opening, eye[8], upper, unit=unit)
    canvas.mark(opening, f"{side}_eye")
    height = eye[6] - eye[2]
    crease = upper[2:-3] - height * 0.16 - (0, 0.045 * unit)
    canvas.stroke(crease, np.linspace(0.02, 0.035, len(crease)) * unit, palette.line, alpha=120)
    made_up = person.extras.makeup
    lash = np.interp(np.arange(len(upper)), (0, 4, 12, len(upper) - 1), (0.055, 0.06, 0.045, 0.02)) * unit
    ink = (22, 14, 16) if made_up else mix(palette.line, (26, 16, 16), 0.7)
    canvas.stroke(upper - (0, 0.012 * unit), lash * (1.5 if made_up else 1.0), ink)
    canvas.stroke(lower, 0.018 * unit, ink if made_up else palette.line, alpha=190 if made_up else 130)
    if made_up:
        out = eye[0] - eye[4]
        roots, away = upper[0:8:2], out * np.array([[0.2], [0.15], [0.1], [0.05]]) - (0, 0.09 * unit)
        canvas.strands(np.stack([roots, roots + away], 1), ink, alpha=255, width=canvas.factor)
    if person.extras.bags:
        bag = lower[2:-2] + height * 0.22 + (0, 0.06 * unit)
        canvas.stroke(bag, 0.03 * unit, palette.line, alpha=140)


def _eyeball(canvas: Canvas, palette: Palette, opening: Points, pupil: Points, upper: Points, *, unit: float) -> None:
    shape = canvas.scaled(opening)
    corner = np.floor(shape.min(0)).astype(int) - 1
    width, height = (np.ceil(shape.max(0)).astype(int) + 2 - corner).tolist()
    patch, mask = Image.new("RGB", (width, height), (240, 234, 228)), Image.new("L", (width, height))
    brush = ImageDraw.Draw(patch, "RGBA")
    ImageDraw.Draw(mask).polygon((shape - corner).ravel().tolist(), fill=255)
    centre, radius = canvas.scaled(pupil) - corner, 0.128 * unit * canvas.factor

    @no_type_check
    def disc(at: Points, r: float, colour: Colour, alpha: int = 255) -> None:
        brush.ellipse((at[0] - r, at[1] - r, at[0] + r, at[1] + r), fill=(*colour, alpha))

    disc(centre, radius, mix(palette.iris, (10, 8, 8), 0.55))
    disc(centre, radius * 0.84, palette.iris)
    disc(moved(centre, 0, radius * 0.3), radius * 0.5, mix(palette.iris, (250, 220, 170), 0.35), 150)
    disc(centre, radius * 0.46, (12, 9, 10))
    lid = canvas.scaled(upper) - corner
    shade = np.concatenate([lid - (0, 9 * unit), moved(lid, 0, 0.05 * unit * canvas.factor)[::-1]])
    brush.polygon(shade.ravel().tolist(), fill=(64, 40, 44, 90))
    disc(centre + np.array([-0.34, -0.36]) * radius, radius * 0.24, (255, 255, 255), 240)
    canvas.image.paste(patch, (int(corner[0]), int(corner[1])), mask)


def paint_brow(canvas: Canvas, person: Person, palette: Palette, brow: Points, *, side: str, unit: float) -> None:
    top, bottom = smooth(brow[:5], 4), smooth(np.concatenate([brow[5:], brow[:1]]), 4)[::-1]
    shape = np.concatenate([top, bottom[::-1]])
    canvas.fill(shape, palette.brow, alpha=225, region=f"{side}_brow")
    starts, ends = bottom[16:2:-2], top[14:0:-2]
    hairs = np.stack([starts, ends + (ends - starts) * 0.12], 1)
    canvas.strands(hairs, tint(palette.brow, 0.6, 0.6, 0.6), alpha=120)
    if person.build.brow_weight > 1.5:
        away = np.stack([top[15:2:-1], top[15:2:-1] * 1.14 - bottom[15:2:-1] * 0.14 + (brow[0] - brow[4]) * 0.05], 1)
        canvas.strands(away, palette.brow, alpha=230, width=canvas.factor)


def paint_nose(canvas: Canvas, person: Person, palette: Palette, drawn: dict[str, Points], *, unit: float) -> None:
    base, left, right = drawn["base"], drawn["nose_left"], drawn["nose_right"]
    canvas.mark(np.concatenate([smooth(right, 3), base[3:0:-1], smooth(left, 3)[::-1]]), "nose")
    for side in (left, right):
        wing = smooth(side[2:], 4)[3:]
        canvas.stroke(
            wing, np.interp(np.arange(len(wing)), (0, 5, 9), (0.002, 0.026, 0.03)) * unit, palette.line, alpha=105
        )
    under = smooth(base, 4)
    canvas.stroke(under, np.interp(np.arange(17), (0, 8, 16), (0.02, 0.035, 0.02)) * unit, palette.line, alpha=95)
    wide = base[4] - base[0]
    for place in (0.27, 0.73):
        hole = base[0] + wide * place - (0, 0.012 * unit)
        canvas.fill(hole + CIRCLE * np.array([0.058 * person.build.nose_width, 0.027]) * unit, palette.line, alpha=185)
    if person.mimic.wrinkle > 0.5:
        across, down = (right[0] - left[0]) * 0.95, (drawn["bridge"][2] - drawn["bridge"][0]) * 0.32
        for step in (0.35, 0.8, 1.25):
            middle = drawn["bridge"][0] + down * step
            line = np.stack([middle - across / 2 + down * 0.2, middle - down * 0.12, middle + across / 2 + down * 0.2])
            canvas.stroke(smooth(line, 4), 0.026 * unit, palette.line, alpha=120)


def paint_mouth(canvas: Canvas, person: Person, palette: Palette, drawn: dict[str, Points], *, unit: float) -> None:
    outer, inner = drawn["outer_lip"], drawn["inner_lip"]
    outline = smooth(outer, 3, closed=True)
    top, low = smooth(inner[:5], 4), smooth(np.concatenate([inner[4:], inner[:1]]), 4)[::-1]
    canvas.fill(outline, palette.lip, region="mouth")
    above = np.concatenate([outline[:19], top[::-1]])
    canvas.fill(above, tint(palette.lip, 0.82, 0.76, 0.78))
    bright = 0.55 if person.extras.lipstick else 0.3
    shine = outer[8:11] * 0.55 + inner[5:8] * 0.45
    canvas.stroke(smooth(shine, 3), np.array([0.01, 0.03, 0.045, 0.05, 0.045, 0.03, 0.01]) * unit,
                  mix(palette.lip, (255, 236, 232), bright), alpha=150)  # fmt: skip
    mouth_line = tint(palette.lip, 0.42, 0.3, 0.32)
    gape = float(np.abs(inner[6] - inner[2]).max()) / unit
    if gape > 0.02:
        canvas.fill(np.concatenate([top, low[::-1]]), (70, 20, 26))
        if gape > 0.1:
            tongue = (low * 0.62 + top * 0.38)[4:-4]
            canvas.fill(np.concatenate([tongue, low[4:-4][::-1]]), (178, 78, 84))
        if person.mimic.teeth > 0.5:
            share = 0.62 if person.mimic.corner > 0 else 0.86
            edge = (top * (1 - share) + low * share)[1:-1]
            canvas.fill(np.concatenate([top[1:-1], edge[::-1]]), (242, 238, 230))
            if person.mimic.corner <= 0:
                canvas.stroke((top * 0.55 + low * 0.45)[1:-1], 0.014 * unit, (120, 70, 70), alpha=190)
    line = (top + low) / 2 if gape <= 0.02 else top
    canvas.stroke(line, np.interp(np.arange(17), (0, 3, 8, 13, 16), (0.04, 0.03, 0.022, 0.03, 0.04)) * unit, mouth_line,
                  alpha=235)  # fmt: skip
    for corner, inward in ((outer[0], outer[6]), (outer[6], outer[0])):
        canvas.fill(corner + (inward - corner) * 0.02 + CIRCLE * 0.028 * unit, mouth_line, alpha=150)


def paint_lines(canvas: Canvas, person: Person, palette: Palette, drawn: dict[str, Points], *, unit: float) -> None:
    """Folds beside the mouth, frown and forehead lines."""
    mimic, line = person.mimic, palette.line
    for side, corner in (("left", 0), ("right", 6)):
        wing, lip = drawn[f"nose_{side}"][4], drawn["outer_lip"][corner]
        out = (lip - drawn["outer_lip"][6 - corner]) * 0.16
        curve = smooth(
            np.stack([wing + out * 0.2, (wing + lip) / 2 + out * 1.1, lip + out * 1.05 + (0, 0.03 * unit)]), 5
        )
        strength = 30 + 120 * min(1.0, mimic.fold)
        canvas.stroke(curve, np.linspace(0.012, 0.034, len(curve)) * unit, line, alpha=int(strength))
    if person.build.chubby:
        jaw, lip = drawn["jaw"], drawn["outer_lip"][9]
        canvas.stroke(smooth(jaw[3:8] + (lip - jaw[3:8]) * 0.22, 4), _TAPER * 0.05 * unit, line, alpha=80)
    left, right = drawn["brow_left"][4], drawn["brow_right"][4]
    middle, across = (left + right) / 2, right - left
    if mimic.frown > 0.3:
        for place in (-0.16, 0.16):
            foot = middle + across * place + (0, 0.13 * unit)
            head = middle + across * place * 1.9 - (0, 0.12 * unit)
            canvas.stroke(np.stack([foot, (foot + head) / 2 + across * place * 0.2, head]), 0.032 * unit, line,
                          alpha=int(150 * min(1.0, mimic.frown)))  # fmt: skip
    if mimic.forehead > 0.25:
        up = drawn["bridge"][0] - drawn["bridge"][2]
        for step in (0.55, 0.95):
            ends = np.stack([drawn["brow_left"][2], middle, drawn["brow_right"][2]]) + up * step
            canvas.stroke(smooth(ends, 5), np.interp(np.arange(11), (0, 5, 10), (0.008, 0.026, 0.008)) * unit, line,
                          alpha=int(120 * min(1.0, mimic.forehead)))  # fmt: skip
