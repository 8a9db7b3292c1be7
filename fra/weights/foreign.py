"""Weights that other programs wrote: how a file in one of `layouts` becomes our encoder or region model.

A file is read as tensors only (`weights_only`): it cannot run code. Every tensor of the network must be in it with the
right shape, nothing ever stays random, and the report says what was left aside.
"""

import pickle
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fra.models.encoder import Encoder
from fra.models.region_head import RegionHead, RegionModel
from fra.system.printable import counted
from fra.weights import released_fra
from fra.weights.families import family_of, translated, translates
from fra.weights.layouts import (
    LAYOUTS,
    PATTERN,
    PLAIN,
    RELEASED_FRA,
    Layout,
    Normalisation,
    backbone_parts,
    backbone_shapes,
    efficientnet_layout,
    foreign_config,
    in_timms_names,
    infer_architecture,
    is_efficientnet_pytorch,
    recognise,
    timm_classifiers,
    timm_config,
)
from fra.weights.no_weights import is_safetensors, require_weights
from fra.weights.rebuild import encoder_config, fill, region_head_config, shapes

Model = TypeVar("Model", bound=nn.Module)

HOLDERS = ("state_dict", "model", "model_state_dict", "teacher", "student")
"""Under which entry of a checkpoint its tensors may be; the first that is there counts."""
AVERAGES = (
    *("model_ema", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "ema_model_state_dict"),
    *("ema_model", "ema", "params_ema", "shadow"),
)
"""Entries of running averages, which are read where there is nothing else: `fra` takes what was asked to be saved."""
INSIDE = ("state_dict", "module", "model", "shadow")
"""Where the tensors of an entry may be, if not in it."""
WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put in front of every name."""
OURS = "fra"
"""Entry of a checkpoint in which `fra export` says what the released layout has no place for."""


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors, without wrappers in their names, and what `fra export` noted beside them (or nothing)."""

    path: Path
    entry: str
    """Which of HOLDERS or AVERAGES the tensors are from, or nothing."""
    tensors: dict[str, Tensor]
    notes: Mapping[str, Any]
    passed_over: Mapping[str, int]
    """Other entries with a network's tensors in them, and how many these are."""
    layout: Layout | None = None
    """Whose names the tensors had, where they were told by them and have timm's now."""


@dataclass(frozen=True)
class ImportReport:
    """What was read from a foreign file, and what was left aside."""

    file: str
    entry: str
    """Under which entry of the file its tensors were, or nothing."""
    layout: str
    network: str
    normalisation: str
    read: dict[str, int]
    """Number of tensors per part of our model."""
    counters: int
    """Batch norm's counters of steps that the file lacks; they start at 0 and nothing uses them."""
    skipped: dict[str, int]
    """Number of entries left aside, per group of names."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Other entries of the file with tensors in them, such as a running average, and how many these are."""

    def __str__(self) -> str:
        where = f"{self.file} ({self.entry})" if self.entry else self.file
        read = " and ".join(f"{count} {part}" for part, count in self.read.items())
        counters = f" ({counted(self.counters, 'unused batch-norm counter')} set to 0)" if self.counters else ""
        groups = ", ".join(f"{name} {count}" for name, count in self.skipped.items())
        skipped = (
            f"{counted(sum(self.skipped.values()), 'entry', 'entries')} skipped: {groups}"
            if groups
            else "nothing skipped"
        )
        others = ", ".join(f"{name} ({counted(count, 'tensor')})" for name, count in self.passed_over.items())
        passed_over = f"; also in the file, not read: {others}" if others else ""
        return (
            f"{where}: {self.layout} checkpoint of {self.network}, {read} tensors read{counters}; images are"
            f" normalised with the statistics of {self.normalisation}; {skipped}{passed_over}"
        )


@dataclass(frozen=True)
class Imported(Generic[Model]):
    """A network whose weights all come from a foreign file, and the report."""

    model: Model
    report: ImportReport


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a .pth, .pt, .pth.tar, .ckpt, .bin or .safetensors file.

    They may be the whole file, one of HOLDERS, or else one of AVERAGES. Raises ValueError with the way out when the
    file is something else, unreadable, holds pickled objects besides tensors and plain data, or has no tensors where
    they are looked for.
    """
    require_weights(path)
    content = _read_safetensors(path) if is_safetensors(path) else _read_torch(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}, not a dictionary of tensors: save a state_dict")
    found = _networks(content)
    usual = next((name for name in found if name.partition(".")[0] in HOLDERS), None)
    if usual is None and not _has_tensors(content):
        usual = next((name for name in found if name.partition(".")[0] in AVERAGES), None)
        if usual is None:
            names = {str(name): found.get(str(name), {}) for name in list(content)[:8]}
            has = ", ".join(
                f"{name} ({counted(len(state), 'tensor')})" if state else name for name, state in names.items()
            )
            looked = f"neither at the top level nor under {', '.join(HOLDERS)}"
            raise ValueError(f"{path} has no tensors, {looked}; it has {has or 'nothing'}")
    entry, state = usual or "", found[usual] if usual else content
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            name = _unwrapped(key)
            if name in tensors:
                raise ValueError(f"{path} has {name} twice, with and without `module.`: save only one of them")
            tensors[name] = value
    notes = content.get(OURS)
    passed_over = {name: len(others) for name, others in found.items() if name != entry}
    return Checkpoint(path, entry, tensors, notes if isinstance(notes, dict) else {}, passed_over)


def _networks(content: dict[Any, Any]) -> dict[str, dict[Any, Any]]:
    """The entries with a network's tensors, the usual ones first; an optimiser's are none."""
    names = [name for name in content if isinstance(name, str) and not name.startswith("optim")]
    order = {name: place for place, name in enumerate((*HOLDERS, *AVERAGES))}
    found: dict[str, dict[Any, Any]] = {}
    for name in sorted(names, key=lambda name: order.get(name, len(order))):
        value = content[name]
        if _has_tensors(value):
            found[name] = value
        elif isinstance(value, dict):
            found |= {f"{name}.{inner}": value[inner] for inner in INSIDE if _has_tensors(value.get(inner))}
    return found


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), open(path, "rb") as stream:  # by a path torch would judge the ending
            warnings.simplefilter("ignore")  # of old formats and types, which nobody here can change
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        objects = re.search(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)", str(error))
        if objects is None:
            raise ValueError(f"{path} is not a checkpoint that PyTorch can read: is the file complete?") from error
        raise ValueError(
            f"{path} contains a pickled object ({objects[1] or objects[2]}); loading one can run code, so fra reads "
            "only tensors and plain data: save the state_dict alone, in the program that wrote the file"
        ) from error
    except Exception as error:  # a damaged file fails in many ways, in zip, pickle and torch
        raise ValueError(
            f"{path} is not a checkpoint that PyTorch can read ({type(error).__name__}): is the file complete?"
        ) from error


def _has_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(item, Tensor) for item in value.values())


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def import_encoder(path: Path, *, network: str | None = None) -> Imported[Encoder]:
    """The encoder in a foreign file, in eval mode.

    The network is one of ARCHITECTURES, found by its tensors, unless `network` names it (any of timm's). Raises
    ValueError with one line when the layout is unknown or any tensor of the network is missing, misshapen or unknown.
    """
    checkpoint = read_checkpoint(path)
    if network is not None and is_efficientnet_pytorch(checkpoint.tensors):
        renamed = in_timms_names(checkpoint.tensors, network, path)
        checkpoint = replace(checkpoint, tensors=renamed, layout=efficientnet_layout(network))
    found = _encoder(checkpoint, network)
    report = _report(checkpoint, found, read={"backbone": found.used}, counters=found.counters)
    return Imported(found.encoder.eval(), report)


def import_region_model(path: Path) -> Imported[RegionModel]:
    """The online network's encoder and region head in a checkpoint of the released FRA, in eval mode.

    Raises ValueError with one line when the file is of another method, or not complete.
    """
    checkpoint = read_checkpoint(path)
    layout = recognise(checkpoint.tensors)
    if layout is not RELEASED_FRA:
        found = "no known layout" if layout is None else f"{layout.name} layout"
        raise ValueError(
            f"{path} has no facial regions ({found}): give a run of method fra, or a checkpoint of the released FRA"
        )
    encoded = _encoder(checkpoint, None)
    config = released_fra.read_region_head_sizes(checkpoint.tensors, path)
    if "regions" in checkpoint.notes:
        config = region_head_config(checkpoint.notes["regions"], path)
    head = RegionHead(encoded.encoder.channels, config)
    names = released_fra.region_head_entries(checkpoint.tensors, layers=config.decoder.layers)
    state = {ours: released_fra.as_ours(name, checkpoint.tensors[name]) for name, ours in names.items()}
    counters = fill(
        head,
        state | {"updates": torch.ones((), dtype=torch.long)},
        f"{path} ({layout.name} layout) lacks a complete region head",
        called=released_fra.region_head_names(config.decoder.layers, prefix=released_fra.ONLINE_NECK),
    )
    report = _report(
        checkpoint,
        encoded,
        read={"backbone": encoded.used, "region head": list(names)},
        counters=encoded.counters + counters,
    )
    return Imported(RegionModel(encoded.encoder, head).eval(), report)


class _Found(NamedTuple):
    encoder: Encoder
    layout: Layout
    counters: int
    used: list[str]
    """The entries it was read from."""


def _encoder(checkpoint: Checkpoint, network: str | None) -> _Found:
    layout, encoder = _empty_encoder(checkpoint, network)
    wanted = shapes(encoder.backbone)
    classifiers = timm_classifiers(network) if network else ("fc.",)
    if translates(encoder.backbone):
        return _translated(checkpoint, encoder, classifiers)
    parts = backbone_parts(checkpoint.tensors, layout.backbone, like=wanted, classifiers=classifiers)
    advice = "" if network else " (for a network other than torchvision's ResNets give timm:NAME=FILE)"
    counters = fill(
        encoder.backbone,
        {short: checkpoint.tensors[name] for short, name in parts.items()},
        f"{checkpoint.path} ({layout.name} layout) is not a complete {encoder.config.name}{advice}",
        called={short: layout.backbone + short for short in [*wanted, *parts]},
    )
    return _Found(encoder, layout, counters, list(parts.values()))


def _translated(checkpoint: Checkpoint, encoder: Encoder, classifiers: tuple[str, ...]) -> _Found:
    """Of a ViT, Swin or ConvNeXt."""
    prefixes = {layout.backbone for layout in LAYOUTS}
    found = translated(
        checkpoint.tensors, encoder.backbone, prefixes=prefixes, classifiers=classifiers, where=checkpoint.path
    )
    family = family_of(checkpoint.tensors)
    layout = replace(_timm_layout(checkpoint.tensors, encoder), name=family.name if family else "timm")
    what = f"{checkpoint.path} ({layout.name} layout) is not a complete {encoder.config.name}"
    counters = fill(encoder.backbone, found.tensors, what, called=found.called)
    return _Found(encoder, layout, counters, found.used)


def _empty_encoder(checkpoint: Checkpoint, network: str | None) -> tuple[Layout, Encoder]:
    """The file's layout, and the encoder that it will fill."""
    tensors, layout = checkpoint.tensors, recognise(checkpoint.tensors)
    if network is not None:
        config = timm_config(network)
        if checkpoint.layout is not None:
            colours = checkpoint.layout.normalisation
            return checkpoint.layout, Encoder(replace(config, mean=colours.mean, std=colours.std))
        if layout is not None and layout is not PLAIN:
            return layout, Encoder(foreign_config(network, layout.normalisation))
        encoder = Encoder(config)
        return _timm_layout(tensors, encoder), encoder
    if layout is None:
        raise ValueError(_unknown_layout(checkpoint))
    if "encoder" in checkpoint.notes:
        return layout, Encoder(encoder_config(checkpoint.notes["encoder"], checkpoint.path))
    parts = backbone_parts(tensors, layout.backbone, like=backbone_shapes(PATTERN))
    name = infer_architecture({short: tensors[name] for short, name in parts.items()})
    return layout, Encoder(foreign_config(name, layout.normalisation))


def _timm_layout(tensors: Mapping[str, Tensor], encoder: Encoder) -> Layout:
    """The prefix below which most of the network's tensors are, with timm's own normalisation."""
    wanted, config = shapes(encoder.backbone), encoder.config
    best = max(reversed(LAYOUTS), key=lambda layout: sum(layout.backbone + name in tensors for name in wanted))
    return Layout("timm", best.backbone, Normalisation(f"timm's {config.name}", config.mean, config.std))


def _report(checkpoint: Checkpoint, found: _Found, *, read: dict[str, list[str]], counters: int) -> ImportReport:
    used = {name for names in read.values() for name in names}
    skipped = Counter(_group(name, found.layout.backbone) for name in checkpoint.tensors if name not in used)
    own = "encoder" in checkpoint.notes
    return ImportReport(
        file=checkpoint.path.name,
        entry=checkpoint.entry,
        layout=found.layout.name,
        network=found.encoder.config.name,
        normalisation="its own run" if own else found.layout.normalisation.name,
        read={part: len(names) for part, names in read.items()},
        counters=counters,
        skipped=dict(sorted(skipped.items())),
        passed_over=dict(checkpoint.passed_over),
    )


def _group(name: str, backbone: str = "") -> str:
    """Where an entry belongs, for a person: its network and that one's part."""
    first, _, rest = name.partition(".")
    second = rest.partition(".")[0]
    deep = second in ("backbone", "neck") or (backbone != "" and name.startswith(backbone))
    return f"{first}.{second}" if deep and rest else first


def _unknown_layout(checkpoint: Checkpoint) -> str:
    if any(name.startswith("online.encoder.") for name in checkpoint.tensors):
        return f"{checkpoint.path} is a training checkpoint of `fra pretrain`: give the run folder instead"
    if family := family_of(checkpoint.tensors):
        return (
            f"{checkpoint.path} is a checkpoint of a {family.name}: name its network as timm does, for example"
            f" timm:{family.network}={checkpoint.path}"
        )
    groups = Counter(_group(name) for name in checkpoint.tensors).most_common()
    found = ", ".join(f"{name} {count}" for name, count in groups[:8]) + ", ..." * (len(groups) > 8)
    known = ", ".join(layout.name for layout in LAYOUTS)
    return (
        f"{checkpoint.path} has an unknown layout (known: {known}); its {counted(len(checkpoint.tensors), 'tensor')}:"
        f" {found}; for a timm network give timm:NAME=FILE"
    )
