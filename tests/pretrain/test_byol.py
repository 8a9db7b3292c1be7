"""BYOL: its golden value, its place inside FRA, and what the predictor is for."""

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from torch.testing import assert_close

from fra.models.encoder import Encoder, EncoderConfig
from fra.models.similarity import cosine_distance
from fra.pretrain.byol import BYOL, BYOLConfig
from fra.pretrain.fra import FRA, FRAConfig
from fra.pretrain.method import HeadConfig
from fra.training.trainable import Progress

SMALL = HeadConfig(hidden=32, out=16)
START = Progress(step=0, steps=10, epoch=0, epochs=1)


def small_encoder() -> Encoder:
    return Encoder(EncoderConfig(name="resnet10_half", last_stride=1, image_size=32))


def test_golden_loss() -> None:
    predictions = [torch.tensor([[1.0, 2, 3], [0, 1, -1]]), torch.tensor([[0.5, -1, 2], [1, 1, 0]])]
    targets = [torch.tensor([[2.0, 1, 0], [0, 1, 0]]), torch.tensor([[1.0, 0, 1], [1, 1, 1]])]
    # first prediction with second target, second with first: 1.244071 + 1.292893
    loss = cosine_distance(predictions[0], targets[1]) + cosine_distance(predictions[1], targets[0])
    assert loss.item() == pytest.approx(2.536964, abs=1e-6)


def test_the_loss_is_lightlys_but_for_scale_and_offset() -> None:
    predictions, targets = [torch.randn(5, 16, requires_grad=True) for _ in range(2)], list(torch.randn(2, 5, 16))
    ours = cosine_distance(predictions[0], targets[1]) + cosine_distance(predictions[1], targets[0])
    negative = NegativeCosineSimilarity()
    # its documentation: half the sum of minus the mean cosines; ours is 2 - 2 cos in each direction
    theirs = 0.5 * (negative(predictions[0], targets[1]) + negative(predictions[1], targets[0]))
    assert_close(ours, 4 + 4 * theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, predictions), torch.autograd.grad(theirs, predictions), strict=True
    ):
        assert_close(mine, 4 * other)


def test_fra_without_its_local_terms_has_byols_gradients() -> None:
    torch.manual_seed(0)
    byol = BYOL(BYOLConfig(head=SMALL), small_encoder()).eval()
    config = FRAConfig(head=SMALL, face_weight=1.0, region_weight=0.0, cluster_weight=0.0)
    fra = FRA(config, small_encoder()).eval()
    for network, other in [(fra.online, byol.online), (fra.teacher.network, byol.teacher.network)]:
        network.encoder.load_state_dict(other.encoder.state_dict())
        network.face_projector.load_state_dict(other.projector.state_dict())
    fra.face_predictor.load_state_dict(byol.predictor.state_dict())
    views = [torch.rand(4, 3, 32, 32) for _ in range(2)]
    for method in (byol, fra):
        method.loss(views, START).total.backward()
    for (name, ours), theirs in zip(fra.encoder.named_parameters(), byol.encoder.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, msg=name)
    assert_close(fra.online.face_projector.first.weight.grad, byol.online.projector.first.weight.grad)


def test_the_teacher_starts_as_a_copy_and_moves_a_little_after_a_step() -> None:
    method = BYOL(BYOLConfig(head=SMALL, teacher_momentum=0.9), small_encoder())
    before = method.teacher.network.projector.last.weight.clone()
    assert_close(before, method.online.projector.last.weight)
    with torch.no_grad():
        method.online.projector.last.weight += 1.0
    method.after_step(START)
    assert_close(method.teacher.network.projector.last.weight, before + 0.1)


def test_no_gradient_reaches_the_teacher() -> None:
    method = BYOL(BYOLConfig(head=SMALL), small_encoder())
    method.loss([torch.rand(4, 3, 32, 32) for _ in range(2)], START).total.backward()
    assert all(weight.grad is None for weight in method.teacher.parameters())
    assert all(weight.grad is not None for weight in method.online.parameters())


def test_following_buffers_makes_the_teacher_an_eval_copy_of_everything() -> None:
    method = BYOL(BYOLConfig(head=SMALL, follow_buffers=True, teacher_momentum=0.0), small_encoder()).train()
    assert not method.teacher.network.training
    method.loss([torch.rand(4, 3, 32, 32) for _ in range(2)], START)
    method.after_step(START)
    for ours, theirs in zip(method.teacher.network.buffers(), method.online.buffers(), strict=True):
        assert_close(ours, theirs)
