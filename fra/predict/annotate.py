"""What was found in a photo, drawn on it: boxes, points and short words, and beside it the longer ones."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fra.faces.geometry import resized_points
from fra.faces.pictures import (
    GREY,
    INK,
    WHITE,
    draw_points,
    fit_text,
    from_pillow,
    region_colours,
    resize,
    text_font,
    to_pillow,
)

SMALLEST = 600  # smaller photos are enlarged by a whole factor until their longer side reaches it, for the words' sake
SMALLEST_DOT = 0.8
POINT_COLOUR, UNSURE_COLOUR, POINT_RIM = (120, 255, 120), (255, 170, 60), (20, 40, 20)
TRACK_COLOURS = 8
SURE = 0.5
"""Confidence from which a point is drawn as a sure one."""

Rectangle = tuple[float, float, float, float]
Pen = ImageDraw.ImageDraw
Lines = list[tuple[str, ImageFont.FreeTypeFont, tuple[int, int, int]]]


@dataclass(frozen=True, eq=False)
class Mark:
    """One face in a photo; box and points in the photo's pixels, also outside it."""

    box: Float[Tensor, "4"]
    title: str = ""
    """A few words, which stand at the box where there is room, and beside the photo."""
    details: tuple[str, ...] = ()
    """Words that stand beside the photo only."""
    points: Float[Tensor, "P 2"] | None = None
    confidence: Float[Tensor, "P"] | None = None
    """Of each point, 0 to 1; those below SURE are orange."""


def annotate(photo: UInt8[Tensor, "3 H W"], marks: Sequence[Mark]) -> UInt8[Tensor, "3 h w"]:
    """The photo (enlarged when it is small) with its marks, numbered from 1; words also in a list beside it."""
    height, width = photo.shape[1:]
    factor = max(1, math.ceil(SMALLEST / max(height, width)))
    colours = region_colours(len(marks))
    numbers = range(1, len(marks) + 1)
    image = resize(photo, height * factor, width * factor)
    canvas = _drawn(image, marks, factor, numbers, colours)
    if any(mark.title or mark.details for mark in marks):
        canvas = _beside(canvas, marks, colours, _unit(canvas.size))
    return from_pillow(canvas)


def overlay(frame: UInt8[Tensor, "3 H W"], marks: Sequence[Mark], numbers: Sequence[int]) -> UInt8[Tensor, "3 H W"]:
    """The frame of a clip with its marks; `numbers` are those of the tracks, which keep their colour."""
    palette = region_colours(TRACK_COLOURS)
    return from_pillow(_drawn(frame, marks, 1, numbers, [palette[number % TRACK_COLOURS] for number in numbers]))


def _unit(size: tuple[int, int]) -> int:
    """Height of the words, in pixels."""
    return max(13, round(max(size) / 55))


def _drawn(
    image: UInt8[Tensor, "3 h w"],
    marks: Sequence[Mark],
    factor: int,
    numbers: Sequence[int],
    colours: Sequence[tuple[int, int, int]],
) -> Image.Image:
    """Boxes, points, numbers and titles on an image that is `factor` times as large as what the marks are of."""
    boxes = [resized_points(mark.box, factor) for mark in marks]
    for mark, box in zip(marks, boxes, strict=True):
        if mark.points is not None:
            radius = max(SMALLEST_DOT, float((box[2:] - box[:2]).max()) / 120)
            image = dots(image, resized_points(mark.points, factor), mark.confidence, radius)
    canvas = to_pillow(image)
    unit = _unit(canvas.size)
    pen = ImageDraw.Draw(canvas)
    line = max(2, unit // 6)
    rectangles = [_inside(box, canvas.size, line) for box in boxes]
    for rectangle, colour in zip(rectangles, colours, strict=True):
        pen.rectangle(rectangle, outline=INK, width=line + 1)
        pen.rectangle(rectangle, outline=colour, width=line)
    plates: list[Rectangle] = []
    for number, mark in enumerate(marks):
        others = rectangles[:number] + rectangles[number + 1 :]
        taken = [*plates, *others]
        words = f"{numbers[number]} {mark.title}".strip()
        plates.append(_plate(pen, canvas.size, rectangles[number], words, f"{numbers[number]}", colours[number], taken))
    return canvas


def dots(
    image: UInt8[Tensor, "3 H W"], points: Float[Tensor, "P 2"], confidence: Float[Tensor, "P"] | None, radius: float
) -> UInt8[Tensor, "3 H W"]:
    """The image with landmarks: green, orange where the confidence is below SURE."""
    sure = torch.ones(len(points)) if confidence is None else confidence
    for chosen, colour in ((sure < SURE, UNSURE_COLOUR), (sure >= SURE, POINT_COLOUR)):
        if chosen.any():
            image = _dot(image, points[chosen], radius, colour)
    return image


def _dot(
    image: UInt8[Tensor, "3 H W"], points: Float[Tensor, "P 2"], radius: float, colour: tuple[int, int, int]
) -> UInt8[Tensor, "3 H W"]:
    """Light dots with a dark rim, drawn on the part of the image they are in: on a whole photo they take long."""
    room = math.ceil(radius) + 2
    left, top = (max(0, int(value) - room) for value in points.amin(0).tolist())
    right, bottom = (max(0, int(value) + room + 1) for value in points.amax(0).tolist())
    part = image[:, top:bottom, left:right]
    if not part.numel():
        return image
    there = points - torch.tensor([left, top])
    if radius > SMALLEST_DOT:  # in a small face the rims would run together
        part = draw_points(part, there, colour=POINT_RIM, radius=radius + 0.7)
    image = image.clone()
    image[:, top:bottom, left:right] = draw_points(part, there, colour=colour, radius=radius)
    return image


def _inside(box: Float[Tensor, "4"], size: tuple[int, int], line: int) -> Rectangle:
    """The box as far as it lies in the picture, so that a face at the edge has four sides too."""
    x1, y1, x2, y2 = box.tolist()
    left, top = min(max(x1, 0), size[0] - line), min(max(y1, 0), size[1] - line)
    return left, top, max(left + line, min(x2, size[0] - 1)), max(top + line, min(y2, size[1] - 1))


def _plate(
    pen: Pen,
    size: tuple[int, int],
    box: Rectangle,
    titled: str,
    bare: str,
    colour: tuple[int, int, int],
    taken: Sequence[Rectangle],
) -> Rectangle:
    """Number and title above or below the box where they cover nothing, else the number alone in the box's corner."""
    unit = _unit(size)
    font, height = text_font(unit), round(1.4 * unit)

    def place(text: str, top: float) -> Rectangle:
        width = font.getlength(text) + 0.6 * unit
        left = max(0.0, min(box[0], size[0] - width))
        return left, top, left + width, top + height

    def free(spot: Rectangle) -> bool:
        return not any(_meet(spot, other) for other in taken)

    around = [(titled, box[1] - height), (titled, box[3]), (bare, box[1] - height), (bare, box[3])]
    if height < (box[3] - box[1]) / 5:  # a large face may fill its photo: then the words cover some of its forehead
        around.insert(2, (titled, box[1]))
    spots = ((text, place(text, top)) for text, top in around if 0 <= top <= size[1] - height)
    text, chosen = next(((text, spot) for text, spot in spots if free(spot)), (bare, place(bare, box[1])))
    pen.rectangle(chosen, fill=colour)
    pen.text((chosen[0] + 0.3 * unit, chosen[1] + height / 2), text, fill=_ink_on(colour), font=font, anchor="lm")
    return chosen


def _meet(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ink_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = colour
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else WHITE


def _beside(
    photo: Image.Image, marks: Sequence[Mark], colours: Sequence[tuple[int, int, int]], unit: int
) -> Image.Image:
    """The photo with a list to its right, in as many columns as its height asks for."""
    font, small = text_font(unit), text_font(max(11, round(0.85 * unit)))
    wide, gap, step = 20 * unit, unit, round(1.5 * unit)
    entries = []
    for number, mark in enumerate(marks, 1):
        lines = [(line, small, GREY) for text in mark.details for line in _wrapped(text, small, wide - 2 * unit)]
        entries.append((number, [(fit_text(mark.title or "face", font, wide - 2 * unit), font, INK), *lines]))
    heights = [len(lines) * step + gap // 2 for _, lines in entries]
    # A little more than the photo's height is better than a second column for one face.
    limit = sum(heights) if sum(heights) < 1.25 * photo.height else max(photo.height - 2 * gap, *heights)
    tall = max(photo.height, limit + 2 * gap)
    columns: list[list[tuple[float, int, Lines]]] = [[]]
    below = gap
    for (number, lines), height in zip(entries, heights, strict=True):
        if columns[-1] and below + height > gap + limit:
            columns.append([])
            below = gap
        columns[-1].append((below, number, lines))
        below += height
    canvas = Image.new("RGB", (photo.width + gap + len(columns) * (wide + gap), tall), WHITE)
    canvas.paste(photo, (0, 0))
    pen = ImageDraw.Draw(canvas)
    for column, placed in enumerate(columns):
        left = photo.width + gap + column * (wide + gap)
        for top, number, lines in placed:
            colour = colours[number - 1]
            pen.rectangle((left, top + 0.1 * step, left + 1.5 * unit, top + 0.9 * step), fill=colour)
            middle = (left + 0.75 * unit, top + step / 2)
            pen.text(middle, str(number), fill=_ink_on(colour), font=small, anchor="mm")
            for row, (text, face, ink) in enumerate(lines):
                pen.text((left + 2 * unit, top + (row + 0.5) * step), text, fill=ink, font=face, anchor="lm")
    return canvas


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> Iterator[str]:
    """Lines that are at most so many pixels wide; a single word that is wider is shortened."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            yield line
            longer = word
        line = fit_text(longer, font, width)
    if line:
        yield line
