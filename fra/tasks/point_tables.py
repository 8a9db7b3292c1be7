"""Tables of the landmark layouts, counted from 0: edges, mirror order, eyes.

98 points as in WFLW, 68 as in 300-W (iBUG), 29 as in COFW, 19 as in AFLW without the ears (spec alignment.md, sec. 8).
In each the eye on the image's left comes first.
"""

from dataclasses import dataclass

from fra.faces.geometry import FLIP_68, FLIP_98, flip_order
from fra.tasks.metrics import OUTER_EYE_CORNERS


@dataclass(frozen=True)
class Edge:
    """A line of the face through some landmarks, in their order along it."""

    points: tuple[int, ...]
    closed: bool
    """Whether it leads from its last point back to its first."""


@dataclass(frozen=True)
class PointTable:
    """What the landmarks of a layout mean."""

    count: int
    edges: tuple[Edge, ...]
    """A landmark may be on one, several or none of them."""
    flip: tuple[int, ...]
    """For each landmark the one whose place it takes in the mirrored image (`fra.faces.geometry.flip_points`); empty
    when that is not known."""
    eye_corners: tuple[int, int]
    """The outer corners, whose distance is called inter-ocular (spec alignment.md, section 9)."""
    pupils: tuple[tuple[int, ...], tuple[int, ...]]
    """Landmarks whose means are the pupils, whose distance is called inter-pupil (spec alignment.md, section 9)."""


def _open(first: int, last: int) -> Edge:
    return Edge(tuple(range(first, last + 1)), closed=False)


def _closed(first: int, last: int) -> Edge:
    return Edge(tuple(range(first, last + 1)), closed=True)


FLIP_29 = flip_order(
    29,
    [
        *[(0, 1), (2, 3), (4, 6), (5, 7)],  # brows
        *[(8, 9), (10, 11), (12, 14), (13, 15), (16, 17)],  # eyes
        *[(18, 19), (22, 23)],  # nose, mouth
    ],
)
"""COFW's 29 points."""

FLIP_19 = flip_order(
    19,
    [
        *[(0, 5), (1, 4), (2, 3)],  # brows
        *[(6, 11), (7, 10), (8, 9)],  # eyes
        *[(12, 14), (15, 17)],  # nose, mouth
    ],
)
"""AFLW's 19 points."""

POINT_TABLES: dict[int, PointTable] = {
    98: PointTable(
        98,
        edges=(
            _open(0, 32),  # contour
            _closed(33, 41),  # brows
            _closed(42, 50),
            _open(51, 54),  # nose
            _open(55, 59),
            _closed(60, 67),  # eyes; the pupils 96 and 97 are on no edge
            _closed(68, 75),
            _closed(76, 87),  # lips
            _closed(88, 95),
        ),
        flip=FLIP_98,
        eye_corners=(60, 72),
        pupils=((96,), (97,)),
    ),
    68: PointTable(
        68,
        edges=(
            _open(0, 16),  # contour
            _open(17, 21),  # brows
            _open(22, 26),
            _open(27, 30),  # nose
            _open(31, 35),
            _closed(36, 41),  # eyes
            _closed(42, 47),
            _closed(48, 59),  # lips
            _closed(60, 67),
        ),
        flip=FLIP_68,
        eye_corners=OUTER_EYE_CORNERS,
        pupils=(tuple(range(36, 42)), tuple(range(42, 48))),
    ),
    29: PointTable(
        29,
        edges=(
            Edge((0, 4, 2, 5), closed=True),  # brows
            Edge((1, 6, 3, 7), closed=True),
            Edge((8, 12, 10, 13), closed=True),  # eyes; the pupils 16 and 17 are on no edge
            Edge((9, 14, 11, 15), closed=True),  # open in STAR's repository, unlike the other eye: a slip
            Edge((18, 20, 19, 21), closed=True),  # nose
            Edge((22, 26, 23, 27), closed=True),  # lips
            Edge((22, 24, 23, 25), closed=True),
        ),
        flip=FLIP_29,
        eye_corners=(8, 9),
        pupils=((16,), (17,)),
    ),
    19: PointTable(
        19,
        # Ours: no publication draws edges through these few. The chin, 18, is on none.
        edges=(_open(0, 2), _open(3, 5), _open(6, 8), _open(9, 11), _open(12, 14), _open(15, 17)),
        flip=FLIP_19,
        eye_corners=(6, 11),
        pupils=((7,), (10,)),
    ),
}
"""By the number of landmarks, which no two layouts share."""
