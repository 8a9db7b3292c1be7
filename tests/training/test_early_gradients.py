"""Gradients computed part by part: the same bits, half the memory."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fra.models.encoder import Encoder, EncoderConfig
from fra.pretrain.byol import BYOL, BYOLConfig
from fra.pretrain.fra import FRA, FRAConfig
from fra.pretrain.lewel import LEWEL, LEWELConfig
from fra.pretrain.method import HeadConfig, Method
from fra.pretrain.plan import make_plan
from fra.training.early_gradients import sum_of_parts
from fra.training.trainable import Loss, Progress

SMALL = HeadConfig(hidden=32, out=16)
START = Progress(step=0, steps=10, epoch=0, epochs=1)
METHODS = {
    "byol": lambda encoder: BYOL(BYOLConfig(head=SMALL), encoder),
    "lewel": lambda encoder: LEWEL(LEWELConfig(head=SMALL), encoder),
    "fra": lambda encoder: FRA(FRAConfig(head=SMALL), encoder),
    "fra, views crossed": lambda encoder: FRA(FRAConfig(head=SMALL, cluster_views="crossed"), encoder),
    "fra, views aligned": lambda encoder: FRA(FRAConfig(head=SMALL, cluster_views="aligned"), encoder),
}


def build(name: str, *, early: bool) -> Method:
    torch.manual_seed(0)
    method: Method = METHODS[name](Encoder(EncoderConfig(name="resnet10_half", last_stride=1, image_size=32)))
    method.early_gradients = early
    return method.train()


def gradients(method: Method, *, precision: torch.dtype = torch.float32, scale: float = 1.0) -> dict[str, torch.Tensor]:
    views = list(torch.rand(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    torch.manual_seed(2)  # dropout
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        loss = method.loss(views, START)
    (loss.total * scale).backward()
    found = {name: weight.grad for name, weight in method.named_parameters() if weight.requires_grad}
    found |= {f"term {name}": term for name, term in loss.terms.items()} | {"total": loss.total}
    found |= {f"state {name}": value for name, value in method.named_buffers()}
    return {name: value.detach() for name, value in found.items() if value is not None}


@pytest.mark.parametrize("name", METHODS)
def test_loss_gradients_and_statistics_are_the_same_bits(name: str) -> None:
    late, early = (gradients(build(name, early=early)) for early in (False, True))
    assert late.keys() == early.keys()
    for key, value in late.items():
        assert_close(early[key], value, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_in_bf16_they_differ_by_its_rounding(name: str) -> None:
    """Late gradients of the two views are added in bf16, early ones in float32."""
    late, early = (gradients(build(name, early=early), precision=torch.bfloat16) for early in (False, True))
    assert late.keys() == early.keys()
    assert {value.dtype for key, value in early.items() if key.startswith("term ")} == {torch.float32}
    for key, value in late.items():
        largest = float(value.abs().max())
        assert_close(early[key], value, rtol=0, atol=0.01 * largest, msg=key)


def test_what_scales_the_loss_scales_the_gradients() -> None:
    once, thrice = (gradients(build("fra", early=True), scale=scale) for scale in (1.0, 3.0))
    assert_close(thrice["online.encoder.backbone.conv1.weight"], 3 * once["online.encoder.backbone.conv1.weight"])


@pytest.mark.parametrize("name", METHODS)
def test_activations_of_one_view_are_kept_instead_of_two(name: str) -> None:
    def memory(*, early: bool) -> float:
        method = build(name, early=early)
        weights = sum(4 * 4 * weight.numel() for weight in method.parameters() if weight.requires_grad)
        return make_plan(method, sizes=[32, 32], batch=64, steps=1, pairs=64, seconds=0).memory_bytes - weights

    assert 0.48 < memory(early=True) / memory(early=False) < 0.55


def test_a_weight_that_a_part_does_not_use_gets_no_gradient() -> None:
    used, unused = (nn.Parameter(torch.ones(2)) for _ in range(2))
    loss = sum_of_parts([lambda: Loss(used.sum(), {}), lambda: Loss(used.prod(), {})], [used, unused])
    loss.total.backward()
    assert used.grad is not None
    assert used.grad.tolist() == [2, 2]
    assert unused.grad is None
    assert loss.total == 3


def test_without_gradients_nothing_is_differentiated() -> None:
    with torch.no_grad():
        assert not sum_of_parts([lambda: Loss(torch.ones(()), {})], [nn.Parameter(torch.ones(1))]).total.requires_grad
