"""3FabRec's networks: as many weights as published, shapes, first weights."""

import pytest
import torch
from torch import nn

from fra.models.encoder import FIVE_STAGES, Encoder, EncoderConfig, layers_of
from fra.models.face_decoder import CodeCritic, Discriminator, FaceDecoder


def weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_each_network_has_as_many_weights_as_published_for_256_pixels() -> None:
    with torch.device("meta"):
        encoder = Encoder(EncoderConfig(name=FIVE_STAGES, image_size=256))
        code = nn.Linear(encoder.channels, 99)
        networks = FaceDecoder(99, side=256), CodeCritic(99), Discriminator(side=256)
    assert weights(encoder) + weights(code) == 11_379_491
    assert [weights(network) for network in networks] == [10_868_096, 1_102_001, 1_743_744]


def test_the_encoder_of_five_stages_leaves_4_x_4_of_256_pixels() -> None:
    encoder = Encoder(EncoderConfig(name=FIVE_STAGES, image_size=256)).eval()
    with torch.inference_mode():
        assert encoder.maps(torch.rand(1, 3, 256, 256)).shape == (1, 512, 4, 4)
    assert len(layers_of(encoder.backbone, coarse=True)) == 6  # the stem and five stages


@pytest.mark.parametrize(
    ("side", "widths"), [(16, [64, 32]), (32, [64, 32, 16]), (64, [64, 32, 16, 8]), (256, [64, 32, 16, 8, 8, 8])]
)
def test_a_code_becomes_a_face_of_any_power_of_two(side: int, widths: list[int]) -> None:
    decoder = FaceDecoder(5, side=side, width=64).eval()
    assert decoder.widths == widths
    with torch.no_grad():
        faces = decoder(torch.randn(2, 5))
    assert faces.shape == (2, 3, side, side)
    assert faces.abs().max() <= 1
    assert Discriminator(side=side, width=4).eval()(faces).shape == (2,)


def test_sides_and_widths_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="faces of 96 px cannot be made: take 16, 32, 64, 128 or 256 px"):
        FaceDecoder(5, side=96)
    with pytest.raises(ValueError, match="take a multiple of 8"):
        FaceDecoder(5, side=64, width=20)


def test_first_weights_have_the_deviation_of_the_channels_that_come_out() -> None:
    torch.manual_seed(0)
    decoder = FaceDecoder(99, side=32, width=256)
    first, up = decoder.first[0].weight, decoder.blocks[0].up[0].weight
    assert first.std().item() == pytest.approx((2 / (16 * 256)) ** 0.5, rel=0.01)
    assert up.std().item() == pytest.approx((2 / (16 * 128)) ** 0.5, rel=0.01)
