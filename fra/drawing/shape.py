"""The face as a 3-D wire model, its projection into the picture, and its landmarks.

Everything is drawn through the projected points, so landmarks lie exactly on what is drawn.
"""

from functools import lru_cache
from typing import no_type_check

import numpy as np
from numpy.typing import NDArray

from fra.drawing.person import Person

Points = NDArray[np.float64]

MIRROR = np.array([-1.0, 1.0, 1.0])
BROW_RIGHT_ORDER = [4, 3, 2, 1, 0, 8, 7, 6, 5]
EYE_RIGHT_ORDER = [4, 3, 2, 1, 0, 7, 6, 5]
FROM_98_TO_68 = [*range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60),
                 60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75, *range(76, 96)]  # fmt: skip
"""WFLW's index of each iBUG point; every drawn iBUG point is also a WFLW point."""


@lru_cache(maxsize=64)
def _smoothing(controls: int, steps: int, closed: bool) -> np.ndarray:
    """Catmull-Rom: the matrix from control points to curve points, `steps` to a segment, through every control."""
    padded = np.eye(controls)
    if closed:
        padded = np.concatenate([padded[-1:], padded, padded[:2]])
    else:
        padded = np.concatenate([2 * padded[:1] - padded[1:2], padded, 2 * padded[-1:] - padded[-2:-1]])
    t = (np.arange(steps) / steps)[:, None]
    weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
    segments = controls if closed else controls - 1
    rows = [sum(w * padded[i + k] for k, w in enumerate(weights)) / 2 for i in range(segments)]
    return np.concatenate(rows if closed else [*rows, np.eye(controls)[-1:]])


# called hundreds of times a face: the tests' type checks would cost more than the work
@no_type_check
def smooth(controls: Points, steps: int = 4, *, closed: bool = False) -> Points:
    """A smooth curve through `controls`, which are its points 0, steps, 2·steps, …"""
    return _smoothing(len(controls), steps, closed) @ controls


@no_type_check
def moved(points: Points, right: float, down: float) -> Points:
    return points + np.array([right, down])


@no_type_check
def ribbon(curve: Points, widths: Points | float) -> Points:
    """The outline of a brush stroke along `curve`, `widths` thick."""
    along = np.empty_like(curve)
    along[1:-1] = curve[2:] - curve[:-2]
    along[0], along[-1] = curve[1] - curve[0], curve[-1] - curve[-2]
    half = widths / (2 * np.hypot(along[:, 0], along[:, 1]) + 1e-9)
    outline, count = np.empty((2 * len(curve), 2)), len(curve)
    outline[:count, 0] = -along[:, 1] * half
    outline[:count, 1] = along[:, 0] * half
    outline[count:] = (curve - outline[:count])[::-1]
    outline[:count] += curve
    return outline


def _depth(x: Points, y: Points) -> Points:
    return 0.55 - 0.45 * x * x - 0.12 * (y - 0.4) ** 2


def _on_face(points: list[tuple[float, float]], lift: float = 0.0) -> Points:
    flat = np.array(points)
    return np.concatenate([flat, _depth(flat[:, :1], flat[:, 1:]) + lift], 1)


def _outline(person: Person) -> dict[str, Points]:
    """The jaw from one temple to the other, and the skull above it."""
    build, drop = person.build, person.mimic.jaw
    w, jaw, chin = build.width, build.width * build.jaw, build.chin + drop
    round_chin = 0.06 if build.chubby else -0.02 if build.oval else 0.02
    right = np.array([
        (1.0 * w, -0.14, -0.34),
        (0.985 * w, 0.36, -0.26),
        (0.915 * jaw, 0.84 + 0.2 * drop, -0.12),
        (0.715 * jaw, 1.24 + 0.6 * chin, 0.1),
        (0.385 * jaw + round_chin, 1.53 + chin, 0.28),
        (0.0, 1.63 + chin, 0.36),
    ])  # fmt: skip
    top = -build.forehead
    skull = np.array([
        (1.0 * w, -0.14, -0.34),
        (1.0 * w, -0.55, -0.36),
        (0.93 * w, -0.98 + 0.4 * top, -0.34),
        (0.66 * w, -1.36 + top, -0.3),
        (0.3 * w, -1.53 + top, -0.28),
        (0.0, -1.57 + top, -0.28),
    ])  # fmt: skip
    return {
        "jaw": np.concatenate([right[:-1] * MIRROR, right[::-1]]),
        "skull": np.concatenate([skull, (skull[:-1] * MIRROR)[::-1]]),
    }


def _brow(person: Person) -> Points:
    """The brow at the picture's right: tip, four points inwards along the top, four back along the bottom."""
    build, mimic = person.build, person.mimic
    y = -0.31 - build.brow_height
    arch = 0.035 + 0.06 * build.brow_arch
    inner, outer = mimic.inner_brow, mimic.outer_brow
    thick = 0.085 * build.brow_weight
    shift = build.eye_distance - mimic.squeeze
    rows: list[tuple[float, float]] = [(0.76 + build.eye_distance, y + 0.08 - 1.1 * outer)]
    lower: list[tuple[float, float]] = []
    for x, bend, fat in ((0.61, 0.7, 0.62), (0.48, 1.0, 0.9), (0.34, 0.75, 1.0), (0.17, 0.0, 0.92)):
        part = (x - 0.17) / 0.59
        lift = inner * (1 - part) ** 1.5 + outer * (1 - (1 - part) ** 1.5)
        middle = y + 0.03 - arch * bend - lift
        rows.append((x + shift * (1 - 0.4 * part), middle - thick * fat / 2))
        lower.append((x + shift * (1 - 0.4 * part) + 0.012, middle + thick * fat / 2))
    return _on_face(rows + lower[::-1])


def _eye(person: Person) -> Points:
    """The eye at the picture's right: outer corner, upper lid inwards, inner corner, lower lid outwards, pupil."""
    build, mimic = person.build, person.mimic
    middle, half = 0.455 + build.eye_distance, 0.225 * build.eye_size
    opening = 0.55 if build.narrow_eyes else 1.0
    upper = 0.135 * build.eye_size * opening * mimic.lid
    lower = 0.085 * build.eye_size * (0.65 if build.narrow_eyes else 1.0) * (1 - 0.65 * mimic.lower_lid)
    outer = (middle + half, -0.02 - build.eye_tilt)
    inner = (middle - half, 0.025)
    rows = [outer]
    for t, height in ((0.25, -0.8 * upper), (0.5, -upper), (0.77, -0.74 * upper)):
        rows.append((outer[0] + t * (inner[0] - outer[0]), outer[1] + t * (inner[1] - outer[1]) + height))
    rows.append(inner)
    for t, height in ((0.74, 0.68 * lower), (0.48, lower), (0.22, 0.76 * lower)):
        rows.append((outer[0] + t * (inner[0] - outer[0]), outer[1] + t * (inner[1] - outer[1]) + height))
    rows.append((middle, (lower - upper) / 2 * 0.75))
    return _on_face(rows)


def _nose(person: Person) -> dict[str, Points]:
    build, mimic = person.build, person.mimic
    w, y = 0.25 * build.nose_width, 0.67 + build.nose_length - 0.03 * mimic.wrinkle
    bridge = np.array([(0.0, 0.0, 0.57), (0.0, 0.17, 0.68), (0.0, 0.34, 0.79), (0.0, y - 0.16, 0.9)])
    base = np.array([(-0.72 * w, y - 0.015, 0.56), (-0.36 * w, y + 0.025, 0.63), (0.0, y + 0.045, 0.68),
                     (0.36 * w, y + 0.025, 0.63), (0.72 * w, y - 0.015, 0.56)])  # fmt: skip
    side = np.array([(0.1, -0.05, 0.54), (0.115, 0.22, 0.6), (0.62 * w, y - 0.26, 0.62), (0.98 * w, y - 0.13, 0.5),
                     (0.9 * w, y - 0.01, 0.5), (0.72 * w, y + 0.005, 0.56)])  # fmt: skip
    return {"bridge": bridge, "base": base, "nose_right": side, "nose_left": side * MIRROR}


def _mouth(person: Person) -> dict[str, Points]:
    """Outer lip, 12 points, and inner lip, 8 points, both from the picture's left corner over the top."""
    build, mimic = person.build, person.mimic
    half = 0.37 * build.mouth_width * mimic.width
    y = 1.01 + 0.5 * build.nose_length + 0.35 * mimic.jaw * 0.4
    full = build.lips * mimic.lips
    thin, thick = 0.085 * full, 0.12 * full

    def line(t: float) -> float:
        return y + mimic.corner * (0.35 - 1.35 * t * t)

    up, down = 0.35 * mimic.gape, 0.65 * mimic.gape
    corner = line(1.0)
    inner = [(-0.92 * half, line(0.92))]
    inner += [(t * half, line(t) - up * b - mimic.sneer * b * 0.5) for t, b in ((-0.5, 0.8), (0.0, 1.0), (0.5, 0.8))]
    inner += [(0.92 * half, line(0.92))]
    inner += [(t * half, line(t) + down * b) for t, b in ((0.5, 0.8), (0.0, 1.0), (-0.5, 0.8))]
    outer = [(-half, corner)]
    for t, b in ((-0.6, 0.72), (-0.24, 1.06), (0.0, 0.84), (0.24, 1.06), (0.6, 0.72)):
        outer.append((t * half, line(t) - up * (1 - t * t) - thin * b - mimic.sneer * (1 - t * t)))
    outer.append((half, corner))
    for t, b in ((0.6, 0.68), (0.3, 0.98), (0.0, 1.06), (-0.3, 0.98), (-0.6, 0.68)):
        outer.append((t * half, line(t) + down * (1 - 0.8 * t * t) + thick * b))
    return {"outer_lip": _on_face(outer, 0.04), "inner_lip": _on_face(inner, 0.04)}


def wire_model(person: Person) -> dict[str, Points]:
    """Named 3-D points, each (N, 3)."""
    brow, eye = _brow(person), _eye(person)
    model = _outline(person)
    model |= _nose(person)
    model |= _mouth(person)
    model |= {"brow_right": brow, "brow_left": brow * MIRROR, "eye_right": eye, "eye_left": eye * MIRROR}
    gaze = person.build.gaze
    for name in ("eye_right", "eye_left"):
        model[name] = model[name] + np.array([[0.0, 0.0, 0.0]] * 8 + [[gaze, 0.0, 0.0]])
    return model


class Projection:
    """From model units to pixels: turn by yaw, pitch and roll, then a weak perspective.

    The picture is cropped as a detector would: around the box of hairline, temples and chin.
    """

    def __init__(self, person: Person, model: dict[str, Points], *, size: int) -> None:
        pose = person.pose
        cy, sy, cp, sp = np.cos(pose.yaw), np.sin(pose.yaw), np.cos(pose.pitch), np.sin(pose.pitch)
        cr, sr = np.cos(pose.roll), np.sin(pose.roll)
        yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        self.turn = roll @ pitch @ yaw
        self.pivot = np.array([0.0, 0.36, 0.0])
        self.unit, self.centre = 1.0, np.zeros(2)
        extent = self(np.concatenate([model["jaw"][::5], [(0.0, -0.95, 0.1)]]))
        low, high = extent.min(0), extent.max(0)
        self.unit = min(pose.scale, 0.83 / float(high[1] - low[1])) * size
        self.centre = np.array([pose.centre_x, pose.centre_y]) * size - 0.5 - self.unit * (low + high) / 2

    def __call__(self, points: Points) -> Points:
        turned = (points - self.pivot) @ self.turn.T
        return turned[:, :2] * (self.unit * 8.0 / (8.0 - turned[:, 2:])) + self.centre

    def each(self, model: dict[str, Points]) -> dict[str, Points]:
        """Projects all named points at once."""
        flat = self(np.concatenate(list(model.values())))
        ends = np.cumsum([len(points) for points in model.values()])[:-1]
        return dict(zip(model, np.split(flat, ends), strict=True))


def landmarks98(drawn: dict[str, Points]) -> Points:
    """The WFLW points (98, 2) of projected model points."""
    contour = smooth(drawn["jaw"], 16)[::5]
    eyes = (drawn["eye_left"], drawn["eye_right"])
    return np.concatenate([
        contour, drawn["brow_left"], drawn["brow_right"][BROW_RIGHT_ORDER], drawn["bridge"], drawn["base"],
        eyes[0][:8], eyes[1][EYE_RIGHT_ORDER], drawn["outer_lip"], drawn["inner_lip"], eyes[0][8:], eyes[1][8:],
    ])  # fmt: skip
