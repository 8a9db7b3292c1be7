"""Pictures: sizes worked out by hand, colours where they belong."""

import pytest
import torch

from fra.faces import pictures


def plain(colour: tuple[int, int, int], height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, height, width).clone()


def test_a_contact_sheet_has_the_size_of_its_rows_columns_and_gaps():
    sheet = pictures.contact_sheet([plain((0, 0, 0))] * 5, 3, gap=2)
    assert sheet.shape == (3, 2 + 2 * (8 + 2), 2 + 3 * (8 + 2))  # two rows of three tiles of 8 px


def test_pictures_follow_each_other_row_by_row():
    red, green, blue = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    sheet = pictures.contact_sheet([plain(red), plain(green), plain(blue)], 2, gap=2)
    assert tuple(sheet[:, 6, 6].tolist()) == red
    assert tuple(sheet[:, 6, 16].tolist()) == green
    assert tuple(sheet[:, 16, 6].tolist()) == blue
    assert tuple(sheet[:, 16, 16].tolist()) == pictures.WHITE


def test_pictures_of_other_sizes_keep_their_proportions_and_are_centred():
    sheet = pictures.contact_sheet([plain((0, 0, 0), 8, 8), plain((9, 9, 9), 4, 8)], 2, gap=0)
    assert sheet.shape == (3, 8, 16)
    assert (sheet[:, 2:6, 8:] == 9).all()
    assert (sheet[:, :2, 8:] == 255).all()
    assert (sheet[:, 6:, 8:] == 255).all()


def test_captions_take_a_line_and_leave_ink():
    images = [plain((255, 255, 255), 64, 64)] * 2
    bare, written = pictures.contact_sheet(images, 2), pictures.contact_sheet(images, 2, ["one", "two"])
    assert written.shape[1] > bare.shape[1]
    assert written.shape[2] == bare.shape[2]
    assert (bare == 255).all()
    assert (written < 200).any()


def test_a_header_stands_above_the_first_row():
    sheet = pictures.contact_sheet([plain((255, 255, 255), 64, 64)] * 2, 2, header=["face", "region"])
    assert (sheet[:, :20] < 200).any()
    assert (sheet[:, 30:] == 255).all()


def test_captions_must_match_and_a_sheet_needs_pictures():
    with pytest.raises(ValueError, match="1 caption for 2 images"):
        pictures.contact_sheet([plain((0, 0, 0))] * 2, 2, ["one"])
    with pytest.raises(ValueError, match="at least one picture"):
        pictures.contact_sheet([], 2)


def test_a_long_file_name_keeps_its_beginning_and_its_end():
    font = pictures.text_font(12)
    shown = pictures.fit_text("a_very_long_file_name_0001.jpg", font, 90)
    assert font.getlength(shown) <= 90
    assert shown.startswith("a_")
    assert shown.endswith(".jpg")
    assert "..." in shown
    assert pictures.fit_text("short", font, 90) == "short"


def test_the_colour_map_runs_from_blue_to_red_through_its_middle():
    colours = pictures.colour_map(torch.tensor([[0.0, 0.5, 1.0, 0.0625, 7.0]]))
    assert colours[:, 0, 0].tolist() == [68, 85, 196]
    assert colours[:, 0, 1].tolist() == [144, 252, 73]
    assert colours[:, 0, 2].tolist() == [200, 41, 4]
    assert colours[:, 0, 3].tolist() == pytest.approx([65.0, 115.0, 223.0], abs=1e-3)  # half-way to (62, 145, 250)
    assert torch.equal(colours[:, 0, 4], colours[:, 0, 2])


def test_scaling_maps_the_extremes_to_0_and_1_and_a_flat_map_to_0():
    scaled = pictures.scale_to_unit(torch.tensor([[0.2, 0.4], [0.3, 0.6]]))
    assert torch.allclose(scaled, torch.tensor([[0.0, 0.5], [0.25, 1.0]]))
    assert torch.equal(pictures.scale_to_unit(torch.full((2, 2), 0.7)), torch.zeros(2, 2))


def test_upsampling_is_bilinear_between_pixel_centres():
    # Two pixels grown to four: centres lie at -0.25 (clamped), 0.25, 0.75, 1.25 (clamped) of the small map.
    grown = pictures.upsample(torch.tensor([[[0.0, 1.0]]]), 1, 4)
    assert torch.allclose(grown, torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]))


def test_an_overlay_is_hot_where_the_map_is_high_and_mixes_with_the_face():
    face = plain((100, 100, 100))
    heated = pictures.overlay(face, torch.tensor([[0.0, 1.0]]), strength=0.5)
    assert heated.shape == face.shape
    assert heated[:, 0, 0].tolist() == [84, 92, 148]  # (100 + 68) / 2, (100 + 85) / 2 = 92.5 to even, (100 + 196) / 2
    assert heated[:, 0, 7].tolist() == [150, 70, 52]  # (100 + 200) / 2, (100 + 41) / 2 = 70.5 to even, (100 + 4) / 2
    assert torch.equal(pictures.overlay(face, torch.tensor([[0.0, 1.0]]), strength=0.0), face)


def test_overlays_with_a_common_span_stay_comparable():
    face, span = plain((0, 0, 0)), (0.0, 1.0)
    flat = pictures.overlay(face, torch.tensor([[0.5, 0.5]]), strength=1.0, span=span)
    assert flat[:, 4, 4].tolist() == [144, 252, 73]  # the middle colour, everywhere
    assert (flat == flat[:, :1, :1]).all()


def test_a_mosaic_gives_each_region_its_colour():
    owners = torch.tensor([[0, 1]])
    painted = pictures.mosaic(plain((30, 60, 90)), owners, regions=2, strength=1.0)
    first, second = pictures.region_colours(2)
    assert tuple(painted[:, 4, 0].tolist()) == first
    assert tuple(painted[:, 4, 7].tolist()) == second


def test_many_regions_have_different_colours():
    assert len(set(pictures.region_colours(32))) == 32
    assert pictures.region_colours(32)[:8] == pictures.region_colours(8)


def test_a_point_is_drawn_around_its_pixel_centre():
    dotted = pictures.draw_points(plain((0, 0, 0), 21, 21), torch.tensor([[10.0, 5.0]]), radius=2.0)
    red = dotted[0].float()
    columns = torch.arange(21).float()
    assert dotted[0, 5, 10] == 255
    assert float((red.sum(0) * columns).sum() / red.sum()) == pytest.approx(10.0, abs=0.15)
    assert float((red.sum(1) * columns).sum() / red.sum()) == pytest.approx(5.0, abs=0.15)


def test_a_label_writes_light_text_on_a_dark_plate_in_the_lower_left():
    marked = pictures.label(plain((128, 128, 128), 128, 128), "epoch 3")
    assert marked.shape == (3, 128, 128)
    assert (marked[:, :100] == 128).all()
    assert (marked[:, 110:, :40] > 200).any()
    assert (marked[:, 110:, :40] < 60).any()
