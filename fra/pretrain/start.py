"""Warm start (`fra pretrain --from`): an encoder is trained on from weights that exist, on other faces."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fra.files import read_json, write_json
from fra.models.encoder import HOURGLASS, Encoder, EncoderConfig, layers_of
from fra.models.momentum_teacher import MomentumTeacher
from fra.pretrain.method import Method
from fra.recipe import NotNegative, Settings, Whole
from fra.system.printable import counted
from fra.weights.load import encoder_fingerprint, load_encoder, read_online
from fra.weights.rebuild import encoder_config, fill
from fra.weights.source import EncoderSource, licence_of

RECORD = "start.json"
UNKNOWN = "not known to fra: see where the weights are from"


@dataclass(frozen=True)
class StartConfig(Settings):
    """What of the backbone a warm start leaves as it is. All ours, as usual in fine-tuning."""

    frozen_epochs: NotNegative = 0
    """Epochs at the beginning in which the backbone's weights do not move, so that fresh heads do not spoil them."""
    frozen_stages: Whole = 0
    """Stages that never move, counted from the input; 1 is the stem alone."""
    frozen_statistics: bool = False
    """The backbone's batch norms keep the means and deviations that they came with, instead of taking each batch's."""


@dataclass(frozen=True)
class Start:
    """Weights to start from. The run keeps it as `start.json`, without the tensors."""

    weights: str
    """What `--from` was given, with absolute paths."""
    label: str
    """A short name for it."""
    encoder: EncoderConfig
    fingerprint: str
    """`encoder_fingerprint` of them."""
    licence: str
    with_heads: bool = False
    """The heads of the run they are from are taken too."""

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def read(self) -> Encoder:
        """The weights themselves, checked. Raises ValueError when they have changed or are gone."""
        encoder = load_encoder(self.weights, quiet=True)
        if encoder_fingerprint(encoder) != self.fingerprint:
            raise ValueError(f"{self.weights} has changed since the run began: restore it, or choose another --out")
        return encoder


def start_from(what: str, *, with_heads: bool = False, quiet: bool = False) -> Start:
    """The start that `--from` names: whatever `load_encoder` takes but random weights. ValueError otherwise."""
    source = EncoderSource.parse(what)
    if source.random:
        raise ValueError(f"--from {what}: without --from a run starts from random weights")
    encoder = load_encoder(source, quiet=quiet)
    if encoder.config.name == HOURGLASS.name:
        raise ValueError(f"--from {what}: the hourglass is for the star protocol of `fra transfer` only")
    if with_heads and (source.path is None or not source.path.is_dir()):
        raise ValueError(f"--from-heads needs the run folder of a `fra pretrain`, and {what} is none: leave it out")
    return Start(
        weights=str(source),
        label=source.label,
        encoder=encoder.config,
        fingerprint=encoder_fingerprint(encoder),
        licence=licence_of(source) or UNKNOWN,
        with_heads=with_heads,
    )


def keep_start(start: Start, out: Path) -> None:
    """Write `start.json` into a run folder."""
    write_json(out / RECORD, start.record(), indent=2)


def kept_start(out: Path) -> Start | None:
    """The start of the run in a folder; None when it started from random weights."""
    path = out / RECORD
    if not path.exists():
        return None
    found = read_json(path, "restore it from a backup, or begin again with another --out")
    return Start(**found | {"encoder": encoder_config(found["encoder"], path)})


def adapted(encoder: EncoderConfig, start: Start) -> EncoderConfig:
    """The recipe's encoder with the weights' colour normalisation. ValueError when they are of another network."""
    if encoder.name.partition(".")[0] != start.encoder.name.partition(".")[0]:  # after the point: of which weights
        raise ValueError(
            f"--from {start.label}: these are weights of {start.encoder.name}, but the recipe trains {encoder.name}: "
            f"add --set encoder.name={start.encoder.name}, or take a recipe of that network"
        )
    return replace(encoder, mean=start.encoder.mean, std=start.encoder.std)


def take_heads(method: Method, start: Start) -> None:
    """Give `method` everything of the online network of the run that it starts from. ValueError unless all fits."""
    path = Path(start.weights)
    fill(method.online, read_online(path), f"leave --from-heads out: {path} has other heads than this recipe")
    for module in method.modules():
        if isinstance(module, MomentumTeacher):
            module.network.load_state_dict(method.online.state_dict())


def hold_still(method: Method, config: StartConfig) -> None:
    """Freeze what the recipe says, in the online network and its teacher; `Method.train` leaves it so.

    Raises ValueError for more stages than there are.
    """
    teacher, still = method.teacher_encoder(), []
    for encoder in [method.encoder] if teacher is None else [method.encoder, teacher]:
        frozen = stages(encoder.backbone)[: config.frozen_stages]
        if len(frozen) < config.frozen_stages:
            raise ValueError(
                f"start.frozen_stages is {config.frozen_stages}, but {encoder.config.name} has"
                f" {counted(len(frozen), 'stage')}"
            )
        for stage in frozen:
            for weight in stage:
                weight.requires_grad_(False)
        weights = {id(weight) for stage in frozen for weight in stage}
        still += [
            module
            for module in encoder.backbone.modules()
            if isinstance(module, _BatchNorm) and (config.frozen_statistics or id(module.weight) in weights)
        ]
    method.still = tuple(still)


def stages(backbone: Any) -> Sequence[list[Tensor]]:
    """The weights of a network stage by stage, the stem first."""
    named: dict[str, nn.Parameter] = dict(backbone.named_parameters())
    return [[named[name] for name in stage] for stage in layers_of(backbone, coarse=True)]
