"""Are the regions of a method alive? Measured on fixed faces, whatever the method that has regions.

B images, K facial regions, S view size; E epochs.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fra.models.encoder import in_batches
from fra.models.region_head import RegionModel, RegionOutput, assignment, region_shares
from fra.models.similarity import mean_entropy, mean_pairwise_cosine
from fra.pretrain.columns import HealthColumn, Judgement, Outcome, State, Table, from_to

ALIVE = 0.02
"""A region counts as alive when it is the strongest at this share of the pixels (ours; one of 8 has .125)."""


def look_at(model: RegionModel, faces: Float[Tensor, "B 3 S S"]) -> RegionOutput:
    """The regions of faces by their own mean mask embeddings: the running ones are empty before the first step."""
    maps = in_batches(model.encoder.maps, faces)
    return model.head(maps, embeddings=in_batches(model.head.decoder, maps).float().mean(0))


def region_health(regions: RegionOutput, *, temperature: float) -> dict[str, float]:
    """A row's values for REGION_COLUMNS."""
    entropy = mean_entropy(assignment(regions.scores, temperature=temperature), dim=1)
    row = dict(mask_cosine=float(mean_pairwise_cosine(regions.embeddings)), assignment_entropy=entropy)
    return row | {f"usage_{index}": float(share) for index, share in enumerate(region_shares(regions.scores))}


def region_warnings(row: dict[str, Any]) -> list[str]:
    """What is wrong with the regions in a row of health.csv."""
    usage = [row[name] for name in USAGE.names(row)]
    if row["mask_cosine"] > 0.95 and row["assignment_entropy"] > 0.99 * math.log(len(usage)):
        so_far = "All regions look the same so far; training is plain BYOL until they differ."
        return [f"{so_far} More faces or epochs usually help."]
    unused = [str(number) for number, share in enumerate(usage, 1) if share < ALIVE]
    if len(unused) == 1:
        return [f"Region {unused[0]} covers under {100 * ALIVE:g} % of the pixels."]
    if unused:
        return [f"Regions {', '.join(unused[:-1])} and {unused[-1]} each cover under {100 * ALIVE:g} % of the pixels."]
    return []


def undecided(table: Table) -> tuple[float, str] | None:
    """The entropy of a pixel that gives all regions the same share: log K."""
    regions = len(USAGE.names(table))
    return (math.log(regions), "undecided") if regions > 1 else None


def _judge_cosine(values: np.ndarray, table: Table) -> Judgement:
    last, observed = values[-1], from_to(values, ".2f")
    if last > 0.9:
        return Judgement(f"{observed}; the regions are the same", "bad")
    if last > 0.6:
        return Judgement(f"{observed}; the regions still resemble each other", "watch")
    return Judgement(f"{observed}; the regions differ", "good")


def _judge_entropy(values: np.ndarray, table: Table) -> Judgement:
    last, observed, level = values[-1], from_to(values, ".2f"), undecided(table)
    if level is None:
        return Judgement(observed, "good")
    if last > 0.98 * level[0]:
        return Judgement(f"{observed}; no regions formed", "bad")
    if last > 0.9 * level[0]:
        return Judgement(f"{observed}; pixels hardly prefer a region", "watch")
    if last < 0.1 * level[0]:
        return Judgement(f"{observed}; almost every pixel is certain", "watch")
    return Judgement(observed, "good")


def _judge_usage(values: np.ndarray, table: Table) -> Judgement:
    last = values[-1]
    alive, regions = int((last >= ALIVE).sum()), len(last)
    state: State = "bad" if alive <= regions / 2 or last.max() > 0.6 else "watch" if alive < regions else "good"
    covered = f"each covers {100 * last.min():.0f} % to {100 * last.max():.0f} % of the pixels"
    return Judgement(f"{alive} of {regions} regions are in use; {covered}", state)


FORMED = Outcome(
    good="regions formed", watch="regions formed, with reservations (see Health)", bad="regions did not form"
)
USAGE = HealthColumn(
    "usage",
    title="Share of pixels per region",
    meaning="share of the pixels at which a region is the strongest",
    good="every region keeps a share; balanced regions have 1/K each",
    judge=_judge_usage,
    outcome=FORMED,
    family=True,
)
REGION_COLUMNS = (
    HealthColumn(
        "mask_cosine",
        title="Mask cosine",
        meaning="mean cosine of two regions' mask embeddings; 1 means that all regions are the same",
        good="well below 1",
        judge=_judge_cosine,
        outcome=FORMED,
        from_zero=False,
    ),
    HealthColumn(
        "assignment_entropy",
        title="Assignment entropy",
        meaning="mean entropy of a pixel's assignment to the K regions, in nats; log K is undecided, 0 is certain",
        good="falls below log K as pixels come to prefer a region, but not to 0",
        judge=_judge_entropy,
        outcome=FORMED,
        reference=undecided,
    ),
    USAGE,
)
