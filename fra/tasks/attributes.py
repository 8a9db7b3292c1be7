"""Facial attribute recognition: many yes-or-no questions per face. N images, A attributes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from fra.tasks.metrics import (
    YesOrNo,
    attribute_accuracies,
    attribute_accuracy,
    balanced_attribute_accuracy,
    mean_of_known,
    yes_and_known,
)
from fra.tasks.task import Baseline, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


NECK = (512, 256)
"""Widths of the neck's hidden layers (released code; spec attributes.md, section 3)."""


@dataclass(frozen=True)
class Attributes(Task):
    """Targets are booleans (N, A), outputs logits (N, A); a logit of 0 or more says yes.

    Where some answers are not known, targets are 1, 0 and NaN, which neither teaches nor counts.
    """

    names: tuple[str, ...]
    """Names of the attributes in the dataset's order."""
    neck: bool = False
    """The head is the released code's of three layers, not the supplement's of one."""

    name: ClassVar[str] = "attributes"
    selects: ClassVar[str] = "attribute_accuracy"
    proportions: ClassVar[tuple[str, ...]] = ("attribute_accuracy",)
    gives: ClassVar[str] = "probabilities"

    def head(self, channels: int) -> nn.Module:
        """One linear layer (supplement 5.3.2), N(0, 0.01), bias 0; with `neck` behind two hidden ones."""
        last = nn.Linear(NECK[-1] if self.neck else channels, len(self.names))
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        if not self.neck:
            return last
        layers: list[nn.Module] = []
        for width, next_width in pairwise((channels, *NECK)):
            layers += [nn.Linear(width, next_width), nn.BatchNorm1d(next_width), nn.Dropout(0.2), nn.ReLU()]
        return nn.Sequential(*layers, last)

    def criterion(self, outputs: Float[Tensor, "N A"], targets: YesOrNo) -> Float[Tensor, ""]:
        """Binary cross-entropy, mean over images and attributes (spec attributes.md, section 3) that are known."""
        if targets.dtype == torch.bool:
            return F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))
        yes, known = yes_and_known(targets)
        wrong = F.binary_cross_entropy_with_logits(outputs, yes.to(outputs.dtype), reduction="none")
        return (wrong * known).sum() / known.sum().clamp(min=1)

    def known(self, targets: YesOrNo) -> Bool[Tensor, "N"]:
        return yes_and_known(targets)[1].any(1)

    def metrics(self, outputs: Float[Tensor, "N A"], targets: YesOrNo) -> dict[str, float]:
        return {
            "attribute_accuracy": attribute_accuracy(outputs, targets),
            "balanced_attribute_accuracy": balanced_attribute_accuracy(outputs, targets),
        }

    def image_scores(self, outputs: Float[Tensor, "N A"], targets: YesOrNo) -> Float[Tensor, "N"]:
        """Percent of right decisions; where answers are not known, images count by those that they have."""
        yes, known = yes_and_known(targets)
        return mean_of_known(100 * ((outputs >= 0) == yes).double(), known)

    def baseline(self, train_targets: Bool[Tensor, "M A"] | Float[Tensor, "M A"], test_targets: YesOrNo) -> Baseline:
        majority = train_targets.float().nanmean(0).nan_to_num() - 0.5
        return Baseline(
            "majority of each attribute", self.metrics(majority.expand(len(test_targets), -1), test_targets)
        )

    def mirror(self, targets: YesOrNo) -> YesOrNo:
        """None of CelebA's attributes has a side."""
        return targets

    @property
    def named(self) -> tuple[str, ...]:
        return self.names

    def values(
        self, outputs: Float[Tensor, "N A"], *, width: int | Tensor, height: int | Tensor
    ) -> Float[Tensor, "N A"]:
        """The probability of each attribute."""
        return outputs.sigmoid()

    def answer(self, output: Float[Tensor, "A"], *, width: int, height: int) -> dict[str, Any]:
        """`attributes` that are there, and `probabilities` of all by name."""
        chances = self.values(output[None], width=width, height=height)[0].tolist()
        return {
            "attributes": [name for name, logit in zip(self.names, output.tolist(), strict=True) if logit >= 0],
            "probabilities": dict(zip(self.names, chances, strict=True)),
        }

    def certainties(
        self, outputs: Float[Tensor, "N A"], targets: YesOrNo
    ) -> tuple[Float[Tensor, "D"], Bool[Tensor, "D"]]:
        """One decision per image and attribute that is known."""
        yes, known = yes_and_known(targets)
        stated = outputs.abs().sigmoid()
        return stated[known], ((outputs >= 0) == yes)[known]

    def columns(self, outputs: Float[Tensor, "N A"], targets: YesOrNo) -> dict[str, list[Any]]:
        """Per attribute the truth (0, 1 or nothing) under its name and the logit's probability under `p_` + name."""
        table: dict[str, list[Any]] = {}
        shares = outputs.double().sigmoid()
        yes, known = yes_and_known(targets)
        for number, name in enumerate(self.names):
            pairs = zip(yes[:, number].int().tolist(), known[:, number].tolist(), strict=True)
            table[name] = [answer if is_known else "" for answer, is_known in pairs]
            # Nine digits: a share that is just below one half must not be rounded up to it.
            table[f"p_{name}"] = [f"{p:.9g}" for p in shares[:, number].tolist()]
        return table

    def details(self, outputs: Float[Tensor, "N A"], targets: YesOrNo) -> dict[str, Any]:
        """`per_attribute`: accuracy and the share of images that have it, percent, of those where it is known."""
        right, share = attribute_accuracies(outputs, targets).tolist(), (100 * targets.double().nanmean(0)).tolist()
        return {
            "labels": list(self.names),
            "per_attribute": {
                name: {"accuracy": accuracy, "share": has} if has == has else {"accuracy": None, "share": None}
                for name, accuracy, has in zip(self.names, right, share, strict=True)
            },
        }

    def picture(
        self, outputs: Float[Tensor, "N A"], targets: YesOrNo, images: Sequence[UInt8[Tensor, "3 S S"]]
    ) -> "Figure":
        """Bars of accuracy per attribute, each with a mark at what the commoner answer alone would reach."""
        from matplotlib.figure import Figure

        right, share = attribute_accuracies(outputs, targets).nan_to_num(), 100 * targets.double().nanmean(0)
        order = right.argsort(descending=True).tolist()
        figure = Figure(figsize=(6.4, 1.2 + 0.22 * len(order)), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(order)), right[order].tolist(), color="#4878a8")
        axes.plot(
            share.maximum(100 - share)[order].tolist(), range(len(order)), "k|", markersize=9, label="commoner answer"
        )
        axes.set_yticks(range(len(order)), [self.names[number].replace("_", " ") for number in order], fontsize=7)
        axes.set(xlim=(0, 100), xlabel="accuracy, percent")
        axes.invert_yaxis()
        axes.legend(loc="lower left")
        return figure
