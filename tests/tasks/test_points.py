"""Tables of the landmark layouts: numbers of spec alignment.md, section 8, and a symmetric face in all four layouts."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fra.drawing.person import person
from fra.drawing.shape import FROM_98_TO_68, landmarks98, wire_model
from fra.faces.geometry import flip_points
from fra.tasks.point_tables import POINT_TABLES

# WFLW's index of COFW's and AFLW's landmarks, as the publications name them; where WFLW has none, a point halfway.
COFW_IN_WFLW = [
    33, 46, (38, 37), (42, 50), 35, 40, 44, 48,  # brows: outer tips, inner ends, middles of the upper and lower rims
    60, 72, 64, 68, 62, 66, 70, 74, 96, 97,  # eyes: outer and inner corners, upper and lower lids, pupils
    55, 59, 53, 57, 76, 82, 79, 90, 94, 85, 16,  # nose, mouth, chin
]  # fmt: skip
AFLW_IN_WFLW = [33, 35, (37, 38), (42, 50), 44, 46, 60, 96, 64, 68, 97, 72, 55, 54, 59, 76, (90, 94), 82, 16]


def standard_face(count: int) -> Tensor:
    """A frontal symmetric face in the layout of so many landmarks, unit of the wire model, nose at x = 0."""
    someone = person(1)
    ahead = dataclasses.replace(someone, build=dataclasses.replace(someone.build, gaze=0.0))
    points = torch.tensor(landmarks98({name: part[:, :2] for name, part in wire_model(ahead).items()}))
    order: list[int] | list[int | tuple[int, int]] = {
        98: list(range(98)),
        68: FROM_98_TO_68,
        29: COFW_IN_WFLW,
        19: AFLW_IN_WFLW,
    }[count]
    return torch.stack([points[list(where) if isinstance(where, tuple) else [where]].mean(0) for where in order])


@pytest.mark.parametrize("count", POINT_TABLES)
def test_a_symmetric_face_is_its_own_mirror_image(count: int) -> None:
    table, face = POINT_TABLES[count], standard_face(count)
    assert_close(flip_points(face, 1, table.flip), face)  # width - 1 - x is -x
    # and no two landmarks share a place, so that another order would not have done
    assert torch.pdist(face).min() > 0.01


@pytest.mark.parametrize("count", POINT_TABLES)
def test_the_mirror_order_is_an_involution_of_all_points(count: int) -> None:
    table = POINT_TABLES[count]
    assert table.count == count
    assert sorted(table.flip) == list(range(count))
    assert [table.flip[other] for other in table.flip] == list(range(count))


@pytest.mark.parametrize(
    "count, alone",
    [
        (98, [16, 51, 52, 53, 54, 57, 79, 85, 90, 94]),
        (68, [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]),
        (29, [20, 21, 24, 25, 26, 27, 28]),
        (19, [13, 16, 18]),
    ],
)
def test_points_of_the_middle_stay(count: int, alone: list[int]) -> None:
    assert [point for point, other in enumerate(POINT_TABLES[count].flip) if point == other] == alone


@pytest.mark.parametrize("count", POINT_TABLES)
def test_mirrored_edges_are_the_edges(count: int) -> None:
    def links(points: tuple[int, ...], closed: bool) -> frozenset[frozenset[int]]:
        return frozenset(map(frozenset, zip(points, points[1:] + points[:1] * closed, strict=False)))

    table = POINT_TABLES[count]
    edges = {links(edge.points, edge.closed) for edge in table.edges}
    mirrored = {links(tuple(table.flip[point] for point in edge.points), edge.closed) for edge in table.edges}
    assert edges == mirrored
    assert len(edges) == len(table.edges)


@pytest.mark.parametrize("count, edges, free", [(98, 9, [96, 97]), (68, 9, []), (29, 7, [16, 17, 28]), (19, 6, [18])])
def test_points_that_no_edge_leads_through(count: int, edges: int, free: list[int]) -> None:
    table = POINT_TABLES[count]
    assert len(table.edges) == edges
    assert sorted(set(range(count)) - {point for edge in table.edges for point in edge.points}) == free


@pytest.mark.parametrize("count", POINT_TABLES)
def test_eyes_mirror_into_each_other(count: int) -> None:
    table = POINT_TABLES[count]
    left, right = table.eye_corners
    assert table.flip[left] == right
    first, second = (sorted(points) for points in table.pupils)
    assert sorted(table.flip[point] for point in first) == second
    face = standard_face(count)  # corners lie further out than pupils
    assert face[left, 0] < face[first, 0].mean() < 0 < face[second, 0].mean() < face[right, 0]
