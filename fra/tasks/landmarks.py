"""Facial landmarks: how they are named, mirrored and judged. N images, P landmarks.

The head here is linear, a probe of what the encoder knows about places; the `star` protocol brings its own network.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from fra.faces.geometry import flip_points
from fra.tasks.landmark_pictures import draw_landmarks
from fra.tasks.metrics import auc, failure_rate, nme
from fra.tasks.point_tables import POINT_TABLES, PointTable
from fra.tasks.task import Baseline, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Normaliser = Literal["inter-ocular", "inter-pupil", "diag", "box", "pair"]
"""Distance of outer eye corners, of pupils; diagonal of the face box, root of its area (spec alignment.md, 9).
`pair`: of the two named points, for points of people's own."""
EDGE = 1e-4
"""The star crop ends at the highest and the lowest landmark: rounding must not push these out."""


@dataclass(frozen=True)
class Landmarks(Task):
    """Targets (N, P, 2) are x, y in [-1, 1] from edge to edge of a square image; outputs the same, flat (N, 2P).

    Landmarks outside the image are beyond [-1, 1], and errors there count in full. Of datasets that know the face box
    targets are (N, P + 1, 2): the last row is the box's width and height in the same unit, and never an output.
    """

    points: int
    """Their number; without `pair` one of POINT_TABLES, in its order."""
    normaliser: Normaliser = "inter-ocular"
    """What errors are divided by. "diag" and "box" need the face box."""
    thresholds: tuple[float, ...] = (10.0,)
    """Failure rates and areas are reported at each, in percent of the normaliser."""
    threshold_normaliser: Normaliser | None = None
    """What the errors of these are divided by, if by another length; then those by `normaliser` stand beside them."""
    pair: tuple[int, ...] = ()
    """Of points of people's own: the two whose distance is the normaliser `pair`."""
    flip: tuple[int, ...] = ()
    """Of points of people's own: for each the one whose place it takes in the mirrored image; empty if not known."""
    names: tuple[str, ...] = ()
    """Of points of people's own: what each is called."""

    name: ClassVar[str] = "landmarks"
    selects: ClassVar[str] = "nme"
    lower_is_better: ClassVar[bool] = True
    least_squares: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    gives: ClassVar[str] = "landmarks"

    @property
    def table(self) -> PointTable:
        """What the points mean. Of people's own no edges are known, and the pair stands for the eyes."""
        if not self.pair:
            return POINT_TABLES[self.points]
        left, right = self.pair
        return PointTable(self.points, (), self.flip, eye_corners=(left, right), pupils=((left,), (right,)))

    @property
    def mirrors(self) -> bool:
        return bool(self.table.flip)

    def head(self, channels: int) -> nn.Linear:
        return nn.Linear(channels, 2 * self.points)

    def criterion(self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N Q 2"]) -> Float[Tensor, ""]:
        """Mean squared error, because a linear head then has one best answer (ours)."""
        return F.mse_loss(outputs, self.places(targets).flatten(1))

    def places(self, targets: Float[Tensor, "N Q 2"]) -> Float[Tensor, "N P 2"]:
        """The landmarks among the targets."""
        return targets[:, : self.points]

    def outside(self, targets: Float[Tensor, "N Q 2"]) -> dict[str, int]:
        """How many `landmarks` lie outside of the images, in how many `faces`; on the edge is inside."""
        beyond = (self.places(targets).abs() > 1 + EDGE).any(2)
        return {"landmarks": int(beyond.sum()), "faces": int(beyond.any(1).sum())}

    def metrics(self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N Q 2"]) -> dict[str, float]:
        scores = {"nme": float(self.errors(outputs, targets).mean())}
        for normaliser in self.of_thresholds:
            errors = self.errors(outputs, targets, normaliser)
            word = "" if normaliser == self.of_thresholds[0] else f"_{normaliser}"
            for threshold in self.thresholds:
                scores[f"failure_rate@{threshold:g}{word}"] = failure_rate(errors, threshold)
                scores[f"auc@{threshold:g}{word}"] = auc(errors, threshold)
        return scores

    def image_scores(self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N Q 2"]) -> Float[Tensor, "N"]:
        return self.errors(outputs, targets)

    @property
    def of_thresholds(self) -> tuple[Normaliser, ...]:
        """The lengths by which failure rates and areas are reported, those that need no word for it first."""
        if self.threshold_normaliser in (None, self.normaliser):
            return (self.normaliser,)
        return (self.threshold_normaliser, self.normaliser)

    def normaliser_of(self, metric: str) -> str:
        """The length that a metric's errors are divided by, a pair by the names of its points."""
        name = self.normaliser
        if metric != "nme" and not metric.endswith(f"_{self.normaliser}"):
            name = self.of_thresholds[0]
        return " to ".join(self.names[point] for point in self.pair) if name == "pair" else name

    def errors(
        self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N Q 2"], normaliser: Normaliser | None = None
    ) -> Float[Tensor, "N"]:
        """NME of each face, percent."""
        places = self.places(targets)
        return nme(outputs.view_as(places), places, self.length(targets, normaliser or self.normaliser))

    def length(self, targets: Float[Tensor, "N Q 2"], normaliser: Normaliser) -> Float[Tensor, "N"]:
        """A normaliser in units of the targets. Raises ValueError when it needs a face box that they do not have."""
        table = self.table
        if normaliser in ("inter-ocular", "pair"):
            left, right = table.eye_corners
            return (targets[:, left] - targets[:, right]).norm(dim=-1)
        if normaliser == "inter-pupil":
            first, second = (targets[:, list(points)].mean(1) for points in table.pupils)
            return (first - second).norm(dim=-1)
        if targets.shape[1] == self.points:
            raise ValueError(f"the normaliser '{normaliser}' needs face boxes, which this dataset lacks")
        box = targets[:, self.points]
        return box.norm(dim=-1) if normaliser == "diag" else box.prod(-1).sqrt()

    def baseline(self, train_targets: Float[Tensor, "M Q 2"], test_targets: Float[Tensor, "N Q 2"]) -> Baseline:
        average = self.places(train_targets).mean(0).flatten()
        return Baseline("mean face", self.metrics(average.repeat(len(test_targets), 1), test_targets))

    def mirror(self, targets: Float[Tensor, "N Q 2"]) -> Float[Tensor, "N Q 2"]:
        """x changes its sign, and the left eye becomes the right one; a face box stays as large as it is."""
        mirrored = flip_points(self.places(targets), 1, self.table.flip)  # width - 1 - x is -x
        return torch.cat((mirrored, targets[:, self.points :]), 1)

    @property
    def named(self) -> tuple[str, ...]:
        return self.names

    def values(
        self, outputs: Float[Tensor, "N P2"], *, width: int | Tensor, height: int | Tensor
    ) -> Float[Tensor, "N P 2"]:
        """x, y in pixels of the image, centre of its first pixel at (0, 0)."""
        places, _ = self.split(outputs)
        # One axis after the other: in an exported network the size of the image is not known.
        axes = [(places[..., axis] + 1) / 2 * pixels - 0.5 for axis, pixels in enumerate((width, height))]
        return torch.stack(axes, -1)

    def split(self, outputs: Float[Tensor, "N T"]) -> tuple[Float[Tensor, "N P 2"], Float[Tensor, "N Q"]]:
        """The places among outputs, and what stands behind them: a number for each point, or nothing (Q is 0)."""
        return outputs[:, : 2 * self.points].unflatten(1, (self.points, 2)), outputs[:, 2 * self.points :]

    def answer(self, output: Float[Tensor, "T"], *, width: int, height: int) -> dict[str, Any]:
        """`landmarks`: x, y in pixels of the image, centre of its first pixel at (0, 0).

        `confidence`, 0 to 1, of each, where the output has it behind the places.
        """
        _, confidence = self.split(output[None])
        places = self.values(output[None], width=width, height=height)[0].tolist()
        return {"landmarks": places, **({"confidence": confidence[0].tolist()} if confidence.numel() else {})}

    def columns(self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N Q 2"]) -> dict[str, list[Any]]:
        """NME of the face and the length it is divided by, then true and predicted x and y, in [-1, 1] of the image.

        The length that failure rates and areas are divided by has a column of its own, if it is another.
        """
        table: dict[str, list[Any]] = {
            "nme": [f"{error:.4f}" for error in self.errors(outputs, targets).tolist()],
            "normaliser": [f"{length:.6f}" for length in self.length(targets, self.normaliser).tolist()],
        }
        for other in self.of_thresholds:
            if other != self.normaliser:
                table[other] = [f"{length:.6f}" for length in self.length(targets, other).tolist()]
        predicted = outputs.view(-1, self.points, 2)
        for number in range(self.points):
            for axis, letter in enumerate("xy"):
                table[f"{letter}{number}"] = [f"{v:.6f}" for v in targets[:, number, axis].tolist()]
                table[f"predicted_{letter}{number}"] = [f"{v:.6f}" for v in predicted[:, number, axis].tolist()]
        return table

    def details(self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N Q 2"]) -> dict[str, Any]:
        """`nme_percentiles`: NME that 50, 90 and 95 % of the faces stay below; `normalisers`: every score by each."""
        levels = torch.tensor([0.5, 0.9, 0.95], dtype=outputs.dtype)
        values = self.errors(outputs, targets).quantile(levels).tolist()
        known: list[Normaliser] = ["pair"] if self.pair else ["inter-ocular", "inter-pupil"]
        if targets.shape[1] > self.points:
            known += ["diag", "box"]
        return {
            "points": self.points,
            "nme_percentiles": dict(zip(("50", "90", "95"), values, strict=True)),
            "normalisers": {
                name: dataclasses.replace(self, normaliser=name, threshold_normaliser=None).metrics(outputs, targets)
                for name in known
            },
        }

    def picture(
        self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N Q 2"], images: Sequence[UInt8[Tensor, "3 S S"]]
    ) -> "Figure":
        """The first of the faces with true (green) and found (red) points, and the cumulative error curve of all."""
        return draw_landmarks(
            images,
            self.places(targets),
            outputs.view(-1, self.points, 2),
            self.errors(outputs, targets),
            curve=self.errors(outputs, targets, self.of_thresholds[0]),
            thresholds=self.thresholds,
            normaliser=self.of_thresholds[0],
        )

    def order(self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N Q 2"]) -> Int[Tensor, "N"]:
        """The worst face first."""
        return self.errors(outputs, targets).argsort(descending=True, stable=True)
