"""The layout of the released FRA's checkpoints, name by name (spec fra.md, section 10), used in both directions.

K facial regions. One table says what each tensor of ours is called there; reading turns it round.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fra.models.mask_decoder import DecoderConfig
from fra.models.region_head import RegionHeadConfig
from fra.system.printable import counted

DISTRIBUTED = "module."  # what every name of a released checkpoint starts with
ONLINE_BACKBONE = "online_net.backbone."
ONLINE_NECK = "online_net.neck."
ALIAS = "encoder_q."  # the online backbone's tensors a second time


def _below(ours: str, theirs: str, names: Mapping[str, str]) -> dict[str, str]:
    return {ours + mine: theirs + other for mine, other in names.items()}


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_LINEAR = _same("weight", "bias")
_HEAD = {"first.weight": "0.weight", "last.weight": "3.weight"} | _below(
    "norm.", "1.", _same("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
)
_ATTENTION = _same("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
_LAYER = (
    _below("self_attention.", "self_attn.", _ATTENTION)
    | _below("cross_attention.", "multihead_attn.", _ATTENTION)
    | _below("first.", "linear1.", _LINEAR)
    | _below("last.", "linear2.", _LINEAR)
    | _below("norms.0.", "norm1.", _LINEAR)
    | _below("norms.1.", "norm2.", _LINEAR)
    | _below("norms.2.", "norm3.", _LINEAR)
)
_CONVOLUTIONS = (".mlp.0.weight", ".mlp.3.weight")
"""Ends of their names of the heads' linear layers, which are (out, in, 1) there and (out, in) here."""
_LAYERS = ONLINE_NECK + "proj_attn.transformer.decoder.layers."
_REGION_HEAD = (ONLINE_NECK + "proj_attn.", ONLINE_NECK + "proj_pixel.")


def region_head_names(layers: int, *, prefix: str = "") -> dict[str, str]:
    """Our RegionHead's tensors and, after `prefix`, their names in a neck there, which has no place for `updates`."""
    names = _below("pixel_projector.", "proj_pixel.mlp.", _HEAD)
    for index in range(layers):
        names |= _below(f"decoder.layers.{index}.", f"proj_attn.transformer.decoder.layers.{index}.", _LAYER)
    names |= _below("decoder.norm.", "proj_attn.transformer.decoder.norm.", _LINEAR)
    names |= {"decoder.queries.weight": "proj_attn.query_embed.weight"}
    names |= _below("decoder.input.", "proj_attn.input_proj.", _LINEAR)
    for index in range(3):
        names |= _below(f"decoder.mask_mlp.{index}.", f"proj_attn.mask_embed.layers.{index}.", _LINEAR)
    return _below("", prefix, names | {"prototypes": "proto"})


def neck_names(layers: int) -> dict[str, str]:
    """Everything of one of our FRA's two networks but its backbone, and what it is called in a neck there."""
    return (
        _below("face_projector.", "proj.mlp.", _HEAD)
        | _below("region_projector.", "proj_obj.mlp.", _HEAD)
        | _below("region_head.", "", region_head_names(layers))
    )


def method_names(layers: int) -> dict[str, str]:
    """Everything of our FRA (its checkpoint's `model`) but the backbones, and what it is called there."""
    return (
        _below("online.", ONLINE_NECK, neck_names(layers))
        | _below("teacher.network.", "target_net.neck.", neck_names(layers))
        | _below("face_predictor.", "predictor.mlp.", _HEAD)
        | _below("region_predictor.", "predictor_obj.mlp.", _HEAD)
    )


def to_official(model: Mapping[str, Tensor], head: RegionHeadConfig) -> dict[str, Tensor]:
    """The state of our FRA as the released code's `state_dict`: 1107 entries for ResNet-50 and two decoder layers.

    Two things there have no counterpart here: `center`, zero for ever, and the target's own `proto`, for which the
    online network's is written unless the teacher has one. Raises ValueError when `model` is not the whole of an FRA.
    """
    names = method_names(head.decoder.layers)
    found: dict[str, Tensor] = {}
    for ours, tensor in model.items():
        mine = tensor.detach().contiguous()
        if ours.startswith("online.encoder.backbone."):
            name = ours.removeprefix("online.encoder.backbone.")
            found[ONLINE_BACKBONE + name] = found[ALIAS + name] = mine
        elif ours.startswith("teacher.network.encoder.backbone."):
            found["target_net.backbone." + ours.removeprefix("teacher.network.encoder.backbone.")] = mine
        elif ours in names:
            theirs = names[ours]
            found[theirs] = mine.unsqueeze(-1) if theirs.endswith(_CONVOLUTIONS) else mine
        elif not ours.endswith(".region_head.updates"):
            raise ValueError(f"the released FRA layout has no place for {ours}")
    missing = [ours for ours, theirs in names.items() if theirs not in found]
    if missing:
        raise ValueError(
            f"not the complete state of an FRA model: {counted(len(missing), 'tensor')} missing ({missing[0]})"
        )
    if not model["teacher.network.region_head.updates"]:
        found["target_net.neck.proto"] = found[ONLINE_NECK + "proto"]
    found["center"] = torch.zeros(1, head.regions)
    return {DISTRIBUTED + name: found[name] for name in sorted(found)}


def read_region_head_sizes(tensors: Mapping[str, Tensor], what: object) -> RegionHeadConfig:
    """The sizes of the online network's region head, read off its tensors.

    The released code's eight attention heads, scale 1 and content of zeros leave no trace in them. Raises ValueError
    when a tensor that tells a size is missing, or tells an impossible one.
    """
    names = region_head_names(1, prefix=ONLINE_NECK)
    sizes: dict[str, torch.Size] = {}
    for ours in ("decoder.queries.weight", "pixel_projector.first.weight", "decoder.layers.0.first.weight"):
        theirs = names[ours]
        if theirs not in tensors or tensors[theirs].dim() < 2:
            raise ValueError(f"{what}: {theirs} is missing or not a matrix, so its regions cannot be read")
        sizes[ours] = tensors[theirs].shape
    layers = {name.removeprefix(_LAYERS).split(".")[0] for name in tensors if name.startswith(_LAYERS)}
    regions, out = sizes["decoder.queries.weight"]
    decoder = DecoderConfig(layers=len(layers), width=sizes["decoder.layers.0.first.weight"][0])
    if out % decoder.heads:
        raise ValueError(f"{what}: {out} channels cannot be divided among {decoder.heads} attention heads")
    return RegionHeadConfig(regions=regions, hidden=sizes["pixel_projector.first.weight"][0], out=out, decoder=decoder)


def region_head_entries(tensors: Mapping[str, Tensor], *, layers: int) -> dict[str, str]:
    """The entries of the online network's region head, each with our name (its own when we have none for it)."""
    known = {theirs: ours for ours, theirs in region_head_names(layers, prefix=ONLINE_NECK).items()}
    return {name: known.get(name, name) for name in tensors if name in known or name.startswith(_REGION_HEAD)}


def as_ours(name: str, tensor: Tensor) -> Tensor:
    """A tensor of theirs in the shape that it has here."""
    return tensor.squeeze(-1) if name.endswith(_CONVOLUTIONS) and tensor.dim() == 3 else tensor


def inferred(config: RegionHeadConfig) -> RegionHeadConfig:
    """What a reader of the released layout takes a region head for: all that its tensors do not tell is the default."""
    decoder = DecoderConfig(layers=config.decoder.layers, width=config.decoder.width)
    return RegionHeadConfig(regions=config.regions, hidden=config.hidden, out=config.out, decoder=decoder)


def checkpoint(state: dict[str, Tensor], *, epoch: int, arch: str) -> dict[str, Any]:
    """A released checkpoint's six entries. No optimiser state: ours orders its weights differently."""
    return dict(
        epoch=epoch,
        arch=arch,
        state_dict=state,
        best_acc1=0.0,
        optimizer={"state": {}, "param_groups": []},
        scaler=None,
    )
