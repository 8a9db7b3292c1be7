"""A learned task as one network: images to answers. B images, C channels, T outputs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fra.crop.whole import warn_of_photos
from fra.faces.given import Pictures, picture_of, several
from fra.faces.image import to_input
from fra.files import reading
from fra.models.encoder import Encoder
from fra.predict.provenance import Provenance
from fra.tasks import TASKS
from fra.tasks.landmarks import Landmarks
from fra.tasks.task import Task
from fra.transfer.alignment.certainty import Certainty
from fra.transfer.alignment.network import AlignmentConfig, AlignmentHead, alignment_head
from fra.transfer.calibration import tempered
from fra.transfer.fewshot.fabrec import FabRecHead, Shape
from fra.transfer.linear import Standardiser
from fra.weights.bundled import TASK, no_such, read_manifest, shipped_file, shipped_names
from fra.weights.load import encoder_fingerprint
from fra.weights.rebuild import below, encoder_config, fill

TRAIN_AGAIN = "restore it from a backup, or write it again with `fra transfer ... --resume`"
AT_ONCE = 64  # images through the encoder


class TaskModel(nn.Module):
    """Encoder, standardisation (of the linear protocol) and head of a `fra transfer` run."""

    def __init__(
        self,
        task: Task,
        encoder: nn.Module,
        standardise: Standardiser | nn.Identity,
        head: nn.Module,
        *,
        size: int,
        dataset: str = "",
        crop: str = "",
    ) -> None:
        """`dataset` is the row in DATASETS that the task was learned from, `crop` how its faces were cut out."""
        super().__init__()
        self.task, self.encoder, self.standardise, self.head, self.image_size = task, encoder, standardise, head, size
        self.dataset, self.crop = dataset, crop
        self.temperature: float | None = None
        """By this outputs are divided before they are read as probabilities; None leaves them as they are."""
        self.certainty: Certainty | None = None
        """What makes landmarks from heatmaps say how sure they are."""
        self.provenance = Provenance(dataset, "unknown")

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B T"]:
        """The head's outputs for face crops, RGB in [0, 1], of the size it was trained at."""
        return self.from_features(self.features(images))

    @property
    def reads_maps(self) -> bool:
        """Whether the head reads the encoder's last map, or only its mean."""
        return isinstance(self.head, AlignmentHead)

    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C *hw"]:
        """The encoder's features that the head reads; several tasks may share them."""
        return self.encoder.maps(images) if self.reads_maps else self.encoder(images)  # type: ignore[operator]

    def from_features(self, features: Float[Tensor, "B C *hw"]) -> Float[Tensor, "B T"]:
        """The head's outputs from `features`; with `certainty` the confidence of each landmark behind them."""
        if self.certainty is None:
            return self.head(self.standardise(features))
        assert isinstance(self.head, AlignmentHead)
        assert isinstance(self.task, Landmarks)
        found = self.head.with_variances(features)
        points, variances = self.task.split(found)
        return torch.cat((points.flatten(1), self.certainty(points, variances, self.task.table.eye_corners)), 1)

    def values(self, outputs: Float[Tensor, "B T"], *, width: int | Tensor, height: int | Tensor) -> Tensor:
        """What `answer` says in words, of a batch and in numbers alone (B, ...)."""
        return self.task.values(tempered(outputs, self.temperature), width=width, height=height)

    def answer(self, output: Float[Tensor, "T"], *, width: int, height: int) -> dict[str, Any]:
        """What one output of `forward` says of an image of that size, its probabilities calibrated if they can be."""
        return self.task.answer(tempered(output, self.temperature), width=width, height=height)

    def predict(self, image: Pictures, *, detect: bool = False, min_score: float = 0.6) -> Any:
        """The task's answer for one face crop; of several a list. Points are in pixels of the given image.

        With `detect` the images are whole photos: each is answered by a list of its faces, the surest first, with `box`
        and `score`; faces are cut as the task's training images were. Raises ValueError for what is no picture.
        """
        pictures = several(image)
        every = [image] if pictures is None else pictures
        answers: list[Any] = self._of_photos(every, min_score) if detect else self._of_crops(every)
        return answers[0] if pictures is None else answers

    def _of_crops(self, pictures: Sequence[Any]) -> list[dict[str, Any]]:
        answers = []
        for start in range(0, len(pictures), AT_ONCE):
            crops = [picture_of(one) for one in pictures[start : start + AT_ONCE]]
            warn_of_photos(crops, remedy="give detect=True, or the crops of `fra.crop_faces(photo)`")
            inputs = [to_input(crop, self.image_size, fit="whole") for crop in crops]
            with torch.inference_mode():
                outputs = self(torch.stack(inputs).to(next(self.parameters()).device) / 255).cpu()
            for crop, output in zip(crops, outputs, strict=True):
                answers.append(self.answer(output, width=crop.shape[2], height=crop.shape[1]))
        return answers

    def _of_photos(self, photos: Sequence[Any], min_score: float) -> list[list[dict[str, Any]]]:
        from fra.predict.predictor import Predictor  # which is made of task models

        predictor = Predictor({"": self}, min_score=min_score, device=next(self.parameters()).device.type)
        answers = []
        for photo in photos:  # one in memory at a time
            (seen,) = predictor([picture_of(photo)])
            answers.append([{"box": one.face.box.tolist(), "score": one.face.score, **one.answers[""]} for one in seen])
        return answers


def load_task_model(run: str | Path) -> TaskModel:
    """The task model of a `fra transfer` run folder, its `task.safetensors`, or a bundled task, on the CPU.

    An encoder that was trained together with the head is in that file; a frozen one is loaded from where it was then.
    Raises ValueError if it or the run is missing, or if the encoder's weights have changed since.
    """
    from fra.weights.load import load_encoder, read_weights

    path = task_file(run)
    tensors, notes = read_weights(path)
    if notes.get("task") not in TASKS:
        raise ValueError(f"{path} contains no task: give a finished run folder of `fra transfer`")
    with reading(path, TRAIN_AGAIN):
        settings = {name: tuple(v) if isinstance(v, list) else v for name, v in notes["settings"].items()}
        task = TASKS[notes["task"]](**settings)
        size, source, crop = int(notes["image_size"]), notes.get("encoder", ""), notes.get("crop", "")
        dataset, fingerprint = notes["dataset"], notes.get("encoder_hash", "")
        learned = dict(notes.get("learned", {}))
        temperature = None if learned.get("temperature") is None else float(learned["temperature"])
    standardise: Standardiser | nn.Identity = nn.Identity()
    if "encoder_config" in notes:
        encoder = Encoder(encoder_config(notes["encoder_config"], path))
        fill(encoder.backbone, below("encoder.", tensors), f"{path} does not match its own description")
    else:
        encoder = load_encoder(source, quiet=True)
        if encoder_fingerprint(encoder) != fingerprint:
            raise ValueError(f"{source} is not the encoder that {path} was trained with: train the task again")
        with reading(path, TRAIN_AGAIN):
            standardise = Standardiser(tensors["features.mean"], tensors["features.scale"])
    with reading(path, TRAIN_AGAIN):
        head = task.head(encoder.channels)
        if "alignment" in notes:
            head = alignment_head(AlignmentConfig(**notes["alignment"]), task, encoder)
        elif "fabrec" in notes:
            assert isinstance(task, Landmarks)
            head = FabRecHead(Shape(**notes["fabrec"]), encoder.channels, task.points)
        head.load_state_dict(below("head.", tensors))
        certainty = Certainty(*map(float, learned["certainty"])) if learned.get("certainty") else None
    calibrated = temperature is not None if task.gives == "probabilities" else None
    known = Provenance.of(learned, source=dataset, encoder=source, calibrated=calibrated)
    if str(run) in shipped_names():
        manifest = read_manifest(str(run))
        known = replace(known, licence=manifest.licence, not_for=manifest.intended_use)
    model = TaskModel(task, encoder, standardise, head, size=size, dataset=dataset, crop=crop)
    model.temperature, model.certainty, model.provenance = temperature, certainty, known
    return model.eval()


def task_file(run: str | Path) -> Path:
    """The file of a learned task that `load_task_model` reads. ValueError when there is none."""
    path = shipped_file(str(run), TASK) or (Path(run) / TASK if Path(run).is_dir() else Path(run))
    if not path.exists():
        names = shipped_names(TASK)
        raise ValueError(
            f"{no_such(path, 'task', names)} (expected a finished run folder of `fra transfer`, or a bundled task: "
            f"{', '.join(names) or 'none'})"
        )
    return path
