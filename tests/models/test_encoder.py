"""Any network with a map: timm's, by name, also those that give tokens. C channels, h x w positions."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor
from torch.testing import assert_close

from fra.api import FaceEncoder
from fra.models.encoder import Encoder, EncoderConfig, in_timms_layout
from fra.weights.load import encoder_fingerprint

NETWORKS = {  # name: channels, and pixels per position of the last map
    "resnet18": (512, 32),
    "convnext_atto": (320, 32),
    "convnextv2_atto": (320, 32),
    "efficientnet_b0": (1280, 32),
    "tf_efficientnet_lite0": (1280, 32),
    "mobilenetv3_small_050": (288, 32),
    "mobilenetv4_conv_small_050": (480, 32),
    "regnety_002": (368, 32),
    "vit_tiny_patch16_224": (192, 16),
    "test_vit2": (64, 16),  # a register, no class token
    "vit_small_patch16_dinov3": (384, 16),  # class token, four registers, rotary positions
    "swin_tiny_patch4_window7_224": (768, 32),
    "swinv2_tiny_window8_256": (768, 32),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_timm_give_a_map_at_the_size_asked_for_and_at_others(name: str) -> None:
    channels, stride = NETWORKS[name]
    encoder = Encoder(EncoderConfig(name, image_size=64)).eval()
    for side in (64, 96):
        seen = encoder.both(torch.rand(2, 3, side, side))
        assert seen.maps.shape == (2, channels, side // stride, side // stride)
        assert_close(seen.features, seen.maps.mean((2, 3)))
    seen.maps.square().sum().backward()  # processes wait for the gradients of all weights that are trained
    assert [key for key, w in encoder.named_parameters() if w.requires_grad and w.grad is None] == []


def tokens(encoder: Encoder, images: Tensor) -> Tensor:
    return encoder.backbone.forward_features((images - encoder.mean) / encoder.std)


@torch.no_grad()
def test_a_position_of_the_map_is_its_patch_and_class_and_register_tokens_are_apart() -> None:
    encoder, images = Encoder(EncoderConfig("vit_small_patch16_dinov3", image_size=64)).eval(), torch.rand(1, 3, 64, 96)
    found = tokens(encoder, images)[0]  # the class, four registers, then 4 rows of 6 patches
    assert found.shape == (29, 384)
    assert_close(encoder.maps(images)[0, :, 1, 2], found[5 + 6 + 2])
    # What only a change of one patch moves most is the map at its place.
    changed = images.clone()
    changed[:, :, 16:32, 32:48] += 0.5
    moved = (encoder.maps(changed) - encoder.maps(images)).abs().sum(1)[0]
    assert divmod(int(moved.argmax()), 6) == (1, 2)


@torch.no_grad()
def test_features_are_the_class_token_where_that_is_asked_for() -> None:
    images = torch.rand(2, 3, 64, 64)
    mean = Encoder(EncoderConfig("test_vit", image_size=64)).eval()
    token = Encoder(EncoderConfig("test_vit", image_size=64, pooling="class_token"), backbone=mean.backbone).eval()
    assert_close(token(images), tokens(token, images)[:, 0])
    assert_close(token.maps(images), mean.maps(images))
    assert encoder_fingerprint(token) != encoder_fingerprint(mean)
    api = FaceEncoder(token.config, backbone=token.backbone).eval()
    assert_close(api(images), token(images))


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "vit_base_patch16_siglip_224"])
def test_a_network_without_a_class_token_is_refused_where_one_is_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has no class token: leave encoder.pooling at mean"):
        Encoder(EncoderConfig(name, image_size=64, pooling="class_token"))


@pytest.mark.parametrize(
    "name, message",
    [
        ("xcit_nano_12_p8_224", "gives neither a map of features nor a grid of tokens: take another network, such as"),
        ("coat_tiny", "gives neither a map of features nor a grid of tokens"),
        ("maxvit_nano_rw_256", "does not accept images of 64 px"),
        ("vit_small_patch14_dinov2", "takes images whose sides are multiples of 14 px, not 64 x 64"),
    ],
)
def test_other_networks_and_sizes_are_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        Encoder(EncoderConfig(name, image_size=64))
    assert "\n" not in str(refusal.value)


def test_images_that_patches_do_not_fill_are_refused() -> None:
    with pytest.raises(ValueError, match="test_vit takes images whose sides are multiples of 16 px, not 72 x 64"):
        Encoder(EncoderConfig("test_vit", image_size=64))(torch.rand(1, 3, 72, 64))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of how timm resamples
@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_positions_are_resampled_as_timm_does_when_it_loads(name: str, tmp_path: Path) -> None:
    large, small = (Encoder(EncoderConfig(name, image_size=side)).backbone for side in (224, 64))
    torch.save(large.state_dict(), tmp_path / "weights.pth")
    file = {"file": tmp_path / "weights.pth", "num_classes": 0}
    theirs = timm.create_model(
        name, pretrained=True, num_classes=0, global_pool="", img_size=64, pretrained_cfg_overlay=file
    )
    small.load_state_dict(in_timms_layout(large.state_dict(), small))
    assert sum(tensor.shape != small.state_dict()[key].shape for key, tensor in large.state_dict().items()) > 0
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(small.state_dict()[key], tensor)


def test_a_state_that_fits_is_left_alone() -> None:
    backbone = Encoder(EncoderConfig("test_vit", image_size=64)).backbone
    state = backbone.state_dict()
    assert all(found is state[name] for name, found in in_timms_layout(state, backbone).items())
