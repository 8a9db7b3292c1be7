"""Protocols that train the encoder with the head, by the workshop's loop. N images, T outputs."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fra.data.labelled import LabelledFaces
from fra.data.read import BATCH, FaceImages
from fra.files import append_rows, read_rows, read_tensors, reading, shortened, write_tensors
from fra.models.encoder import Encoder
from fra.runtime import Runtime
from fra.tasks.landmarks import Landmarks
from fra.tasks.task import Task
from fra.training.loop import Fit, fit
from fra.training.optimizers import build_optimizer, groups_of
from fra.transfer.alignment.certainty import WITHIN, certainty_error, fit_certainty, right
from fra.transfer.alignment.network import AlignmentHead
from fra.transfer.calibration import fit_temperature
from fra.transfer.protocol import (
    Fitted,
    LabelledBatch,
    Learner,
    NetworkRecipe,
    Protocol,
    batch_for,
    first_head,
)
from fra.transfer.sampling import Part, TrainingBatches
from fra.weights.rebuild import below

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class WholeNetwork(Protocol):
    """Encoder and head learn together; every seed starts from the same encoder with a head of its own."""

    def __init__(
        self,
        learner: type[Learner],
        recipe: NetworkRecipe,
        task: Task,
        faces: LabelledFaces,
        encoder: Encoder,
        *,
        train: Int[Tensor, "n"],
        fabric: "Fabric",
        runtime: Runtime = Runtime(),
    ) -> None:
        """`train` are all the training images that any seed will ask for."""
        self.learner, self.recipe, self.task, self.encoder = learner, recipe, task, encoder
        self.fabric, self.quiet, self.threads = fabric, runtime.quiet, runtime.threads
        self._build(seed=0)  # what does not fit together is said before images are read
        self.targets, self.test = faces.targets[recipe.task], faces.splits["test"]
        splits = {"train": train, "val": faces.splits["val"], "test": self.test}
        # An image that is a whole picture has nothing around it.
        size = recipe.side(encoder)
        margin = 0 if faces.boxes is None else math.ceil((learner.reach - 1) * size / 2)
        self.images = FaceImages(faces, splits, size=size, margin=margin, runtime=runtime)
        self.unreadable = self.images.unreadable

    def fit(
        self, train: Int[Tensor, "n"], *, val: Int[Tensor, "m"], seed: int, folder: Path, calibrate: bool = False
    ) -> Fitted | None:
        """Begins, or goes on from the seed's last checkpoint."""
        train, val = self.images.usable(train), self.images.usable(val)
        if not len(train):
            raise ValueError("none of the sampled training images can be read: raise --fraction or repair the dataset")
        recipe, fabric, model = self.recipe, self.fabric, self._build(seed)
        batches = TrainingBatches(
            train,
            batch_size=batch_for(len(train), recipe),
            weights=recipe.draw_weights(self.targets[train]),
            seed=seed,
            rank=fabric.global_rank,
            world=fabric.world_size,
        )
        epochs = recipe.epochs_of(batches.steps_per_epoch)
        folder.mkdir(parents=True, exist_ok=True)
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        how = Fit(
            fabric=fabric,
            folder=folder,
            identity={"seed": seed, "training images": len(train), "processes": fabric.world_size},
            schedule=recipe.schedule(epochs),
            learning_rate=recipe.learning_rate,
            steps_per_epoch=batches.steps_per_epoch,
            seed=seed,
            images_per_step=math.ceil(len(batches.images) / batches.steps_per_epoch),
            unit="images",
            log_every=max(1, batches.steps_per_epoch // 8),
            checkpoint_seconds=60,
            threads=self.threads,
            quiet=self.quiet,
        )
        validation = Validation(folder, self.task, self.targets[val])
        fit(
            model,
            build_optimizer(recipe.optimizer_config(), weight_groups(recipe, model)),
            lambda first: self._batches(batches.from_step(first)),
            how,
            resume=True,
            on_epoch=lambda epoch, step: (
                validation.measure(model, self._outputs(model, val), epoch, step) if epoch and len(val) else []
            ),
        )
        if not fabric.is_global_zero:
            return None
        outputs, tensors = self._outputs(model, self.test), state_of(model)
        averaged = None if model.average is None else self._outputs(model.average, self.test)
        best = temperature = certainty = None
        if len(val):
            temperature = fit_temperature(self.task, self._outputs(model, val), self.targets[val])
            certainty = self._certainty(model, val)
            with reading(validation.weights, again(folder)):
                load_state(model, read_tensors(validation.weights)[0])
            best = self._outputs(model, self.test)
        rows = epoch_rows(folder, seed)
        return Fitted(outputs, best, tensors, rows, len(train), averaged, temperature, len(val), certainty)

    def _build(self, seed: int) -> Learner:
        """The network of a seed before training."""
        head = first_head(lambda: self.learner.new_head(self.recipe, self.task, self.encoder), seed=seed)
        return self.learner(self.recipe, self.task, copy.deepcopy(self.encoder), head)

    def _batches(self, parts: Iterable[Part]) -> Iterator[LabelledBatch]:
        device = self.fabric.device

        def batch(part: Part) -> LabelledBatch:
            images, targets = self.images.wide(part.images).to(device), self.targets[part.images].to(device)
            shown = self.images.shown[part.images]
            return LabelledBatch(images, targets, part.weight, self.images.margin, shown)

        if device.type == "cpu":  # reading ahead would take the cores from the network
            yield from map(batch, parts)
            return
        with ThreadPoolExecutor(1) as reader:
            coming = None
            for part in parts:
                ready, coming = coming, reader.submit(batch, part)
                if ready is not None:
                    yield ready.result()

    def _outputs(self, model: nn.Module, images: Int[Tensor, "N"]) -> Float[Tensor, "N T"]:
        """Without augmentation, in 32 bits."""
        return self._answers(model.eval(), images)

    @torch.inference_mode()
    def _answers(self, ask: Callable[[Tensor], Tensor], images: Int[Tensor, "N"]) -> Float[Tensor, "N T"]:
        parts = (self.images[part].to(self.fabric.device) / 255 for part in images.split(BATCH))
        return torch.cat([ask(part).float().cpu() for part in parts])

    def _certainty(self, model: Learner, val: Int[Tensor, "m"]) -> dict[str, float] | None:
        """What makes landmarks from heatmaps say how sure they are, and how right that is on the test split."""
        head, task = model.head, self.task
        if not isinstance(head, AlignmentHead) or not isinstance(task, Landmarks):
            return None
        model.eval()

        def seen(images: Int[Tensor, "N"]) -> tuple[Tensor, Tensor, Tensor]:
            found = self._answers(lambda part: head.with_variances(model.encoder.maps(part)), images)
            return *task.split(found), task.places(self.targets[images])

        eyes = task.table.eye_corners
        fitted = fit_certainty(*seen(val), eyes)
        if fitted is None:
            return None
        points, variances, truth = seen(self.test)
        error = certainty_error(fitted(points, variances, eyes), right(points, truth, eyes))
        return {**asdict(fitted), "within": WITHIN, "error": error}


def weight_groups(recipe: NetworkRecipe, model: Learner) -> list[dict[str, Any]]:
    """The encoder's weights and the head's, each with its own peak rate for the loop."""
    if recipe.layer_decay != 1:
        config = replace(recipe.optimizer_config(), learning_rate=recipe.encoder_rate, layer_decay=recipe.layer_decay)
        return groups_of(config, model)  # the head's have no peak of their own: the loop's
    return [dict(params=list(part.parameters()), peak=peak) for part, peak in model.rates()]


def state_of(model: Learner) -> dict[str, Tensor]:
    """Copies of the encoder's and the head's tensors; the encoder's keep timm's names behind `encoder.`."""
    parts = {"encoder.": model.encoder.backbone, "head.": model.head}
    return {
        prefix + name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for prefix, part in parts.items()
        for name, tensor in part.state_dict().items()
    }


def load_state(model: Learner, tensors: dict[str, Tensor]) -> None:
    """Undo `state_of`."""
    for prefix, part in {"encoder.": model.encoder.backbone, "head.": model.head}.items():
        part.load_state_dict(below(prefix, tensors))


@dataclass(frozen=True)
class Validation:
    """Scores after every epoch, in `validation.csv`, and the weights of the best epoch so far."""

    folder: Path
    task: Task
    targets: Tensor

    @property
    def weights(self) -> Path:
        return self.folder / "best.safetensors"

    def measure(self, model: Learner, outputs: Tensor, epoch: int, step: int) -> list[str]:
        """Write down the scores, keep the weights when they are the best; a line to show."""
        table, key = self.folder / "validation.csv", f"val_{self.task.selects}"
        scores = {f"val_{name}": score for name, score in self.task.metrics(outputs, self.targets).items()}
        with reading(table, again(self.folder)):
            before = [float(row[key]) for row in read_rows(table)] if table.exists() else []
        row = shortened({"step": step, "epoch": epoch, **scores})
        sign = -1 if self.task.lower_is_better else 1
        # Compared as written, so that a resumed run chooses the same epoch.
        if all(sign * float(row[key]) > sign * other for other in before):
            write_tensors(self.weights, state_of(model), {})
        append_rows(table, [row])
        return [f"epoch {epoch}: validation {self.task.selects} {scores[key]:.2f}"]


def again(folder: Path) -> str:
    """What to do when a file of a seed that is being learned is damaged."""
    return f"remove the folder {folder} and train this seed from the start with --resume"


def epoch_rows(folder: Path, seed: int) -> list[dict[str, Any]]:
    """Rows of the run's log from the loop's: per epoch the mean of the logged losses, and validation scores."""
    table = folder / "validation.csv"
    with reading(table, again(folder)):
        scores = {row["epoch"]: row for row in read_rows(table)} if table.exists() else {}
    with reading(folder / "log.csv", again(folder)):
        return _epoch_rows(read_rows(folder / "log.csv"), scores, seed)


def _epoch_rows(steps: list[dict[str, str]], scores: dict[str, dict[str, str]], seed: int) -> list[dict[str, Any]]:
    by_epoch: dict[int, list[dict[str, str]]] = {}
    for row in steps:
        by_epoch.setdefault(int(row["epoch"]) + 1, []).append(row)
    log = []
    for epoch, rows in by_epoch.items():
        terms = [
            name for name in rows[0] if name not in ("step", "epoch", "learning_rate", "images_per_second", "waiting")
        ]
        log.append(
            {"seed": seed, "epoch": epoch}
            | {name: fmean(float(row[name]) for row in rows) for name in terms}
            | {"learning_rate": float(rows[-1]["learning_rate"])}
            | {name: float(v) for name, v in scores.get(str(epoch), {}).items() if name not in ("step", "epoch")}
        )
    return log
