"""Facial expression recognition, and other questions with one class per face. N images, K classes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from fra.tasks.metrics import accuracy, confusion_matrix, mean_class_accuracy
from fra.tasks.task import Baseline, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Expression(Task):
    """Targets are class numbers (N), -1 for an image whose class is not known; outputs logits (N, K)."""

    labels: tuple[str, ...]
    """Names of the classes in the dataset's own order, which differs between datasets."""
    asks: str = "expression"
    """What the classes are, the word of an answer: other questions with one answer per face are asked the same way."""

    name: ClassVar[str] = "expression"
    selects: ClassVar[str] = "accuracy"
    proportions: ClassVar[tuple[str, ...]] = ("accuracy",)
    gives: ClassVar[str] = "probabilities"

    @property
    def ordered(self) -> bool:
        """Whether the first numbers in the labels rise, as those of age groups do."""
        numbers = [re.search(r"\d+", label) for label in self.labels]
        found = [int(number[0]) for number in numbers if number]
        return len(found) == len(self.labels) and all(one < other for one, other in pairwise(found))

    def head(self, channels: int) -> nn.Linear:
        """Weights N(0, 0.01), bias 0 (released code)."""
        head = nn.Linear(channels, len(self.labels))
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
        return head

    def criterion(self, outputs: Float[Tensor, "N K"], targets: Int[Tensor, "N"]) -> Float[Tensor, ""]:
        """Cross-entropy without smoothing or class weights (spec expression.md, section 2)."""
        return F.cross_entropy(outputs, targets)

    def known(self, targets: Int[Tensor, "N"]) -> Bool[Tensor, "N"]:
        return targets >= 0

    def metrics(self, outputs: Float[Tensor, "N K"], targets: Int[Tensor, "N"]) -> dict[str, float]:
        return {
            "accuracy": accuracy(outputs, targets),
            "mean_class_accuracy": mean_class_accuracy(outputs, targets),
        }

    def image_scores(self, outputs: Float[Tensor, "N K"], targets: Int[Tensor, "N"]) -> Float[Tensor, "N"]:
        """100 where the highest logit is the right class, else 0."""
        return 100 * (outputs.argmax(1) == targets).double()

    def baseline(self, train_targets: Int[Tensor, "M"], test_targets: Int[Tensor, "N"]) -> Baseline:
        majority = int(torch.bincount(train_targets, minlength=len(self.labels)).argmax())
        always = F.one_hot(torch.full_like(test_targets, majority), len(self.labels)).float()
        return Baseline(
            f"always {self.labels[majority]} (most frequent in training)", self.metrics(always, test_targets)
        )

    def mirror(self, targets: Int[Tensor, "N"]) -> Int[Tensor, "N"]:
        return targets

    @property
    def named(self) -> tuple[str, ...]:
        return self.labels

    def values(
        self, outputs: Float[Tensor, "N K"], *, width: int | Tensor, height: int | Tensor
    ) -> Float[Tensor, "N K"]:
        """Probabilities of the classes, which sum to 1."""
        return outputs.softmax(1)

    def answer(self, output: Float[Tensor, "K"], *, width: int, height: int) -> dict[str, Any]:
        """The class under the word asked for (`expression`), and `probabilities` by name."""
        shares = self.values(output[None], width=width, height=height)[0].tolist()
        return {
            self.asks: self.labels[int(output.argmax())],
            "probabilities": dict(zip(self.labels, shares, strict=True)),
        }

    def certainties(
        self, outputs: Float[Tensor, "N K"], targets: Int[Tensor, "N"]
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        """One decision per image."""
        stated, decided = outputs.softmax(1).max(1)
        return stated, decided == targets

    def columns(self, outputs: Float[Tensor, "N K"], targets: Int[Tensor, "N"]) -> dict[str, list[Any]]:
        """True and predicted names, then the probability of each class."""
        shares = outputs.softmax(1)
        return {
            "label": [self.labels[label] for label in targets.tolist()],
            "predicted": [self.labels[label] for label in outputs.argmax(1).tolist()],
            **{f"p_{name}": [f"{p:.6f}" for p in shares[:, k].tolist()] for k, name in enumerate(self.labels)},
        }

    def details(self, outputs: Float[Tensor, "N K"], targets: Int[Tensor, "N"]) -> dict[str, Any]:
        """`confusion`: rows true, columns predicted, in the order of `labels`; `per_class`: share that was found.

        Both count answers: as many as test images for each seed.
        """
        confusion = confusion_matrix(outputs, targets)
        found, answers = confusion.diagonal().tolist(), confusion.sum(1).tolist()
        return {
            "labels": list(self.labels),
            "confusion": confusion.tolist(),
            "per_class": {
                name: {"answers": answers[k], "accuracy": 100 * found[k] / answers[k] if answers[k] else None}
                for k, name in enumerate(self.labels)
            },
        }

    def picture(
        self, outputs: Float[Tensor, "N K"], targets: Int[Tensor, "N"], images: Sequence[UInt8[Tensor, "3 S S"]]
    ) -> "Figure":
        """Confusion matrix: share of each true class (row) that was called each class (column)."""
        from matplotlib.figure import Figure

        counts = confusion_matrix(outputs, targets).double()
        shares = (100 * counts / counts.sum(1, keepdim=True).clamp(min=1)).tolist()
        figure = Figure(figsize=(6.4, 5.6), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, vmin=0, vmax=100, cmap="Blues")
        axes.set_xticks(range(len(self.labels)), self.labels, rotation=45, ha="right")
        axes.set_yticks(range(len(self.labels)), self.labels)
        axes.set(xlabel="predicted", ylabel="true", title="percent of the true class")
        for row, values in enumerate(shares):
            for column, value in enumerate(values):
                axes.text(
                    column, row, f"{value:.0f}", ha="center", va="center", color="white" if value > 60 else "black"
                )
        return figure
