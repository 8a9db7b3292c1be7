"""Facial landmarks by linear regression from the features. N images, P landmarks.

A probe of what the encoder knows about places, not a competitor of heatmap networks (STAR, later: `alignment.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fra.faces.geometry import FLIP_68, FLIP_98, flip_points
from fra.transfer.metrics import auc, failure_rate, nme
from fra.transfer.task import Baseline, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIRROR_ORDER = {68: FLIP_68, 98: FLIP_98}


@dataclass(frozen=True)
class Landmarks(Task):
    """Targets (N, P, 2) are x, y in [-1, 1] from edge to edge of a square image; outputs the same, flat (N, 2P)."""

    points: Literal[68, 98]
    """68 in iBUG's order, 98 in WFLW's."""
    normaliser: Literal["inter-ocular"] = "inter-ocular"
    """Distance of the outer eye corners (300-W and WFLW; spec alignment.md, section 9)."""

    name: ClassVar[str] = "landmarks"
    selects: ClassVar[str] = "nme"
    lower_is_better: ClassVar[bool] = True
    least_squares: ClassVar[bool] = True

    def head(self, channels: int) -> nn.Linear:
        return nn.Linear(channels, 2 * self.points)

    def criterion(self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N P 2"]) -> Float[Tensor, ""]:
        """Mean squared error, because a linear head then has one best answer (ours)."""
        return F.mse_loss(outputs, targets.flatten(1))

    def metrics(self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N P 2"]) -> dict[str, float]:
        errors = self.errors(outputs, targets)
        return {
            "nme": float(errors.mean()),
            "failure_rate@10": failure_rate(errors, 10),
            "auc@10": auc(errors, 10),
        }

    def errors(self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N P 2"]) -> Float[Tensor, "N"]:
        """NME of each face, percent."""
        return nme(outputs.view_as(targets), targets)

    def baseline(self, train_targets: Float[Tensor, "M P 2"], test_targets: Float[Tensor, "N P 2"]) -> Baseline:
        average = train_targets.mean(0).flatten()
        return Baseline("mean face", self.metrics(average.repeat(len(test_targets), 1), test_targets))

    def mirror(self, targets: Float[Tensor, "N P 2"]) -> Float[Tensor, "N P 2"]:
        """x changes its sign, and the left eye becomes the right one."""
        return flip_points(targets, 1, MIRROR_ORDER[self.points])  # width - 1 - x is -x

    def answer(self, output: Float[Tensor, "P2"], *, width: int, height: int) -> dict[str, Any]:
        """`landmarks`: x, y in pixels of the image, centre of its first pixel at (0, 0)."""
        return {"landmarks": ((output.view(-1, 2) + 1) / 2 * torch.tensor([width, height]) - 0.5).tolist()}

    def columns(self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N P 2"]) -> dict[str, list[Any]]:
        """NME of the face, then true and predicted x and y of each landmark, in [-1, 1] of the image."""
        table: dict[str, list[Any]] = {"nme": [f"{error:.4f}" for error in self.errors(outputs, targets).tolist()]}
        predicted = outputs.view_as(targets)
        for number in range(self.points):
            for axis, letter in enumerate("xy"):
                table[f"{letter}{number}"] = [f"{v:.6f}" for v in targets[:, number, axis].tolist()]
                table[f"predicted_{letter}{number}"] = [f"{v:.6f}" for v in predicted[:, number, axis].tolist()]
        return table

    def details(self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N P 2"]) -> dict[str, Any]:
        """`nme_percentiles`: NME that 50, 90 and 95 % of the faces stay below."""
        levels = torch.tensor([0.5, 0.9, 0.95], dtype=outputs.dtype)
        values = self.errors(outputs, targets).quantile(levels).tolist()
        return {"points": self.points, "nme_percentiles": dict(zip(("50", "90", "95"), values, strict=True))}

    def picture(
        self, outputs: Float[Tensor, "N P2"], targets: Float[Tensor, "N P 2"], images: Sequence[UInt8[Tensor, "3 S S"]]
    ) -> "Figure":
        """The first test faces with true (green) and predicted (red) points."""
        from matplotlib.figure import Figure

        columns = min(4, len(images))
        rows = -(-len(images) // columns)
        figure = Figure(figsize=(2.4 * columns, 2.6 * rows), layout="constrained")
        errors = self.errors(outputs, targets).tolist()
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in panels:
            axes.set_axis_off()
        for place, (image, axes) in enumerate(zip(images, panels, strict=False)):
            axes.imshow(image.permute(1, 2, 0).numpy())
            for points, colour in ((targets[place], "#2ca02c"), (outputs[place].view(-1, 2), "#e03030")):
                pixels = (points + 1) * image.shape[-1] / 2 - 0.5
                axes.scatter(*pixels.T.tolist(), s=3, c=colour)
            axes.set_title(f"NME {errors[place]:.1f} %", fontsize=8)
        return figure
