"""Weights that explain themselves: safetensors with the encoder's description, and how to read them back."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fra.files import atomic
from fra.parts.encoder import Encoder, EncoderConfig
from fra.parts.mask_decoder import DecoderConfig
from fra.parts.region_head import RegionHead, RegionHeadConfig, RegionModel

RANDOM = EncoderConfig(name="resnet18", last_stride=1, image_size=64)


def save_weights(path: Path, module: nn.Module, metadata: dict[str, Any]) -> None:
    """Write a module's state with metadata (values become JSON), whole or not at all."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with atomic(path) as temporary:
        save_file(state, temporary, {key: json.dumps(value) for key, value in metadata.items()})


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State and metadata of a safetensors file. ValueError when it is damaged or not ours."""
    try:
        with safe_open(path, "pt") as stream:
            metadata = {key: json.loads(value) for key, value in (stream.metadata() or {}).items()}
            state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a readable safetensors file of fra: {error}") from error
    if "encoder" not in metadata:
        raise ValueError(f"{path} does not say which encoder it holds: expected a file written by fra")
    return state, metadata


def encoder_metadata(encoder: Encoder) -> dict[str, Any]:
    return {"encoder": dataclasses.asdict(encoder.config)}


def load_encoder(what: str | Path, *, device: str | torch.device = "cpu") -> Encoder:
    """The encoder `what` names, in eval mode.

    `what` is a run folder of `fra pretrain`, its `encoder.safetensors`, `random` (the laptop recipes' network with
    random weights), `random:WHAT` (the network of another run or timm name, with random weights), or `timm:NAME`
    (timm's pre-trained weights, which timm downloads). Raises ValueError with the way out for anything else.
    """
    text = str(what)
    if text == "random" or text.startswith("random:"):
        encoder = _random_encoder(text.partition(":")[2])
    elif text.startswith("timm:"):
        encoder = Encoder(EncoderConfig(name=text.removeprefix("timm:"), image_size=224), pretrained=True)
    else:
        path = _weights_path(Path(what), "encoder.safetensors")
        state, metadata = read_weights(path)
        encoder = Encoder(_encoder_config(metadata))
        _fill(encoder.backbone, state, path)
    return encoder.to(device).eval()


def load_region_model(what: str | Path, *, device: str | torch.device = "cpu") -> RegionModel:
    """The region model in a run folder or `model.safetensors`, in eval mode. ValueError when the method has none."""
    path = _weights_path(Path(what), "model.safetensors")
    state, metadata = read_weights(path)
    if "regions" not in metadata:
        raise ValueError(
            f"{path} was trained with {metadata.get('method', 'a method')} and has no regions: use a run of fra"
        )
    encoder = Encoder(_encoder_config(metadata))
    settings = dict(metadata["regions"])
    settings["decoder"] = DecoderConfig(**settings["decoder"])
    head = RegionHead(encoder.channels, RegionHeadConfig(**settings))
    model = RegionModel(encoder, head)
    wanted = {key.replace("region_head.", "head.", 1): value for key, value in state.items()}
    _fill(model, {key: value for key, value in wanted.items() if key.startswith(("encoder.", "head."))}, path)
    return model.to(device).eval()


def describe(what: str | Path) -> str:
    """A short name for tables: `random`, `timm:NAME`, or the run folder's name."""
    text = str(what)
    if text.startswith(("random", "timm:")):
        return "random" if text.startswith("random") else text
    path = Path(what)
    return path.parent.name if path.suffix else path.resolve().name


def _random_encoder(like: str) -> Encoder:
    """Always the same random weights for the same network, whatever was drawn before."""
    config = RANDOM
    if like and Path(like).exists():
        config = load_encoder(like).config
    elif like:
        config = EncoderConfig(name=like)
    seed = int.from_bytes(hashlib.blake2b(config.name.encode(), digest_size=7).digest(), "big")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(config)


def _weights_path(path: Path, name: str) -> Path:
    if path.is_dir():
        if not (path / name).exists():
            raise ValueError(f"{path} holds no {name}: expected a finished run of `fra pretrain`")
        return path / name
    if not path.exists():
        raise ValueError(f"there is no {path}: give a run folder, a .safetensors file, `random` or `timm:NAME`")
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is not a .safetensors file: give a run folder, a .safetensors file, `random` or `timm:NAME`"
        )
    return path


def _encoder_config(metadata: dict[str, Any]) -> EncoderConfig:
    settings = dict(metadata["encoder"])
    return EncoderConfig(**settings | {key: tuple(settings[key]) for key in ("mean", "std")})


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load every weight or none: nothing may stay random."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit its own description: {len(missing)} weights are missing"
            f" and {len(unexpected)} are unknown (for example {[*missing, *unexpected][0]})"
        )
