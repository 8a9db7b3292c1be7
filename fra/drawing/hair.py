"""Hair and beards: a shape in one colour with fine strands over it."""

import numpy as np

from fra.drawing.canvas import Canvas, Palette, mix, tint
from fra.drawing.person import Colour, Person
from fra.drawing.shape import MIRROR, Points, Projection, moved, smooth


def crown(person: Person, *, volume: float | None = None) -> Points:
    """The outer edge of the hair over the head from the picture's left temple to the right, (11, 3)."""
    w, extra = person.build.width, person.hair.volume if volume is None else volume
    top = -person.build.forehead
    side = np.array([
        (1.0 * w + 0.35 * extra, -0.1, -0.4),
        (1.0 * w + 0.75 * extra, -0.58, -0.42),
        (0.93 * w + 0.9 * extra, -1.02 + 0.4 * top - 0.3 * extra, -0.4),
        (0.66 * w + 0.7 * extra, -1.4 + top - 0.8 * extra, -0.36),
        (0.33 * w + 0.2 * extra, -1.57 + top - extra, -0.34),
        (0.0, -1.6 + top - 1.05 * extra, -0.34),
    ])  # fmt: skip
    return np.concatenate([side[:-1] * MIRROR, side[::-1]])


def hairline(person: Person) -> Points:
    """Where the hair meets the forehead, from the picture's left to the right, (9, 3)."""
    w, side = person.build.width, person.hair.side
    up = -0.6 * person.build.forehead
    temples = [(0.985 * w, -0.1, -0.3), (0.95 * w, -0.46, -0.22)]
    if person.hair.front == "bangs":
        half = [*temples[:1], (0.96 * w, -0.36, -0.1), (0.78 * w, -0.5, 0.14), (0.4, -0.56, 0.3), (0.0, -0.57, 0.34)]
    elif person.hair.front == "receding":
        half = [*temples, (0.82 * w, -1.08 + up, -0.14), (0.46, -1.3 + up, -0.04), (0.0, -1.13 + up, 0.06)]
    elif person.hair.front == "part":
        full = [(0.985 * w, -0.08, -0.3), (0.95 * w, -0.36, -0.16), (0.8 * w, -0.64, 0.04), (0.52, -0.86, 0.14),
                (0.28, -1.1 + up, 0.1), (-0.02, -0.98 + up, 0.14), (-0.5, -0.76, 0.12), (-0.88 * w, -0.44, -0.1),
                (-0.985 * w, -0.04, -0.3)]  # fmt: skip
        line = np.array(full) * np.array([side, 1.0, 1.0])
        return line if side < 0 else line[::-1]
    else:
        half = [*temples, (0.78 * w, -0.86 + up, 0.0), (0.42, -1.0 + up, 0.1), (0.0, -1.03 + up, 0.12)]
    right = np.array(half)
    return np.concatenate([right[:-1] * MIRROR, right[::-1]])


def _curves(start: Points, bend: Points, end: Points, *, steps: int = 6) -> Points:
    """Quadratic curves (N, steps, 2) from `start` over the pull of `bend` to `end`."""
    t = np.linspace(0, 1, steps)[None, :, None]
    return (1 - t) ** 2 * start[:, None] + 2 * t * (1 - t) * bend[:, None] + t**2 * end[:, None]


def _shades(colour: Colour) -> tuple[Colour, Colour]:
    """A darker and a lighter strand."""
    gloss = 0.1 + 0.16 * min(1.0, sum(colour) / 400)
    return tint(colour, 0.66, 0.62, 0.62), mix(tint(colour, 1.12, 1.1, 1.08), (255, 236, 206), gloss)


def _wave(count: int, person: Person) -> Points:
    return (
        np.sin(np.arange(count) * 1.25 + person.contrast * 40)
        * np.linspace(0, 0.1, count) ** 0.5
        * (0.3 if person.hair.wavy else 0.0)
    )


def _side_panel(person: Person, right: float, *, inner: float) -> tuple[Points, Points]:
    """Long hair beside the face: its outer and inner edges from the temple down, in model units."""
    w, volume = person.build.width, person.hair.volume
    y = np.linspace(-0.5, 2.3, 12)
    wave = _wave(12, person)
    fall = np.interp(y, (-0.5, 0.2, 1.0, 2.3), (0.9, 1.0, 1.25, 1.05)) * (w + 0.1 + 0.75 * volume)
    inside = np.interp(y, (-0.5, 0.0, 0.6, 1.3, 2.3), (0.93, 0.98, 0.97, 0.93, 0.8)) * w * inner
    z = np.full(12, -0.3)
    return (np.stack([right * (fall + wave), y, z - 0.1], 1), np.stack([right * (inside + 0.6 * wave), y, z], 1))


_ENDS = np.linspace(1, 39, 40).astype(int)
_STARTS = np.linspace(1, 39, 40).astype(int)


def paint_back_hair(canvas: Canvas, person: Person, palette: Palette, project: Projection) -> None:
    """What hangs behind the neck."""
    if person.hair.style != "long":
        return
    left, _ = _side_panel(person, -1.0, inner=1.0)
    right, _ = _side_panel(person, 1.0, inner=1.0)
    shape = smooth(project(np.concatenate([left[::-1], crown(person)[2:9], right]) - (0, 0, 0.15)), 2)
    canvas.fill(shape, tint(palette.hair, 0.58, 0.55, 0.55), region="hair")


def paint_hair(canvas: Canvas, person: Person, palette: Palette, project: Projection) -> None:
    """The hair over skull, forehead and, when long, the sides of the face."""
    if person.hair.style == "bald":
        return
    outer, inner = smooth(project(crown(person)), 4), smooth(project(hairline(person)), 5)
    dark, bright = _shades(palette.hair)
    _hair_shadow(canvas, palette, inner, unit=project.unit)
    canvas.fill(np.concatenate([outer, inner[::-1]]), palette.hair, region="hair")
    if person.hair.wavy and person.hair.style == "short":
        _curls(canvas, palette, outer, inner, unit=project.unit)
    _cap_strands(canvas, person, outer, inner, dark, bright, project)
    if person.hair.front == "bangs":
        _fringe(canvas, palette, inner, dark, bright, unit=project.unit)
    if person.hair.style == "long":
        for right in (-1.0, 1.0):
            edges = _side_panel(person, right, inner=1.0)
            out, inn = project(edges[0]), project(edges[1])
            canvas.fill(np.concatenate([smooth(out, 2), smooth(inn, 2)[::-1]]), palette.hair, region="hair")
            shares = np.linspace(0.06, 0.94, 9)[:, None, None]
            locks = [smooth(lock, 2) for lock in (1 - shares) * out + shares * inn]
            canvas.strands(locks[::2], dark, alpha=130, width=canvas.factor)
            canvas.strands(locks[1::2], bright, alpha=110, width=canvas.factor)


def _hair_shadow(canvas: Canvas, palette: Palette, inner: Points, *, unit: float) -> None:
    """The hair's shadow on the forehead."""
    for drop, alpha in ((0.11, 40), (0.055, 50)):
        low = moved(inner, 0, drop * unit)
        canvas.fill(np.concatenate([inner, low[::-1]]), palette.shadow, alpha=alpha)


def _cap_strands(canvas: Canvas, person: Person, outer: Points, inner: Points, dark: Colour, bright: Colour,
                 project: Projection) -> None:  # fmt: skip
    """Strands from the crown, or the parting, to the hairline, and the gloss across them."""
    ends = inner[_ENDS]
    starts = outer[_STARTS]
    if person.hair.front in ("part", "bangs"):
        part = project(np.array([[0.28 * person.hair.side, -1.45, -0.1]]))
        starts = part + 0.55 * (starts - part)
    bend = (starts + ends) / 2 + (ends - inner.mean(0)) * 0.22
    curves = _curves(starts, bend, ends)
    if person.hair.wavy:
        swing = np.sin(np.arange(6) * 2.1)[:, None] * (0.035 * project.unit)
        curves = curves + swing * (0.7, -0.7)
    canvas.strands(curves[::2], dark, alpha=110, width=canvas.factor)
    canvas.strands(curves[1::2], bright, alpha=90, width=canvas.factor)
    if person.extras.hat:
        return
    for low, high, alpha in ((2, 4, 34), (2, 3, 34)):
        band = np.concatenate([curves[4:-4:3, high], curves[4:-4:3, low][::-1]])
        canvas.fill(band, mix(bright, (255, 250, 240), 0.3), alpha=alpha)


def _curls(canvas: Canvas, palette: Palette, outer: Points, inner: Points, *, unit: float) -> None:
    """Round bumps along the outline."""
    for index in range(1, len(outer) - 1, 2):
        radius = (0.13 + 0.03 * (index % 3)) * unit
        canvas.disc(outer[index], radius, palette.hair, region="hair")
    for index in range(4, len(inner) - 3, 4):
        canvas.disc(inner[index], 0.085 * unit, palette.hair, region="hair")


def _fringe(canvas: Canvas, palette: Palette, inner: Points, dark: Colour, bright: Colour, *, unit: float) -> None:
    """Pointed locks along the bangs."""
    for index in range(4, len(inner) - 6, 4):
        a, b = inner[index], inner[index + 4]
        tip = (a + b) / 2 + (0.04 * unit, (0.1 + 0.03 * (index % 3)) * unit)
        canvas.fill(np.stack([a - (0, 0.1 * unit), a, tip, b, b - (0, 0.1 * unit)]), palette.hair, region="hair")


def beard_shapes(person: Person, drawn: dict[str, Points], project: Projection) -> list[Points]:
    """Sideburns, full beard, goatee and moustache, to be painted softly; stubble is a tint of the skin."""
    jaw, lip, base, unit = drawn["jaw"], drawn["outer_lip"], drawn["base"], project.unit
    shapes = []
    if person.extras.sideburns:
        burn = np.array([(1.08, -0.5, -0.34), (1.08, 0.1, -0.3), (1.05, 0.54, -0.22), (0.91, 0.5, -0.08),
                         (0.91, 0.1, -0.12), (0.91, -0.5, -0.2)]) * (person.build.width, 1, 1)  # fmt: skip
        shapes += [project(burn), project(burn * MIRROR)]
    if person.extras.beard == "full":
        cheek = [
            drawn[f"nose_{s}"][4] * 0.36 + lip[i] * 0.36 + jaw[j] * 0.28
            for s, i, j in (("right", 6, 8), ("left", 0, 2))
        ]
        upper = np.stack(
            [jaw[9], cheek[0], lip[4] * 0.5 + base[4] * 0.5, lip[2] * 0.5 + base[0] * 0.5, cheek[1], jaw[1]]
        )
        shapes.append(np.concatenate([moved(smooth(jaw[1:10], 3), 0, 0.03 * unit), smooth(upper, 3)]))
    if person.extras.beard == "goatee":
        right, left = lip[6] * 0.45 + jaw[6] * 0.55, lip[0] * 0.45 + jaw[4] * 0.55
        rough = np.concatenate([lip[6:7], right[None], (smooth(jaw, 4)[24:15:-2]), left[None], lip[0:1]])
        centre = (lip[9] + jaw[5]) / 2
        shapes.append(smooth(centre + (rough - centre) * (0.8, 1.05), 2, closed=True))
    if person.extras.mustache:
        out = (lip[6] - lip[0]) * 0.09
        top = np.stack([lip[0] - out + (0, 0.08 * unit), lip[1] * 0.5 + base[0] * 0.5, lip[3] * 0.3 + base[2] * 0.7,
                        lip[5] * 0.5 + base[4] * 0.5, lip[6] + out + (0, 0.08 * unit)])  # fmt: skip
        shapes.append(np.concatenate([smooth(top, 4), moved(lip[5:0:-1], 0, 0.05 * unit)]))
    return shapes


def paint_beard(canvas: Canvas, person: Person, palette: Palette, drawn: dict[str, Points], *, unit: float) -> None:
    """The hairs of `beard_shapes`."""
    lip, beard = drawn["outer_lip"], person.extras.beard
    contour = smooth(drawn["jaw"], 8)
    if beard in ("full", "goatee"):
        rim = contour[10:71:2] if beard == "full" else contour[32:49]
        shares = (0.06, 0.2, 0.34, 0.48) if beard == "full" else (0.08, 0.26, 0.44)
        roots = np.concatenate([(rim * (1 - s) + lip[9] * s)[i % 2 :: 2] for i, s in enumerate(shares)])
        _tufts(canvas, roots, palette, (roots - lip[3]) * 0.1 + (0, 0.05 * unit))
    if person.extras.mustache:
        mouth, base = smooth(lip[0:7], 3)[1:-1], drawn["base"][2]
        roots = mouth * 0.62 + (base * 0.5 + mouth * 0.5) * 0.38
        side = np.sign(roots[:, :1] - lip[3, 0])
        _tufts(canvas, roots, palette, np.concatenate([side * 0.05, np.full((len(roots), 1), 0.06)], 1) * unit)


def _tufts(canvas: Canvas, roots: Points, palette: Palette, away: Points) -> None:
    lines = np.stack([roots, roots + away], 1)
    dark, bright = _shades(palette.beard)
    canvas.strands(lines[::2], dark, alpha=140, width=canvas.factor)
    canvas.strands(lines[1::2], bright, alpha=110, width=canvas.factor)
