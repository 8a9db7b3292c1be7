"""Views of a face: every augmentation of pre-training, in one place.

B images, H x W their own sizes, S view size. A view is made in two parts: `draw` decides everything random about it,
`ViewMaker.make` carries it out, for many images at once: in float32, rounded to 8 bits once, at the end, because fresh
memory and its way to the training process cost more than a step of arithmetic.

Whatever is random is a function of (seed, epoch, image index, view) alone, and every pixel is computed in the same
order whatever else is in the batch: workers, processes, batch composition and resuming change nothing, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8, UInt64
from torch import Tensor

from fra.faces.colour import brighten, change_contrast, grey, saturate
from fra.recipe import NotNegative, Pixels, Positive, Range, Settings, Share, Whole
from fra.system.printable import counted

# Values worked on at a time: many save calls, few stay in a core's cache. Measured; no result depends on it.
CHUNK = 2**18
PIECE = 4 * CHUNK  # blurred at a time: equally strong blurs of many images go together
HALF = torch.tensor(0.5)
CENTRES = torch.tensor([0.0, 2.0, -2.0])[:, None, None]  # hue of red, green, blue in sixths of a turn

Covered = Annotated[float, Range(0, 1, above=True)]
"""A part of an image's area."""


@dataclass(frozen=True)
class CommonViewConfig(Settings):
    """Augmentation that all views of a face share, in the order in which it is applied (FRA's released code; spec
    fra.md, section 8)."""

    size: Pixels = 224
    """Side of the view in pixels."""
    scale: tuple[Covered, Covered] = (0.2, 1.0)
    """Share of the image's area that the crop covers."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Width over height of the crop (torchvision's RandomResizedCrop)."""
    flip: Share = 0.5
    """Probability of a horizontal flip."""
    jitter: Share = 0.8
    """Probability of colour jitter: the next four changes, in random order."""
    brightness: NotNegative = 0.4
    """The factor is uniform in 1 -+ this."""
    contrast: NotNegative = 0.4
    """The factor is uniform in 1 -+ this."""
    saturation: NotNegative = 0.2
    """The factor is uniform in 1 -+ this."""
    hue: Annotated[float, Range(0, 1 / 3)] = 0.1
    """The hue shift is uniform in -+ this, as a fraction of the colour circle; at most 1/3."""
    grayscale: Share = 0.2
    """Probability of conversion to grey."""
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Range of the blur's standard deviation, in pixels of the view (SimCLR, MoCo v2, BYOL: at size 224)."""
    solarize_threshold: Share = 128 / 255
    """Pixels above this are inverted, in [0, 1]."""


@dataclass(frozen=True)
class ViewConfig(CommonViewConfig):
    """One view. The defaults are FRA's first view."""

    blur: Share = 1.0
    """Probability of a Gaussian blur."""
    solarize: Share = 0.0
    """Probability of solarization (bright pixels are inverted)."""


@dataclass(frozen=True)
class ViewsConfig(CommonViewConfig):
    """All views of a face, large ones first, one for each number in `blur`. The defaults are FRA's two views."""

    blur: tuple[Share, ...] = (1.0, 0.1)
    """Probability of a Gaussian blur, for each view."""
    solarize: tuple[Share, ...] = (0.0, 0.2)
    """Probability of solarization (bright pixels are inverted), for each view."""
    small: Whole = 0
    """How many of the views, counted from the last, are small (multi-crop; SwAV, Sec. 3.3)."""
    small_size: Pixels = 96
    """Side of the small views in pixels (SwAV)."""
    small_scale: tuple[Covered, Covered] = (0.05, 0.14)
    """Share of the image's area that a small view covers (SwAV)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.blur) != len(self.solarize) or not self.blur:
            raise ValueError(
                f"views: blur has {counted(len(self.blur), 'number')} and solarize {len(self.solarize)}: give each one "
                "number per view"
            )
        if not 0 <= self.small < len(self.blur):
            raise ValueError(
                f"views: small is {self.small}, but at least one of the {len(self.blur)} views must be large"
            )
        for name in ("scale", "small_scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"views: {name} is [{low}, {high}]: give two numbers, the smaller first")

    def each(self) -> list[ViewConfig]:
        """One ViewConfig per view."""
        common = {field.name: getattr(self, field.name) for field in fields(CommonViewConfig)}
        small = common | dict(size=self.small_size, scale=self.small_scale)
        large = len(self.blur) - self.small
        pairs = zip(self.blur, self.solarize, strict=True)
        return [
            ViewConfig(**(common if view < large else small), blur=blur, solarize=solarize)
            for view, (blur, solarize) in enumerate(pairs)
        ]

    @property
    def sizes(self) -> list[int]:
        """The side of each view in pixels."""
        return [view.size for view in self.each()]


def random_bits(*key: int, indices: Int[np.ndarray, "B"], count: int) -> UInt64[np.ndarray, "B N"]:
    """`count` random 64-bit numbers for every index: a function of (key, index) alone.

    SplitMix64 (Steele, Lea and Flood, 2014), seeded by hashing key and index. Ours, because a generator object per
    image and view would cost more than the drawing, and because NumPy may change its streams between releases.
    """
    state = np.zeros(1, np.uint64)
    for number in key:
        state = _mix(state + _GOLDEN ^ np.array([number % 2**64], np.uint64))
    state = _mix(state + _GOLDEN ^ indices.astype(np.uint64))
    return _mix(state[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))


_GOLDEN = np.array([0x9E3779B97F4A7C15], np.uint64)  # arrays, not scalars, because those wrap around silently


def _mix(state: UInt64[np.ndarray, "*any"]) -> UInt64[np.ndarray, "*any"]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@dataclass(frozen=True)
class ViewParameters:
    """Everything that was drawn for one view of B images."""

    boxes: Int[np.ndarray, "B 4"]
    """Crops as left, top, width, height in whole pixels of their image."""
    flip: Bool[np.ndarray, "B"]
    jitter: Bool[np.ndarray, "B"]
    order: Int[np.ndarray, "B 4"]
    """The order in which brightness (0), contrast (1), saturation (2) and hue (3) change."""
    amounts: Float[np.ndarray, "B 4"]
    """Factors of brightness, contrast and saturation, and the shift of hue in turns."""
    grayscale: Bool[np.ndarray, "B"]
    sigma: Float[np.ndarray, "B"]
    """Standard deviation of the blur in pixels of the view; 0 where there is none."""
    solarize: Bool[np.ndarray, "B"]

    def frames(self, sizes: Int[np.ndarray, "B 2"]) -> Float[np.ndarray, "B 4"]:
        """Where the views lie in their images of given (height, width): left, top, width, height, as shares.

        The left edge of a mirrored view is the right one of its box, from where it reaches back: its width is negative.
        """
        left, top, width, height = self.boxes.T
        left, width = np.where(self.flip, left + width, left), np.where(self.flip, -width, width)
        return np.stack([left, top, width, height], 1) / sizes[:, [1, 0, 1, 0]]

    def together(self) -> Int[np.ndarray, "B"]:
        """The images in an order in which those whose colours change alike are neighbours; those that keep their
        colours come last."""
        return np.where(self.jitter, self.order @ np.array([64, 16, 4, 1]), 256).argsort(kind="stable")


ATTEMPTS = 10  # at a random crop, before the centre is taken (torchvision's RandomResizedCrop)


def draw(
    config: ViewConfig,
    sizes: Int[np.ndarray, "B 2"],
    indices: Int[np.ndarray, "B"],
    *,
    seed: int,
    epoch: int,
    view: int,
) -> ViewParameters:
    """Decide everything random about one view of B images of given (height, width)."""
    bits = random_bits(seed, epoch, view, indices=indices, count=16 + 2 * ATTEMPTS)
    u = (bits >> np.uint64(11)) * 2.0**-53  # uniform in [0, 1)
    flip, jitter, grayscale, blurred, sigma, solarized = u[:, :6].T
    spread = np.array([config.brightness, config.contrast, config.saturation])
    low = np.append(np.maximum(0, 1 - spread), -config.hue)
    high = np.append(1 + spread, config.hue)
    from_sigma, to_sigma = config.blur_sigma
    return ViewParameters(
        boxes=_crops(config, sizes, place=u[:, 14:16], shape=u[:, 16:].reshape(len(u), ATTEMPTS, 2)),
        flip=flip < config.flip,
        jitter=jitter < config.jitter,
        order=u[:, 6:10].argsort(1),
        amounts=low + u[:, 10:14] * (high - low),
        grayscale=grayscale < config.grayscale,
        sigma=np.where(blurred < config.blur, from_sigma + sigma * (to_sigma - from_sigma), 0.0),
        solarize=solarized < config.solarize,
    )


def _crops(
    config: ViewConfig,
    sizes: Int[np.ndarray, "B 2"],
    *,
    place: Float[np.ndarray, "B 2"],
    shape: Float[np.ndarray, "B A 2"],
) -> Int[np.ndarray, "B 4"]:
    """Boxes of random area, shape and place: the first of ten attempts that fits, else the largest central one."""
    height, width = sizes[:, :1], sizes[:, 1:]
    area = height * width * (config.scale[0] + shape[..., 0] * (config.scale[1] - config.scale[0]))
    narrow, wide = np.log(config.ratio)
    aspect = np.exp(narrow + shape[..., 1] * (wide - narrow))
    w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = fits.argmax(1)[:, None]
    w, h = np.take_along_axis(w, first, 1), np.take_along_axis(h, first, 1)
    own = width / height
    central_w = np.where(own > config.ratio[1], np.rint(height * config.ratio[1]), width)
    central_h = np.where(own < config.ratio[0], np.rint(width / config.ratio[0]), height)
    found = fits.any(1, keepdims=True)
    w, h = np.where(found, w, central_w), np.where(found, h, central_h)
    room = np.concatenate([width - w, height - h], 1)
    corner = np.where(found, np.floor(place * (room + 1)), room // 2)
    return np.concatenate([corner, w, h], 1).astype(np.int64)


class Drawn(NamedTuple):
    """Everything that decides about one view of B images."""

    config: ViewConfig
    parameters: ViewParameters


class ViewMaker:
    """Makes the views of batches of faces."""

    def __init__(self, config: ViewsConfig, *, seed: int) -> None:
        self.views = config.each()
        self.seed = seed

    def make(
        self, images: Sequence[UInt8[Tensor, "3 _ _"]], indices: Int[Tensor, "B"], *, epoch: int
    ) -> list[UInt8[Tensor, "B 3 _ _"]]:
        """The views of B images of any sizes: one tensor per view, RGB.

        `indices` are the images' places in their pool; with seed and epoch they decide what happens to each image.
        """
        return self._make(images, self._draw(_sizes(images), indices, epoch))

    def make_with_frames(
        self, images: Sequence[UInt8[Tensor, "3 _ _"]], indices: Int[Tensor, "B"], *, epoch: int
    ) -> tuple[list[UInt8[Tensor, "B 3 _ _"]], list[Float[Tensor, "B 4"]]]:
        """The same views, and where each lies in its image (`ViewParameters.frames`)."""
        sizes = _sizes(images)
        drawn = self._draw(sizes, indices, epoch)
        return self._make(images, drawn), [torch.from_numpy(what.frames(sizes)).float() for what in drawn]

    def draw(self, images: Sequence[UInt8[Tensor, "3 _ _"]], indices: Int[Tensor, "B"], *, epoch: int) -> list[Drawn]:
        """What `make` would carry out, a view after the other."""
        return [Drawn(*each) for each in zip(self.views, self._draw(_sizes(images), indices, epoch), strict=True)]

    def _draw(self, sizes: Int[np.ndarray, "B 2"], indices: Int[Tensor, "B"], epoch: int) -> list[ViewParameters]:
        return [
            draw(config, sizes, indices.numpy(), seed=self.seed, epoch=epoch, view=number)
            for number, config in enumerate(self.views)
        ]

    def _make(
        self, images: Sequence[UInt8[Tensor, "3 _ _"]], drawn: Sequence[ViewParameters]
    ) -> list[UInt8[Tensor, "B 3 _ _"]]:
        return [carry_out(config, images, what) for config, what in zip(self.views, drawn, strict=True)]


def _sizes(images: Sequence[UInt8[Tensor, "3 _ _"]]) -> Int[np.ndarray, "B 2"]:
    return np.array([image.shape[1:] for image in images])


def carry_out(
    config: ViewConfig, images: Sequence[UInt8[Tensor, "3 _ _"]], drawn: ViewParameters
) -> UInt8[Tensor, "B 3 S S"]:
    """Do what was drawn, a few images at a time."""
    made = np.empty((len(images), 3, config.size, config.size), np.uint8)
    pieces = chunks(drawn.together(), config.size, PIECE)
    memory = torch.empty(len(pieces[0]), 3, config.size, config.size)  # used again and again: fresh memory is slow
    for chosen in pieces:
        faces, parts = memory[: len(chosen)], chunks(chosen, config.size)
        for few, part in zip(faces.split(len(parts[0])), parts, strict=True):
            for face, i in zip(few, part, strict=True):
                np.copyto(face.numpy(), _cropped(images[i], drawn, i, size=config.size))
            few.mul_(1 / 255)
            jittered = int(drawn.jitter[part].sum())  # they come first
            change_colours(few[:jittered], drawn.order[part], drawn.amounts[part])
        for at in drawn.grayscale[chosen].nonzero()[0]:
            faces[at] = grey(faces[at : at + 1])[0]
        blur(faces, drawn.sigma[chosen])
        for at in drawn.solarize[chosen].nonzero()[0]:
            solarize(faces[at], config.solarize_threshold)
        levels = torch.add(HALF, faces, alpha=255, out=faces).numpy()
        for i, face in zip(chosen, levels, strict=True):
            np.copyto(made[i], face, casting="unsafe")  # cuts off; six times as fast as torch's conversion
    return torch.from_numpy(made)


def crop_only(
    config: ViewConfig, images: Sequence[UInt8[Tensor, "3 _ _"]], drawn: ViewParameters
) -> UInt8[Tensor, "B 3 S S"]:
    """The first half of `carry_out`: crops, resized and mirrored. `fra.pretrain.views_on_device` does the other."""
    made = np.empty((len(images), 3, config.size, config.size), np.uint8)
    for i, image in enumerate(images):
        np.copyto(made[i], _cropped(image, drawn, i, size=config.size))
    return torch.from_numpy(made)


def _cropped(
    image: UInt8[Tensor, "3 _ _"], drawn: ViewParameters, i: int | np.integer, *, size: int
) -> UInt8[np.ndarray, "3 S S"]:
    resized = crop(image, drawn.boxes[i], size=size).numpy()
    return resized[..., ::-1] if drawn.flip[i] else resized


def chunks(chosen: Int[np.ndarray, "N"], size: int, values: int = CHUNK) -> list[Int[np.ndarray, "_"]]:
    """Cut a list of images into pieces of so many values (one image at least) to be worked on together."""
    at_once = max(1, values // (3 * size**2))
    return np.split(chosen, range(at_once, len(chosen), at_once))


def crop(image: UInt8[Tensor, "3 H W"], box: Int[np.ndarray, "4"], *, size: int) -> UInt8[Tensor, "3 S S"]:
    """One crop, resized with antialiasing as Pillow does (both round to 8 bits)."""
    left, top, width, height = box.tolist()
    part = image[None, :, top : top + height, left : left + width]
    # Colours together, as a JPEG decodes: resizing is fastest so.
    part = part.contiguous(memory_format=torch.channels_last)
    return F.interpolate(part, size=(size, size), mode="bilinear", antialias=True)[0]


def change_colours(
    faces: Float[Tensor, "N 3 S S"], order: Int[np.ndarray, "M 4"], amounts: Float[np.ndarray, "M 4"]
) -> None:
    """Colour jitter in place: each face's four steps in its own order; neighbours with the same step go together."""
    count = len(faces)
    steps = (brighten, change_contrast, saturate, shift_hue)
    factors = beside(faces, torch.from_numpy(amounts.astype(np.float32))[..., None, None, None])
    for step in order[:count].T.tolist():
        turns = [at for at in range(1, count) if step[at] != step[at - 1]]
        for start, stop in pairwise([0, *turns, count]) if count else ():
            which = step[start]
            steps[which](faces[start:stop], factors[start:stop, which])


def beside(faces: Tensor, tensor: Tensor) -> Tensor:
    """The tensor where the faces are, on a GPU without waiting for it."""
    return tensor.to(faces.device, non_blocking=faces.is_cuda)


def shift_hue(faces: Float[Tensor, "N 3 S S"], turns: Float[Tensor, "N 1 1 1"]) -> None:
    """Turn the colour circle by at most 1/3, in place, at constant value and saturation of HSV (A. R. Smith, 1978)."""
    red, green, blue = faces.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    scale = chroma.clamp(min=1e-8).reciprocal_()
    # Hue in sixths of a turn from -3 to 3 (0 red, 2 green, -2 blue) without a case for each sixth, as cases are slow:
    # with r, g, b stretched so that the largest is 1 and the smallest 0, |hue| = |g - b| + (1 - r)(3 - 2|g - b|).
    side, away = (green - blue).mul_(scale), (high - red).mul_(scale)
    apart = side.abs()
    hue = torch.addcmul(apart, apart, away, value=-2).add_(away, alpha=3).copysign_(side).add_(turns[:, 0] * 6)
    # A pure colour holds all of a channel within one sixth of that channel's hue, and nothing beyond two.
    held = (hue[:, None] - beside(hue, CENTRES)).abs_()
    held.sub_(3).abs_().sub_(1).clamp_(0, 1)
    torch.addcmul(low[:, None], chroma[:, None], held, out=faces)


def blur(faces: Float[Tensor, "B 3 S S"], sigma: Float[np.ndarray, "B"]) -> None:
    """Gaussian blur in place, cut off at three sigma; the border pixels continue outside, as in Pillow."""
    size = faces.shape[-1]
    reach = np.rint(3 * sigma).astype(int)
    for r in np.unique(reach[reach > 0]).tolist():
        for chosen in chunks((reach == r).nonzero()[0], size):
            weights = gaussian(sigma[chosen], r)
            alone = len(chosen) == 1
            sharp = faces[chosen[0]][None] if alone else faces.index_select(0, torch.from_numpy(chosen))
            for i, face in zip(chosen, weighted_sums(sharp, weights), strict=True):
                faces[i] = face


def gaussian(sigma: Float[np.ndarray, "N"], reach: int) -> Float[Tensor, "N taps"]:
    """The weights of a blur's neighbours, which are `reach` pixels away at most, for each standard deviation."""
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma[:, None]) ** 2)
    return torch.from_numpy((taps / taps.sum(1, keepdims=True)).astype(np.float32))


def weighted_sums(faces: Float[Tensor, "N 3 S S"], weights: Float[Tensor, "N taps"]) -> Float[Tensor, "N 3 S S"]:
    """Sums over neighbours along columns, then along rows, each face with its own weights."""
    count, size, reach = len(faces), faces.shape[-1], weights.shape[1] // 2
    stride = size + 2 * reach
    padded = F.pad(faces, (reach, reach, reach, reach), mode="replicate")
    columns = padded[:, :, :size] * weights[:, 0, None, None, None]
    for step in range(1, weights.shape[1]):
        columns.addcmul_(padded[:, :, step : step + size], weights[:, step, None, None, None])
    # All rows of a face are summed as one long line: the sums that reach across the end of a row are left out below.
    line = columns.view(count, -1)
    length = line.shape[1] - 2 * reach
    rows = line[:, :length] * weights[:, :1]
    for step in range(1, weights.shape[1]):
        rows.addcmul_(line[:, step : step + length], weights[:, step : step + 1])
    return rows.as_strided(faces.shape, (length, size * stride, stride, 1))


def solarize(face: Float[Tensor, "*N 3 S S"], threshold: float) -> None:
    """Invert, in place, what is at least as bright as the threshold."""
    bright = (face - threshold).ge_(0)
    face.add_(bright.mul_(1 - 2 * face))
