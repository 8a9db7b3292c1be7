"""Pictures of regions: faces with their heatmaps, and how the heatmaps changed over pre-training.

N faces, K regions, h x w positions of a heatmap, S the side of a face in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from fra.faces import pictures
from fra.files import atomic, read_arrays, reading
from fra.regions import heatmaps as measure

TILE = 160
"""Side of a face in the pictures, in pixels: small crops are enlarged, so that a heatmap can be read."""

LEADING = 2
"""Heatmaps that a timeline shows: those with the most structure at its end."""

HEADER = 30
"""Height of the header above the first row of faces, in pixels (follows from TILE; a test holds the two together)."""


@dataclass(frozen=True)
class Snapshots:
    """The same faces looked at again and again while a model was trained."""

    images: UInt8[Tensor, "N 3 S S"]
    epochs: list[int]
    heatmaps: list[Float[Tensor, "N K h w"]]


def load_snapshots(folder: Path) -> Snapshots | None:
    """The snapshots of a pre-training run (`snapshots/`), or None when there are none.

    Raises DamagedFile for one that is not as it was written.
    """
    files = sorted(folder.glob("epoch_*.npz"))
    if not files or not (folder / "faces.npz").is_file():
        return None
    images = _array(folder / "faces.npz", "images")
    maps = [_array(file, "heatmaps").float() for file in files]
    return Snapshots(images, [_epoch(file) for file in files], maps)


def _array(path: Path, name: str) -> Tensor:
    with reading(path, f"remove the folder {path.parent}: only the pictures over time are lost"):
        found = torch.from_numpy(read_arrays(path)[name])
        if found.ndim != 4:
            raise ValueError(f"{name} has {found.ndim} dimensions, not 4")
        return found


def _epoch(path: Path) -> int:
    with reading(path, "it is not a snapshot of fra: move it away"):
        return int(path.stem.removeprefix("epoch_"))


def region_mosaic(
    image: UInt8[Tensor, "3 H W"], heatmaps: Float[Tensor, "K h w"], *, strength: float = 0.55
) -> UInt8[Tensor, "3 H W"]:
    """Each pixel in the colour of the region that wins it, the maps upsampled first, so that borders are smooth."""
    grown = pictures.upsample(heatmaps, image.shape[1], image.shape[2])
    return pictures.mosaic(image, grown.argmax(0), regions=len(heatmaps), strength=strength)


def faces_with_heatmaps(
    images: Sequence[UInt8[Tensor, "3 _ _"]],
    heatmaps: Float[Tensor, "N K h w"],
    order: Int[Tensor, "N K"],
    *,
    top: int = 3,
    per_image: bool = False,
    owners: bool = True,
    tile: int = TILE,
) -> UInt8[Tensor, "3 H W"]:
    """One row per face: the face, its `top` heatmaps (paper's Figure 1), and with `owners` who owns each pixel.

    `order` comes from `heatmaps.ranking` over the whole set, which may hold more faces than are drawn. Each map is
    upsampled bilinearly and min-max scaled by itself.
    """
    shown = min(top, heatmaps.shape[1])
    tiles: list[Tensor] = []
    captions: list[str] = []
    for image, maps, ranks in zip(images, heatmaps, order, strict=True):
        face = _square(image, tile)
        chosen = ranks[:shown].tolist()
        tiles += [face, *(pictures.overlay(face, maps[region]) for region in chosen)]
        captions += ["", *(f"region {region + 1}" for region in chosen)]
        if owners:
            tiles.append(region_mosaic(face, maps))
            captions.append("")
    last = ["strongest region per pixel"] if owners else []
    columns = 1 + shown + len(last)
    if per_image:
        header = ["face", *(f"heatmap {place + 1}" for place in range(shown)), *last]
        return pictures.contact_sheet(tiles, columns, captions, header=header)
    return pictures.contact_sheet(tiles, columns, header=["face", *captions[1 : shown + 1], *last])


def first_rows(sheet: UInt8[Tensor, "3 H W"], rows: int, most: int) -> UInt8[Tensor, "3 h W"]:
    """The first `most` faces of a picture by `faces_with_heatmaps` that shows `rows` faces."""
    return sheet[:, : HEADER + (sheet.shape[1] - HEADER) // rows * min(rows, most)]


def timeline_frames(
    snapshots: Snapshots, *, top: int = LEADING, faces: int = 6, frames: int = 40, tile: int = 112
) -> list[tuple[int, UInt8[Tensor, "3 H W"]]]:
    """(epoch, picture) for up to `frames` epochs, first and last included.

    A column per face: the strongest region per pixel above the `top` heatmaps that lead at the last epoch. A
    heatmap keeps one colour scale over all epochs, so that maps which still say nothing look flat.
    """
    chosen = evenly(len(snapshots.epochs), frames)
    images = [_square(image, tile) for image in snapshots.images[:faces]]
    maps = [snapshots.heatmaps[index][: len(images)] for index in chosen]
    leading = measure.ranking(snapshots.heatmaps[-1])[0, :top].tolist()
    spans = {
        region: (
            min(float(epoch[:, region].min()) for epoch in maps),
            max(float(epoch[:, region].max()) for epoch in maps),
        )
        for region in leading
    }
    result = []
    for index, epoch_maps in zip(chosen, maps, strict=True):
        tiles = [region_mosaic(image, face) for image, face in zip(images, epoch_maps, strict=True)]
        for region in leading:
            tiles += [
                pictures.overlay(image, face[region], span=spans[region])
                for image, face in zip(images, epoch_maps, strict=True)
            ]
        result.append((snapshots.epochs[index], pictures.contact_sheet(tiles, len(images), gap=4)))
    return result


def timeline_strip(snapshots: Snapshots, *, faces: int = 3, epochs: int = 7, tile: int = 128) -> UInt8[Tensor, "3 H W"]:
    """A still for print: a row per face, a column per epoch (spread over training), the strongest region per pixel."""
    chosen = evenly(len(snapshots.epochs), epochs)
    tiles = [
        region_mosaic(_square(image, tile), snapshots.heatmaps[index][face])
        for face, image in enumerate(snapshots.images[:faces])
        for index in chosen
    ]
    header = [f"epoch {snapshots.epochs[index]}" for index in chosen]
    return pictures.contact_sheet(tiles, len(chosen), header=header, gap=4)


def write_timeline(path: Path, snapshots: Snapshots, *, seconds: float = 8.0) -> None:
    """The timeline as an animated GIF that lasts about `seconds` and then rests on its last frame."""
    frames = timeline_frames(snapshots)
    last = frames[-1][0]
    stills = [
        pictures.to_pillow(pictures.label(picture, f"epoch {epoch} of {last}")).quantize(
            128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
        )
        for epoch, picture in frames
    ]
    pace = int(max(80, min(700, 1000 * seconds / len(stills))))
    with atomic(path) as temporary:
        stills[0].save(
            temporary,
            save_all=True,
            append_images=stills[1:],
            duration=[pace] * (len(stills) - 1) + [2500],
            loop=0,
            disposal=1,
        )


def evenly(count: int, most: int) -> list[int]:
    """Up to `most` of the indices 0..count-1, evenly spread, first and last included."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count - 1]
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _square(image: UInt8[Tensor, "3 H W"], side: int) -> UInt8[Tensor, "3 side side"]:
    return pictures.resize(image, side, side)
