"""Around a drawn face: background, neck and clothes, ears, and the photograph of it all."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fra.drawing.canvas import Canvas, Palette, mix, tint
from fra.drawing.person import CLOTHES, Colour, Dice, Person
from fra.drawing.shape import MIRROR, Points, Projection, smooth

_GRID = np.tile(np.linspace(-1, 1, 24), (24, 1))


def background(dice: Dice, *, size: int, factor: int) -> Image.Image:
    """A wall, soft lights, stripes, clouds or a gradient, `factor` times finer than `size`."""
    side = size * factor
    kind = ("gradient", "lights", "stripes", "clouds", "room")[dice.below(5)]
    first = np.array([dice.between(40.0, 225.0), dice.between(40.0, 225.0), dice.between(40.0, 225.0)])
    second = first * 0.55 + 0.45 * np.array(
        [dice.between(20.0, 240.0), dice.between(20.0, 240.0), dice.between(20.0, 240.0)]
    )
    angle = dice.between(0.0, 2 * np.pi)
    x, y = _GRID, _GRID.T
    share = 0.5 + 0.36 * (np.cos(angle) * x + np.sin(angle) * y)
    if kind == "clouds":
        waves = [dice.between(1.5, 5.0) for _ in range(4)]
        share = 0.5 + 0.25 * np.sin(waves[0] * x + waves[1] * y + angle) + 0.25 * np.sin(waves[2] * y - waves[3] * x)
    if kind == "room":
        share = np.where(y + 0.3 * np.cos(angle) * x > dice.between(-0.5, 0.5), 0.9, 0.1) + 0.1 * x
    cells = np.clip(first + share[..., None] * (second - first), 0, 255).astype(np.uint8)
    picture = Image.fromarray(cells).resize((size, size), Image.Resampling.BILINEAR)
    picture = picture.resize((side, side), Image.Resampling.NEAREST)
    brush = ImageDraw.Draw(picture, "RGBA")
    other = tuple(int(c) for c in np.clip(second * dice.between(0.7, 1.4), 0, 255))
    if kind == "lights":
        for _ in range(9):
            r, cx, cy = dice.between(0.04, 0.14) * side, dice.between(0.0, 1.0) * side, dice.between(0.0, 1.0) * side
            brush.ellipse((cx - r, cy - r, cx + r, cy + r), fill=(*other, 30 + dice.below(70)))
    if kind == "stripes":
        step, lean = side / dice.between(5.0, 12.0), dice.between(-0.6, 0.6) * side
        for i in range(-8, 24, 2):
            left = i * step
            brush.polygon((left, 0, left + step, 0, left + step + lean, side, left + lean, side), fill=(*other, 70))
    return picture


def paint_body(canvas: Canvas, dice: Dice, person: Person, palette: Palette, project: Projection) -> None:
    """Neck with the chin's shadow, shoulders, collar or tie, necklace."""
    skin = mix(palette.skin, palette.shadow, 0.34)
    neck = np.array([(0.62, 0.9, -0.3), (0.6, 1.5, -0.3), (0.66, 1.75, -0.25), (1.3, 2.05, -0.2), (2.2, 2.2, -0.2),
                     (2.2, 3.2, -0.2)])  # fmt: skip
    canvas.fill(project(np.concatenate([neck, (neck * MIRROR)[::-1]])), skin, region="neck")
    clothes = CLOTHES[dice.below(len(CLOTHES))]
    depth = 1.98 if person.extras.necktie else dice.between(2.0, 2.3)
    shoulder = np.array([(0.0, depth, -0.05), (0.4, 1.9, -0.1), (0.66, 1.72, -0.25), (1.35, 1.98, -0.2),
                         (2.4, 2.2, -0.2), (2.4, 3.4, -0.2)])  # fmt: skip
    shape = project(np.concatenate([shoulder, (shoulder[1:] * MIRROR)[::-1]]))
    canvas.fill(shape, clothes, region="clothes")
    edge = smooth(project(np.concatenate([(shoulder[:3] * MIRROR)[:0:-1], shoulder[:3]])), 4)
    canvas.stroke(edge, 0.06 * project.unit, tint(clothes, 0.7, 0.7, 0.7))
    if person.extras.necktie:
        _necktie(canvas, clothes, project)
    if person.extras.necklace:
        chain = smooth(project(np.array([(-0.6, 1.66, -0.2), (-0.36, 1.86, 0.0), (0.0, 1.94, 0.08), (0.36, 1.86, 0.0),
                                         (0.6, 1.66, -0.2)])), 4)  # fmt: skip
        for bead in chain:
            canvas.disc(bead, 0.052 * project.unit, (246, 214, 110))
            canvas.disc(bead - 0.014 * project.unit, 0.022 * project.unit, (255, 250, 220))


def _necktie(canvas: Canvas, clothes: Colour, project: Projection) -> None:
    collar = np.array([(0.0, 1.96, 0.0), (0.58, 1.56, -0.2), (0.7, 1.78, -0.2), (0.3, 2.18, 0.0)])
    for sign in (1.0, -1.0):
        canvas.fill(project(collar * (sign, 1, 1)), (240, 240, 244), region="clothes")
        canvas.stroke(project(collar[[0, 3]] * (sign, 1, 1)), 0.03 * project.unit, (150, 150, 160))
    colour = (150, 24, 40) if clothes[0] < 110 else (30, 50, 110)
    knot = np.array([(-0.17, 1.76, 0.1), (0.17, 1.76, 0.1), (0.11, 2.0, 0.12), (0.26, 2.6, 0.12), (-0.26, 2.6, 0.12),
                     (-0.11, 2.0, 0.12)])  # fmt: skip
    canvas.fill(project(knot), colour, region="clothes")
    canvas.stroke(project(knot[[5, 2]]), 0.04 * project.unit, tint(colour, 0.5, 0.5, 0.5))


def ear_shapes(person: Person, project: Projection) -> list[Points]:
    """The picture's left and right ear."""
    w = person.build.width
    ear = np.array([(0.97, -0.1, -0.4), (1.06, -0.16, -0.44), (1.14, -0.08, -0.46), (1.13, 0.16, -0.45),
                    (1.07, 0.4, -0.42), (1.0, 0.5, -0.4), (0.95, 0.42, -0.38)]) * (w, 1, 1)  # fmt: skip
    both = project(np.concatenate([ear * MIRROR, ear]))
    return [smooth(both[:7], 3, closed=True), smooth(both[7:], 3, closed=True)]


def paint_ear_folds(canvas: Canvas, palette: Palette, project: Projection, shapes: list[Points]) -> None:
    for shape, outwards in zip(shapes, (-1.0, 1.0), strict=True):
        if project.turn[0, 2] * outwards > 0.1:
            continue  # this ear is behind the turned head
        centre = shape.mean(0)
        inside = centre + (shape - centre) * 0.56
        canvas.fill(inside, palette.shadow, alpha=150)


_GRAIN = np.random.default_rng([20231015]).standard_normal(1 << 18, dtype=np.float32)


def photograph(dice: Dice, picture: Image.Image, person: Person, *, size: int) -> np.ndarray:
    """Light over the scene, lens blur and sensor noise: the finished (3, size, size) bytes."""
    blur = size / 128 * (dice.between(1.05, 1.5) if person.extras.blurry else dice.between(0.0, 0.5))
    if blur > 0.25:
        picture = picture.filter(ImageFilter.BoxBlur(blur))
    line = np.linspace(-1, 1, size, dtype=np.float32)
    slope, bow = 0.1 * person.contrast, 0.07 * line * line
    across, down = slope * person.light[0] * line - bow, slope * person.light[1] * line - bow
    light = (dice.between(0.9, 1.06) + across[None, :] + down[:, None]).astype(np.float32)
    warm = 0.015 + dice.bell(0.06)
    offset, strength = dice.below(1 << 16), dice.between(0.4, 3.6)
    count = size * size
    scene = np.empty((3, size, size), dtype=np.float32)
    for channel, gain in enumerate((1 + warm, 1.0, 1 - warm)):
        # a window of one fixed sheet of noise: drawing it afresh would take a sixth of the time of a face
        grain = (
            np.resize(_GRAIN[(offset + channel * count) % (1 << 17) :], (size, size))
            if count > 1 << 17
            else (_GRAIN[(start := (offset + channel * count) % (1 << 17)) : start + count].reshape(size, size))
        )
        np.multiply(light, np.float32(gain), out=scene[channel])
        scene[channel] *= picture.getchannel(channel)
        scene[channel] += grain * np.float32(strength)
    np.clip(scene, 0, 255, out=scene)
    return scene.astype(np.uint8)
