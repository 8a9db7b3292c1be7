"""Age in years from annotated age groups, by ordinal regression. N images, K groups, R = K - 1 ratios.

For each group but the last the head says how probable it is that a face is older than the group, given that it is not
younger (continuation ratios; Fu and Simpson 1988, trained as by Shi, Cao and Raschka's CORN, 2021). Their products fall
from group to group whatever the weights are, so the groups' probabilities are consistent, and years are read off their
distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from fra.tasks.metrics import accuracy, confusion_matrix
from fra.tasks.task import Baseline, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOW, HIGH = 0.1, 0.9
"""Shares of the distribution between which the stated interval lies (ours)."""
SMALLEST = 1e-9
"""Of a probability, so that logarithms and divisions are finite."""


@dataclass(frozen=True)
class Years(Task):
    """Targets are numbers of groups (N); outputs logits (N, R) of being older than a group if not younger."""

    labels: tuple[str, ...]
    """Names of the groups, from young to old."""
    edges: tuple[float, ...]
    """K + 1 ages in years, between which the groups lie; within a group all ages are taken for equally probable."""

    name: ClassVar[str] = "years"
    selects: ClassVar[str] = "mae"
    lower_is_better: ClassVar[bool] = True
    proportions: ClassVar[tuple[str, ...]] = ("accuracy",)
    gives: ClassVar[str] = "probabilities"

    @property
    def ordered(self) -> bool:
        return True

    def head(self, channels: int) -> nn.Linear:
        """Weights N(0, 0.01), bias 0, as for classes (ours)."""
        head = nn.Linear(channels, len(self.labels) - 1)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
        return head

    def criterion(self, outputs: Float[Tensor, "N R"], targets: Int[Tensor, "N"]) -> Float[Tensor, ""]:
        """The mean of -log p(group): each face teaches the ratios up to its group, and no later one."""
        groups = torch.arange(outputs.shape[1], device=targets.device)
        older = (targets[:, None] > groups).to(outputs.dtype)
        each = F.binary_cross_entropy_with_logits(outputs, older, reduction="none")
        return (each * (targets[:, None] >= groups)).sum() / max(1, len(targets))

    def known(self, targets: Int[Tensor, "N"]) -> Bool[Tensor, "N"]:
        return targets >= 0

    def shares(self, outputs: Float[Tensor, "N R"]) -> Float[Tensor, "N K"]:
        """The groups' probabilities, which sum to 1."""
        reached = F.pad(outputs.sigmoid().cumprod(1), (1, 0), value=1.0)
        return reached - F.pad(reached[:, 1:], (0, 1))

    def quantile(self, outputs: Float[Tensor, "N R"], share: float) -> Float[Tensor, "N"]:
        """The age in years below which a face is with this probability, in double precision."""
        shares = self.shares(outputs.double())
        below = F.pad(shares.cumsum(1), (1, 0))
        group = (below[:, 1:-1] < share).sum(1, keepdim=True)
        edges = torch.tensor(self.edges, dtype=torch.float64, device=outputs.device)
        within = (share - below.gather(1, group)) / shares.gather(1, group).clamp(min=SMALLEST)
        start, end = edges[group], edges[group + 1]
        return (start + within.clamp(0, 1) * (end - start)).squeeze(1)

    def middles(self, targets: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
        """The middle of each face's group in years, which stands for its age: nobody wrote that down."""
        edges = torch.tensor(self.edges, dtype=torch.float64, device=targets.device)
        return ((edges[:-1] + edges[1:]) / 2)[targets]

    def metrics(self, outputs: Float[Tensor, "N R"], targets: Int[Tensor, "N"]) -> dict[str, float]:
        """`mae`: years from the median to the middle of the group; `accuracy` of the most probable group, percent;
        `within_interval`: of how many faces, in percent, the stated interval holds the middle of the group."""
        middles = self.middles(targets)
        held = (self.quantile(outputs, LOW) <= middles) & (middles <= self.quantile(outputs, HIGH))
        return {
            "mae": float(self.image_scores(outputs, targets).mean()),
            "accuracy": accuracy(self.shares(outputs), targets),
            "within_interval": 100 * float(held.double().mean()),
        }

    def image_scores(self, outputs: Float[Tensor, "N R"], targets: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
        return (self.quantile(outputs, 0.5) - self.middles(targets)).abs()

    def baseline(self, train_targets: Int[Tensor, "M"], test_targets: Int[Tensor, "N"]) -> Baseline:
        """The groups as frequent as in training."""
        counts = torch.bincount(train_targets, minlength=len(self.labels)).double()
        left = counts.flip(0).cumsum(0).flip(0)  # faces that are not younger than a group
        ratios = (left[1:] / left[:-1].clamp(min=1)).clamp(SMALLEST, 1 - SMALLEST)
        return Baseline(
            "training distribution", self.metrics(ratios.logit().expand(len(test_targets), -1), test_targets)
        )

    def mirror(self, targets: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
        return targets

    @property
    def named(self) -> tuple[str, ...]:
        return self.labels

    def values(
        self, outputs: Float[Tensor, "N R"], *, width: int | Tensor, height: int | Tensor
    ) -> Float[Tensor, "N K"]:
        """Probabilities of the groups, which sum to 1."""
        return self.shares(outputs)

    def answer(self, output: Float[Tensor, "R"], *, width: int, height: int) -> dict[str, Any]:
        """`years`: the median, and `low` and `high`, below which 10 and 90 % lie; `probabilities` of the groups."""
        said = {"median": 0.5, "low": LOW, "high": HIGH}
        shares = self.values(output[None], width=width, height=height)[0].tolist()
        return {
            "years": {word: float(self.quantile(output[None], share)) for word, share in said.items()},
            "probabilities": dict(zip(self.labels, shares, strict=True)),
        }

    def certainties(
        self, outputs: Float[Tensor, "N R"], targets: Int[Tensor, "N"]
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        """One decision per image: its most probable group."""
        stated, decided = self.shares(outputs).max(1)
        return stated, decided == targets

    def columns(self, outputs: Float[Tensor, "N R"], targets: Int[Tensor, "N"]) -> dict[str, list[Any]]:
        """The annotated group, years with their interval, then the probability of each group."""
        shares = self.shares(outputs)
        said = {"years": 0.5, "years_low": LOW, "years_high": HIGH}
        return {
            "label": [self.labels[label] for label in targets.tolist()],
            **{word: [f"{age:.3f}" for age in self.quantile(outputs, q).tolist()] for word, q in said.items()},
            **{f"p_{name}": [f"{p:.6f}" for p in shares[:, k].tolist()] for k, name in enumerate(self.labels)},
        }

    def details(self, outputs: Float[Tensor, "N R"], targets: Int[Tensor, "N"]) -> dict[str, Any]:
        """`confusion`: annotated group by most probable one; `per_group`: answers and mean absolute error in years."""
        errors = self.image_scores(outputs, targets)
        members = [(name, targets == k) for k, name in enumerate(self.labels)]
        return {
            "labels": list(self.labels),
            "confusion": confusion_matrix(self.shares(outputs), targets).tolist(),
            "per_group": {
                name: {"answers": int(inside.sum()), "mae": float(errors[inside].mean()) if inside.any() else None}
                for name, inside in members
            },
        }

    def picture(
        self, outputs: Float[Tensor, "N R"], targets: Int[Tensor, "N"], images: Sequence[UInt8[Tensor, "3 S S"]]
    ) -> "Figure":
        """Of each annotated group the stated years: median, quartiles, and the middle nine tenths."""
        from matplotlib.figure import Figure

        years = self.quantile(outputs, 0.5)
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.boxplot([years[targets == k].tolist() for k in range(len(self.labels))], whis=(5, 95), showfliers=False)
        axes.set_xticks(range(1, len(self.labels) + 1), self.labels, rotation=30, ha="right")
        axes.plot(range(1, len(self.labels) + 1), self.middles(torch.arange(len(self.labels))).tolist(), "_", ms=18)
        axes.set(xlabel="annotated group (dash: its middle)", ylabel="years, stated")
        return figure
