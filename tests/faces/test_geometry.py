"""Geometry: every conversion goes there and back, and every table mirrors onto itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from fra.faces import geometry as g


def noise(height: int = 40, width: int = 60) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def ramp(height: int, width: int) -> torch.Tensor:
    """Channel 0 holds x, channel 1 holds y of every pixel, so that a crop tells where it was taken."""
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    return torch.stack((x, y, torch.zeros_like(x)))


def similarity(*, degrees: float, scale: float, shift: tuple[float, float]) -> torch.Tensor:
    a, b = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return torch.tensor([[a, -b, shift[0]], [b, a, shift[1]]])


# --- boxes -------------------------------------------------------------------------------------------------------


def test_a_square_box_keeps_the_centre_and_takes_the_longer_side():
    # centre (20, 40), 20 wide, 40 high: side 40 * 1.25 = 50
    box = g.square_box(torch.tensor([10.0, 20.0, 30.0, 60.0]), 0.25)
    assert box.tolist() == [-5.0, 15.0, 45.0, 65.0]


def test_the_crop_of_a_whole_image_at_its_own_size_is_the_image():
    image = noise(40, 40)
    assert torch.equal(g.crop_box(image, g.whole_box(40, 40), 40), image)
    assert torch.equal(g.warp(image, g.box_matrix(g.whole_box(40, 40), 40), 40), image)


def test_a_box_of_whole_pixels_is_cut_out_exactly():
    image = noise()
    cut = g.crop_box(image, torch.tensor([9.5, 4.5, 29.5, 24.5]), 20)  # pixels 10 to 29 and 5 to 24
    assert torch.equal(cut, image[:, 5:25, 10:30])


def test_a_crop_shows_the_points_that_its_matrix_foretells():
    image, box = ramp(80, 100), torch.tensor([20.3, 10.7, 60.3, 50.7])
    for size in (16, 40, 64):  # smaller, equal, larger
        crop = g.crop_box(image, box, size)
        middle = torch.tensor([[size // 2, size // 4]])  # a pixel (x, y) of the crop …
        seen = crop[:2, middle[0, 1], middle[0, 0]]  # … and the place in the image that it shows
        assert_close(g.transform_points(seen[None], g.box_matrix(box, size)), middle.float(), atol=0.01, rtol=0)


def test_shrinking_is_pillows_bilinear_away_from_the_border():
    image = noise(100, 100)
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((30, 30), Image.Resampling.BILINEAR)
    ours = g.crop_box(image, g.whole_box(100, 100), 30).permute(1, 2, 0).float()
    difference = (ours - torch.from_numpy(np.array(pillow)).float()).abs()[2:-2, 2:-2]
    assert difference.max() <= 1


def test_fine_stripes_turn_grey_instead_of_aliasing():
    stripes = (torch.arange(96) % 2 * 255).to(torch.uint8).expand(3, 96, 96)  # mean 127.5
    for small in (
        g.crop_box(stripes, g.whole_box(96, 96), 12),
        g.warp(stripes, g.box_matrix(g.whole_box(96, 96), 12), 12, "reflect"),
    ):
        assert (small[..., 1:-1].float() - 127.5).abs().max() <= 1  # a mirrored border makes two equal stripes


@pytest.mark.parametrize("padding, left", [
    ("reflect", [20, 10, 10, 20, 30]),  # the mirror stands at the outer edge of the first pixel
    ("edge", [10, 10, 10, 20, 30]),
    ("zero", [0, 0, 10, 20, 30]),
])  # fmt: skip
def test_outside_the_image_lies_what_was_asked_for(padding: g.Padding, left: list[int]):
    image = torch.tensor([10, 20, 30, 40, 50], dtype=torch.uint8).expand(1, 5, 5)
    box = torch.tensor([-2.5, -0.5, 2.5, 4.5])  # two pixels too far left
    assert g.crop_box(image, box, 5, padding)[0, 2].tolist() == left
    assert g.warp(image, g.box_matrix(box, 5), 5, padding)[0, 2].tolist() == left


def test_a_mirror_repeats_as_far_as_needed_even_for_one_pixel():
    dot = torch.full((3, 1, 1), 77, dtype=torch.uint8)
    assert (g.crop_box(dot, torch.tensor([-10.0, -10.0, 10.0, 10.0]), 8) == 77).all()
    image = torch.tensor([10, 20], dtype=torch.uint8).expand(1, 1, 2)
    far = g.crop_box(image, torch.tensor([-4.5, -4.5, 3.5, 3.5]), 8)
    assert far[0, 0].tolist() == [10, 20, 20, 10, 10, 20, 20, 10]  # period 4: pixels -4 and 0 are the same


# --- points and matrices -----------------------------------------------------------------------------------------


def test_points_go_to_a_crop_and_back():
    points = torch.tensor([[12.0, 30.5], [40.25, 18.0]])
    matrix = g.box_matrix(torch.tensor([3.0, 7.0, 53.0, 57.0]), 128)
    there = g.transform_points(points, matrix)
    assert_close(there[0], torch.tensor([(12 - 3) * 2.56 - 0.5, (30.5 - 7) * 2.56 - 0.5]))
    assert_close(g.transform_points(there, g.invert_matrix(matrix)), points, atol=1e-4, rtol=0)


@given(
    degrees=st.floats(-180, 180),
    scale=st.floats(0.05, 20),
    shift=st.tuples(st.floats(-200, 200), st.floats(-200, 200)),
)
@settings(max_examples=50, deadline=None)
def test_a_known_rotation_scale_and_shift_is_recovered(degrees: float, scale: float, shift: tuple[float, float]):
    known = similarity(degrees=degrees, scale=scale, shift=shift)
    found = g.similarity_transform(g.ARCFACE_FIVE_POINTS, g.transform_points(g.ARCFACE_FIVE_POINTS, known))
    assert_close(found, known, atol=2e-3, rtol=1e-4)


def test_a_mirrored_face_is_not_matched_by_mirroring():
    mirrored = torch.stack((111 - g.ARCFACE_FIVE_POINTS[:, 0], g.ARCFACE_FIVE_POINTS[:, 1]), 1)
    assert torch.linalg.det(g.similarity_transform(g.ARCFACE_FIVE_POINTS, mirrored)[:, :2]) > 0


def test_the_fit_is_the_least_squares_one():
    generator = torch.Generator().manual_seed(1)
    source, target = (torch.randn(5, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    # unknowns a, b, c, d of (a x - b y + c, b x + a y + d), solved as a linear system
    one, zero = torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    x, y = source.T
    system = torch.cat((torch.stack((x, -y, one, zero), 1), torch.stack((y, x, zero, one), 1)))
    a, b, c, d = torch.linalg.lstsq(system, target.T.reshape(-1)).solution.tolist()
    expected = torch.tensor([[a, -b, c], [b, a, d]], dtype=torch.float64)
    assert_close(g.similarity_transform(source, target), expected)


def test_points_that_coincide_have_no_similarity():
    with pytest.raises(ValueError, match="coincide"):
        g.similarity_transform(torch.ones(5, 2), g.ARCFACE_FIVE_POINTS)


def test_a_warp_brings_a_dot_to_where_its_point_goes():
    image = torch.zeros(1, 64, 64)
    image[0, 20, 40] = 1  # the point (40, 20)
    matrix = similarity(degrees=90, scale=1, shift=(63, 0))  # (x, y) → (63 - y, x) = (43, 40)
    turned = g.warp(image, matrix, 64)
    assert turned[0, 40, 43] == pytest.approx(1, abs=1e-4)
    assert turned.sum() == pytest.approx(1, abs=1e-3)


def test_a_warp_of_part_of_an_image_equals_the_warp_of_all_of_it():
    image = noise(200, 200).float()
    inside = similarity(degrees=10, scale=0.8, shift=(-40, -70))  # reads far from any border
    with_border = g.warp(image, inside, 32)
    shifted = inside.clone()
    shifted[:, 2] -= shifted[:, :2] @ torch.tensor([300.0, 300.0])
    padded = torch.nn.functional.pad(image, (300, 0, 300, 0))
    assert_close(with_border, g.warp(padded, shifted, 32), atol=0.05, rtol=0)


def test_the_template_is_arcfaces_and_a_margin_shrinks_it_about_the_centre():
    assert_close(g.five_point_template(112), g.ARCFACE_FIVE_POINTS)
    # size 224 doubles distances; margin 1 halves them; the centre of 224 pixels is (111.5, 111.5), of 112 (55.5, 55.5)
    expected = (g.ARCFACE_FIVE_POINTS - 55.5) * 2 * 0.5 + 111.5
    assert_close(g.five_point_template(224, 1.0), expected)


# --- mirroring ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order, count, unpaired", [
    (g.FLIP_5, 5, [2]),
    (g.FLIP_68, 68, [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]),
    (g.FLIP_98, 98, [16, 51, 52, 53, 54, 57, 79, 85, 90, 94]),
])  # fmt: skip
def test_a_flip_order_is_an_involution_that_keeps_the_middle(order: tuple[int, ...], count: int, unpaired: list[int]):
    assert sorted(order) == list(range(count))
    assert [order[other] for other in order] == list(range(count))
    assert [point for point in range(count) if order[point] == point] == unpaired


def test_some_pairs_of_the_published_tables():
    assert [g.FLIP_68[i] for i in (0, 17, 21, 36, 39, 48, 60, 67)] == [16, 26, 22, 45, 42, 54, 64, 65]
    assert [g.FLIP_98[i] for i in (0, 33, 38, 60, 67, 76, 95, 96)] == [32, 46, 50, 72, 73, 82, 93, 97]


@pytest.mark.parametrize("order", [g.FLIP_5, g.FLIP_68, g.FLIP_98])
def test_mirroring_points_twice_gives_them_back(order: tuple[int, ...]):
    points = torch.rand(2, len(order), 2, generator=torch.Generator().manual_seed(0)) * 100
    assert_close(g.flip_points(g.flip_points(points, 100, order), 100, order), points, atol=1e-4, rtol=0)


def test_mirrored_points_lie_on_the_mirrored_image():
    image = torch.zeros(1, 8, 10)
    image[0, 3, 2] = 1  # the image's left eye, at (2, 3)
    points = torch.tensor([[2.0, 3.0], [7.0, 3.0], [4.0, 4.0], [3.0, 6.0], [6.0, 6.0]])
    flipped = g.flip_points(points, 10, g.FLIP_5)
    assert flipped[1].tolist() == [7.0, 3.0]  # it is now the right one: 10 - 1 - 2
    assert image.flip(2)[0, 3, 7] == 1
