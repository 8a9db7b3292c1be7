"""The encoder: what pre-training leaves behind. Any timm network with a map of features or a grid of tokens."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from typing import Any, Literal, NamedTuple

import timm
import torch
from jaxtyping import Float
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.eva import Eva
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import BasicBlock, ResNet, downsample_conv
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fra.models.hourglass import HourglassStem
from fra.recipe import LATER, Pixels, Positive, Settings, Share

FACE_MEAN = (0.5231, 0.4044, 0.3489)  # of VGGFace2 crops (spec fra.md, section 8)
FACE_STD = (0.2536, 0.2194, 0.2070)

# Small networks of our own for minutes instead of days; timm's ResNet class, so keys keep torchvision's names.
SMALL_RESNETS: dict[str, dict[str, Any]] = {
    "resnet10": dict(block=BasicBlock, layers=(1, 1, 1, 1)),
    "resnet10_quarter": dict(block=BasicBlock, layers=(1, 1, 1, 1), channels=(16, 32, 64, 128), stem_width=16),
    "resnet10_half": dict(block=BasicBlock, layers=(1, 1, 1, 1), channels=(32, 64, 128, 256), stem_width=32),
    "resnet18_half": dict(block=BasicBlock, layers=(2, 2, 2, 2), channels=(32, 64, 128, 256), stem_width=32),
}

FIVE_STAGES = "resnet18_five_stages"
"""The name of `FiveStageResNet`."""

TOKEN_NETWORKS: dict[type[nn.Module], dict[str, Any]] = {
    VisionTransformer: {"dynamic_img_size": True},
    Eva: {"dynamic_img_size": True},
    SwinTransformer: {"strict_img_size": False},
    SwinTransformerV2: {"strict_img_size": False},
}
"""timm's networks that are built for one image size, with what makes them take others too."""
BEHIND_THE_MAP: dict[type[nn.Module], tuple[str, ...]] = {
    ConvNeXt: ("head",),
    MobileNetV3: ("conv_head", "norm_head"),
}
"""What timm computes from the pooled map: it gets no gradient here, for which several devices would wait."""
Pooling = Literal["mean", "class_token"]


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
    pooling: Pooling = field(default="mean", metadata=LATER, repr=False)
    """What the features are: the mean of the last map (of a ViT's patch tokens), or a ViT's class token."""


HOURGLASS = EncoderConfig(name="hourglass", image_size=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""The first layers of STAR's own network, for its star protocol only; colours in [-1, 1] (STAR, released code)."""


class FiveStageResNet(ResNet):
    """ResNet-18 with a stage more: `layer0` is what `layer1` is elsewhere, `layer1` halves the map, as all after it do.

    The last map is 4 x 4 at 256 pixels (3FabRec's encoder, Browatzki and Wallraven, CVPR 2020, released code).
    """

    layer0: nn.Module
    layer1: nn.Module

    def __init__(self) -> None:
        block: Any = BasicBlock
        super().__init__(block, (2, 2, 2, 2), num_classes=0, global_pool="", zero_init_last=False)
        self.layer0 = self.layer1
        halving = BasicBlock(64, 64, stride=2, downsample=downsample_conv(64, 64, kernel_size=1, stride=2))
        self.layer1 = nn.Sequential(halving, BasicBlock(64, 64))
        self.init_weights(zero_init_last=False)

    def forward_features(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        stem: list[Any] = [self.conv1, self.bn1, self.act1, self.maxpool]
        for layer in (*stem, self.layer0, self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x


class Seen(NamedTuple):
    """What an encoder says of images."""

    maps: Float[Tensor, "B C h w"]
    """The last map; of token networks the grid of patch tokens."""
    features: Float[Tensor, "B C"]
    """The map's mean, or the class token."""


class Encoder(nn.Module):
    """Images (B, 3, H, W), RGB in [0, 1], to features (B, C); `.maps` gives (B, C, h, w), `.both` gives both.

    Normalisation happens inside, so it cannot be forgotten. `backbone` keeps timm's (torchvision's) key names.
    """

    beside: Any = None
    """What a protocol has fetched from the run that the encoder is from; no part of the encoder."""

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

    def both(self, images: Float[Tensor, "B 3 H W"]) -> Seen:
        """Raises ValueError for a ViT's images whose sides are no multiple of its patches'."""
        require_whole_patches(self.backbone, self.config.name, images.shape[-2:])
        normalised = (images - self.mean) / self.std
        last = self.backbone.forward_features(normalised.contiguous(memory_format=torch.channels_last))
        maps = as_map(self.backbone, last, images.shape[-2:])
        return Seen(maps, maps.mean((2, 3)) if self.config.pooling == "mean" else last[:, 0])

    def maps(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        return self.both(images).maps

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C"]:
        return self.both(images).features


def as_map(network: Any, last: Tensor, sides: Sequence[int]) -> Float[Tensor, "B C h w"]:
    """timm's last features of images with these `sides` as a map: of tokens those of patches, in their grid."""
    if last.dim() == 3:
        return last[:, network.num_prefix_tokens :].transpose(1, 2).unflatten(2, patch_grid(network, sides))
    return last.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else last


def patch_grid(network: Any, sides: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the patches of an image with these `sides`, height first, in pixels."""
    height, width = (side // patch for side, patch in zip(sides, network.patch_embed.patch_size, strict=True))
    return height, width


def require_whole_patches(network: Any, name: str, sides: Sequence[int]) -> None:
    """Raises ValueError for a token network's images whose sides, in pixels, are no multiples of its patches'."""
    patch = network.patch_embed.patch_size[0] if type(network) in TOKEN_NETWORKS else 1
    if any(side % patch for side in sides):
        raise ValueError(f"{name} takes images whose sides are multiples of {patch} px, not {sides[0]} x {sides[1]}")


def build_backbone(config: EncoderConfig, *, pretrained: bool = False) -> Any:
    """The bare network (timm's, a nn.Module) without pooling and classifier, in channels-last memory format.

    Raises ValueError for an unknown name, a network without a feature map or without the class token that is asked
    for, or a stride of 1 where it is not supported.
    """
    if config.name in SMALL_RESNETS:
        options = dict(SMALL_RESNETS[config.name])
        network: Any = ResNet(options.pop("block"), num_classes=0, global_pool="", zero_init_last=False, **options)
    elif timm.is_model(config.name):
        network = _timm_network(config, pretrained=pretrained)
    elif config.name == HOURGLASS.name:
        network = HourglassStem()
    elif config.name == FIVE_STAGES:
        network = FiveStageResNet()
    else:
        near = ", ".join([*SMALL_RESNETS, *timm.list_models("resnet[0-9]*")[:6]])
        raise ValueError(f"no encoder named '{config.name}': use a timm name or one of {near}")
    if config.pooling == "class_token" and getattr(network, "cls_token", None) is None:
        raise ValueError(f"{config.name} has no class token: leave encoder.pooling at mean")
    make_stages_fine(network, config)
    for name, module in network.named_children():
        if name in BEHIND_THE_MAP.get(type(network), ()):
            module.requires_grad_(False)
    return network.to(memory_format=torch.channels_last)


def timm_options(config: EncoderConfig) -> dict[str, Any]:
    """What else timm is told when it builds a network."""
    if config.name.startswith("resnet"):
        return {"zero_init_last": False}  # as in torchvision: blocks' last batch norms start at one (spec fra.md, 1)
    kind, _ = timm_kind(config.name)
    return {"img_size": config.image_size, **TOKEN_NETWORKS[kind]} if kind in TOKEN_NETWORKS else {}


@cache
def timm_kind(name: str) -> tuple[type[nn.Module], Pooling]:
    """The class of a timm network, and what its own features are as far as fra has it; nothing is allocated."""
    with torch.device("meta"):
        network: Any = timm.create_model(name, num_classes=0)
    return type(network), "class_token" if getattr(network, "global_pool", None) == "token" else "mean"


def _timm_network(config: EncoderConfig, *, pretrained: bool) -> Any:
    no_map = f"{config.name} gives neither a map of features nor a grid of tokens"
    advice = "take another network, such as a ResNet, ConvNeXt, ViT or Swin"
    try:
        network = timm.create_model(
            config.name, pretrained=pretrained, num_classes=0, global_pool="", **timm_options(config)
        )
    except AssertionError as error:  # of a network that cannot be had without its pooling
        raise ValueError(f"{no_map}: {advice}") from error
    if not isinstance(network, ResNet) and not _has_map(network, config):
        raise ValueError(f"{no_map}: {advice}")
    return network


@torch.no_grad()
def _has_map(network: Any, config: EncoderConfig) -> bool:
    """Whether its answer becomes a map of `num_features` channels. ValueError when it takes no images of this size."""
    sides = (config.image_size, config.image_size)
    require_whole_patches(network, config.name, sides)
    try:
        last = network.eval().forward_features(torch.zeros(1, 3, *sides))
    except (AssertionError, RuntimeError, IndexError) as error:
        raise ValueError(f"{config.name} does not accept images of {config.image_size} px: {error}") from error
    network.train()
    try:
        shape = as_map(network, last, sides).shape
    except (AttributeError, TypeError, RuntimeError):
        return False
    return len(shape) == 4 and shape[1] == network.num_features


def in_timms_layout(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A state under timm's names, as timm's own loading makes it.

    That is: names of other programs are translated where timm knows them, position embeddings and Swin's tables of
    relative positions are resampled to the network's grid.
    """
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None or {name: tensor.shape for name, tensor in tensors.items()} == wanted:
        return dict(tensors)
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")  # both of these are about timm's own insides
        return convert(dict(tensors), network)


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


def layers_of(backbone: Any, *, coarse: bool = False) -> list[list[str]]:
    """The names of a network's weights layer by layer, or stage by stage (`coarse`), the stem first, as timm has them.

    ValueError where timm does not say.
    """
    if not hasattr(backbone, "group_matcher"):
        raise ValueError(f"the layers of {type(backbone).__name__} are not known: take a network of timm")
    groups = timm.models.group_parameters(backbone, backbone.group_matcher(coarse=coarse))
    return [groups[layer] for layer in sorted(groups)]


def in_batches(network: Callable[[Tensor], Tensor], inputs: Tensor, *, batch: int = 128) -> Tensor:
    """`network` over all inputs, `batch` at a time, in float32; inputs and weights are on one device."""
    return torch.cat([network(part) for part in inputs.split(batch)]).float()
