"""How weights are moved: LARS and LARC for pre-training; SGD, AdamW and Adam from torch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from fra.models.encoder import layers_of
from fra.recipe import LATER, NotNegative, Positive, Range, Settings, Share

PREDICTOR, BACKBONE, DISCRIMINATOR = "predictor.", "encoder.backbone.", "discriminator."
"""What is in the names of the weights of predictors, of the encoder's network, and of what tells images apart."""
LayerDecay = Annotated[float, Range(0, 1, above=True)]
Decay = Annotated[float, Range(0, 0.999999)]


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """The optimiser and its settings."""

    name: Literal["lars", "larc", "sgd", "adamw", "adam"] = "lars"
    """LARS for pre-training (supplement 5.2); LARC is SwAV's, which adapts and decays every tensor."""
    learning_rate: NotNegative = 1.8
    """Peak learning rate for the whole batch, not scaled by it (supplement 5.2: 1.8 at 1024, which is 0.45 * batch /
    256)."""
    weight_decay: NotNegative = 1.5e-6
    """Weight decay, on tensors that are not excluded (supplement 5.2)."""
    momentum: Share = 0.9
    """Momentum of LARS, LARC and SGD (supplement 5.2)."""
    trust: Positive = 1e-3
    """Trust coefficient (eta) of LARS and LARC: size of a step at rate 1 relative to the weight norm (released code;
    same in SwAV)."""
    exclude: Literal["one_dim", "official_names"] = "one_dim"
    """What is neither decayed nor adapted by LARS: all vectors (ours), or the released code's rule by name; besides,
    what timm spares: position embeddings, class and register tokens. LARC has no exceptions."""
    rate_in_momentum: bool = True
    """Whether the learning rate is inside LARS's momentum buffer (released code), or outside as in lightly's LARS and
    in LARC."""
    predictor_rate: NotNegative = 1.0
    """Factor on the learning rate of predictors. Above 1 they keep up with features that change quickly, which keeps
    the effective rank higher (ours, for short runs: docs/dev/log.md; BYOL's appendix notes the same without a slow
    teacher)."""
    backbone_rate: NotNegative = field(default=1.0, metadata=LATER)
    """Factor on the learning rate of the encoder's backbone. Below 1 it keeps more of the weights that it starts from
    (`--from`), while new heads learn (ours; usual in fine-tuning)."""
    layer_decay: LayerDecay = field(default=1.0, metadata=LATER)
    """Factor on the learning rate of the backbone's last layer, once more for each layer before it; for transformers
    that start from weights (BEiT; MAE's fine-tuning: .75)."""
    discriminator_rate: NotNegative = field(default=1.0, metadata=LATER)
    """Factor on the learning rate of a discriminator of images (3FabRec, code: a half)."""
    betas: tuple[Decay, Decay] = field(default=(0.9, 0.999), metadata=LATER)
    """Decay of Adam's and AdamW's means of gradients and of their squares (torch's; 3FabRec, code: 0 and .999)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in ("predictor_rate", "backbone_rate", "layer_decay", "discriminator_rate"):
            if self.name == "larc" and getattr(self, setting) != 1:
                raise ValueError(f"{setting} has no effect with larc: leave it out")


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step per tensor is a share of that tensor's norm (You et al., 2017).

    With weights w, gradient g, buffer m and the norm of a whole tensor, one step is

        ratio = trust * |w| / (|g| + decay * |w| + 1e-8)
        m = momentum * m + rate * ratio * (g + decay * w)
        w = w - m

    or, without `rate_in_momentum`, the rate stands before m in the last line. Groups with adapt=False take g itself in
    place of ratio * (g + decay * w). A tensor whose gradient is zero still shrinks by rate * trust, because decay
    cancels in the ratio; with `spare_zeros` (LARC, as in Apex) a tensor that is zero, or has no gradient, is neither
    adapted nor decayed.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        rate_in_momentum: bool = True,
        spare_zeros: bool = False,
    ) -> None:
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, trust=trust, adapt=True)
        super().__init__(groups, defaults)
        self.rate_in_momentum = rate_in_momentum
        self.spare_zeros = spare_zeros

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            w = [weight for weight in group["params"] if weight.grad is not None]
            if not w:
                continue
            g: Any = [weight.grad for weight in w]
            m = [self._buffer(weight) for weight in w]
            if group["adapt"]:
                g = self._adapted(w, g, decay=group["weight_decay"], trust=group["trust"])
            before, after = (group["lr"], 1.0) if self.rate_in_momentum else (1.0, group["lr"])
            torch._foreach_mul_(m, group["momentum"])
            torch._foreach_add_(m, g, alpha=before)
            torch._foreach_add_(w, m, alpha=-after)

    def _adapted(self, w: list[Tensor], g: list[Tensor], *, decay: float, trust: float) -> Sequence[Tensor]:
        """ratio * (g + decay * w), of every tensor."""
        w_norms, g_norms = torch.stack(torch._foreach_norm(w)), torch.stack(torch._foreach_norm(g))
        ratios = trust * w_norms / (g_norms + decay * w_norms + 1e-8)
        if self.spare_zeros:
            adapted = (w_norms > 0) & (g_norms > 0)
            ratios = torch.where(adapted, ratios, 1.0)
            decayed = torch._foreach_add(g, torch._foreach_mul(w, list((decay * adapted).unbind())))
        else:
            decayed = torch._foreach_add(g, w, alpha=decay)
        torch._foreach_mul_(decayed, list(ratios.unbind()))  # in place: fresh memory costs more than the product
        return decayed

    def _buffer(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]


def build_optimizer(
    config: OptimizerConfig, weights: nn.Module | Sequence[dict[str, Any]], *, frozen_epochs: float = 0.0
) -> torch.optim.Optimizer:
    """The optimiser of groups of weights, or of a model's, in the groups of `groups_of`.

    A group without a weight decay of its own takes the config's.
    """
    groups = groups_of(config, weights, frozen_epochs=frozen_epochs) if isinstance(weights, nn.Module) else weights
    usual: dict[str, Any] = dict(lr=config.learning_rate, weight_decay=config.weight_decay)
    if config.name in ("adam", "adamw"):
        return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name](groups, betas=config.betas, **usual)
    usual["momentum"] = config.momentum
    if config.name == "sgd":
        return torch.optim.SGD(groups, **usual)
    if config.name == "larc":
        return LARS(groups, trust=config.trust, rate_in_momentum=False, spare_zeros=True, **usual)
    return LARS(groups, trust=config.trust, rate_in_momentum=config.rate_in_momentum, **usual)


def groups_of(config: OptimizerConfig, model: nn.Module, *, frozen_epochs: float = 0.0) -> list[dict[str, Any]]:
    """All weights of `model` that need gradients, in two groups: decayed and excluded (LARC: one).

    Predictors are apart in each with a `predictor_rate`, and the backbone with a `backbone_rate` or when it is
    frozen for the first `frozen_epochs`, its layers each with a `layer_decay`.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    heights = _heights(model) if config.layer_decay != 1 else {}
    if config.name == "larc":
        groups: list[dict[str, Any]] = [dict(params=named)]
    else:
        excluded_by = {"one_dim": _is_vector, "official_names": _has_official_name}[config.exclude]
        spared = {name for name, weight in named if excluded_by(name, weight)} | _spared(model)
        kept = [(name, weight) for name, weight in named if name not in spared]
        excluded = [(name, weight) for name, weight in named if name in spared]
        groups = [dict(params=kept, weight_decay=config.weight_decay), dict(params=excluded, weight_decay=0.0)]
        if config.name == "lars":
            groups[1]["adapt"] = False
    return [part for group in groups for part in _by_part(group, config, frozen_epochs, heights)]


def _by_part(
    group: dict[str, Any], config: OptimizerConfig, frozen_epochs: float, heights: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """A group of named weights, divided into those of predictors, the backbone, a discriminator and others, as far as
    they differ."""
    factors = {
        PREDICTOR: config.predictor_rate,
        BACKBONE: config.backbone_rate,
        DISCRIMINATOR: config.discriminator_rate,
    }
    apart = [
        part for part, factor in factors.items() if factor != 1 or (part == BACKBONE and (frozen_epochs or heights))
    ]
    named = group["params"]
    yield group | dict(params=[weight for name, weight in named if not any(part in name for part in apart)])
    for part in apart:
        mine = [(name, weight) for name, weight in named if part in name]
        for below in sorted({heights.get(name, 0) for name, _ in mine} or {0}):
            found = group | dict(params=[weight for name, weight in mine if heights.get(name, 0) == below])
            factor = factors[part] * config.layer_decay**below
            if factor != 1:
                found["lr"] = found["peak"] = config.learning_rate * factor
            if part == BACKBONE and frozen_epochs:
                found["frozen_epochs"] = frozen_epochs
            yield found


def _backbones(model: nn.Module) -> dict[str, Any]:
    return {f"{name}.": part for name, part in model.named_modules() if f".{name}.".endswith(f".{BACKBONE}")}


def _heights(model: nn.Module) -> dict[str, int]:
    """How many layers below the heads a backbone's weights are: 1 in its last layer, one more in each before."""
    return {
        below + name: height
        for below, backbone in _backbones(model).items()
        for height, layer in enumerate(reversed(layers_of(backbone)), start=1)
        for name in layer
    }


def _spared(model: nn.Module) -> set[str]:
    """What timm says of a backbone that it is not to be decayed."""
    return {
        below + name
        for below, backbone in _backbones(model).items()
        for name in getattr(backbone, "no_weight_decay", set)()
    }


def _is_vector(name: str, weight: Tensor) -> bool:
    return weight.dim() <= 1


def _has_official_name(name: str, weight: Tensor) -> bool:
    """The released rule: "bn", "downsample.1" or "bias" in the name; so head norms and layer norms are adapted."""
    return "bn" in name or "downsample.1" in name or "bias" in name
