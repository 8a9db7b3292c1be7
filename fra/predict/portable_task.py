"""`fra export` of a learned task: face crops to probabilities, points or numbers, for programs without fra.

B images, S pixels a side of what the network sees.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fra.data.framing import framing_of
from fra.files import one_writer
from fra.predict.task_model import TaskModel, load_task_model, task_file
from fra.runtime import Runtime
from fra.tasks.landmarks import Landmarks
from fra.weights.bundled import TASK, read_manifest, shipped_names
from fra.weights.load import read_weights
from fra.weights.portable import WRITERS, write_portable
from fra.weights.portable_model import Fit, Outputs, Pixels, Portable
from fra.weights.source import EncoderSource, licence_of

UNKNOWN = "that of the faces and labels it was trained on, which fra does not know"
BUNDLED = ("licence", "attribution", "training_data", "intended_use", "limits")
"""What a manifest tells of its task."""
MEANING = {
    "probabilities": "B x names",
    "landmarks": "B x points x 2: x, y in pixels of the image, centre of its first pixel at (0, 0)",
    "numbers": "B x names, in their own units",
}


class PortableTask(Portable):
    """Of each face what `TaskModel.predict` says, as one tensor."""

    fit: ClassVar[Fit] = "whole"

    def __init__(self, model: TaskModel, facts: dict[str, Any], pixels: Pixels | None = None) -> None:
        """`facts` stand in the file beside what the task says of itself."""
        super().__init__(model.image_size, pixels)
        self.model, self.facts = model, facts

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.model.task.gives,)

    def answers(self, images: Float[Tensor, "B 3 S S"], *, width: int | Tensor, height: int | Tensor) -> Outputs:
        return (self.model.values(self.model(images), width=width, height=height).to(torch.float32),)

    def notes(self) -> dict[str, Any]:
        task = self.model.task
        about = {"task": task.name, "names": list(task.named), "values": MEANING[task.gives]}
        if hasattr(task, "asks"):
            about["asks"] = task.asks
        if isinstance(task, Landmarks):
            about["normaliser"] = task.normaliser_of("nme")
        return about | self.facts

    def shown(self, names: str) -> list[str]:
        if self.model.task.gives != "landmarks":
            return [f"for name, value in zip({names}, values[0]):", '    print(f"{name}: {value:.6f}")']
        if self.pixels:
            return ["for x, y in values[0]:", '    print(f"{x:.3f} {y:.3f}")']
        scale = (
            f"    x, y = (({{}} + 0.5) * length / {self.image_size} - 0.5 for {{}}, length in zip(point, picture.size))"
        )
        scale = scale.replace("{}", "place")
        return ["for point in values[0]:  # in the picture's own pixels", scale, '    print(f"{x:.3f} {y:.3f}")']


@one_writer
def export_task(
    run: str | Path, out: Path, kind: str, *, pixels: Pixels | None = None, runtime: Runtime = Runtime()
) -> Path:
    """Write a learned task in the format `kind` (onnx or torch) into `out`, as `export_portable` does an encoder.

    `run` is what `load_task_model` takes. Raises ValueError for what is no task, for another format, and when the copy
    computes something else.
    """
    if kind not in ("onnx", "torch"):
        raise ValueError(f"{run} is a trained task, and --format {kind} is for encoders: use --format onnx or torch")
    path, name = task_file(run), name_of(run)
    model = load_task_model(run)
    portable = PortableTask(model, _facts(str(run), path, model), pixels).eval()
    return write_portable(portable, out, name, WRITERS[kind], kind=kind, runtime=runtime)


def name_of(run: str | Path) -> str:
    """The name of bundled weights, of the run folder, or of a file that lies elsewhere."""
    if str(run) in shipped_names():
        return str(run)
    path = Path(run).resolve()
    return path.parent.name if path.name == TASK else path.name.removesuffix(".safetensors")


def _facts(run: str, path: Path, model: TaskModel) -> dict[str, Any]:
    """What is known of the task's training, without the places of files."""
    _, notes = read_weights(path)
    framing, known = framing_of(model.dataset, model.crop), model.provenance
    facts = {
        "dataset": model.dataset,
        "protocol": notes.get("protocol", ""),
        "faces": {"as": type(framing).__name__.lower()} | asdict(framing),
        "encoder": asdict(model.encoder.config),  # type: ignore[call-overload]
        "calibrated": known.calibrated,
        "learned": {name: getattr(known, name) for name in ("images", "metric", "score", "test_images")},
    }
    if run in shipped_names():
        manifest = read_manifest(run)
        bundled = {name: getattr(manifest, name) for name in BUNDLED}
        return facts | bundled
    start = EncoderSource.parse(notes["encoder"])
    licence = licence_of(start)
    more = f"; of the encoder {start.label}: {licence}" if licence else ""
    return facts | {"trained_from": start.label, "licence": (known.licence or UNKNOWN) + more}
