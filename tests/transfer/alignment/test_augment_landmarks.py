"""Random changes of faces with landmarks: points move with the picture, and each change is the one described."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fra.tasks.point_tables import POINT_TABLES
from fra.transfer.alignment import augment as augment_landmarks
from fra.transfer.alignment.augment import vary_landmarks

SIDE = 64
STEPS = {
    "mirror": "MIRRORED",
    "cover": "COVERED",
    "blur": "BLURRED",
    "gamma": "GAMMA",
    "noise": "NOISY",
    "grey": "GREY",
}
TABLE = POINT_TABLES[19]


def only(monkeypatch: pytest.MonkeyPatch, *steps: str, still: bool = True) -> None:
    """These changes always, the others never; without the similarity when `still`."""
    for step, name in STEPS.items():
        monkeypatch.setattr(augment_landmarks, name, float(step in steps))
    if still:
        for name in ("SHIFT", "TURN", "SCALE"):
            monkeypatch.setattr(augment_landmarks, name, 0.0)


def dots(points: Tensor) -> Tensor:
    """Soft dots of three pixels' radius at points in [-1, 1], a colour for each: red for P = 0, green 1, blue 2."""
    pixels = (points + 1) * SIDE / 2 - 0.5
    place = torch.arange(SIDE)
    far = (place - pixels[:, :3, 0, None])[:, :, None] ** 2 + (place - pixels[:, :3, 1, None])[:, :, :, None] ** 2
    return (255 * (-far / 4.5).exp()).round().to(torch.uint8)


def centroids(faces: Tensor) -> Tensor:
    """Where the light of each colour is, in [-1, 1]."""
    place = (2 * torch.arange(SIDE) + 1) / SIDE - 1
    mass = faces.sum((2, 3))
    return torch.stack(((faces.sum(2) * place).sum(2) / mass, (faces.sum(3) * place).sum(2) / mass), 2)


def three_dots(count: int) -> Tensor:
    """Landmarks of AFLW's layout, of which the middle ones 13, 16 and 18 are apart; 0, 1, 2 here stand for them."""
    points = torch.zeros(count, 19, 2)
    for place, xy in {13: (-0.3, -0.25), 16: (0.35, -0.1), 18: (0.05, 0.3)}.items():
        points[:, place] = torch.tensor(xy)
    return points


def test_landmarks_stay_on_their_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, still=False)
    monkeypatch.setattr(augment_landmarks, "MIRRORED", 0.5)
    points = three_dots(200)
    middle = [13, 16, 18]
    faces, moved = vary_landmarks(dots(points[:, middle]), points, TABLE)
    inside = (moved[:, middle].abs() < 0.8).all(2).all(1)  # else a dot is cut by the border
    assert inside.sum() > 150
    error = (centroids(faces) - moved[:, middle])[inside].abs() * SIDE / 2
    assert error.max() < 0.05  # pixels
    assert (moved - points).abs().mean() * SIDE / 2 > 2  # so much do they move


def test_a_mirrored_image_has_its_landmarks_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "mirror")
    images = torch.randint(256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    points = torch.rand(3, 19, 2) * 2.4 - 1.2  # also outside
    faces, moved = vary_landmarks(images, points, TABLE)
    assert_close(faces, images.flip(-1) / 255, atol=1e-5, rtol=0)
    # the outer eye corner at the image's left, 6, is where the other one, 11, was
    assert_close(moved[:, 6], points[:, 11] * torch.tensor([-1.0, 1.0]))


def test_the_similarity_has_the_deviations_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, still=False)
    points = torch.zeros(4000, 19, 2)
    points[:, 1, 0] = 0.5
    images = torch.zeros(4000, 3, 4, 4, dtype=torch.uint8)
    _, moved = vary_landmarks(images, points, TABLE)
    # of 4 pixels the side less one is 3, .05 of it .15 pixels; a pixel is .5 of what reaches from -1 to 1
    assert_close(moved[:, 0].std(0), torch.tensor([0.075, 0.075]), rtol=0.04, atol=0)
    arm = moved[:, 1] - moved[:, 0]
    assert_close(torch.rad2deg(torch.atan2(arm[:, 1], arm[:, 0])).std(), torch.tensor(18.0), rtol=0.04, atol=0)
    assert_close((arm.norm(dim=1) / 0.5).std(), torch.tensor(0.1), rtol=0.04, atol=0)
    assert abs(float((arm.norm(dim=1) / 0.5).mean()) - 1) < 0.01


def test_a_turn_goes_from_x_to_y_in_picture_and_points(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, still=False)
    for name, value in (("SHIFT", 0.0), ("SCALE", 0.0), ("TURN", 90.0)):
        monkeypatch.setattr(augment_landmarks, name, value)
    monkeypatch.setattr(torch, "randn", lambda *shape: torch.ones(*shape))
    images = torch.randint(256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
    points = torch.tensor([[0.5, 0.0]]).expand(1, 19, 2)
    faces, moved = vary_landmarks(images, points, TABLE)
    assert_close(moved[0, 0], torch.tensor([0.0, 0.5]), atol=1e-6, rtol=0)  # what was at the right is now below
    assert_close(faces, images.rot90(-1, (2, 3)) / 255, atol=1e-4, rtol=0)


def test_what_comes_in_from_outside_is_black(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, still=False)
    monkeypatch.setattr(augment_landmarks, "SHIFT", 1.0)
    faces, _ = vary_landmarks(torch.full((100, 3, SIDE, SIDE), 255, dtype=torch.uint8), torch.zeros(100, 19, 2), TABLE)
    assert faces.min() == 0
    assert ((faces == 0) | (faces > 0.999)).double().mean() > 0.95  # nothing in between but at the edge


def test_the_rectangle_has_half_the_published_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "cover")
    faces, _ = vary_landmarks(torch.full((500, 3, 100, 100), 255, dtype=torch.uint8), torch.zeros(500, 19, 2), TABLE)
    black = (faces == 0).all(1)
    heights, widths = black.any(2).sum(1), black.any(1).sum(1)
    assert_close(black.sum((1, 2)), heights * widths)  # a rectangle
    assert 35 <= heights.max() <= 41  # .8 of half the side is 40
    assert 40 <= widths.max() <= 51  # and (.8 + .2) of it 50
    whole = (heights > 0) & black[:, 0].logical_not().all(1) & black[:, -1].logical_not().all(1)
    assert heights[whole].min() >= 9  # .2 of half the side is 10
    assert_close(faces[~black[:, None].expand_as(faces)], torch.ones(int((~black).sum()) * 3))


def test_the_blur_is_a_centred_box(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "blur")
    images = torch.zeros(200, 3, SIDE, SIDE, dtype=torch.uint8)
    images[:, :, 20, 30] = 255
    faces, _ = vary_landmarks(images, torch.zeros(200, 19, 2), TABLE)
    assert_close(faces.sum((2, 3)), torch.ones(200, 3), atol=1e-4, rtol=0)  # light is neither made nor lost
    assert_close(centroids(faces)[:, 0], torch.tensor([61 / SIDE - 1, 41 / SIDE - 1]).expand(200, 2), atol=1e-5, rtol=0)
    # of .05 x 64 = 3.2 pixels: 1 / 3.2 ** 2 in the middle at the widest, and 5 pixels a side
    assert (1 / 3.2) ** 2 <= faces[:, 0, 20, 30].min() < 0.12
    assert (faces[:, 0, 20] > 1e-4).sum(1).max() == 5
    even, _ = vary_landmarks(torch.full((5, 3, SIDE, SIDE), 128, dtype=torch.uint8), torch.zeros(5, 19, 2), TABLE)
    assert_close(even, torch.full_like(even, 128 / 255))  # also at the border


def test_gamma_is_as_often_above_as_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "gamma")
    faces, _ = vary_landmarks(torch.full((2000, 3, 2, 2), 128, dtype=torch.uint8), torch.zeros(2000, 19, 2), TABLE)
    exponent = faces[:, 0, 0, 0].log() / torch.tensor(128 / 255).log()
    assert 0.25 <= exponent.min() < 0.26
    assert 3.95 < exponent.max() <= 4.001
    assert abs(float((exponent < 1).double().mean()) - 0.5) < 0.04  # 3.6 deviations
    assert abs(float(exponent[exponent > 1].mean()) - 2.5) < 0.1  # uniform in 1 .. 4


def test_noise_is_at_most_half_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "noise")
    faces, _ = vary_landmarks(torch.full((300, 3, 40, 40), 255, dtype=torch.uint8), torch.zeros(300, 19, 2), TABLE)
    share = 1 - faces.flatten(1).min(1).values  # black noise in white leaves 1 - share
    assert share.max() <= 0.5
    assert share.max() > 0.45
    assert abs(float(share.mean()) - 0.25) < 0.03
    assert_close(faces.flatten(1).mean(1), 1 - share / 2, atol=0.01, rtol=0)  # uniform noise has mean 1/2


def test_grey_weighs_red_green_and_blue(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "grey")
    images = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    images[:, 0] = 255
    faces, _ = vary_landmarks(images, torch.zeros(1, 19, 2), TABLE)
    assert_close(faces, torch.full((1, 3, 2, 2), 0.299))


def test_how_often_each_change_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHIFT", "TURN", "SCALE"):
        monkeypatch.setattr(augment_landmarks, name, 0.0)
    counts = dict.fromkeys(("_cover", "_blur", "_change_gamma", "_add_noise", "_turn_grey"), 0)
    order = []

    def counted(name: str) -> None:
        change = getattr(augment_landmarks, name)

        def count(faces: Tensor) -> Tensor:
            counts[name] += len(faces)
            order.append(name)
            return change(faces)

        monkeypatch.setattr(augment_landmarks, name, count)

    for name in counts:
        counted(name)
    points = torch.full((4000, 19, 2), 0.5)
    _, moved = vary_landmarks(torch.zeros(4000, 3, 4, 4, dtype=torch.uint8), points, TABLE)
    assert order == list(counts)  # in the specification's order
    shares = [float((moved[:, 0, 0] < 0).double().mean()), *(count / 4000 for count in counts.values())]
    assert_close(shares, [0.5, 0.4, 0.3, 0.2, 0.2, 0.2], atol=0.03, rtol=0)  # four deviations


def test_the_same_seed_gives_the_same_faces() -> None:
    images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    points, results = torch.rand(6, 19, 2), []
    before = images.clone()
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(vary_landmarks(images, points, TABLE))
    assert_close(results[0], results[1], atol=0, rtol=0)
    assert not torch.equal(results[0][0], results[2][0])
    assert not torch.equal(results[0][1], results[2][1])
    assert torch.equal(images, before)
    assert 0 <= float(results[0][0].min()) <= float(results[0][0].max()) <= 1
