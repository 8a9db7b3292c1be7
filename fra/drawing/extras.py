"""What people wear and hold: earrings, glasses, hats, and things before the face."""

import numpy as np

from fra.drawing.canvas import CIRCLE, REGION, Canvas, Palette, mix, tint
from fra.drawing.hair import crown
from fra.drawing.person import CLOTHES, Dice, Person
from fra.drawing.shape import Points, Projection, moved, ribbon, smooth


def paint_earrings(canvas: Canvas, person: Person, project: Projection) -> None:
    unit = project.unit
    for x in (-1.03, 1.03):
        lobe = project(np.array([[x * person.build.width, 0.5, -0.3]]))[0]
        turned = project.turn[0, 2] * x
        if turned > 0.26:
            continue
        drop = moved(lobe, 0, 0.17 * unit)
        canvas.stroke(np.stack([lobe, drop]), 0.03 * unit, (212, 172, 70))
        canvas.disc(drop, 0.095 * unit, (250, 210, 90))
        canvas.disc(drop, 0.062 * unit, (214, 60, 90) if person.contrast > 0.8 else (70, 170, 190))
        canvas.disc(drop - 0.022 * unit, 0.022 * unit, (255, 255, 250))


def paint_glasses(canvas: Canvas, person: Person, drawn: dict[str, Points], project: Projection) -> None:
    kind, unit = person.extras.glasses, project.unit
    if not kind:
        return
    frame = ((28, 24, 28), (96, 44, 30), (60, 62, 72), (140, 28, 40))[int(person.contrast * 991) % 4]
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    power = 1.0 if kind == "round" else 0.55
    x = np.sign(np.cos(angles)) * np.abs(np.cos(angles)) ** power * (0.31 if kind == "round" else 0.35)
    y = np.sign(np.sin(angles)) * np.abs(np.sin(angles)) ** power * (0.3 if kind == "round" else 0.25)
    middle = 0.455 + person.build.eye_distance
    rims = []
    for sign in (-1.0, 1.0):
        model = np.stack([sign * (middle + 0.01) + x, 0.03 + y, np.full(24, 0.5) - 0.25 * np.abs(middle + sign * x)], 1)
        rims.append(project(model))
        temple = project(
            np.array([(sign * (middle + 0.33), -0.04, 0.3), (sign * 1.04 * person.build.width, -0.06, -0.36)])
        )
        canvas.stroke(temple, 0.06 * unit, frame)
    bridge = project(np.array([(-middle + 0.31, -0.03, 0.6), (0.0, -0.1, 0.68), (middle - 0.31, -0.03, 0.6)]))
    canvas.stroke(smooth(bridge, 4), 0.06 * unit, frame)
    canvas.mark(ribbon(smooth(bridge, 4), 0.08 * unit), "glasses")
    for rim in rims:
        closed = np.concatenate([rim, rim[:1]])
        if kind == "sun":
            canvas.fill(rim, (22, 22, 30), alpha=246, region="glasses")
        else:
            canvas.fill(rim, (220, 236, 255), alpha=22)
        low, high = rim.min(0), rim.max(0)
        glare = low + (high - low) * np.array([(0.3, 0.14), (0.44, 0.14), (0.24, 0.72), (0.14, 0.6)])
        canvas.fill(glare, (255, 255, 255), alpha=46)
        outline = ribbon(closed, 0.062 * unit)
        canvas.fill(outline, frame)
        canvas.label.line(closed.ravel().tolist(), fill=REGION["glasses"], width=max(1, round(0.06 * unit)))


def paint_hat(canvas: Canvas, dice: Dice, person: Person, project: Projection) -> None:
    kind, unit, w = person.extras.hat, project.unit, person.build.width
    if not kind:
        return
    colour = CLOTHES[dice.below(len(CLOTHES))]
    volume = person.hair.volume + 0.08
    dome = smooth(project(crown(person, volume=volume)[1:-1]), 4)
    brim = smooth(project(np.array([(-1.02 * w - 0.6 * volume, -0.5, -0.2), (-0.62, -0.7, 0.25), (0.0, -0.76, 0.42),
                                    (0.62, -0.7, 0.25), (1.02 * w + 0.6 * volume, -0.5, -0.2)])), 4)  # fmt: skip
    canvas.fill(np.concatenate([brim, moved(brim, 0, 0.09 * unit)[::-1]]), (30, 16, 16), alpha=70)
    canvas.fill(np.concatenate([dome, brim[::-1]]), colour, region="hat")
    top = dome[len(dome) // 2]
    folds = [
        smooth(np.stack([brim[i], (brim[i] + top) / 2 + (brim[i] - brim[8]) * 0.3, top]), 3) for i in range(1, 16, 2)
    ]
    canvas.strands(folds, tint(colour, 0.72, 0.72, 0.72), alpha=130, width=canvas.factor)
    up = (brim[8] - top) * 0.3
    if kind == "beanie":
        band = np.concatenate([brim, (brim - up)[::-1]])
        canvas.fill(band, mix(colour, (255, 250, 240), 0.22), region="hat")
        ribs = np.stack([brim, brim - up], 1)
        canvas.strands(ribs, tint(colour, 0.6, 0.6, 0.6), alpha=150, width=canvas.factor)
    else:
        tip = project(np.array([(-0.8, -0.62, 0.3), (-0.5, -0.5, 0.75), (0.0, -0.45, 0.92), (0.5, -0.5, 0.75),
                                (0.8, -0.62, 0.3)]))  # fmt: skip
        visor = np.concatenate([smooth(tip, 4), brim[12:3:-1] - (0, 0.06 * unit)])
        canvas.fill(visor, tint(colour, 0.66, 0.66, 0.66), region="hat")
        canvas.stroke(smooth(tip, 4), 0.04 * unit, tint(colour, 0.45, 0.45, 0.45))


def paint_occluder(canvas: Canvas, dice: Dice, person: Person, palette: Palette, project: Projection) -> None:
    kind, sign = person.extras.occluder, -1.0 if dice.chance(0.5) else 1.0
    if kind == "hand":
        _hand(canvas, palette, project, sign)
    elif kind == "cup":
        _cup(canvas, dice, palette, project, sign)
    elif kind == "microphone":
        _microphone(canvas, project, sign)
    elif kind == "scarf":
        _scarf(canvas, dice, project)


def _hand(canvas: Canvas, palette: Palette, project: Projection, sign: float) -> None:
    """A hand laid on the cheek, from below."""
    unit = project.unit
    palm = np.array(
        [(0.55, 1.35, 0.6), (0.7, 0.95, 0.6), (1.15, 0.95, 0.4), (1.4, 1.4, 0.3), (1.5, 2.4, 0.3), (0.75, 2.4, 0.5)]
    )
    canvas.fill(smooth(project(palm * (sign, 1, 1)), 4, closed=True), palette.skin, region="occluder")
    for x, top, lean in ((0.66, 0.42, -0.06), (0.84, 0.26, 0.0), (1.02, 0.3, 0.05), (1.19, 0.5, 0.09)):
        finger = project(
            np.array([(x, 1.25, 0.6), (x + lean * 0.5, (1.2 + top) / 2, 0.62), (x + lean, top, 0.6)]) * (sign, 1, 1)
        )
        curve = smooth(finger, 4)
        outline = np.concatenate([ribbon(curve, 0.18 * unit), curve[-1] + CIRCLE[:1] * 0])[:-1]
        canvas.fill(outline, tint(palette.shadow, 0.8, 0.7, 0.7))
        canvas.fill(ribbon(curve, 0.155 * unit), mix(palette.skin, palette.light, 0.4), region="occluder")
        canvas.fill(curve[-1] + CIRCLE * 0.078 * unit, mix(palette.skin, palette.light, 0.4), region="occluder")
        canvas.fill(curve[-1] + CIRCLE * np.array([0.045, 0.05]) * unit, mix(palette.light, (250, 200, 190), 0.5))


def _cup(canvas: Canvas, dice: Dice, palette: Palette, project: Projection, sign: float) -> None:
    colour = ((236, 232, 224), (196, 70, 60), (70, 120, 150))[dice.below(3)]
    body = np.array([(-0.42, 1.16, 0.9), (0.42, 1.16, 0.9), (0.34, 2.2, 0.9), (-0.34, 2.2, 0.9)])
    shape = project(body)
    canvas.fill(shape, colour, region="occluder")
    shade = shape[[1, 2]] if sign > 0 else shape[[0, 3]]
    inner = shade * 0.7 + shape.mean(0) * 0.3
    canvas.fill(np.concatenate([shade, inner[::-1]]), (30, 20, 30), alpha=70)
    rim = smooth(project(np.array([(-0.42, 1.16, 0.9), (0.0, 1.2, 1.0), (0.42, 1.16, 0.9)])), 5)
    canvas.stroke(rim, 0.06 * project.unit, mix(colour, (255, 255, 255), 0.5))


def _microphone(canvas: Canvas, project: Projection, sign: float) -> None:
    unit = project.unit
    head, foot = project(np.array([(0.16 * sign, 1.42, 1.0), (0.5 * sign, 2.6, 1.0)]))
    handle = ribbon(np.stack([head, foot]), 0.26 * unit)
    canvas.fill(handle, (36, 36, 42), region="occluder")
    canvas.fill(head + CIRCLE * 0.25 * unit, (70, 72, 80), region="occluder")
    canvas.fill(head + CIRCLE * 0.2 * unit - (0.03 * unit, 0.03 * unit), (104, 106, 114))
    grid = (np.linspace(-0.2, 0.2, 5) * unit).tolist()
    lines = [np.stack([moved(head, g, -0.2 * unit), moved(head, g, 0.2 * unit)]) for g in grid]
    lines += [np.stack([moved(head, -0.2 * unit, g), moved(head, 0.2 * unit, g)]) for g in grid]
    canvas.strands(lines, (44, 46, 52), alpha=130, width=1)


def _scarf(canvas: Canvas, dice: Dice, project: Projection) -> None:
    colour = CLOTHES[dice.below(len(CLOTHES))]
    top = smooth(
        project(
            np.array(
                [(-1.12, 0.95, -0.2), (-0.72, 1.3, 0.35), (0.0, 1.42, 0.62), (0.72, 1.3, 0.35), (1.12, 0.95, -0.2)]
            )
        ),
        4,
    )
    low = smooth(project(np.array([(-1.6, 2.6, -0.2), (0.0, 2.7, 0.4), (1.6, 2.6, -0.2)])), 8)
    canvas.fill(np.concatenate([top, low[::-1]]), colour, region="occluder")
    for share, factor in ((0.1, 1.2), (0.34, 0.75), (0.55, 1.2), (0.8, 0.7)):
        canvas.stroke(top + (low - top) * share, 0.07 * project.unit, tint(colour, factor, factor, factor), alpha=170)
