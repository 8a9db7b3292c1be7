"""From a description and tensors to a network: every weight is set, or nothing is loaded."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fra.models.encoder import EncoderConfig
from fra.models.mask_decoder import DecoderConfig
from fra.models.region_head import RegionHeadConfig
from fra.system.printable import counted

COUNTER = ".num_batches_tracked"
"""Ends the name of batch norm's counter of steps, which no computation uses and files of before 2018 lack."""


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def encoder_config(settings: Mapping[str, Any], where: object) -> EncoderConfig:
    """An encoder's description from plain data. ValueError when `where` describes none, or one of another version."""
    try:
        return EncoderConfig(**dict(settings) | {key: tuple(settings[key]) for key in ("mean", "std")})
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{where} does not describe an encoder known to this version of fra: {error}") from error


def region_head_config(settings: Mapping[str, Any], where: object) -> RegionHeadConfig:
    """A region head's description from plain data. ValueError as in `encoder_config`."""
    try:
        return RegionHeadConfig(**dict(settings) | {"decoder": DecoderConfig(**settings["decoder"])})
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{where} does not describe a region head known to this version of fra: {error}") from error


def differences(wanted: Mapping[str, torch.Size], found: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """What keeps `found` from being a network's state: tensors "missing", "of another shape", or "unknown".

    Names are sorted; a kind without any is left out. Missing counters of batch norms do not count.
    """
    common = wanted.keys() & found.keys()
    kinds = {
        "missing": [name for name in wanted.keys() - found.keys() if not name.endswith(COUNTER)],
        "of another shape": [
            f"{name} {tuple(found[name].shape)} instead of {tuple(wanted[name])}"
            for name in common
            if found[name].shape != wanted[name]
        ],
        "unknown": list(found.keys() - wanted.keys()),
    }
    return {kind: sorted(names) for kind, names in kinds.items() if names}


def explain(kinds: Mapping[str, list[str]]) -> str:
    """The result of `differences` as a phrase: counts, and the first three names of each kind."""
    return "; ".join(
        f"{counted(len(names), 'tensor')} {kind} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
        for kind, names in kinds.items()
    )


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    """Names and shapes of a network's whole state."""
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def fill(
    network: nn.Module, tensors: Mapping[str, Tensor], what: str, *, called: Mapping[str, str] | None = None
) -> int:
    """Set every weight and buffer of `network`; the number of counters of batch norms that were not there is returned.

    Those start at 0. Raises ValueError, and sets nothing, when any other tensor is missing, unknown, or has another
    shape; `what` begins the message, and `called` gives the names in the file where they differ from the network's.
    """
    wanted, names = shapes(network), called or {}
    wrong = differences(
        {names.get(name, name): shape for name, shape in wanted.items()},
        {names.get(name, name): tensor for name, tensor in tensors.items()},
    )
    if wrong:
        raise ValueError(f"{what}: {explain(wrong)}; nothing was loaded")
    absent = wanted.keys() - tensors.keys()
    network.load_state_dict(dict(tensors) | {name: torch.zeros((), dtype=torch.long) for name in absent})
    return len(absent)
