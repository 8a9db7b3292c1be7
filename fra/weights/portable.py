"""`fra export` for programs without fra: ONNX, torch's exported programs, and folders that timm reads.

B images, K regions. Each file takes RGB in [0, 1] and is read back and compared before it is put in its place.
"""

import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fra.files import atomic, claim_folder, one_writer, temporary_prefix
from fra.models.encoder import SMALL_RESNETS, Encoder, make_stages_fine
from fra.models.region_head import RegionHead
from fra.runtime import Runtime
from fra.weights.bundled import MissingPart
from fra.weights.load import load_encoder, load_region_model
from fra.weights.source import EncoderSource

STRIDE = "model.get_submodule(name).stride = (1, 1)"  # on the model that timm.create_model returned
LARGEST_DIFFERENCE = 1e-3
"""Of any feature or heatmap value, as a share of the largest (ours: float32 summed in another order stays below)."""

Outputs = tuple[Tensor, ...]


class Portable(nn.Module):
    """Images to features and, where there is a region head, heatmaps: what the exported file computes."""

    def __init__(self, encoder: Encoder, head: RegionHead | None) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("features",) if self.head is None else ("features", "heatmaps")

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Outputs:
        maps = self.encoder.maps(images)
        features = maps.mean((2, 3))
        if self.head is None:
            return (features,)
        return features, self.head(maps, embeddings=self.head.prototypes).heatmaps


@one_writer
def export_portable(run: str | Path, out: Path, kind: str, *, runtime: Runtime = Runtime()) -> Path:
    """Write an encoder, with its regions where it has them, in the format `kind` (onnx, torch or timm) into `out`.

    `run` is a run folder of `fra pretrain` or the name of bundled weights. `parity.json` beside the file
    holds the greatest differences from torch, sizes and the time for one image. Raises ValueError when `run` is
    neither, the format cannot hold the network, or what was written computes something else.
    """
    model = portable(run)
    out, name = Path(out), EncoderSource.parse(run).label
    claim_folder(out, command="export", resume=runtime.resume)
    (out / "parity.json").unlink(missing_ok=True)  # written last: it is of the file beside it
    path, facts = WRITERS[kind](model, out, name)
    with atomic(out / "parity.json") as temporary:
        temporary.write_text(json.dumps({"format": kind, "file": path.name} | facts, indent=2) + "\n")
    if not runtime.quiet:
        worst = ", ".join(f"{what} {value:.1e}" for what, value in facts["max_difference"].items())
        print(f"verified: largest difference from PyTorch {worst}")
        if facts.get("note"):
            print(facts["note"])
        print(f"wrote {path} (outputs: {', '.join(facts['outputs'])})")
    return path


def portable(run: str | Path) -> Portable:
    """The network of a run, with its regions where the method has any, on the CPU and in eval mode."""
    encoder = load_encoder(run, quiet=True)
    try:
        head: RegionHead | None = load_region_model(run, quiet=True).head
    except MissingPart:
        head = None
    return Portable(encoder, head).eval()


def write_onnx(model: Portable, out: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """NAME.onnx, for any batch size."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch needs it)
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'facial-region-awareness[export]'") from error
    path = out / f"{name}.onnx"
    images = _images(model)
    with atomic(path) as temporary:
        with _silent():
            program = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=list(model.outputs),
                dynamic_shapes=({0: "batch"},),
            )
        assert program is not None
        content = program.model_proto
        for key, value in _notes(model, name).items():
            content.metadata_props.append(onnx.StringStringEntryProto(key=key, value=json.dumps(value)))
        temporary.write_bytes(content.SerializeToString())
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])

        def copy(batch: Tensor) -> Outputs:
            return tuple(map(torch.from_numpy, session.run(None, {"images": batch.numpy()})))

        facts = parity(model, copy, path=temporary)
    return path, facts | {"opset": max(entry.version for entry in content.opset_import)}


def write_torch(model: Portable, out: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """NAME.pt2, an exported program: `torch.export.load(FILE).module()(images)`, for any batch size."""
    path = out / f"{name}.pt2"
    with atomic(path) as temporary, _silent():
        program = torch.export.export(
            model, (_images(model),), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
        )
        notes = {key: json.dumps(value) for key, value in _notes(model, name).items()}
        torch.export.save(program, temporary, extra_files=notes)
        copy = torch.export.load(temporary).module()
        facts = parity(model, copy, path=temporary)
    return path, facts


def write_timm(model: Portable, out: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """A folder NAME as timm's hub has them: `timm.create_model("local-dir:NAME", pretrained=True)`; no regions."""
    import timm
    from safetensors.torch import save_file

    config = model.encoder.config
    architecture, arguments = timm_architecture(config.name)
    side = [3, config.image_size, config.image_size]
    taken = dict(
        input_size=side, mean=config.mean, std=config.std, interpolation="bilinear", crop_pct=1.0, num_classes=0
    )
    described = dict(
        architecture=architecture,
        num_classes=0,
        num_features=model.encoder.channels,
        model_args=arguments,
        pretrained_cfg=taken,
        fra=_notes(model, name),
    )
    state = {key: tensor.contiguous() for key, tensor in model.encoder.backbone.state_dict().items()}
    plain = Portable(model.encoder, None)
    mean, deviation = model.encoder.mean, model.encoder.std
    note = ""
    with tempfile.TemporaryDirectory(prefix=temporary_prefix(), dir=out) as unproved:
        files = [Path(unproved) / "config.json", Path(unproved) / "model.safetensors"]
        files[0].write_text(json.dumps(described, indent=2) + "\n")
        save_file(state, files[1], {"format": "pt"})
        network = timm.create_model(f"local-dir:{unproved}", pretrained=True).eval()
        if places := make_stages_fine(network, config):
            note = f"WARNING: timm output is wrong until you run: for name in {places}: {STRIDE}"
        facts = parity(plain, lambda images: (network((images - mean) / deviation),), path=files[1])
        folder = out / name
        folder.mkdir(exist_ok=True)
        for file in files:
            os.replace(file, folder / file.name)
    return folder, facts | {"note": note}


def timm_architecture(name: str) -> tuple[str, dict[str, Any]]:
    """timm's name of a network and the arguments that make it ours."""
    if name not in SMALL_RESNETS:
        return name, {}
    return "resnet18", {key: value for key, value in SMALL_RESNETS[name].items() if key != "block"}


WRITERS: dict[str, Callable[[Portable, Path, str], tuple[Path, dict[str, Any]]]] = {
    "onnx": write_onnx,
    "torch": write_torch,
    "timm": write_timm,
}


@torch.inference_mode()
def parity(model: Portable, copy: Callable[[Tensor], Outputs], *, path: Path) -> dict[str, Any]:
    """How far a copy is from the model on two random images and on one, its size, and the time of both for one image.

    Raises ValueError when a value differs by more than LARGEST_DIFFERENCE of the largest.
    """
    images = _images(model)
    differences: dict[str, float] = {}
    sizes = {"images": list(images.shape)}
    for batch in (images[:1], images):
        for what, ours, theirs in zip(model.outputs, model(batch), copy(batch), strict=True):
            sizes[what] = list(theirs.shape)
            difference = float((ours - theirs).abs().max())
            if not difference <= LARGEST_DIFFERENCE * float(ours.abs().max()):
                raise ValueError(f"the exported {what} differ from PyTorch's by {difference:.2g}; nothing was written")
            differences[what] = max(difference, differences.get(what, 0.0))
    return dict(
        outputs=list(model.outputs),
        max_difference=differences,
        sizes=sizes,
        bytes=path.stat().st_size,
        latency_ms=_latency(copy, images[:1]),
        torch_latency_ms=_latency(model, images[:1]),
    )


def _latency(network: Callable[[Tensor], Outputs], image: Tensor, *, tries: int = 10) -> float:
    """Milliseconds for one image, the median of some tries after a first one."""
    network(image)
    times = []
    for _ in range(tries):
        before = time.perf_counter()
        network(image)
        times.append(time.perf_counter() - before)
    return round(1000 * sorted(times)[tries // 2], 2)


def _images(model: Portable) -> Tensor:
    side = model.encoder.config.image_size
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def _notes(model: Portable, name: str) -> dict[str, Any]:
    """What the file says of itself."""
    return {"name": name, "encoder": asdict(model.encoder.config), "images": "B x 3 x H x W, RGB in [0, 1]"}


@contextmanager
def _silent() -> Iterator[None]:
    """Without the remarks of torch's exporter about its own insides."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
