"""Faces followed from frame to frame: the detections of a frame meet the tracks of the frames before by overlap.

No features are compared: a face that was gone for longer than PATIENCE is another track, and nobody is recognised.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import box_iou

PATIENCE = 1.0
"""Seconds without a detection after which a track ends (ours)."""
OVERLAP = 0.2
"""Intersection over union from which a detection may belong to a track (ours: heads turn, boxes breathe)."""
MEMORY = 0.5
"""Share of the former velocity in the new one (ours)."""


@dataclass
class Track:
    """A face that is followed."""

    number: int
    """From 1."""
    box: Float[Tensor, "4"]
    seconds: float
    """When the box was found."""
    velocity: Float[Tensor, "2"]
    """Of the box's middle, pixels a second."""

    def shift(self, seconds: float) -> Float[Tensor, "2"]:
        """How far the face has come by then if it keeps moving as it does."""
        return self.velocity * (seconds - self.seconds)

    def at(self, seconds: float) -> Float[Tensor, "4"]:
        """Its box by then."""
        return self.box + self.shift(seconds).repeat(2)


class Tracker:
    """Give it the frames in their order."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self.count = 0

    def follow(self, boxes: Sequence[Float[Tensor, "4"]], seconds: float) -> list[int]:
        """The track of each box that was detected at that time: of all ways to pair them the one that overlaps most."""
        from scipy.optimize import linear_sum_assignment

        self.tracks = [track for track in self.tracks if seconds - track.seconds <= PATIENCE]
        found: list[Track | None] = [None] * len(boxes)
        if self.tracks and boxes:
            overlap = box_iou(torch.stack(list(boxes)), torch.stack([track.at(seconds) for track in self.tracks]))
            for row, column in zip(*linear_sum_assignment(-overlap.numpy()), strict=True):
                if overlap[row, column] >= OVERLAP:
                    found[row] = self.tracks[column]
        return [self._seen(track, box, seconds) for track, box in zip(found, boxes, strict=True)]

    def _seen(self, track: Track | None, box: Float[Tensor, "4"], seconds: float) -> int:
        if track is None:
            self.count += 1
            track = Track(self.count, box, seconds, torch.zeros(2))
            self.tracks.append(track)
            return track.number
        if seconds > track.seconds:
            moved = (box - track.box).view(2, 2).mean(0) / (seconds - track.seconds)
            track.velocity = MEMORY * track.velocity + (1 - MEMORY) * moved
        track.box, track.seconds = box, seconds
        return track.number


class Smoother:
    """Points without jitter that still follow: the One Euro filter (Casiez, Roussel and Vogel, CHI 2012).

    One low-pass filter per track and coordinate, whose cut-off frequency rises with the speed, in box sides.
    """

    SLOWEST, RISE, OF_SPEED = 1.5, 4.0, 1.0
    """Cut-off at rest (Hz), its rise with the speed (Hz per box side a second), and that of the speed itself (Hz); the
    latter is the paper's, the others are ours."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, str], tuple[float, Tensor, Tensor]] = {}

    def __call__(
        self, points: Float[Tensor, "P 2"], *, track: int, of: str, seconds: float, side: float
    ) -> Float[Tensor, "P 2"]:
        """The points of the task `of` on a track at that time; `side` is the longer one of the face's box."""
        before = self._last.get((track, of))
        if before is None or not 0 < seconds - before[0] <= PATIENCE:
            self._last[track, of] = (seconds, points, torch.zeros_like(points))
            return points
        step = seconds - before[0]
        raw = (points - before[1]) / (step * side)
        speed = before[2] + _share(self.OF_SPEED, step) * (raw - before[2])
        smooth = before[1] + _share(self.SLOWEST + self.RISE * speed.abs(), step) * (points - before[1])
        self._last[track, of] = (seconds, smooth, speed)
        return smooth


def _share(cutoff: float | Tensor, step: float) -> float | Tensor:
    """How much of the new value a low-pass filter takes."""
    turn = 2 * torch.pi * cutoff * step
    return turn / (turn + 1)
