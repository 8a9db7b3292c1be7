"""How other programs name the tensors of a ResNet, and which network a file's tensors are of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor

from fra.models.encoder import FACE_MEAN, FACE_STD, SMALL_RESNETS, EncoderConfig, build_backbone, timm_kind
from fra.weights import released_fra
from fra.weights.rebuild import differences, shapes


@dataclass(frozen=True)
class Normalisation:
    """What a network's images are centred and divided by, per channel of RGB in [0, 1]."""

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


VGGFACE2 = Normalisation("VGGFace2", FACE_MEAN, FACE_STD)
IMAGENET = Normalisation("ImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SWAV_IMAGENET = Normalisation("ImageNet (SwAV's .228)", (0.485, 0.456, 0.406), (0.228, 0.224, 0.225))


@dataclass(frozen=True)
class Layout:
    """How a family of programs names the tensors of a ResNet in its checkpoints."""

    name: str
    backbone: str
    """What the backbone's names start with, after `module.`; torchvision's names follow."""
    normalisation: Normalisation
    marks: tuple[str, ...] = ()
    """Starts of names of which one must be there too; none where the backbone's is telling enough."""


LAYOUTS = (  # the first that fits
    Layout("released FRA", released_fra.ONLINE_BACKBONE, VGGFACE2, marks=(released_fra.ONLINE_NECK + "proj_attn.",)),
    Layout("LEWEL", released_fra.ONLINE_BACKBONE, IMAGENET),
    Layout("Bulat et al.", "base_net.", SWAV_IMAGENET),
    Layout("MoCo v1 or v2", "encoder_q.", IMAGENET),
    Layout("MoCo v3", "base_encoder.", IMAGENET),
    Layout("SimSiam", "encoder.", IMAGENET),
    Layout("DINO, VICReg or Barlow Twins", "backbone.", IMAGENET),
    Layout("SwAV", "", SWAV_IMAGENET, marks=("projection_head.", "prototypes.")),
    Layout("torchvision or timm", "", IMAGENET),
)
RELEASED_FRA, PLAIN = LAYOUTS[0], LAYOUTS[-1]

LITE = Normalisation("EfficientNet-Lite", (127 / 255,) * 3, (128 / 255,) * 3)
EFFICIENTNET_PYTORCH = Layout("EfficientNet-PyTorch", "", IMAGENET)

IMPORT_SIZE = 224
"""Side of the images, pixels, where a file does not say it: all of these programs train at 224."""
ARCHITECTURES = (
    "resnet50",
    "resnet18",
    "resnet34",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext50_32x4d",
    "resnext101_32x8d",
    *SMALL_RESNETS,
)
"""The networks that are recognised by the names and shapes of their tensors."""
PATTERN = ARCHITECTURES[0]
"""The others' modules have the same names."""


def recognise(tensors: Mapping[str, Tensor]) -> Layout | None:
    """The layout of a checkpoint's names, or None."""
    for layout in LAYOUTS:
        has_backbone = any(name.startswith(layout.backbone + "layer1.") for name in tensors)
        if has_backbone and (not layout.marks or any(name.startswith(layout.marks) for name in tensors)):
            return layout
    return None


@cache
def backbone_shapes(name: str) -> dict[str, torch.Size]:
    """Names and shapes of a network's tensors, without its classifier; nothing is computed or allocated."""
    with torch.device("meta"):
        return shapes(build_backbone(EncoderConfig(name=name)))


def infer_architecture(backbone: Mapping[str, Tensor]) -> str:
    """Which of ARCHITECTURES these tensors are of, or are closest to when some are missing or misshapen."""
    distances: dict[str, int] = {}
    for name in ARCHITECTURES:
        wrong = differences(backbone_shapes(name), backbone)
        if not wrong:
            return name
        distances[name] = sum(len(names) for names in wrong.values())
    return min(distances, key=distances.__getitem__)


def backbone_parts(
    tensors: Mapping[str, Tensor], prefix: str, *, like: Iterable[str], classifiers: tuple[str, ...] = ("fc.",)
) -> dict[str, str]:
    """The names after `prefix` that are in modules like those in `like` and not in `classifiers`, with the whole names.

    A `layer5` counts as well as a `layer4`, so that a network with more in it is not taken for one with less.
    """
    kinds = {_kind(name) for name in like}
    inner = {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
    return {short: name for short, name in inner.items() if _kind(short) in kinds and not short.startswith(classifiers)}


def _kind(name: str) -> str:
    return name.partition(".")[0].rstrip("0123456789")


def foreign_config(name: str, normalisation: Normalisation) -> EncoderConfig:
    """The description of a network whose file does not describe it."""
    return EncoderConfig(name=name, image_size=IMPORT_SIZE, mean=normalisation.mean, std=normalisation.std)


def timm_config(network: str) -> EncoderConfig:
    """A timm network with image size, normalisation and pooling of its own weights. ValueError if unknown."""
    if not timm.is_model(network):
        near = ", ".join(timm.list_models(f"*{network.partition('.')[0][:6]}*")[:6])
        hint = f"did you mean {near}?" if near else "`timm.list_models()` names all"
        raise ValueError(f"timm has no network named '{network}'; {hint}")
    found: Any = timm.get_pretrained_cfg(network)
    config = foreign_config(network, IMAGENET)
    if found is not None:
        config = replace(config, image_size=found.input_size[-1], mean=found.mean, std=found.std)
    return replace(config, pooling=timm_kind(network)[1])


def timm_classifiers(network: str) -> tuple[str, ...]:
    """What the names of a timm network's classifiers start with."""
    named: Any = timm.get_pretrained_cfg(network)
    found = getattr(named, "classifier", None) or "fc"
    return tuple(f"{name}." for name in ([found] if isinstance(found, str) else found))


def is_efficientnet_pytorch(tensors: Iterable[str]) -> bool:
    """Whether these are the names that the program EfficientNet-PyTorch gives, and no other."""
    return any(name.startswith("_conv_stem.") for name in tensors)


def efficientnet_layout(network: str) -> Layout:
    """How such a file names the network's tensors once they have timm's names; the Lite ones have their own colours."""
    return replace(EFFICIENTNET_PYTORCH, normalisation=LITE) if "_lite" in network else EFFICIENTNET_PYTORCH


def in_timms_names(tensors: Mapping[str, Tensor], network: str, where: object) -> dict[str, Tensor]:
    """The tensors of a file of EfficientNet-PyTorch under timm's names: both programs have them in the same order.

    ValueError unless number, kinds (weight, running mean ...) and shapes agree one by one.
    """
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in timm.create_model(network).state_dict().items()}
    pairs = list(zip(tensors.items(), wanted.items(), strict=False))
    fits = all(_last(theirs) == _last(ours) and tensor.shape == shape for (theirs, tensor), (ours, shape) in pairs)
    if len(tensors) != len(wanted) or not fits:
        raise ValueError(
            f"{where} (EfficientNet-PyTorch layout, {len(tensors)} tensors) does not hold {network}"
            f" ({len(wanted)} tensors): give the network that it is of; nothing was loaded"
        )
    return {ours: tensor for (_, tensor), (ours, _) in pairs}


def _last(name: str) -> str:
    return name.rpartition(".")[2]
