"""Are regions parts of a face? What Figure 1 of the paper shows, as numbers (docs/explain/region_score.md).

N faces, K regions, h x w positions of a heatmap, Q places, D directions, T the side of a map of parts. Places
are x, y in [-1, 1] from edge to edge of an image. Whatever is chosen is chosen on the train faces.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from fra.faces.points import place_in, place_out_of
from fra.models.region_head import owners
from fra.regions.heatmaps import assignments, positions
from fra.regions.matching import agreement, part_ious
from fra.regions.truth import Cuts, ScoredFaces

SIDE = 64
"""Pixels a side of maps of parts."""
GRID = 25
"""Places a side among which the best constant one is looked for."""
GROWN = 0.08
"""By how much of the distance of the outer eye corners the thin parts, and those that are pointed at, are grown."""

_ANGLES = np.arange(48) * (2 * np.pi / 48)
DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])

EYES = (36, 45)
"""The outer corners, in iBUG's order from 0, as all numbers below."""
SIDES = {
    "brows": (range(17, 22), range(22, 27)),
    "eyes": (range(36, 42), range(42, 48)),
    "nose": (range(27, 36),),
    "mouth": (range(48, 68),),
    "chin": (range(5, 12),),
}
"""The landmarks of each part, one convex hull for each side."""
PAINTED = ("outside", "forehead", "cheeks and chin", "nose", "mouth", "eyes", "brows")
"""The parts of a map, each painted over those before it."""
GROUPS = (range(17), range(17, 27), range(27, 36), range(36, 48), range(48, 68))
"""The 68 landmarks by part: jaw, brows, nose, eyes, mouth."""


# --- shapes


@dataclass(frozen=True)
class Hull:
    """The convex hull of points, grown on all sides: a half-plane in each of DIRECTIONS (corners stick out by .2 %)."""

    reach: Float[np.ndarray, "D"]
    """How far it goes in each."""

    @classmethod
    def of(cls, points: Float[np.ndarray, "_ 2"], grown: float = 0.0) -> "Hull":
        """Of any points, also of some that lie on a line (a closed eye)."""
        return cls((points @ DIRECTIONS).max(0) + grown)

    def holds(self, places: Float[np.ndarray, "Q 2"]) -> Bool[np.ndarray, "Q"]:
        """Which places lie in it."""
        return (places @ DIRECTIONS <= self.reach).all(1)


def sides(points: Float[np.ndarray, "68 2"], part: str, grown: float) -> list[Hull]:
    """The sides of a part of SIDES, grown by a share of the distance of the outer eye corners."""
    distance = grown * float(np.linalg.norm(points[EYES[0]] - points[EYES[1]]))
    return [Hull.of(points[list(side)], distance) for side in SIDES[part]]


def forehead(points: Float[np.ndarray, "68 2"]) -> Hull:
    """Between the temples and the hair line, which lies as far above the brows as the nose ends below them (the rule of
    thirds); .8 as wide there as at the brows."""
    brows, nose = points[17:27], points[33]
    up = brows.mean(0) - nose
    top = brows.mean(0) + 0.8 * (brows - brows.mean(0)) + up
    return Hull.of(np.concatenate([points[[0, 16]], brows, top]))


def part_map(points: Float[Tensor, "68 2"], size: int = SIDE) -> UInt8[Tensor, "T T"]:
    """Index into PAINTED of each pixel."""
    where = points.double().numpy()
    places = positions(size, size).double().numpy()
    found = np.zeros(len(places), np.uint8)
    thin = {"eyes": GROWN, "brows": GROWN}
    for number, part in enumerate(PAINTED[1:], start=1):
        shapes = {"forehead": [forehead(where)], "cheeks and chin": [Hull.of(where[:27])]}.get(part)
        for shape in shapes or sides(where, part, thin.get(part, 0.0)):
            found[shape.holds(places)] = number
    return torch.from_numpy(found.reshape(size, size))


# --- the score


def score_parts(model: nn.Module, faces: ScoredFaces, cuts: Cuts, plain: Float[Tensor, "N K h w"]) -> dict[str, Any]:
    """What `score.json` says of parts; percent, of the test faces. `plain` are the faces' `assignments`.

    part_iou, part_iou_of: IoU of each part with the region that fits it best. pointing: how often the maximum of that
    region's heatmap that points best lies in the part, on faces cut at random size and place; pointing_constant: the
    same of the best place of the picture. nmi, ari: between the owner of a landmark and which it is, for five
    landmarks, and for 68 in five groups; part discovery's measures. stability: `agreement` of a face with itself
    changed.
    """
    cut, train, test = assignments(model, cuts.images), faces.train, faces.test
    truth = torch.stack([part_map(points) for points in faces.points])
    ious = part_ious(plain, truth, PAINTED, train=train, test=test)
    points = place_in(cuts.frames, faces.points)
    found: dict[str, Any] = {"part_iou": sum(ious.values()) / len(ious), "part_iou_of": ious}
    found |= pointing(cut, points, train=train, test=test)
    found |= part_discovery(cut[test], points[test])
    whole = owners(plain[test])
    count = plain.shape[1]
    changed = {name: change(faces.images[test]) for name, change in CHANGES.items()}
    stable = {
        name: agreement(whole, owners(assignments(model, images)), count=count) for name, images in changed.items()
    }
    found["stability"] = {"cut": cut_stability(plain[test], cut[test], cuts.frames[test])} | stable
    return found


def peaks(maps: Float[Tensor, "N K h w"]) -> Float[Tensor, "N K 2"]:
    """The place of each map's maximum, upsampled bilinearly: between positions where several are as strong."""
    height, width = (8 * length for length in maps.shape[2:])
    flat = F.interpolate(maps, size=(height, width), mode="bilinear").flatten(2)
    strongest = flat >= flat.amax(2, keepdim=True) - 1e-6
    return strongest.float() @ positions(height, width) / strongest.sum(2, keepdim=True)


def pointing(
    maps: Float[Tensor, "N K h w"],
    points: Float[Tensor, "N 68 2"],
    *,
    train: Int[Tensor, "_"],
    test: Int[Tensor, "_"],
) -> dict[str, dict[str, float]]:
    """How often the best region, and the best constant place, hit each part of SIDES."""
    steps = np.linspace(-1, 1, GRID)
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    found, constant = peaks(maps).double().numpy(), {}
    pointed: dict[str, float] = {}
    for part in SIDES:
        shapes = [sides(face, part, GROWN) for face in points.double().numpy()]
        pointed[part] = _best(_hits(shapes, found), train, test)
        constant[part] = _best(_hits(shapes, [grid] * len(shapes)), train, test)
    return {"pointing": pointed, "pointing_constant": constant}


def _hits(shapes: list[list[Hull]], places: Iterable[Float[np.ndarray, "Q 2"]]) -> Bool[Tensor, "N Q"]:
    pairs = zip(shapes, places, strict=True)
    return torch.from_numpy(np.stack([np.any([side.holds(where) for side in both], 0) for both, where in pairs]))


def _best(hits: Bool[Tensor, "N Q"], train: Int[Tensor, "_"], test: Int[Tensor, "_"]) -> float:
    chosen = hits[train].float().mean(0).argmax()
    return 100 * float(hits[test, chosen].float().mean())


def part_discovery(maps: Float[Tensor, "N K h w"], points: Float[Tensor, "N 68 2"]) -> dict[str, float]:
    """Normalised mutual information and adjusted Rand index, percent, between the region that owns a landmark and the
    landmark, over all landmarks that an image shows: five (eyes, nose, corners of the mouth), and 68 in GROUPS."""
    from torchmetrics.functional.clustering import adjusted_rand_score, normalized_mutual_info_score

    eyes = [points[:, 36:42].mean(1), points[:, 42:48].mean(1)]
    five = torch.stack([*eyes, points[:, 30], points[:, 48], points[:, 54]], 1)
    group_of = torch.cat([torch.full((len(group),), number) for number, group in enumerate(GROUPS)])
    found = {}
    for name, places, label in (("", five, torch.arange(5)), ("_68", points, group_of)):
        owned = owners_at(maps, places)
        shown = (places.abs() < 1).all(-1)
        regions, labels = owned[shown], label.expand(len(places), -1)[shown]
        with torch.sparse.check_sparse_tensor_invariants(False):  # torchmetrics' own; unsaid, torch warns
            found[f"nmi{name}"] = 100 * float(normalized_mutual_info_score(regions, labels))
            found[f"ari{name}"] = 100 * float(adjusted_rand_score(regions, labels))
    return found


def owners_at(maps: Float[Tensor, "N K h w"], places: Float[Tensor, "N Q 2"]) -> Int[Tensor, "N Q"]:
    """The strongest region at each place, of maps that are upsampled bilinearly."""
    sampled = F.grid_sample(
        maps, places[:, None].to(maps.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled[:, :, 0].argmax(1)


def cut_stability(
    whole: Float[Tensor, "N K h w"], cut: Float[Tensor, "N K h w"], frames: Float[Tensor, "N 4"]
) -> float:
    """`agreement` of the regions of cuts with those of the whole faces at the same physical places."""
    height, width = cut.shape[2:]
    expected = owners_at(whole, place_out_of(frames, positions(height, width).expand(len(cut), -1, -1)))
    return agreement(expected.view(-1, height, width), owners(cut), count=cut.shape[1])


def _jpeg(images: UInt8[Tensor, "N 3 S S"]) -> UInt8[Tensor, "N 3 S S"]:
    from torchvision.io import decode_jpeg, encode_jpeg

    return torch.stack([decode_jpeg(encode_jpeg(image, quality=30)) for image in images])


def _grey(images: UInt8[Tensor, "N 3 S S"]) -> UInt8[Tensor, "N 3 S S"]:
    from torchvision.transforms.functional import rgb_to_grayscale

    return rgb_to_grayscale(images, num_output_channels=3)


CHANGES = {
    "half as bright": lambda images: (images.float() / 2).round().byte(),
    "twice as bright": lambda images: (images.float() * 2).clamp(max=255).byte(),
    "JPEG 30": _jpeg,
    "grey": _grey,
}
"""What should not move a region."""
