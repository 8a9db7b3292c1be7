"""The encoder: what pre-training leaves behind. Any timm network with a feature map, ResNets above all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
from jaxtyping import Float
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from fra.models.hourglass import HourglassStem
from fra.recipe import Pixels, Positive, Settings, Share

FACE_MEAN = (0.5231, 0.4044, 0.3489)  # of VGGFace2 crops (spec fra.md, section 8)
FACE_STD = (0.2536, 0.2194, 0.2070)

# Small networks of our own for minutes instead of days; timm's ResNet class, so keys keep torchvision's names.
SMALL_RESNETS: dict[str, dict[str, Any]] = {
    "resnet10": dict(block=BasicBlock, layers=(1, 1, 1, 1)),
    "resnet10_quarter": dict(block=BasicBlock, layers=(1, 1, 1, 1), channels=(16, 32, 64, 128), stem_width=16),
    "resnet10_half": dict(block=BasicBlock, layers=(1, 1, 1, 1), channels=(32, 64, 128, 256), stem_width=32),
    "resnet18_half": dict(block=BasicBlock, layers=(2, 2, 2, 2), channels=(32, 64, 128, 256), stem_width=32),
}


@dataclass(frozen=True)
class EncoderConfig(Settings):
    """The network, and the resolution of its last feature map."""

    name: str = "resnet50"
    """A timm name, or one of SMALL_RESNETS (ResNet-50: supplement 5.1)."""
    last_stride: Literal[1, 2] = 2
    """Stride of the last stage that halves the map; 1 doubles its height and width (ours, for small images)."""
    third_stride: Literal[1, 2] = 2
    """Stride of the stage that halves it before; with both 1 the last map is four times as high and wide (ours)."""
    image_size: Pixels = 224
    """Side of the square training images in pixels (released code: 224)."""
    mean: tuple[Share, Share, Share] = FACE_MEAN
    """Normalisation mean per channel, RGB in [0, 1] (released code)."""
    std: tuple[Positive, Positive, Positive] = FACE_STD
    """Normalisation standard deviation per channel (released code)."""


HOURGLASS = EncoderConfig(name="hourglass", image_size=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""The first layers of STAR's own network, for its star protocol only; colours in [-1, 1] (STAR, released code)."""


class Encoder(nn.Module):
    """Images (B, 3, H, W), RGB in [0, 1], to features (B, C); `.maps` gives (B, C, h, w) before the mean.

    Normalisation happens inside, so it cannot be forgotten. `backbone` keeps timm's (torchvision's) key names.
    """

    def __init__(self, config: EncoderConfig, *, pretrained: bool = False, backbone: Any = None) -> None:
        """`backbone` is a network that `config` describes; without it one is built."""
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config, pretrained=pretrained) if backbone is None else backbone
        self.channels: int = self.backbone.num_features
        self.image_size = config.image_size
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def maps(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        normalised = (images - self.mean) / self.std
        return self.backbone.forward_features(normalised.contiguous(memory_format=torch.channels_last))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        return self.maps(images).mean((2, 3))


def build_backbone(config: EncoderConfig, *, pretrained: bool = False) -> Any:
    """The bare network (timm's, a nn.Module) without pooling and classifier, in channels-last memory format.

    Raises ValueError for an unknown name, a network without a feature map, or a stride of 1 where it is not supported.
    """
    if config.name in SMALL_RESNETS:
        options = dict(SMALL_RESNETS[config.name])
        network: Any = ResNet(options.pop("block"), num_classes=0, global_pool="", zero_init_last=False, **options)
    elif timm.is_model(config.name):
        # The last batch norm of a block starts at one, as in torchvision (spec fra.md, section 1).
        extra: dict[str, Any] = {"zero_init_last": False} if config.name.startswith("resnet") else {}
        network = timm.create_model(config.name, pretrained=pretrained, num_classes=0, global_pool="", **extra)
        if not isinstance(network, ResNet):
            _require_map(network, config)
    elif config.name == HOURGLASS.name:
        network = HourglassStem()
    else:
        near = ", ".join([*SMALL_RESNETS, *timm.list_models("resnet[0-9]*")[:6]])
        raise ValueError(f"no encoder named '{config.name}': use a timm name or one of {near}")
    make_stages_fine(network, config)
    return network.to(memory_format=torch.channels_last)


@torch.no_grad()
def _require_map(network: Any, config: EncoderConfig) -> None:
    """Raises ValueError for a network whose answer is no map (C, h, w) of `num_features` channels, such as a ViT's."""
    image = torch.zeros(1, 3, config.image_size, config.image_size)
    try:
        shape = network.eval().forward_features(image).shape
    except (AssertionError, RuntimeError, IndexError) as error:
        raise ValueError(f"{config.name} does not accept images of {config.image_size} px: {error}") from error
    network.train()
    if len(shape) != 4 or shape[1] != network.num_features:
        raise ValueError(
            f"{config.name} gives no map of features but {tuple(shape[1:])}: take a convolutional network, such as a "
            "ResNet or ConvNeXt"
        )


def make_stages_fine(network: Any, config: EncoderConfig) -> list[str]:
    """Give the last two stages that halve the map the strides of `config`; the names of the convolutions that changed.

    Of ResNets and of the EfficientNet family. Nothing is dilated: an encoder that is trained on gets used to it, and
    dilated depthwise convolutions take eight times as long on a CPU.
    """
    changed = []
    for stage, stride in zip(_halving(network), (config.third_stride, config.last_stride), strict=True):
        if stride == 2:
            continue
        if not stage:
            raise ValueError(
                f"a stride of 1 is supported for ResNets and EfficientNets only, not for {config.name}: leave it at 2"
            )
        for name in stage:
            for inner, module in network.get_submodule(name).named_modules(prefix=name):
                if isinstance(module, nn.AvgPool2d):
                    raise ValueError(f"a stride of 1 is not supported for {config.name}: leave it at 2")
                if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                    module.stride = (1, 1)
                    changed.append(inner)
    return changed


def _halving(network: Any) -> tuple[list[str], list[str]]:
    """The names of the modules in which the map is halved last but once, and last; none where it is not known."""
    if isinstance(network, ResNet):
        return ["layer3"], ["layer4"]
    if isinstance(network, EfficientNet | MobileNetV3):
        stages = [f"blocks.{number}" for number in range(len(network.blocks)) if _has_stride(network.blocks[number])]
        return stages[-2:-1], stages[-1:]
    return [], []


def _has_stride(module: nn.Module) -> bool:
    return any(isinstance(inner, nn.Conv2d) and inner.stride == (2, 2) for inner in module.modules())


def in_batches(network: Callable[[Tensor], Tensor], inputs: Tensor, *, batch: int = 128) -> Tensor:
    """`network` over all inputs, `batch` at a time, in float32; inputs and weights are on one device."""
    return torch.cat([network(part) for part in inputs.split(batch)]).float()
