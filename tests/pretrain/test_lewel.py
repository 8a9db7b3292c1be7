"""LEWEL: its golden values, what its projector sees, and its place beside BYOL."""

import math

import pytest
import torch
from torch.testing import assert_close

from fra.models.encoder import Encoder, EncoderConfig
from fra.pretrain.byol import BYOL, BYOLConfig
from fra.pretrain.lewel import LEWEL, LEWELConfig, align, attention_maps
from fra.pretrain.method import HeadConfig
from fra.training.trainable import Progress

SMALL = HeadConfig(hidden=32, out=16)
START = Progress(step=0, steps=10, epoch=0, epochs=1)


def small_encoder() -> Encoder:
    return Encoder(EncoderConfig(name="resnet10_quarter", last_stride=1, image_size=32))


def views() -> list[torch.Tensor]:
    return [torch.rand(4, 3, 32, 32) for _ in range(2)]


def test_golden_maps_and_aligned_vectors() -> None:
    pixels = torch.tensor([[1.0, 2, 0], [0, 1, 1], [2, 0, 1], [1, 1, 1]]).T[None]
    projected = torch.tensor([[0.5, 1, 0], [0, 0.3, 0.2], [1, 0, 0.4], [0.1, 0.2, 0.3]]).T[None]
    maps = attention_maps(projected, heads=2, scale=1.0)
    first = torch.tensor([[0.304738, 0.500064, 0.195198], [0.264843, 0.351200, 0.383957]])
    second = torch.tensor([[0.440015, 0.180537, 0.379448], [0.270203, 0.298339, 0.431459]])
    assert_close(maps[0], torch.stack([first, second]), atol=1e-6, rtol=0)
    # rows of the published table are channels, ours are the aligned vectors
    pooled = torch.tensor([[1.304866, 0.967243], [0.695262, 0.735156], [1.259477, 0.971864], [1, 1]])
    assert_close(align(pixels, maps)[0], pooled.T, atol=1e-6, rtol=0)


def test_each_head_pools_its_own_channels_under_its_own_maps() -> None:
    pixels, projected = torch.rand(2, 9, 8), torch.randn(2, 9, 12)
    maps = attention_maps(projected, heads=4, scale=0.5)
    assert maps.shape == (2, 4, 3, 9)
    assert_close(maps.sum(-1), torch.ones(2, 4, 3))
    found = align(pixels, maps)
    for vector in range(3):
        for channel in range(8):  # head = channel // 2 of 8 channels in 4 heads
            by_hand = (maps[:, channel // 2, vector] * pixels[:, :, channel]).sum(1)
            assert_close(found[:, vector, channel], by_hand)


def test_one_projector_normalises_pooled_vectors_and_pixels_together() -> None:
    method = LEWEL(LEWELConfig(head=SMALL), small_encoder()).train()
    network, images = method.online, views()[0]
    network.projector.norm.momentum = 1.0  # running statistics are then those of the last batch
    network(images)
    with torch.no_grad():
        pixels = network.encoder.maps(images).flatten(2).transpose(1, 2)
        rows = torch.cat([pixels.mean(1, keepdim=True), pixels], 1).flatten(0, 1)
        hidden = network.projector.first(rows)
    assert len(rows) == 4 * (1 + 4)
    assert_close(network.projector.norm.running_mean, hidden.mean(0))


def test_the_loss_is_the_weighted_sum_of_both_terms_in_both_directions() -> None:
    method = LEWEL(LEWELConfig(head=SMALL, face_weight=0.3, aligned_weight=0.7), small_encoder()).eval()
    found = method.loss(views(), START)
    assert_close(found.total, 0.3 * found.terms["same_face"] + 0.7 * found.terms["same_aligned"])
    assert all(0 < term < 8 for term in found.terms.values())


def test_without_the_aligned_term_its_gradients_are_byols() -> None:
    torch.manual_seed(0)
    byol = BYOL(BYOLConfig(head=SMALL), small_encoder()).eval()
    lewel = LEWEL(LEWELConfig(head=SMALL, face_weight=1.0, aligned_weight=0.0), small_encoder()).eval()
    for network, other in [(lewel.online, byol.online), (lewel.teacher.network, byol.teacher.network)]:
        network.encoder.load_state_dict(other.encoder.state_dict())
        network.projector.load_state_dict(other.projector.state_dict())
    lewel.face_predictor.load_state_dict(byol.predictor.state_dict())
    seen = views()
    for method in (byol, lewel):
        method.loss(seen, START).total.backward()
    for (name, ours), theirs in zip(lewel.encoder.named_parameters(), byol.encoder.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, msg=name)


def test_the_eman_teacher_is_an_eval_copy_of_everything() -> None:
    method = LEWEL(LEWELConfig(head=SMALL, follow_buffers=True, teacher_momentum=0.0), small_encoder()).train()
    assert not method.teacher.network.training
    method.loss(views(), START)
    method.after_step(START)
    for ours, theirs in zip(method.teacher.network.buffers(), method.online.buffers(), strict=True):
        assert_close(ours, theirs)


def test_health_shows_how_uniform_the_maps_are() -> None:
    uniform = LEWEL(LEWELConfig(head=SMALL, scale=1e6), small_encoder()).eval()
    sharp = LEWEL(LEWELConfig(head=SMALL, scale=1e-3), small_encoder()).eval()
    faces = views()[0]
    with torch.no_grad():
        found = uniform.own_health(faces)
        assert found["map_entropy"] == pytest.approx(math.log(4), abs=1e-4)  # 32 px: a map of 2 x 2
        assert found["map_uniformity"] == pytest.approx(1, abs=1e-4)
        assert sharp.own_health(faces)["map_uniformity"] < 0.7


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of heads \(3\)"):
        LEWEL(LEWELConfig(head=SMALL, heads=3), small_encoder())
