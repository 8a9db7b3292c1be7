"""The linear protocol: how much of a task a linear layer reads off a frozen encoder. N images, C channels.

The encoder is never touched: its features, of training images also mirrored, are computed once. Heads with a closed
form (landmarks, numbers) are solved by ridge regression, the others trained by SGD or AdamW.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fra.data.labelled import LabelledFaces
from fra.models.ridge import FOLDS, PENALTIES, cross_validated, deviations, ridge
from fra.runtime import Runtime
from fra.tasks.task import Task
from fra.training.optimizers import build_optimizer
from fra.training.schedules import CosineFromZero
from fra.transfer.calibration import FEWEST, fit_temperature
from fra.transfer.features import Features, FrozenFeatures, compute_features
from fra.transfer.protocol import BalancedRecipe, Fitted, Protocol, batch_for, first_head
from fra.transfer.subsets import hold_out

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Standardiser:
    """The standard scaler: (features - mean) / scale. `scale` is the standard deviation times the root of C.

    Ours: features of different encoders have very different scales, and one learning rate must fit all. Divided by
    the root of C a feature vector has length about 1, so that SGD at 1.0 neither explodes nor crawls.
    """

    mean: Float[Tensor, "C"]
    scale: Float[Tensor, "C"]

    @classmethod
    def of(cls, features: Float[Tensor, "N C"]) -> "Standardiser":
        """With the statistics of training features."""
        return cls(features.mean(0), deviations(features) * math.sqrt(features.shape[1]))

    def __call__(self, features: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
        return (features - self.mean) / self.scale


@dataclass(frozen=True)
class LinearRecipe(BalancedRecipe):
    """Settings of the linear protocol."""

    protocol: Literal["linear"] = "linear"
    mirror: bool = True
    """Horizontal flip with probability one half (released code)."""
    fewest_steps: ClassVar[int] = 32

    def prepare(self, task: Task, targets: Tensor) -> Task:
        if self.hold_out and task.least_squares:
            raise ValueError(
                f"{self.task} is solved in closed form, so there is no epoch to choose: leave hold_out out"
            )
        return super().prepare(task, targets)


class Linear(Protocol):
    """Frozen encoder, standardised features, one linear layer."""

    def __init__(
        self,
        recipe: LinearRecipe,
        task: Task,
        faces: LabelledFaces,
        encoder: nn.Module,
        *,
        train: Int[Tensor, "n"],
        fabric: "Fabric",
        runtime: Runtime = Runtime(),
        known: FrozenFeatures | None = None,
    ) -> None:
        """`train` are all the training images that any seed will ask for; `known` are features of these and maybe of
        others (`freeze`)."""
        self.recipe, self.task = recipe, task
        self.targets = faces.targets[recipe.task]
        runtime = replace(runtime, device=fabric.device.type)
        frozen = known or freeze(recipe, task, faces, encoder, train=train, runtime=runtime)
        self.train, self.val, self.test = frozen.train, frozen.val, frozen.test
        files = {faces.files[image] for image in train.tolist()} if known else ()
        of_train = self.train.unreadable_among(files) if known else self.train.unreadable
        self.unreadable = (*of_train, *self.val.unreadable)

    def fit(
        self, train: Int[Tensor, "n"], *, val: Int[Tensor, "m"], seed: int, folder: Path, calibrate: bool = False
    ) -> Fitted:
        rows = self.train.rows(train)
        if not len(rows):
            raise ValueError("none of the sampled training images can be read: raise --fraction or repair the dataset")
        views = [self.train.plain[rows]]
        if self.train.mirrored is not None:
            views.append(self.train.mirrored[rows])
        standardise = Standardiser.of(torch.cat(views))
        targets = self.targets[self.train.images[rows]]
        both = [targets, *(self.task.mirror(targets) for _ in views[1:])]
        head = first_head(lambda: self.task.head(standardise.mean.numel()), seed=seed)
        data = TrainingViews(torch.stack([standardise(view) for view in views]), torch.stack(both))
        test = standardise(self.test.plain)
        best_outputs = temperature = None
        held_out = 0
        if self.task.least_squares:
            log = solve_by_ridge(head, data, seed=seed)
        else:
            held = self.val if len(self.val.images) else self.train
            rows_of_val = held.rows(val)
            val_features = standardise(held.plain[rows_of_val]) if len(rows_of_val) else None
            val_targets = self.targets[held.images[rows_of_val]]
            log, best = train_head(self.task, head, data, val_features, val_targets, self.recipe, seed=seed)
            if best:
                best_outputs = torch.func.functional_call(head, best, test).detach()
            if val_features is not None:
                with torch.no_grad():
                    temperature = fit_temperature(self.task, head(val_features), val_targets)
                held_out = len(val_targets)
            elif calibrate:
                temperature, held_out = self._calibrate_on_a_tenth(data, seed=seed)
        with torch.no_grad():
            outputs = head(test)
        kept = {f"head.{name}": tensor.detach() for name, tensor in head.state_dict().items()}
        kept |= {"features.mean": standardise.mean, "features.scale": standardise.scale}
        log = [{"seed": seed, **row} for row in log]
        return Fitted(outputs, best_outputs, kept, log, len(rows), temperature=temperature, held_out=held_out)

    def _calibrate_on_a_tenth(self, data: "TrainingViews", *, seed: int) -> tuple[float | None, int]:
        """The temperature of a second head, which learns from nine tenths of the faces, on the others; their number.

        So that the head itself learns from all of them.
        """
        learns, held = hold_out(torch.arange(data.count), data.targets[0], seed=seed)
        if len(held) < FEWEST:
            return None, 0
        head = first_head(lambda: self.task.head(data.features.shape[2]), seed=seed)
        part = TrainingViews(data.features[:, learns], data.targets[:, learns])
        train_head(self.task, head, part, None, data.targets[0, held], self.recipe, seed=seed)
        with torch.no_grad():
            return fit_temperature(self.task, head(data.features[0, held]), data.targets[0, held]), len(held)


def freeze(
    recipe: LinearRecipe,
    task: Task,
    faces: LabelledFaces,
    encoder: nn.Module,
    *,
    train: Int[Tensor, "n"],
    runtime: Runtime = Runtime(),
) -> FrozenFeatures:
    """The features that heads of this recipe may need: of these training images, and of the other splits."""

    def features(images: Tensor, split: str, mirror: bool = False) -> Features:
        size = recipe.side(encoder)
        return compute_features(encoder, faces, images, split=split, size=size, mirror=mirror, runtime=runtime)

    test = features(faces.splits["test"], "test")
    # A closed form has no epochs to choose from, and takes its penalty from the training images.
    val = features(faces.splits["val"][: 0 if task.least_squares else None], "val")
    return FrozenFeatures(features(train, "train", recipe.mirror and task.mirrors), val, test)


@dataclass(frozen=True)
class TrainingViews:
    """Standardised features and targets of the training images: V = 1 as they are, or 2 with their mirror images."""

    features: Float[Tensor, "V N C"]
    targets: Tensor
    """(V, N, …)"""

    @property
    def count(self) -> int:
        return self.features.shape[1]


def train_head(
    task: Task,
    head: nn.Module,
    data: TrainingViews,
    val: Float[Tensor, "M C"] | None,
    val_targets: Tensor,
    recipe: LinearRecipe,
    *,
    seed: int,
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Train the head in place; give the rows of the log, and the weights of the epoch that was best on validation."""
    draw = torch.Generator().manual_seed(seed)
    batch_size = batch_for(data.count, recipe)
    per_epoch = math.ceil(data.count / batch_size)
    falls = CosineFromZero(recipe.epochs, recipe.warmup_epochs, recipe.last_rate)
    optimizer = build_optimizer(recipe.optimizer_config(), [dict(params=list(head.parameters()))])
    weights = recipe.draw_weights(data.targets[0])
    peak = recipe.learning_rate
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: falls.rate(peak, step, per_epoch) / (peak or 1)
    )
    log, best, best_score = [], {}, -math.inf
    for epoch in range(1, recipe.epochs + 1):
        total = 0.0
        if weights is None:
            order = torch.randperm(data.count, generator=draw)
        else:
            order = torch.multinomial(weights, data.count, replacement=True, generator=draw)
        for rows in order.split(batch_size):
            view = torch.randint(len(data.features), rows.shape, generator=draw)
            loss = task.criterion(head(data.features[view, rows]), data.targets[view, rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        if not math.isfinite(total):
            raise ValueError(f"the loss is {total} in epoch {epoch}: use a learning_rate below {recipe.learning_rate}")
        row = {"epoch": epoch, "loss": total / data.count, "learning_rate": schedule.get_last_lr()[0]}
        if val is not None:
            with torch.no_grad():
                scores = task.metrics(head(val), val_targets)
            row |= {f"val_{name}": score for name, score in scores.items()}
            score = -scores[task.selects] if task.lower_is_better else scores[task.selects]
            if score > best_score:
                best_score, best = score, {name: tensor.clone() for name, tensor in head.state_dict().items()}
        log.append(row)
    return log, best


def solve_by_ridge(head: nn.Module, data: TrainingViews, *, seed: int) -> list[dict[str, Any]]:
    """Set the linear head to the ridge solution; give the cross-validation error of each penalty as the log.

    The penalty comes from five folds of the training images (a face and its mirror image in one fold). Ours: the
    validation split is left alone, because with few labels it would be labels through the back door.
    """
    assert isinstance(head, nn.Linear)
    unit_variance = math.sqrt(data.features.shape[2])  # undoes the Standardiser's division, for PENALTIES' sake
    features = data.features.double() * unit_variance
    targets = data.targets.flatten(2)[
        :, :, : head.out_features
    ].double()  # beyond are lengths that errors are judged by
    folds = torch.randperm(data.count, generator=torch.Generator().manual_seed(seed)) % min(FOLDS, data.count)
    folds = folds.repeat(len(features))
    x, y = features.flatten(0, 1), targets.flatten(0, 1)
    if not y.isnan().any():
        weight, bias, log = _least_squares(x, y, folds)
    else:  # each output has images of its own
        parts = [_least_squares(x[known], y[known, place : place + 1], folds[known])
                 for place, known in enumerate((~y.isnan()).T)]  # fmt: skip
        weights, biases, logs = zip(*parts, strict=True)
        weight, bias = torch.cat(weights, 1), torch.cat(biases)
        log = [{"output": place, **row} for place, rows in enumerate(logs) for row in rows]
    with torch.no_grad():
        head.weight.copy_(weight.T * unit_variance)
        head.bias.copy_(bias)
    return log


def _least_squares(
    x: Float[Tensor, "N C"], y: Float[Tensor, "N T"], folds: Int[Tensor, "N"]
) -> tuple[Float[Tensor, "C T"], Float[Tensor, "T"], list[dict[str, Any]]]:
    """Weight and bias by the penalty that these folds choose, and the log; zeros where there is nothing to learn."""
    if not len(x):
        return x.new_zeros(x.shape[1], y.shape[1]), y.new_zeros(y.shape[1]), []
    errors = cross_validated(x, y, folds)
    # From a single image nothing can be chosen: the strongest penalty answers with that image's targets.
    chosen = int(errors.argmin()) if len(folds.unique()) > 1 else len(PENALTIES) - 1
    weight, bias = ridge(x, y)[chosen]
    log = [
        {"penalty": penalty, "loss": float(error) / len(x), "chosen": int(number == chosen)}
        for number, (penalty, error) in enumerate(zip(PENALTIES, errors, strict=True))
    ]
    return weight, bias, log
