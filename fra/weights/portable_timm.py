"""A folder as timm's hub has them, and what timm needs to build a network that its settings cannot describe."""

import json
import os
import re
import sys
import tempfile
import warnings
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from fra.files import temporary_prefix
from fra.models.encoder import (
    FIVE_STAGES,
    SMALL_RESNETS,
    TOKEN_NETWORKS,
    EncoderConfig,
    make_stages_fine,
    timm_kind,
    timm_options,
)
from fra.system.text import python_text
from fra.weights.portable_model import PortableEncoder, parity

ARCHITECTURE = """# Import this before timm.create_model: timm has no setting for a stage of stride 1.
import timm


@timm.models.register_model
def {name}(pretrained=False, **options):
    network = timm.create_model({architecture}, pretrained=pretrained, **options)
    for convolution in {places}:
        network.get_submodule(convolution).stride = (1, 1)
    return network
"""


def write_timm(model: PortableEncoder, out: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """A folder NAME for `timm.create_model("local-dir:NAME", pretrained=True)`; no regions.

    Where stages have stride 1, beside it a module that must be imported before; timm refuses the folder without it.
    """
    import timm
    from safetensors.torch import save_file

    config = model.encoder.config
    architecture, arguments = timm_architecture(config)
    places = make_stages_fine(timm.create_model(architecture, **arguments), config)
    registered = "fra_" + re.sub(r"\W", "_", name, flags=re.ASCII) if places else architecture
    side = [3, config.image_size, config.image_size]
    taken = dict(
        input_size=side, mean=config.mean, std=config.std, interpolation="bilinear", crop_pct=1.0, num_classes=0
    )
    plain = PortableEncoder(model.encoder, None, licence=model.licence).eval()
    described = dict(
        architecture=registered,
        num_classes=0,
        num_features=model.encoder.channels,
        model_args=arguments,
        pretrained_cfg=taken,
        fra=plain.all_notes(name),
    )
    state = {key: tensor.contiguous() for key, tensor in model.encoder.backbone.state_dict().items()}
    mean, deviation = model.encoder.mean, model.encoder.std
    with tempfile.TemporaryDirectory(prefix=temporary_prefix(), dir=out) as unproved:
        files = [Path(unproved) / "config.json", Path(unproved) / "model.safetensors"]
        files[0].write_text(json.dumps(described, indent=2) + "\n")
        save_file(state, files[1], {"format": "pt"})
        module = Path(unproved) / f"{registered}.py"
        if places:
            text = ARCHITECTURE.format(name=registered, architecture=python_text(architecture), places=places)
            module.write_text(text)
            _register(module)
        network = timm.create_model(f"local-dir:{unproved}", pretrained=True).eval()
        facts = parity(plain, lambda images: (network((images - mean) / deviation),), path=files[1])
        folder = out / name
        folder.mkdir(exist_ok=True)
        for file in files:
            os.replace(file, folder / file.name)
        if places:
            os.replace(module, out / module.name)
    return folder, facts | {"python": _lines(out, folder, registered if places else "")}


def _lines(out: Path, folder: Path, module: str) -> list[str]:
    """Python for the working directory of this command."""
    load = f"model = timm.create_model({python_text(f'local-dir:{folder}')}, pretrained=True).eval()"
    if not module:
        return ["import timm", load]
    return ["import sys, timm", f"sys.path.append({python_text(out)})", f"import {module}", load]


def _register(file: Path) -> None:
    """Import a module that makes a network known to timm."""
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[file.stem] = module  # where timm looks for what it registers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an earlier export of this process had the same name
            spec.loader.exec_module(module)
    finally:
        del sys.modules[file.stem]


def timm_architecture(config: EncoderConfig) -> tuple[str, dict[str, Any]]:
    """timm's name of a network and the arguments that make it ours."""
    if config.name in SMALL_RESNETS:
        return "resnet18", {key: value for key, value in SMALL_RESNETS[config.name].items() if key != "block"}
    if config.name == FIVE_STAGES:
        raise ValueError(f"timm has no {config.name}: use --format onnx or torch")
    kind, _ = timm_kind(config.name)
    if kind not in TOKEN_NETWORKS:
        return config.name, {}
    norm = {VisionTransformer: "fc_norm", Eva: "use_fc_norm"}.get(kind)  # after the mean, where we have it before
    pool = {norm: False, "global_pool": "token" if config.pooling == "class_token" else "avg"} if norm else {}
    return config.name, timm_options(config) | pool
