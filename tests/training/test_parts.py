"""The parts of a loss, each with a backward pass of its own: the same bits as their sum, half the memory."""

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
from fra.runtime import Runtime
from fra.training.devices import make_fabric
from fra.training.loop import PartByPart, forward_and_backward
from fra.training.trainable import Loss, Progress, backward, together

SMALL = HeadConfig(hidden=32, out=16)
START = Progress(step=0, steps=10, epoch=0, epochs=1)
METHODS = {
    "byol": lambda encoder: BYOL(BYOLConfig(head=SMALL), encoder),
    "lewel": lambda encoder: LEWEL(LEWELConfig(head=SMALL), encoder),
    "fra": lambda encoder: FRA(FRAConfig(head=SMALL), encoder),
    "fra, views crossed": lambda encoder: FRA(FRAConfig(head=SMALL, cluster_views="crossed"), encoder),
    "fra, views aligned": lambda encoder: FRA(FRAConfig(head=SMALL, cluster_views="aligned"), encoder),
}


def build(name: str) -> Method:
    torch.manual_seed(0)
    method: Method = METHODS[name](Encoder(EncoderConfig(name="resnet10_half", last_stride=1, image_size=32)))
    return method.train()


def gradients(method: Method, *, by_part: bool, precision: str = "32", batches: int = 1) -> dict[str, torch.Tensor]:
    """After one step as the loop takes it, or after the backward pass of the sum: gradients, terms and buffers."""
    views = list(torch.rand(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    fabric = make_fabric(Runtime("cpu", precision))
    torch.manual_seed(2)  # dropout
    if by_part:
        loss = forward_and_backward(fabric, fabric.setup(PartByPart(method)), views, START, batches=batches)
    else:
        with fabric.autocast():
            loss = method.loss(views, START)
        (loss.total / batches).backward()
    found = {name: weight.grad for name, weight in method.named_parameters() if weight.requires_grad}
    found |= {f"term {name}": term for name, term in loss.terms.items()} | {"total": loss.total}
    found |= {f"state {name}": value for name, value in method.named_buffers()}
    return {name: value.detach() for name, value in found.items() if value is not None}


@pytest.mark.parametrize("name", METHODS)
def test_loss_gradients_and_statistics_are_the_same_bits(name: str) -> None:
    late, early = (gradients(build(name), by_part=by_part) for by_part in (False, True))
    assert late.keys() == early.keys()
    for key, value in late.items():
        assert_close(early[key], value, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_in_bf16_they_differ_by_its_rounding(name: str) -> None:
    """Gradients of the two views are added in bf16 in the sum's backward pass, in float32 part by part."""
    late, early = (gradients(build(name), by_part=by_part, precision="bf16") for by_part in (False, True))
    assert late.keys() == early.keys()
    assert {value.dtype for key, value in early.items() if key.startswith("term ")} == {torch.float32}
    for key, value in late.items():
        largest = float(value.abs().max())
        assert_close(early[key], value, rtol=0, atol=0.01 * largest, msg=key)


def test_a_batch_among_several_counts_its_share() -> None:
    whole, half = (gradients(build("fra"), by_part=True, batches=batches) for batches in (1, 2))
    assert_close(2 * half["online.encoder.backbone.conv1.weight"], whole["online.encoder.backbone.conv1.weight"])
    assert_close(half["total"], whole["total"])


@pytest.mark.parametrize("name", METHODS)
def test_activations_of_one_view_are_kept_instead_of_two(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def memory() -> float:
        method = build(name)
        weights = sum(4 * 4 * weight.numel() for weight in method.parameters() if weight.requires_grad)
        return make_plan(method, sizes=[32, 32], batch=64, steps=1, pairs=64, seconds=0).memory_bytes - weights

    by_part = memory()
    kind = type(build(name))
    own = kind.parts
    monkeypatch.setattr(kind, "parts", lambda *given: [lambda: together([part() for part in own(*given)])])
    assert 0.48 < by_part / memory() < 0.55


def test_a_weight_that_a_part_does_not_use_gets_no_gradient() -> None:
    used, unused = (nn.Parameter(torch.ones(2)) for _ in range(2))
    loss = backward([lambda: Loss(used.sum(), {}), lambda: Loss(used.prod(), {})])
    assert used.grad is not None
    assert used.grad.tolist() == [2, 2]
    assert unused.grad is None
    assert loss.total == 3
    assert not loss.total.requires_grad
