"""The score of parts, on planted heatmaps whose score is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fra.models.region_head import RegionOutput
from fra.regions import parts
from fra.regions.heatmaps import assignments
from fra.regions.parts import GROUPS, PAINTED, SIDES, Hull, owners_at, part_map, peaks, pointing, score_parts
from fra.regions.truth import Cuts, ScoredFaces, random_frames

SIZE = 64
FACE = torch.zeros(68, 2)
"""A face that looks straight ahead; x, y in [-1, 1]."""
_angles = torch.linspace(0, np.pi, 17)
FACE[:17] = torch.stack([-0.6 * _angles.cos(), 0.2 + 0.6 * _angles.sin()], 1)
for _begin, _centre in ((17, -0.3), (22, 0.3)):
    FACE[_begin : _begin + 5] = torch.stack([_centre + torch.linspace(-0.15, 0.15, 5), torch.full((5,), 0.0)], 1)
FACE[27:31] = torch.stack([torch.zeros(4), torch.linspace(0.1, 0.3, 4)], 1)
FACE[31:36] = torch.stack([torch.linspace(-0.08, 0.08, 5), torch.full((5,), 0.35)], 1)
_corners = torch.tensor([[-0.1, 0.0], [-0.04, -0.04], [0.04, -0.04], [0.1, 0.0], [0.04, 0.04], [-0.04, 0.04]])
FACE[36:42], FACE[42:48] = _corners + torch.tensor([-0.3, 0.13]), _corners + torch.tensor([0.3, 0.13])
_round = torch.linspace(0, 2 * np.pi, 21)[:20]
FACE[48:68] = torch.stack([0.2 * _round.cos(), 0.55 + 0.06 * _round.sin()], 1)


# --- shapes


def test_a_hull_holds_what_lies_between_its_points_and_no_more_than_it_is_grown() -> None:
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    places = np.array([[0.5, 0.9], [1.05, 0.5], [1.2, 0.5], [1.08, 1.08], [-0.05, 0.0]])
    assert Hull.of(square).holds(places).tolist() == [True, False, False, False, False]
    assert Hull.of(square, 0.1).holds(places).tolist() == [True, True, False, False, True]


def test_a_closed_eye_is_a_line_that_is_grown() -> None:
    eye = np.stack([np.linspace(0, 1, 6), np.zeros(6)], 1)
    assert Hull.of(eye, 0.1).holds(np.array([[0.5, 0.09], [0.5, 0.11], [1.09, 0.0], [1.12, 0.0]])).tolist() == [
        True, False, True, False,
    ]  # fmt: skip


def test_a_map_has_every_part_where_its_landmarks_are() -> None:
    found = part_map(FACE, SIZE)

    def at(x: float, y: float) -> str:
        return PAINTED[int(found[int((y + 1) / 2 * SIZE), int((x + 1) / 2 * SIZE)])]

    assert set(found.flatten().tolist()) == set(range(len(PAINTED)))
    assert [at(-0.3, 0.13), at(0.3, 0.13)] == ["eyes", "eyes"]
    assert [at(-0.3, 0.0), at(0.0, 0.3), at(0.0, 0.55)] == ["brows", "nose", "mouth"]
    assert [at(0.0, 0.75), at(-0.45, 0.4), at(0.0, -0.2)] == ["cheeks and chin", "cheeks and chin", "forehead"]
    assert [at(0.0, -0.6), at(-0.9, 0.3), at(0.0, 0.95)] == ["outside", "outside", "outside"]
    assert torch.equal(found, found.flip(1))


def test_a_turned_face_has_the_turned_map() -> None:
    turned = torch.stack([FACE[:, 1], -FACE[:, 0]], 1)
    assert (part_map(turned, SIZE) == part_map(FACE, SIZE).rot90()).float().mean() > 0.99


# --- reading maps


def test_a_peak_is_the_middle_of_where_a_map_is_strongest() -> None:
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, 0, 3] = 1
    maps[0, 1, 1:3, 1:3] = 1
    assert peaks(maps)[0].tolist() == [pytest.approx([0.75, -0.75], abs=0.15), pytest.approx([0, 0], abs=1e-6)]


def test_the_owner_of_a_place_is_the_strongest_region_there() -> None:
    maps = F.one_hot(torch.arange(16).view(1, 4, 4), 16).movedim(-1, 1).float()
    places = torch.tensor([[[-0.75, -0.75], [0.75, -0.75], [-0.2, 0.75]]])
    assert owners_at(maps, places).tolist() == [[0, 3, 13]]


def moved_faces(count: int = 40) -> torch.Tensor:
    """The face at random places, so that no place of the picture is always an eye's."""
    draw = torch.Generator().manual_seed(3)
    return FACE * 0.5 + torch.rand(count, 1, 2, generator=draw) - 0.5


def owned(points: torch.Tensor, count: int = len(PAINTED)) -> torch.Tensor:
    """Maps in which each part is a region."""
    truth = torch.stack([part_map(face, SIZE) for face in points])
    return F.one_hot(truth.long(), count).movedim(-1, 1).float()


def test_regions_that_are_the_parts_point_at_them_where_no_constant_place_does() -> None:
    points = moved_faces()
    train, test = torch.arange(20), torch.arange(20, 40)
    # A part with two sides has its peak in one of them.
    maps = owned(points)
    for number in (PAINTED.index("eyes"), PAINTED.index("brows")):
        maps[:, number, :, :] *= torch.linspace(1, 0.9, SIZE)
    found = pointing(maps, points, train=train, test=test)
    assert {part: found["pointing"][part] for part in ("brows", "eyes", "nose", "mouth")} == pytest.approx(
        dict.fromkeys(("brows", "eyes", "nose", "mouth"), 100), abs=11
    )
    assert max(found["pointing_constant"].values()) < 60
    assert list(found["pointing"]) == list(SIDES)


def test_the_region_that_points_is_chosen_on_the_train_faces() -> None:
    points = FACE.expand(2, -1, -1)
    maps = torch.zeros(2, 2, SIZE, SIZE)
    rows, columns = ((FACE[30] + 1) / 2 * SIZE).long().flip(0).tolist()
    maps[0, 0, rows, columns] = maps[1, 1, rows, columns] = 1  # another region points at the nose of the other face
    maps[0, 1, 0, 0] = maps[1, 0, 0, 0] = 1
    found = pointing(maps, points, train=torch.tensor([0]), test=torch.tensor([1]))
    assert found["pointing"]["nose"] == 0
    assert found["pointing_constant"]["nose"] == 100


def test_part_discovery_is_perfect_for_a_region_for_each_landmark_and_nothing_for_one() -> None:
    points = moved_faces(12)
    each = torch.zeros(12, 5, SIZE, SIZE)
    five = [points[:, 36:42].mean(1), points[:, 42:48].mean(1), points[:, 30], points[:, 48], points[:, 54]]
    middles = (2 * torch.arange(SIZE) + 1) / SIZE - 1
    grid = torch.stack([middles.expand(SIZE, -1), middles[:, None].expand(-1, SIZE)], -1)
    for number, places in enumerate(five):
        each[:, number] = -(grid - places[:, None, None]).norm(dim=-1)
    found = parts.part_discovery(each, points)
    assert (found["nmi"], found["ari"]) == pytest.approx((100, 100), abs=1e-3)
    one = parts.part_discovery(torch.ones(12, 1, SIZE, SIZE), points)
    assert (one["nmi"], one["ari"]) == pytest.approx((0, 0), abs=1e-3)
    groups = parts.part_discovery(owned(points), points)
    assert groups["nmi_68"] > 60


def test_landmarks_beyond_the_edge_do_not_count() -> None:
    points = FACE.expand(6, -1, -1).clone()
    maps = owned(points)
    points[3:] += 5
    within = parts.part_discovery(maps[:3], points[:3])
    assert parts.part_discovery(maps, points) == pytest.approx(within, abs=1e-4)
    assert sum(len(group) for group in GROUPS) == 68


# --- the whole


class BrightnessModel(torch.nn.Module):
    """Region k is where the image is about k / 4 bright."""

    def forward(self, images: torch.Tensor) -> RegionOutput:
        levels = torch.arange(4).view(1, 4, 1, 1) / 4 + 0.125
        scores = 1 - 4 * (images.mean(1, keepdim=True) - levels).abs()
        return RegionOutput(scores, scores.softmax(1), torch.zeros(len(images), 4, 1), torch.eye(4))


def test_stability_tells_a_model_that_looks_at_brightness_from_one_that_does_not() -> None:
    draw = torch.Generator().manual_seed(0)
    images = F.interpolate(torch.rand(8, 1, 4, 4, generator=draw), size=32, mode="nearest").expand(-1, 3, -1, -1)
    images = (images * 255).round().byte()
    frames = random_frames(8)
    cuts = []
    for image, frame in zip(images, frames, strict=True):
        where = torch.stack(torch.meshgrid(*[(2 * torch.arange(32) + 1) / 32 - 1] * 2, indexing="xy"), -1)
        inner = frame[:2] + (where + 1) / 2 * (frame[2:] - frame[:2])
        cuts.append(F.grid_sample(image[None].float(), inner[None], mode="nearest", align_corners=False)[0].byte())
    points = FACE.expand(8, -1, -1)
    faces = ScoredFaces(images, points, torch.arange(4), torch.arange(4, 8))
    plain = assignments(BrightnessModel(), images)
    found = score_parts(BrightnessModel(), faces, Cuts(torch.stack(cuts), frames), plain)["stability"]
    assert found["grey"] > 0.95  # rounding
    assert found["cut"] > 0.85
    assert found["JPEG 30"] > 0.7
    assert found["half as bright"] < 0.4
    assert found["twice as bright"] < 0.4


def test_frames_are_squares_inside_of_the_image_and_always_the_same() -> None:
    frames = random_frames(500)
    side = frames[:, 2:] - frames[:, :2]
    torch.testing.assert_close(side[:, 0], side[:, 1])
    assert frames.min() >= -1
    assert frames.max() <= 1 + 1e-6
    assert 1.2 <= side.min() < 1.25
    assert 1.95 < side.max() <= 2
    assert torch.equal(frames, random_frames(500))
