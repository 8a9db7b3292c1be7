"""What must hold on a GPU, where there is one, and in miniature on the processor; and that each check can fail."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import checks
from benchmarks.gpu.checks import CHECKS, Step, Waiting, apart, steps_wait_for_nothing
from benchmarks.gpu.shot import Target
from fra.models.region_head import RegionHead
from fra.pretrain.byol import BYOL
from fra.training.trainable import Progress

SMALL = Target("cpu", miniature=True)
LONG = ("compiled as not compiled", "resume, bit for bit")

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch about itself


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", CHECKS)
def test_it_holds_on_the_gpu(name: str) -> None:
    found = CHECKS[name](Target("cuda"))
    assert found["passed"], found


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CHECKS]
)
def test_it_holds_in_miniature(name: str) -> None:
    before = torch.get_num_threads()
    try:
        found = CHECKS[name](SMALL)
    finally:
        torch.set_num_threads(before)
    assert found["passed"], found


def step(change: float = 0.0) -> Step:
    return Step(2.0 + change, torch.ones(100).double() * (1 + change), torch.ones(100).double() * (1 + change))


def test_steps_that_differ_by_more_than_rounding_are_told_apart() -> None:
    assert apart(step(), step())["passed"]
    assert apart(step(4e-5), step())["passed"]
    assert not apart(step(4e-4), step())["passed"]
    assert apart(step(4e-4), step())["gradients"] == pytest.approx(4e-4)
    other = step()
    other.gradients[0] += 0.1  # of a norm of 10: a hundredth
    assert not apart(other, step())["passed"]


def test_a_device_that_computes_something_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = BYOL.after_step
    calls: list[int] = []

    def wrong(self: BYOL, progress: Progress) -> None:
        right(self, progress)
        calls.append(1)
        if len(calls) == 1:  # on the device, which comes first
            for weight in self.teacher.parameters():
                weight.mul_(1.01)

    monkeypatch.setattr(BYOL, "after_step", wrong)
    assert not CHECKS["byol: a step as on the processor, fp32"](SMALL)["passed"]


def test_what_waits_is_named_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    right = RegionHead.remember

    def waiting(self: RegionHead, embeddings: Tensor) -> None:
        if int(self.updates) >= 0:
            right(self, embeddings)

    monkeypatch.setattr(RegionHead, "remember", waiting)
    found = steps_wait_for_nothing(SMALL, steps=1)
    assert not found["passed"]
    assert found["waited"][0].startswith("_local_scalar_dense at ")


@pytest.mark.parametrize(
    ("work", "waits"),
    [
        (lambda x: x[x > 0], True),
        (lambda x: float(x.sum()), True),
        (lambda x: x.nonzero(), True),
        (lambda x: x[torch.tensor([1, 0])], False),
        (lambda x: torch.where(x > 0, x, 0 * x).lerp_(x, 0.5), False),
    ],
)
def test_operations_that_need_a_number_are_met(work: Callable[[Tensor], Any], waits: bool) -> None:
    with Waiting() as waiting:
        work(torch.ones(2))
    assert bool(waiting.met) is waits


def test_views_of_other_draws_are_not_taken_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    right = checks.finish
    monkeypatch.setattr(checks, "finish", lambda crops, drawn: right(crops, drawn) * 0.98)
    assert not CHECKS["views on the device"](SMALL)["passed"]
