"""Weights that explain themselves: safetensors with the encoder's description, and how to read them back.

Files that other programs wrote are read by `fra.weights.foreign`.
"""

import dataclasses
import hashlib
import json
import logging
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fra.files import MARK, SUM, read_json, read_tensors, reading, write_tensors
from fra.models.encoder import HOURGLASS, Encoder, EncoderConfig
from fra.models.region_head import RegionHead, RegionModel
from fra.weights.bundled import ENCODER, REGIONS, TASK, MissingPart, no_such, shipped_file, shipped_names
from fra.weights.foreign import import_encoder, import_region_model
from fra.weights.layouts import timm_config
from fra.weights.no_weights import is_safetensors, require_weights
from fra.weights.rebuild import encoder_config, fill, region_head_config
from fra.weights.source import EncoderSource

MODEL = "model.safetensors"
"""In the folder of a pre-training run: its whole online network."""
WEIGHTS_AGAIN = "restore it from a backup, or continue its run with --resume, which writes it again"
RANDOM = EncoderConfig(name="resnet18", last_stride=1, image_size=64)


def save_weights(path: Path, module: nn.Module, metadata: dict[str, Any]) -> None:
    """Write a module's state with metadata (values become JSON), whole or not at all."""
    write_tensors(path, module.state_dict(), {key: json.dumps(value) for key, value in metadata.items()})


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State and metadata of a safetensors file. Raises DamagedFile, and ValueError when it is not ours."""
    with reading(path, WEIGHTS_AGAIN):
        state, notes = read_tensors(path)
        metadata = {key: json.loads(value) for key, value in notes.items()}
    if "encoder" not in metadata:
        raise ValueError(f"{path} does not say which encoder it contains: expected a file written by fra")
    return state, metadata


def encoder_metadata(encoder: Encoder) -> dict[str, Any]:
    return {"encoder": dataclasses.asdict(encoder.config)}


def load_encoder(
    what: str | Path | EncoderSource, *, device: str | torch.device = "cpu", quiet: bool = False
) -> Encoder:
    """The encoder that `what` names, in eval mode; what that may be says `fra.load_encoder`, with the same errors."""
    source = EncoderSource.parse(what)
    if source.random:
        encoder = _random_encoder(source)
    elif source.network is not None and source.path is None:
        encoder = _timm_encoder(source.network)
    else:
        path = _file_of(source, ENCODER)
        if source.network is None and is_ours(path):
            state, metadata = read_weights(path)
            encoder = Encoder(encoder_config(metadata["encoder"], path))
            fill(encoder.backbone, state, f"{path} does not match its own description")
        else:
            imported = import_encoder(path, network=source.network)
            _say(imported.report, quiet)
            encoder = imported.model
    if not all(bool(weights.isfinite().all()) for weights in encoder.parameters()):
        raise ValueError(f"{what}: weights contain NaN or inf: that run diverged; use another checkpoint")
    return encoder.to(device).eval()


def encoder_fingerprint(encoder: nn.Module) -> str:
    """A hash of all weights and statistics, and of settings that are in no tensor: strides, colours, image size."""
    config: Any = getattr(encoder, "config", None)
    digest = hashlib.sha256(repr(config).encode())
    if getattr(config, "pooling", "mean") != "mean":  # not in the repr: fingerprints were kept before there was one
        digest.update(config.pooling.encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def read_online(run: Path) -> dict[str, Tensor]:
    """All tensors of the online network of a run of `fra pretrain`: encoder, projectors, region head."""
    state, _ = read_weights(_weights_path(run, MODEL))
    return state


def load_region_model(what: str | Path, *, device: str | torch.device = "cpu", quiet: bool = False) -> RegionModel:
    """The region model in a run folder, its `model.safetensors`, a checkpoint of the released FRA, or bundled
    weights.

    In eval mode. Raises MissingPart, a ValueError, if the method has no regions. For a foreign file a line on stderr
    says what was read, unless `quiet`.
    """
    shipped = shipped_file(str(what), REGIONS)
    if shipped:
        return _shipped_region_model(str(what), shipped).to(device).eval()
    path = _weights_path(Path(what), MODEL)
    if not is_ours(path):
        imported = import_region_model(path)
        _say(imported.report, quiet)
        return imported.model.to(device).eval()
    state, metadata = read_weights(path)
    if "regions" not in metadata:
        raise MissingPart(
            f"{path} was trained with {metadata.get('method', 'a method')} and has no regions: use a run of method fra"
        )
    return rebuild_region_model(state, metadata, path).to(device).eval()


def _shipped_region_model(name: str, path: Path) -> RegionModel:
    """The shipped encoder with the region head in the file `path` beside it."""
    encoder = load_encoder(name)
    state, metadata = read_weights(path)
    head = RegionHead(encoder.channels, region_head_config(metadata["regions"], path))
    fill(head, state, f"{path} does not match its own description")
    return RegionModel(encoder, head)


def rebuild_region_model(state: dict[str, Tensor], metadata: dict[str, Any], path: Path) -> RegionModel:
    """The region model among the tensors of a whole online network, as `metadata` describes it."""
    encoder = Encoder(encoder_config(metadata["encoder"], path))
    model = RegionModel(encoder, RegionHead(encoder.channels, region_head_config(metadata["regions"], path)))
    parts = {"encoder.": "encoder.", "region_head.": "head."}
    wanted = {
        ours + name.removeprefix(theirs): tensor
        for theirs, ours in parts.items()
        for name, tensor in state.items()
        if name.startswith(theirs)
    }
    fill(model, wanted, f"{path} does not match its own description")
    return model


def is_ours(path: Path) -> bool:
    """Is this a safetensors file that fra wrote? ValueError when it is damaged, holds a task, or is no weights."""
    require_weights(path)
    if not is_safetensors(path) and (path.suffix != ".safetensors" or zipfile.is_zipfile(path)):
        return False
    try:
        with safe_open(path, "pt") as stream:
            metadata = stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if "task" in metadata:
        raise ValueError(f"{path} is a trained task, not an encoder: give the encoder that it was trained with")
    return "encoder" in metadata or SUM in metadata


def holds_task(what: str | Path) -> bool:
    """Whether `what` names a learned task and no encoder: a bundled one, a run of `fra transfer`, its file."""
    path = Path(what)
    if str(what) in shipped_names():
        return str(what) in shipped_names(TASK)
    if path.is_dir():
        begun = read_json(path / MARK).get("command") if (path / MARK).exists() else ""
        return (path / TASK).exists() or begun == "transfer"
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as stream:
            return "task" in (stream.metadata() or {})
    except (SafetensorError, OSError):
        return False  # those who read it say what is wrong


def _say(report: object, quiet: bool) -> None:
    if not quiet:
        print(report, file=sys.stderr)


def _timm_encoder(name: str) -> Encoder:
    """timm's network with its pre-trained weights, image size and normalisation."""
    config = timm_config(name)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the error below says what is wrong, once
    try:
        return Encoder(config, pretrained=True)
    except Exception as error:  # no network, no such weights: timm and its hub raise many kinds
        raise ValueError(
            f"cannot load timm's pre-trained weights of {name} ({type(error).__name__}): is this machine "
            f"online? From a file: timm:{name}=FILE; from random weights: random:{name}"
        ) from error


def _random_encoder(source: EncoderSource) -> Encoder:
    config = RANDOM
    if source.network is not None:
        config = HOURGLASS if source.network == HOURGLASS.name else EncoderConfig(name=source.network)
    elif source.bundled or source.path:
        config = load_encoder(source.bundled or source.path or "", quiet=True).config
    return random_weights(config)


def random_weights(config: EncoderConfig) -> Encoder:
    """Random weights, always the same for the same network, in training mode."""
    seed = int.from_bytes(hashlib.blake2b(config.name.encode(), digest_size=7).digest(), "big")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(config)


def _file_of(source: EncoderSource, name: str) -> Path:
    """The file with the encoder's weights: `name` of bundled weights and in run folders."""
    if source.bundled:
        return shipped_file(source.bundled, name) or Path(name)
    assert source.path is not None
    return _weights_path(source.path, name)


def _weights_path(path: Path, name: str) -> Path:
    if path.is_dir():
        if not (path / name).exists():
            if holds_task(path):
                raise ValueError(f"{path} is a trained task, not an encoder: give the encoder that it was trained with")
            raise MissingPart(f"{path} has no {name}: give a finished run of `fra pretrain`")
        return path / name
    if not path.exists():
        names = shipped_names(ENCODER)
        raise ValueError(
            f"{no_such(path, 'model', names)} (expected a run folder, a file of weights, `random`, timm:NAME, "
            f"timm:NAME=FILE, or bundled weights: {', '.join(names) or 'none'})"
        )
    return path
