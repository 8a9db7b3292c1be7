"""Figure 1: faces, each with its three heatmaps of highest variance."""

from pathlib import Path

import torch

from fra.faces.image import to_input, write_image
from fra.pools.unlabelled import Pool
from fra.pretrain.loader import face_batch
from fra.regions import draw
from fra.regions.heatmaps import ranking
from fra.weights.load import load_region_model

LOOKED_AT = 96
"""Faces over which the variance of a region is averaged (ours: as `fra regions`, but not over millions)."""
SHOWN = 6
BATCH = 16


def write_figure(path: Path, run: Path, pool: Pool, *, device: str) -> None:
    """The figure of a run of `fra pretrain`, from faces spread evenly over those it was trained on (supplement 3)."""
    model = load_region_model(run, device=device, quiet=True)
    chosen = torch.tensor(draw.evenly(len(pool), LOOKED_AT))
    with torch.inference_mode():
        faces = face_batch(pool, chosen, size=int(model.encoder.image_size)).split(BATCH)
        maps = torch.cat([model(part.to(device)).heatmaps.float().cpu() for part in faces])
    shown = draw.evenly(len(chosen), SHOWN)
    images = [to_input(pool.read(int(chosen[place]))[0], draw.TILE) for place in shown]
    write_image(path, draw.faces_with_heatmaps(images, maps[shown], ranking(maps)[shown], owners=False))
