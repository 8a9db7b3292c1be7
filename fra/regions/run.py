"""fra regions: a pre-trained region model and faces to heatmaps, pictures and a few numbers."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fra.faces.image import UnreadableImage, to_input, write_image
from fra.files import atomic, claim_folder, one_writer, write_json
from fra.models.region_head import RegionModel
from fra.pools.listing import Account, closing_line
from fra.pools.remote import Remote
from fra.pools.unlabelled import Pool, open_pool
from fra.regions import draw
from fra.regions import heatmaps as measure
from fra.runtime import Runtime
from fra.system.printable import counted, printable
from fra.training.devices import begin
from fra.weights.load import load_region_model


@dataclass(frozen=True)
class RegionsSummary:
    """What a run of `fra regions` found."""

    faces: int
    regions: int
    order: list[int]
    """The regions (from 0), the most structured heatmap over the whole set first."""
    shares: list[float]
    map_cosine: float
    entropy: float
    skipped: list[tuple[str, str]]
    """Files that could not be read, with the reason."""
    not_faces: dict[str, Any]
    """What there was beside the faces (`Account.record`)."""
    drawn: int
    """Faces in regions.png."""
    files: list[str]
    """What was written, relative to the output folder."""


@one_writer
def draw_regions(
    model: str,
    faces: Path | Remote,
    out: Path,
    *,
    top: int = 3,
    per_image: bool = False,
    rows: int = 24,
    runtime: Runtime = Runtime(),
) -> RegionsSummary:
    """Write `regions.png`, `heatmaps.npz`, `regions.json` and, when the run kept snapshots, `timeline.gif`.

    `faces` is an image, a folder tree, a .txt list, or shards. All faces enter the numbers and the ranking; `rows` of
    them, spread over the set, are drawn, each with its `top` heatmaps (`top` of at least K: all). Raises ValueError
    when no face can be read, `top` is below 1, or `model` has no regions (BYOL, a plain encoder).
    """
    if top < 1:
        raise ValueError(f"--top is {top}: give at least 1")
    pool = open_pool(faces)
    region_model = load_region_model(model, quiet=runtime.quiet)
    known = dict([pool.first_readable(str(faces), least_side=_least_side(region_model))])
    out = Path(out)
    claim_folder(out, command="regions", resume=runtime.resume)
    (out / "regions.json").unlink(missing_ok=True)  # written last: with it all of them belong together
    place = begin(runtime)
    seen = _look(region_model.to(place).eval(), pool, place, rows, known=known)
    maps = torch.cat(seen.heatmaps)
    order = measure.ranking(maps, per_image=per_image)
    found = measure.numbers(torch.cat(seen.scores))
    drawn = sorted(seen.images)
    sheet = draw.faces_with_heatmaps(
        [seen.images[index] for index in drawn], maps[drawn], order[drawn], top=top, per_image=per_image
    )
    write_image(out / "regions.png", sheet)
    with atomic(out / "heatmaps.npz") as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, heatmaps=maps.numpy(), files=np.array(seen.names))
    written = ["regions.png", "heatmaps.npz"]
    snapshots = _snapshots_of(model)
    if snapshots is not None:
        draw.write_timeline(out / "timeline.gif", snapshots)
        written.append("timeline.gif")
    summary = RegionsSummary(
        faces=len(seen.names),
        regions=maps.shape[1],
        order=measure.ranking(maps)[0].tolist(),
        shares=found.shares,
        map_cosine=found.map_cosine,
        entropy=found.entropy,
        skipped=seen.skipped,
        not_faces=pool.account.record(),
        drawn=len(drawn),
        files=[*written, "regions.json"],
    )
    write_json(out / "regions.json", {"model": Path(model).name, **asdict(summary)}, indent=2)
    if not runtime.quiet:
        print(describe(summary, out, pool.account))
    return summary


def describe(summary: RegionsSummary, out: Path, account: Account) -> str:
    """The few lines a person reads after the command."""
    lines = [f"{counted(summary.faces, 'face')}, {counted(summary.regions, 'region')}"]
    lines += lines_of(summary.shares, map_cosine=summary.map_cosine, entropy=summary.entropy)
    if summary.drawn < summary.faces:
        lines.append(f"drawn: {counted(summary.drawn, 'face')}, spread over the set")
    lines += [f"skipped {printable(name)}: {reason}" for name, reason in summary.skipped[:5]]
    if len(summary.skipped) > 5:
        lines.append(f"... and {len(summary.skipped) - 5:,} more, all in regions.json")
    skipped = {"unreadable": len(summary.skipped)}
    lines.append(closing_line(account, used=summary.faces, skipped=skipped, noun="face"))
    lines.append(f"{', '.join(summary.files)} in {printable(out)}")
    return "\n".join(lines)


def lines_of(shares: list[float], *, map_cosine: float, entropy: float) -> list[str]:
    """The numbers of a set of faces for people."""
    undecided = float(np.log(len(shares)))
    row = "  ".join(f"{index + 1}: {share:.0%}" for index, share in enumerate(shares))
    lines = [
        f"share of pixels per region     {row}",
        f"overlap between regions        {map_cosine:.3f}   (0 none, 1 identical)",
        f"assignment entropy per pixel   {entropy:.3f}   (log {len(shares)} = {undecided:.3f} = undecided)",
    ]
    if entropy > 0.98 * undecided:
        lines.append("no regions formed; the colours exaggerate negligible differences")
    return lines


def _snapshots_of(model: str) -> draw.Snapshots | None:
    """The snapshots in the model's run folder, given the folder or a file in it."""
    path = Path(model)
    if not path.exists():  # weights that come with fra
        return None
    return draw.load_snapshots((path if path.is_dir() else path.parent) / "snapshots")


@dataclass(frozen=True)
class _Seen:
    """What the model said of the readable faces, in their order."""

    names: list[str]
    images: dict[int, UInt8[Tensor, "3 S S"]]
    """The faces to be drawn, by index."""
    heatmaps: list[Float[Tensor, "_ K h w"]]
    scores: list[Float[Tensor, "_ K h w"]]
    skipped: list[tuple[str, str]]


def _least_side(model: RegionModel) -> int:
    """What a face must have, to be looked at and to be drawn."""
    return max(int(model.encoder.image_size), draw.TILE)


def _look(
    model: RegionModel, pool: Pool, device: str, rows: int, *, known: dict[int, UInt8[Tensor, "3 _ _"]], batch: int = 32
) -> _Seen:
    """Run the model over all faces in batches; unreadable ones are noted and left out. `known` are read already."""
    size = int(model.encoder.image_size)
    wanted = set(draw.evenly(len(pool), rows))
    seen = _Seen([], {}, [], [], [])
    waiting: list[Tensor] = []
    last = None
    for place in range(len(pool)):
        try:
            original = known.pop(place) if place in known else pool.image(place, least_side=_least_side(model))
        except UnreadableImage as reason:
            seen.skipped.append((str(reason.path), reason.reason))
        else:
            if place in wanted:
                seen.images[len(seen.names)] = to_input(original, draw.TILE)
            seen.names.append(str(pool.path(place)))
            last = original
            waiting.append(to_input(original, size))
        if waiting and (len(waiting) == batch or place == len(pool) - 1):
            output = model(torch.stack(waiting).to(device).float() / 255)
            seen.heatmaps.append(output.heatmaps.float().cpu())
            seen.scores.append(output.scores.float().cpu())
            waiting = []
    if last is not None and not seen.images:  # every face that was to be drawn is unreadable
        seen.images[len(seen.names) - 1] = to_input(last, draw.TILE)
    return seen
