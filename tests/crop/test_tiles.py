"""Small faces in large photos."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from fra.cli import main
from fra.crop.detectors import Face, reduced_size
from fra.crop.tiles import CUT, LARGE, SHARED, SIDE, Tiled, close_detector, tiles, why_no_face
from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image


class Planted:
    """A detector that finds the bright squares of at least `least` pixels of the reduced photo."""

    def __init__(self, places: list[tuple[int, int, int]], size: tuple[int, int], least: int = 16) -> None:
        self.photo = torch.zeros(3, *size, dtype=torch.uint8)
        for number, (x, y, side) in enumerate(places, 1):
            self.photo[:, y : y + side, x : x + side] = number
        self.least, self.calls = least, 0

    def find_faces(self, image: Tensor) -> list[Face]:
        self.calls += 1
        height, width = image.shape[1:]
        scale = reduced_size(height, width)[0] / height
        faces = []
        for number in image[0].unique().tolist():
            rows, columns = (image[0] == number).nonzero(as_tuple=True)
            low, high = torch.stack([columns.min(), rows.min()]), torch.stack([columns.max(), rows.max()]) + 1
            if number and (high - low).max() * scale >= self.least:
                faces.append(Face(torch.cat((low, high)).float(), None, 0.9 + number / 1000))
        return faces


def boxes(faces: list[Face]) -> list[list[float]]:
    return sorted(face.box.tolist() for face in faces)


@pytest.mark.parametrize("height, width", [(3000, 4000), (1601, 700), (1280, 1281), (800, 24000), (100, 100)])
def test_tiles_cover_the_photo_and_share_enough(height: int, width: int) -> None:
    found = tiles(height, width)
    for length, starts in ((height, {top for top, _ in found}), (width, {left for _, left in found})):
        ordered = sorted(starts)
        assert ordered[0] == 0
        assert max(ordered) + SIDE >= length
        assert all(start >= 0 for start in ordered)
        gaps = [after - before for before, after in pairwise(ordered)]
        assert all(gap <= SIDE - SHARED for gap in gaps)
    assert len(tiles(3000, 4000)) == 12


def test_every_small_face_is_found_once_and_whole_wherever_it_is() -> None:
    places = [(x, y, side) for y, side in ((40, 60), (900, 200), (1190, 310), (2600, 60)) for x in range(20, 3600, 397)]
    planted = Planted(places, (3000, 4000))
    whole = planted.find_faces(planted.photo)
    assert len(whole) < len(places)
    found = Tiled(planted, "tiles").find_faces(planted.photo)
    assert boxes(found) == sorted([float(x), float(y), float(x + side), float(y + side)] for x, y, side in places)
    assert [face.score for face in found] == sorted((face.score for face in found), reverse=True)


def test_a_face_larger_than_what_tiles_share_is_not_found_in_pieces() -> None:
    planted = Planted([(500, 300, 2200), (3500, 100, 60)], (3000, 4000))
    assert boxes(Tiled(planted, "tiles").find_faces(planted.photo)) == [[500, 300, 2700, 2500], [3500, 100, 3560, 160]]


def test_a_face_at_the_photos_edge_is_kept() -> None:
    planted = Planted([(0, 0, 80), (3920, 2920, 80), (1280 - 80 - CUT // 2, 5, 80)], (3000, 4000))
    assert len(Tiled(planted, "tiles").find_faces(planted.photo)) == 3


def test_auto_looks_closer_only_where_it_may_help() -> None:
    def looks(places: list[tuple[int, int, int]], size: tuple[int, int], detail: str = "auto") -> int:
        planted = Planted(places, size)
        Tiled(planted, detail).find_faces(planted.photo)  # type: ignore[arg-type]
        return planted.calls

    assert looks([(1000, 1000, 900)], (3000, 4000)) == 1
    assert looks([(1000, 1000, 900), (100, 100, 120)], (3000, 4000)) == 13
    assert looks([], (3000, 4000)) == 13
    assert looks([], (3000, 4000), "whole") == 1
    assert looks([], (LARGE, LARGE), "tiles") == 1
    assert looks([(1000, 1000, 900)], (3000, 4000), "tiles") == 13


def test_the_reason_says_how_small_faces_may_be() -> None:
    assert why_no_face(3000, 4000) == (
        "no face: the photo of 4000x3000 was searched in parts of 1280 pixels, so faces smaller than about 32 pixels "
        "cannot be found"
    )
    assert "scaled down" in why_no_face(3000, 4000, detail="whole")
    assert why_no_face(1200, 1600) == why_no_face(1200, 1600, detail="whole")
    assert why_no_face(640, 640) == "no face"


def crowd(side: int, count: int = 4) -> Tensor:
    """A photo of 2400 x 1800 pixels with drawn faces of that size."""
    photo = torch.full((3, 1800, 2400), 120, dtype=torch.uint8)
    for number in range(count):
        image = transforms.resize(draw_face(number + 1, size=256).image, [2 * side, 2 * side], antialias=True)
        x, y = 150 + 550 * number, 200 + 380 * number
        photo[:, y : y + 2 * side, x : x + 2 * side] = image
    return photo


def test_retinaface_finds_small_faces_of_a_large_photo() -> None:
    photo = crowd(64)
    assert len(close_detector("retinaface", min_score=0.6, detail="whole").find_faces(photo)) < 3
    found = close_detector("retinaface", min_score=0.6, detail="auto").find_faces(photo)
    assert len(found) == 4
    for number, (x1, y1, x2, y2) in enumerate(sorted(face.box.tolist() for face in found)):
        assert 150 + 550 * number < (x1 + x2) / 2 < 150 + 128 + 550 * number
        assert 200 + 380 * number < (y1 + y2) / 2 < 200 + 128 + 380 * number


def test_the_commands_take_it(tmp_path: Path) -> None:
    write_image(tmp_path / "photos/crowd.jpg", crowd(64))
    found = []
    for detail in ("whole", "auto"):
        out = tmp_path / detail
        words = ["predict", str(tmp_path / "photos"), "--task", "laptop_age", "--detail", detail, "--out", str(out)]
        assert main([*words, "--quiet"]) == 0
        found.append(len(json.loads((out / "predictions.json").read_text())["photos"][0]["faces"]))
    assert found[0] < found[1] == 4
