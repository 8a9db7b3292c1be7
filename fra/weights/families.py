"""Files of ViT, Swin and ConvNeXt: whose they are, and their tensors under timm's names.

timm itself translates the names; what it would let pass in silence is refused here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timm.models.convnext import ConvNeXt
from torch import Tensor

from fra.models.encoder import TOKEN_NETWORKS, in_timms_layout
from fra.weights.rebuild import below, shapes


@dataclass(frozen=True)
class Family:
    """Programs that name the tensors of a kind of network alike."""

    name: str
    mark: str
    """How one of their names ends."""
    network: str
    """One of timm's, as an example."""


FAMILIES = (  # the first that fits
    Family("CLIP or FaRL", "visual.class_embedding", "vit_base_patch16_clip_quickgelu_224.openai"),
    Family("DINOv3", "storage_tokens", "vit_small_patch16_dinov3"),
    Family("MAE", "decoder_embed.weight", "vit_base_patch16_224.mae"),
    Family("DINOv2", "blocks.0.ls1.gamma", "vit_small_patch14_dinov2"),
    Family("ConvNeXt", "downsample_layers.0.0.weight", "convnext_tiny"),
    Family("Swin", "relative_position_bias_table", "swin_tiny_patch4_window7_224"),
    Family("ViT", "cls_token", "vit_base_patch16_224"),
)
PARTS = (
    *("cls_token", "reg_token", "dist_token", "pos_embed", "patch_embed", "norm_pre", "blocks", "norm", "fc_norm"),
    *("layers", "stem", "stages", "register_tokens", "storage_tokens"),
)
"""What the names of such a network's tensors begin with: one that it does not take is not left aside."""


def family_of(tensors: Mapping[str, Tensor]) -> Family | None:
    """Whose file it is."""
    return next((one for one in FAMILIES if any(name.endswith(one.mark) for name in tensors)), None)


@dataclass(frozen=True)
class Translated:
    """A network's tensors under timm's names."""

    tensors: dict[str, Tensor]
    called: dict[str, str]
    """What the file calls them, where it does so one by one."""
    used: list[str]
    """The file's entries that they were made of."""


def translates(network: Any) -> bool:
    return type(network) in (*TOKEN_NETWORKS, ConvNeXt)


def translated(
    tensors: Mapping[str, Tensor], network: Any, *, prefixes: set[str], classifiers: tuple[str, ...], where: object
) -> Translated:
    """The tensors of `network` in a file's, below the one of `prefixes` under which there are most of them.

    ValueError when the file has other patches than the network, or biases that it has no place for; what else does not
    fit is left to `fill`.
    """
    wanted = shapes(network)
    tries = {prefix: _tried(below(prefix, tensors), network) for prefix in sorted(prefixes)}
    prefix = max(tries, key=lambda one: sum(wanted.get(name) == t.shape for name, t in tries[one].items()))
    theirs, found = below(prefix, tensors), tries[prefix]
    _refuse_losses(theirs, found, network, where)
    mine = {
        name: tensor
        for name, tensor in found.items()
        if (name in wanted or name.partition(".")[0] in PARTS) and not name.startswith(classifiers)
    }
    memory = {tensor.untyped_storage().data_ptr() for tensor in mine.values()}
    used = [name for name, t in theirs.items() if name in mine or t.untyped_storage().data_ptr() in memory]
    called = {name: prefix + name for name in mine if name in theirs}
    return Translated(mine, called, [prefix + name for name in used])


def _tried(tensors: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
    try:
        return in_timms_layout(tensors, network)
    except (KeyError, AttributeError, RuntimeError, IndexError, ValueError):  # of tensors that are no such network's
        return dict(tensors)


def _refuse_losses(theirs: Mapping[str, Tensor], found: Mapping[str, Tensor], network: Any, where: object) -> None:
    side = network.patch_embed.patch_size[0] if type(network) in TOKEN_NETWORKS else 0
    for name, tensor in theirs.items():
        is_patches = tensor.dim() == 4 and name.endswith(("patch_embed.proj.weight", "visual.conv1.weight"))
        if side and is_patches and tensor.shape[-1] != side:
            raise ValueError(
                f"{where} has patches of {tensor.shape[-1]} px, and the network of {side}: give the network that it"
                " is of; nothing was loaded"
            )
        if name.endswith("attn.qkv.bias") and not any(key.endswith(("q_bias", "qkv.bias")) for key in found):
            query, _, value = tensor.chunk(3)
            if query.any() or value.any():
                raise ValueError(
                    f"{where} has biases of queries and values ({name}), and the network none: give one with them"
                    " (NAME_qkvb); nothing was loaded"
                )
