"""Numbers of a face: age in years, valence and arousal. N images, R numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from fra.tasks.metrics import concordance, mean_absolute_error, mean_of_known, pearson
from fra.tasks.task import Baseline, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = {"mae": mean_absolute_error, "ccc": concordance, "pearson": pearson}
"""By their names in results.json; none is in percent."""


@dataclass(frozen=True)
class Regression(Task):
    """Targets (N, R) and outputs (N, R) are in deviations from the centre; a target that is not known is NaN."""

    names: tuple[str, ...]
    """What the numbers are."""
    centre: tuple[float, ...]
    """Of each number the mean of the training split, in its own unit."""
    spread: tuple[float, ...]
    """Of each its standard deviation there, above 0."""

    name: ClassVar[str] = "regression"
    selects: ClassVar[str] = "mae"
    lower_is_better: ClassVar[bool] = True
    least_squares: ClassVar[bool] = True
    gives: ClassVar[str] = "numbers"

    def head(self, channels: int) -> nn.Linear:
        """Weights N(0, 0.01), bias 0, as for classes (ours): it begins by answering the centre."""
        head = nn.Linear(channels, len(self.names))
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
        return head

    def numbers(self, values: Float[Tensor, "N R"]) -> Float[Tensor, "N R"]:
        """Outputs or targets in their own units, in double precision."""
        centre, spread = (torch.tensor(part, dtype=torch.float64) for part in (self.centre, self.spread))
        return centre + spread * values.double()

    def criterion(self, outputs: Float[Tensor, "N R"], targets: Float[Tensor, "N R"]) -> Float[Tensor, ""]:
        """Mean squared error in standard deviations over the targets that are known, 0 where none is (ours)."""
        known = ~targets.isnan()
        squared = (outputs - targets.nan_to_num()).square() * known
        return squared.sum() / known.sum().clamp(min=1)

    def known(self, targets: Float[Tensor, "N R"]) -> Bool[Tensor, "N"]:
        return ~targets.isnan().all(1)

    def metrics(self, outputs: Float[Tensor, "N R"], targets: Float[Tensor, "N R"]) -> dict[str, float]:
        """Means over the numbers: `mae` in their own unit, `ccc` and `pearson` in [-1, 1] (0 for a constant answer)."""
        each = self.each(outputs, targets)
        return {score: sum(found[score] for found in each.values()) / max(1, len(each)) for score in SCORES}

    def each(self, outputs: Float[Tensor, "N R"], targets: Float[Tensor, "N R"]) -> dict[str, dict[str, float]]:
        """The same by number, over the images whose target is known; numbers that no image has are left out."""
        said, truth = self.numbers(outputs), self.numbers(targets)
        scores = {}
        for place, name in enumerate(self.names):
            known = ~truth[:, place].isnan()
            if known.any():
                pair = said[known, place], truth[known, place]
                scores[name] = {score: measure(*pair) for score, measure in SCORES.items()}
        return scores

    def image_scores(self, outputs: Float[Tensor, "N R"], targets: Float[Tensor, "N R"]) -> Float[Tensor, "N"]:
        """Absolute errors in their own unit; an image without some numbers counts by those that it has."""
        errors = (self.numbers(outputs) - self.numbers(targets)).abs()
        return mean_of_known(errors.nan_to_num(), ~targets.isnan())

    def baseline(self, train_targets: Float[Tensor, "M R"], test_targets: Float[Tensor, "N R"]) -> Baseline:
        """The median, of all constant answers the one with the least absolute error."""
        median = train_targets.nanmedian(0).values.nan_to_num()
        return Baseline("training median", self.metrics(median.expand(len(test_targets), -1), test_targets))

    def mirror(self, targets: Float[Tensor, "N R"]) -> Float[Tensor, "N R"]:
        return targets

    @property
    def named(self) -> tuple[str, ...]:
        return self.names

    def values(
        self, outputs: Float[Tensor, "N R"], *, width: int | Tensor, height: int | Tensor
    ) -> Float[Tensor, "N R"]:
        """In their own units, in double precision."""
        return self.numbers(outputs)

    def answer(self, output: Float[Tensor, "R"], *, width: int, height: int) -> dict[str, Any]:
        """`numbers` by their names, in their own units."""
        numbers = self.values(output[None], width=width, height=height)[0].tolist()
        return {"numbers": dict(zip(self.names, numbers, strict=True))}

    def columns(self, outputs: Float[Tensor, "N R"], targets: Float[Tensor, "N R"]) -> dict[str, list[Any]]:
        """Of each number truth (empty if not known) and answer."""
        table: dict[str, list[Any]] = {}
        said, truth = self.numbers(outputs), self.numbers(targets)
        for place, name in enumerate(self.names):
            table[f"true_{name}"] = ["" if value != value else f"{value:.6g}" for value in truth[:, place].tolist()]
            table[f"predicted_{name}"] = [f"{value:.6g}" for value in said[:, place].tolist()]
        return table

    def details(self, outputs: Float[Tensor, "N R"], targets: Float[Tensor, "N R"]) -> dict[str, Any]:
        """`per_number`: the metrics of each, and how many answers were compared with a known target."""
        each, known = self.each(outputs, targets), (~targets.isnan()).sum(0).tolist()
        return {
            "labels": list(self.names),
            "per_number": {
                name: {"answers": count, **each.get(name, {})} for name, count in zip(self.names, known, strict=True)
            },
        }

    def picture(
        self, outputs: Float[Tensor, "N R"], targets: Float[Tensor, "N R"], images: Sequence[UInt8[Tensor, "3 S S"]]
    ) -> "Figure":
        """Of each number answers over truths; a perfect answer is on the line."""
        from matplotlib.figure import Figure

        said, truth = self.numbers(outputs), self.numbers(targets)
        figure = Figure(figsize=(4.6 * len(self.names), 4.4), layout="constrained")
        panels = figure.subplots(1, len(self.names), squeeze=False)[0]
        for place, (name, axes) in enumerate(zip(self.names, panels, strict=True)):
            known = ~truth[:, place].isnan()
            x, y = truth[known, place].tolist(), said[known, place].tolist()
            axes.scatter(x, y, s=6, alpha=0.4, color="#4878a8", linewidths=0)
            if x:
                axes.axline((min(x), min(x)), slope=1, color="#999999", linewidth=0.8)
            axes.set(xlabel=f"{name}, true", ylabel=f"{name}, predicted")
        return figure
