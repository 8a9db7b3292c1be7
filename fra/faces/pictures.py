"""Pictures a person looks at: contact sheets, heatmaps and regions over a face, points, text.

Images are RGB uint8 tensors (3, H, W); H and W may differ from picture to picture.
"""

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fra.system.printable import counted

WHITE = (255, 255, 255)
INK = (32, 33, 36)
GREY = (110, 113, 118)

# The middle of the "turbo" map in even steps: reads blue to red like the paper's heatmap figure, without jet's false
# edges; turbo's own ends are left out, because both are too dark to tell apart over a face.
_HEAT = (
    (68, 85, 196), (62, 145, 250), (27, 201, 217), (57, 241, 146), (144, 252, 73),
    (210, 232, 53), (252, 180, 54), (244, 102, 23), (200, 41, 4),
)  # fmt: skip

# Eight muted colours that stay apart in print and for most colour-blind readers; further ones have even hues in turn
# light, muted and dark.
_REGION_COLOURS = (
    (78, 121, 167), (242, 142, 43), (89, 161, 79), (225, 87, 89),
    (118, 183, 178), (237, 201, 72), (176, 122, 161), (156, 117, 95),
)  # fmt: skip


def region_colours(count: int) -> list[tuple[int, int, int]]:
    """The colour of each of `count` regions, 0..255, the same wherever a region is shown."""
    colours = list(_REGION_COLOURS[:count])
    for extra in range(count - len(colours)):
        saturation, value = ((0.8, 0.95), (0.4, 0.6), (0.95, 0.6))[extra % 3]  # neighbouring hues differ in these
        red, green, blue = colorsys.hsv_to_rgb((0.05 + extra * 0.618034) % 1.0, saturation, value)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def to_pillow(image: UInt8[Tensor, "3 H W"]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))


def from_pillow(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def resize(image: UInt8[Tensor, "3 H W"], height: int, width: int) -> UInt8[Tensor, "3 h w"]:
    """The image at another size (smooth, and averaged when it shrinks)."""
    if image.shape[1:] == (height, width):
        return image
    return from_pillow(to_pillow(image).resize((width, height), Image.Resampling.BICUBIC))


def upsample(maps: Float[Tensor, "*K h w"], height: int, width: int) -> Float[Tensor, "*K H W"]:
    """Bilinear, pixel centres aligned as everywhere in the project (paper's Figure 1 upsamples heatmaps bilinearly)."""
    flat = maps.reshape(1, -1, *maps.shape[-2:]).float()
    grown = F.interpolate(flat, size=(height, width), mode="bilinear", align_corners=False)
    return grown.reshape(*maps.shape[:-2], height, width)


def scale_to_unit(values: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Min-max scaling of one map to 0..1; a constant map becomes 0 everywhere."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


def colour_map(values: Float[Tensor, "H W"]) -> Float[Tensor, "3 H W"]:
    """Values 0..1 (clamped) as colours 0..255, from blue over green to red."""
    table = np.array(_HEAT, dtype=np.float32)
    position = values.cpu().float().numpy().clip(0, 1) * (len(table) - 1)
    lower = position.astype(np.int64).clip(max=len(table) - 2)
    share = (position - lower)[..., None]
    return torch.from_numpy((table[lower] * (1 - share) + table[lower + 1] * share).transpose(2, 0, 1))


def overlay(
    image: UInt8[Tensor, "3 H W"],
    heatmap: Float[Tensor, "h w"],
    *,
    strength: float = 0.5,
    span: tuple[float, float] | None = None,
) -> UInt8[Tensor, "3 H W"]:
    """A heatmap over a face: upsampled to the image, scaled to 0..1, colour-mapped, mixed in with `strength` 0..1.

    The scale is the map's own minimum and maximum (the paper's figure), or `span` (low, high), which keeps several
    maps comparable: a flat map then looks flat instead of having its noise stretched over all colours. The face
    keeps little of its colour below the map, so that a red background is not taken for a hot one.
    """
    grown = upsample(heatmap.cpu(), image.shape[1], image.shape[2])
    scaled = scale_to_unit(grown) if span is None else (grown - span[0]) / max(span[1] - span[0], 1e-12)
    return _mix(image, colour_map(scaled).numpy(), strength, colourful=0.3)


def mosaic(
    image: UInt8[Tensor, "3 H W"], owners: Int[Tensor, "h w"], *, regions: int, strength: float = 0.55
) -> UInt8[Tensor, "3 H W"]:
    """Which region owns each pixel: the face in grey under one colour per region (`owners` holds 0..regions-1)."""
    height, width = image.shape[1:]
    rows = np.arange(height) * owners.shape[0] // height
    columns = np.arange(width) * owners.shape[1] // width
    colours = np.array(region_colours(regions), dtype=np.float32)
    painted = colours[owners.cpu().numpy()[rows][:, columns]].transpose(2, 0, 1)
    return _mix(image, painted, strength, colourful=0.0)


def _mix(image: UInt8[Tensor, "3 H W"], colour: np.ndarray, strength: float, *, colourful: float) -> Tensor:
    """The face, with a share `colourful` of its own colour kept, under a layer of colour.

    In numpy: on pictures of this size torch's threads cost several times more than the arithmetic.
    """
    face = image.cpu().numpy().astype(np.float32)
    face = colourful * face + (1 - colourful) * face.mean(axis=0, keepdims=True)
    mixed = face * (1 - strength) + colour * strength
    return torch.from_numpy(mixed.round().clip(0, 255).astype(np.uint8))


def draw_points(
    image: UInt8[Tensor, "3 H W"],
    points: Float[Tensor, "P 2"],
    *,
    colour: tuple[int, int, int] = (255, 64, 64),
    radius: float | None = None,
) -> UInt8[Tensor, "3 H W"]:
    """Points (x, y) as filled dots; the centre of the first pixel is (0, 0). The radius follows the image's size."""
    big, factor = to_pillow(image), 4  # drawn four times larger and shrunk, so that dots are round
    width, height = big.size
    layer = Image.new("L", (width * factor, height * factor))
    size = radius if radius is not None else max(1.0, width / 110)
    pen = ImageDraw.Draw(layer)
    for x, y in points.tolist():
        middle_x, middle_y = (x + 0.5) * factor, (y + 0.5) * factor
        reach = size * factor
        pen.ellipse((middle_x - reach, middle_y - reach, middle_x + reach, middle_y + reach), fill=255)
    big.paste(colour, mask=layer.resize((width, height), Image.Resampling.BOX))
    return from_pillow(big)


def text_font(size: int) -> ImageFont.FreeTypeFont:
    """The font that Pillow carries, so that pictures look the same on every machine."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def fit_text(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """`text`, shortened in the middle when it is wider than `width` pixels (the end of a file name says most)."""
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = text[: kept // 2] + "..." + text[len(text) - (kept - kept // 2) :]
        if font.getlength(shorter) <= width:
            return shorter
    return ""


def label(image: UInt8[Tensor, "3 H W"], text: str) -> UInt8[Tensor, "3 H W"]:
    """A short text on a dark plate in the lower left corner of the picture."""
    canvas = to_pillow(image)
    size = max(9, round(canvas.height * 0.085))
    font, pad = text_font(size), max(2, size // 4)
    shown = fit_text(text, font, canvas.width - 2 * pad)
    right, top = font.getlength(shown) + 2 * pad, canvas.height - size - 2 * pad
    plate = Image.new("L", canvas.size)
    ImageDraw.Draw(plate).rectangle((0, top, right, canvas.height), fill=170)
    canvas.paste((0, 0, 0), mask=plate)
    ImageDraw.Draw(canvas).text((pad, canvas.height - pad - size / 2), shown, fill=WHITE, font=font, anchor="lm")
    return from_pillow(canvas)


def contact_sheet(
    images: Sequence[UInt8[Tensor, "3 _ _"]],
    columns: int = 8,
    captions: Sequence[str] | None = None,
    *,
    header: Sequence[str] | None = None,
    size: int | None = None,
    gap: int = 6,
    background: tuple[int, int, int] = WHITE,
) -> UInt8[Tensor, "3 H W"]:
    """Pictures in rows of `columns`, on a light ground.

    `captions` (one per picture) stand below each picture, `header` (one per column) above the first row. `size`
    is the side of a tile in pixels, by default that of the largest picture; a picture keeps its proportions and
    is centred in its tile. Raises ValueError for no pictures, or captions that do not match.
    """
    if not images:
        raise ValueError("a contact sheet needs at least one picture")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{counted(len(captions), 'caption')} for {counted(len(images), 'image')}: give one for each")
    columns = min(columns, len(images))
    side = size or max(max(image.shape[1:]) for image in images)
    font = text_font(max(9, min(16, side // 8)))
    line = round(font.size * 1.5)
    step_x, step_y = side + gap, side + gap + (line if captions is not None else 0)
    top = gap + (line if header else 0)
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (gap + columns * step_x, top + rows * step_y), background)
    pen = ImageDraw.Draw(canvas)

    def write(text: str, column: int, y: float, colour: tuple[int, int, int]) -> None:
        shown = fit_text(text, font, side)
        pen.text((gap + column * step_x + side / 2, y), shown, fill=colour, font=font, anchor="mm")

    for column, text in enumerate((header or ())[:columns]):
        write(text, column, gap + line / 2 - gap / 4, INK)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        tile = fit(image, side)
        canvas.paste(
            to_pillow(tile),
            (
                gap + column * step_x + (side - tile.shape[2]) // 2,
                top + row * step_y + (side - tile.shape[1]) // 2,
            ),
        )
        if captions is not None:
            write(captions[index], column, top + row * step_y + side + line / 2, GREY)
    return from_pillow(canvas)


def fit(image: UInt8[Tensor, "3 H W"], side: int) -> UInt8[Tensor, "3 h w"]:
    """The image with its longer side at `side` pixels."""
    height, width = image.shape[1:]
    longest = max(height, width)
    return resize(image, max(1, round(height * side / longest)), max(1, round(width * side / longest)))
