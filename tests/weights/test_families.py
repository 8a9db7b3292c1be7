"""Foundation models: dictionaries of the published names and shapes, at tiny widths, read as timm itself reads them.

C channels, N positions of the file's position embedding.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.testing import assert_close

from fra.weights.foreign import import_encoder
from fra.weights.layouts import timm_config

State = dict[str, Tensor]
C, LAYERS = 64, 2
VIT = dict(embed_dim=C, depth=LAYERS, num_heads=2)


def filled(shapes: dict[str, tuple[int, ...]]) -> State:
    draw = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=draw) * 0.1 + (name.endswith(("norm.weight", "gamma")) and len(shape) == 1)
        for name, shape in shapes.items()
    }


def pair(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def vit(positions: int, patch: int, *, scaled: bool = False, embedded: bool = True) -> dict[str, tuple[int, ...]]:
    """The names that MAE, DINO, DINOv2 and DINOv3 share."""
    shapes = {"cls_token": (1, 1, C), **pair("patch_embed.proj", C, 3, patch, patch), **pair("norm", C)}
    if embedded:
        shapes["pos_embed"] = (1, positions + 1, C)
    for block in (f"blocks.{number}" for number in range(LAYERS)):
        shapes |= pair(f"{block}.norm1", C) | pair(f"{block}.norm2", C)
        shapes |= pair(f"{block}.attn.qkv", 3 * C, C) | pair(f"{block}.attn.proj", C, C)
        shapes |= pair(f"{block}.mlp.fc1", 4 * C, C) | pair(f"{block}.mlp.fc2", C, 4 * C)
        if scaled:
            shapes |= {f"{block}.ls1.gamma": (C,), f"{block}.ls2.gamma": (C,)}
    return shapes


def mae() -> dict[str, Any]:
    """facebookresearch/mae, pre-training: also FMAE's files and what MCF trains."""
    shapes = vit(196, 16) | {"mask_token": (1, 1, 32), "decoder_pos_embed": (1, 197, 32)}
    shapes |= pair("decoder_embed", 32, C) | pair("decoder_norm", 32) | pair("decoder_pred", 768, 32)
    shapes |= pair("decoder_blocks.0.attn.qkv", 96, 32) | pair("decoder_blocks.0.mlp.fc1", 128, 32)
    return {"model": filled(shapes), "epoch": 3}


def dino() -> dict[str, Any]:
    """facebookresearch/dino: the teacher counts."""
    state = filled(vit(196, 16))
    below = {f"module.backbone.{name}": tensor for name, tensor in state.items()}
    return {
        "student": {name: t * 0 for name, t in below.items()},
        "teacher": below | {"module.head.last": state["norm.bias"]},
    }


def dinov2() -> State:
    return filled(vit(37 * 37, 14, scaled=True) | {"mask_token": (1, C)})


def dinov2_registers() -> State:
    return filled(vit(37 * 37, 14, scaled=True) | {"mask_token": (1, C), "register_tokens": (1, 4, C)})


def dinov3() -> State:
    """facebookresearch/dinov3: queries and values have a bias, keys a mask in its place."""
    state = filled(vit(0, 16, scaled=True, embedded=False) | {"mask_token": (1, C), "storage_tokens": (1, 4, C)}) | {
        "rope_embed.periods": torch.rand(8)
    }
    for block in range(LAYERS):
        state[f"blocks.{block}.attn.qkv.bias_mask"] = torch.cat([torch.ones(C), torch.zeros(C), torch.ones(C)])
    return state


def dinov3_without_bias() -> State:
    return {name: tensor * 0 if name.endswith("qkv.bias") else tensor for name, tensor in dinov3().items()}


def clip(*, farl: bool = False) -> State:
    """openai/CLIP; FaRL's has also the parts of its masked image model."""
    shapes = {
        "class_embedding": (C,),
        "positional_embedding": (197, C),
        "proj": (C, 32),
        "conv1.weight": (C, 3, 16, 16),
    }
    shapes |= pair("ln_pre", C) | pair("ln_post", C)
    towers = ["transformer", "lm_transformer"] if farl else ["transformer"]
    for block in (f"{tower}.resblocks.{number}" for tower in towers for number in range(LAYERS)):
        shapes |= {f"{block}.attn.in_proj_weight": (3 * C, C), f"{block}.attn.in_proj_bias": (3 * C,)}
        shapes |= pair(f"{block}.attn.out_proj", C, C) | pair(f"{block}.ln_1", C) | pair(f"{block}.ln_2", C)
        shapes |= pair(f"{block}.mlp.c_fc", 4 * C, C) | pair(f"{block}.mlp.c_proj", C, 4 * C)
    if farl:
        shapes |= {"mask_token": (C,)} | pair("ln_lm", C) | pair("lm_head", 100, C)
    text = {"positional_embedding": (77, 48), "token_embedding.weight": (100, 48), "logit_scale": ()}
    text |= {"text_projection": (48, 32)} | pair("ln_final", 48) | pair("transformer.resblocks.0.mlp.c_fc", 192, 48)
    return filled({f"visual.{name}": shape for name, shape in shapes.items()} | text)


def farl() -> dict[str, Any]:
    return {"state_dict": clip(farl=True)}


def convnext() -> State:
    """facebookresearch/ConvNeXt; DINOv3's have the last norm a second time."""
    widths, shapes = (8, 16, 24, 32), pair("norm", 32) | pair("norms.3", 32)
    shapes |= pair("downsample_layers.0.0", 8, 3, 4, 4) | pair("downsample_layers.0.1", 8)
    for stage, width in enumerate(widths):
        if stage:
            before = widths[stage - 1]
            shapes |= pair(f"downsample_layers.{stage}.0", before) | pair(
                f"downsample_layers.{stage}.1", width, before, 2, 2
            )
        block = f"stages.{stage}.0"
        shapes |= pair(f"{block}.dwconv", width, 1, 7, 7) | pair(f"{block}.norm", width) | {f"{block}.gamma": (width,)}
        shapes |= pair(f"{block}.pwconv1", 4 * width, width) | pair(f"{block}.pwconv2", width, 4 * width)
    return filled(shapes)


FILES: dict[str, tuple[Callable[[], Any], str, str, dict[str, Any]]] = {
    "MAE": (mae, "MAE", "vit_base_patch16_224.mae", VIT),
    "DINO": (dino, "ViT", "vit_small_patch16_224.dino", VIT),
    "DINOv2": (dinov2, "DINOv2", "vit_small_patch14_dinov2.lvd142m", VIT),
    "DINOv2 with registers": (dinov2_registers, "DINOv2", "vit_small_patch14_reg4_dinov2.lvd142m", VIT),
    "DINOv3": (dinov3, "DINOv3", "vit_small_patch16_dinov3_qkvb.lvd1689m", VIT),
    "DINOv3 without biases": (dinov3_without_bias, "DINOv3", "vit_base_patch16_dinov3.lvd1689m", VIT),
    "CLIP": (clip, "CLIP or FaRL", "vit_base_patch16_clip_quickgelu_224.openai", VIT),
    "FaRL": (farl, "CLIP or FaRL", "vit_base_patch16_clip_quickgelu_224.openai", VIT),
    "DINOv3 ConvNeXt": (
        *(convnext, "ConvNeXt", "convnext_tiny.dinov3_lvd1689m"),
        dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)),
    ),
}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Make timm build its networks at tiny widths."""
    create = timm.create_model

    def narrowed(sizes: dict[str, Any]) -> None:
        monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **sizes | options))

    return narrowed


def tensors_of(content: dict[str, Any]) -> State:
    return content.get("model") or content.get("teacher") or content.get("state_dict") or content


@pytest.mark.parametrize("kind", FILES)
def test_features_are_those_of_timms_own_loading(kind: str, narrow: Any, tmp_path: Path) -> None:
    build, layout, name, sizes = FILES[kind]
    narrow(sizes)
    content, path = build(), tmp_path / "weights.pth"
    torch.save(content, path)
    found = import_encoder(path, network=name)
    assert found.report.layout == layout
    assert sum(found.report.read.values()) + sum(found.report.skipped.values()) == len(tensors_of(content))
    torch.save({re.sub(r"^module\.backbone\.", "", key): t for key, t in tensors_of(content).items()}, path)
    theirs = timm.create_model(
        name, pretrained=True, pretrained_strict=False, num_classes=0, pretrained_cfg_overlay={"file": path}
    ).eval()
    config = timm_config(name)
    assert (found.model.config.mean, found.model.config.pooling) == (config.mean, config.pooling)
    images = torch.rand(2, 3, config.image_size, config.image_size)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    with torch.no_grad():
        expected = theirs((images - mean) / std)
        if kind.endswith("ConvNeXt"):  # its norm after the mean is not part of the map
            expected = theirs.forward_features((images - mean) / std).mean((2, 3))
        assert_close(found.model(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["MAE", "DINOv3", "FaRL", "DINOv3 ConvNeXt"])
def test_a_file_that_lacks_a_tensor_or_has_one_more_is_refused_by_name(kind: str, narrow: Any, tmp_path: Path) -> None:
    build, _, name, sizes = FILES[kind]
    narrow(sizes)
    for short in ("blocks.1.norm2.bias", "resblocks.1.ln_2.bias", "stages.1.0.norm.bias"):
        content = build()
        tensors = tensors_of(content)
        for key in [key for key in tensors if key.endswith(short) and ".lm_" not in key]:
            whole = dict(tensors)
            tensor = tensors.pop(key)
            torch.save(content, tmp_path / "less.pth")
            with pytest.raises(ValueError, match=r"1 tensor missing \(.*; nothing was loaded"):
                import_encoder(tmp_path / "less.pth", network=name)
            more = whole | {re.sub(r"\.1\.", ".7.", key, count=1): tensor}
            torch.save(more, tmp_path / "more.pth")
            with pytest.raises(ValueError, match=r"unknown \(.*nothing was loaded"):
                import_encoder(tmp_path / "more.pth", network=name)


@pytest.mark.parametrize(
    "kind, other, message",
    [
        ("CLIP", "vit_base_patch16_224", "unknown .*norm_pre.bias.*; nothing was loaded"),
        ("CLIP", "vit_base_patch32_clip_224", "has patches of 16 px, and the network of 32"),
        ("DINOv2 with registers", "vit_small_patch14_dinov2", "unknown .*(reg_token|register_tokens)"),
        ("DINOv2", "vit_small_patch14_reg4_dinov2", "missing .*reg_token"),
        ("DINOv3", "vit_small_patch16_dinov3", r"has biases of queries and values \(blocks.0.attn.qkv.bias\)"),
        ("MAE", "convnext_tiny", "is not a complete convnext_tiny"),
    ],
)
def test_another_network_than_the_files_is_refused(
    kind: str, other: str, message: str, narrow: Any, tmp_path: Path
) -> None:
    build, *_ = FILES[kind]
    narrow({} if other.startswith("convnext") else VIT)
    torch.save(build(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message) as refusal:
        import_encoder(tmp_path / "weights.pth", network=other)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", FILES)
def test_without_a_network_the_advice_names_one(kind: str, tmp_path: Path) -> None:
    build, layout, *_ = FILES[kind]
    torch.save(build(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"is a checkpoint of a {layout}: name its network as timm does") as refusal:
        import_encoder(tmp_path / "weights.pth")
    (example,) = re.findall(r"timm:(\S+)=", str(refusal.value))
    assert timm.is_model(example)
