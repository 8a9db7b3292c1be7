"""What a task is judged by: shares and landmark errors in percent. N images, K classes, A attributes, P landmarks.

Every number is computed over a whole test split at once, never averaged over batches or processes.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

YesOrNo = Bool[Tensor, "N A"] | Float[Tensor, "N A"]
"""Answers to yes-or-no questions: booleans, or where some are not known 1, 0 and NaN."""
OUTER_EYE_CORNERS = (36, 45)  # of the 68, in iBUG's order, from 0 (spec alignment.md, 9)


@dataclass(frozen=True)
class Interval:
    """A confidence interval in percent."""

    low: float
    high: float


def accuracy(logits: Float[Tensor, "N K"], labels: Int[Tensor, "N"]) -> float:
    """Share of images whose highest logit is the right class (top-1)."""
    from torchmetrics.functional.classification import multiclass_accuracy

    return 100 * float(multiclass_accuracy(logits, labels, num_classes=logits.shape[1], average="micro"))


def confusion_matrix(logits: Float[Tensor, "N K"], labels: Int[Tensor, "N"]) -> Int[Tensor, "K K"]:
    """Counts: row = true class, column = predicted class."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    return multiclass_confusion_matrix(logits, labels, num_classes=logits.shape[1])


def mean_class_accuracy(logits: Float[Tensor, "N K"], labels: Int[Tensor, "N"]) -> float:
    """Mean over classes of the share of their images that are found; classes without an image do not count."""
    counts = confusion_matrix(logits, labels).double()
    present = counts.sum(1) > 0
    return 100 * float((counts.diagonal()[present] / counts[present].sum(1)).mean())


def yes_and_known(targets: YesOrNo) -> tuple[Bool[Tensor, "N A"], Bool[Tensor, "N A"]]:
    """Which answers are yes, and which are known at all."""
    return (targets, torch.ones_like(targets)) if targets.dtype == torch.bool else (targets > 0.5, ~targets.isnan())


def attribute_accuracies(logits: Float[Tensor, "N A"], targets: YesOrNo) -> Float[Tensor, "A"]:
    """Per attribute: share of right decisions at probability 0.5 (a logit of exactly 0 says yes) among known answers.

    NaN where no answer is known.
    """
    yes, known = yes_and_known(targets)
    return 100 * ((((logits >= 0) == yes) & known).sum(0).double() / known.sum(0).double())


def attribute_accuracy(logits: Float[Tensor, "N A"], targets: YesOrNo) -> float:
    """Share of right decisions over all image x attribute cells (spec attributes.md, section 3).

    Where answers are not known, the mean of the shares of the attributes.
    """
    shares = attribute_accuracies(logits, targets)
    return float(shares[~shares.isnan()].mean())


def mean_of_known(scores: Float[Tensor, "N A"], known: Bool[Tensor, "N A"]) -> Float[Tensor, "N"]:
    """What each image adds to the mean over the A columns of their means over known cells; columns without any are
    left out."""
    counts = known.sum(0)
    there = counts > 0
    shares = (scores * known)[:, there] * len(known) / counts[there]
    return shares.mean(1)


def balanced_attribute_accuracy(logits: Float[Tensor, "N A"], targets: YesOrNo) -> float:
    """Mean over attributes of the mean of "found when there" and "denied when not there".

    Answering always the same gives 50. An attribute that all or none of the images have counts with its one side.
    """
    yes, known = yes_and_known(targets)
    no, right = ~yes & known, (logits >= 0) == yes
    there = (right & yes).sum(0) / yes.sum(0)
    absent = (right & no).sum(0) / no.sum(0)
    return 100 * float(torch.stack([there, absent]).nanmean(0).mean())


def failure_rate(errors: Float[Tensor, "N"], threshold: float) -> float:
    """Share of faces whose NME is above `threshold` percent (spec alignment.md, section 9)."""
    return 100 * float((errors > threshold).double().mean())


def auc(errors: Float[Tensor, "N"], threshold: float) -> float:
    """Area under the cumulative error curve on [0, threshold], over threshold: its exact form, no Simpson sum.

    A face adds what is left of the threshold above its NME. STAR and FaRL apply Simpson's rule to steps of .01 percent,
    for some thresholds one step too many (spec alignment.md, section 9).
    """
    return 100 * float(((threshold - errors).clamp(min=0) / threshold).double().mean())


def wilson(percent: float, count: int) -> Interval:
    """95 % interval of a share seen on `count` independent images (Wilson, 1927)."""
    z, share = 1.959964, percent / 100
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return Interval(100 * (centre - spread) / scale, 100 * (centre + spread) / scale)


def nme(
    points: Float[Tensor, "N P 2"], truth: Float[Tensor, "N P 2"], normaliser: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """Per face: mean distance of its landmarks from the truth, over the length `normaliser`, percent.

    All in the same square frame of any unit, such as the photo's pixels or a square crop: the ratio does not depend on
    it. Points may lie outside.
    """
    return 100 * (points - truth).norm(dim=-1).mean(1) / normaliser


def inter_ocular_error(points: Float[Tensor, "N 68 2"], truth: Float[Tensor, "N 68 2"]) -> Float[Tensor, "N"]:
    """`nme` by the distance of the outer eye corners."""
    left, right = OUTER_EYE_CORNERS
    return nme(points, truth, (truth[:, left] - truth[:, right]).norm(dim=-1))


def mean_absolute_error(answers: Float[Tensor, "N"], truth: Float[Tensor, "N"]) -> float:
    """In the numbers' own unit."""
    return float((answers - truth).abs().mean())


def concordance(answers: Float[Tensor, "N"], truth: Float[Tensor, "N"]) -> float:
    """Lin's concordance correlation coefficient in [-1, 1]: falls with scatter, shift and wrong scale.

    0 when answers or truths are all the same.
    """
    from torchmetrics.functional.regression import concordance_corrcoef

    return float(concordance_corrcoef(answers, truth)) if _vary(answers, truth) else 0.0


def pearson(answers: Float[Tensor, "N"], truth: Float[Tensor, "N"]) -> float:
    """Correlation in [-1, 1]; 0 when answers or truths are all the same."""
    from torchmetrics.functional.regression import pearson_corrcoef

    return float(pearson_corrcoef(answers, truth)) if _vary(answers, truth) else 0.0


def _vary(*series: Float[Tensor, "N"]) -> bool:
    """Whether each differs by more than rounding does."""
    return all(float(values.max() - values.min()) > 1e-6 * float(values.abs().max()) for values in series)
