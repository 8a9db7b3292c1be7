"""LARS and the learning rate, by hand and against the published values."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as torch_rates
from torch.testing import assert_close

from fra.training.optimizers import LARS, OptimizerConfig, build_optimizer
from fra.training.schedules import CosineFromZero, Exponential, Schedule, ScheduleConfig, Stairs


def lars_on(gradient: list[float], steps: int) -> list[torch.Tensor]:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = LARS([dict(params=[weight], weight_decay=1e-6)], lr=0.9)
    found = []
    for _ in range(steps):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        found.append(weight.detach().clone())
    return found


def test_g_lars_makes_the_published_steps() -> None:
    first, second = lars_on([0.6, 0.8], 2)
    assert_close(first, torch.tensor([2.997300, 3.996400]), atol=1e-6, rtol=0)
    assert_close(second, torch.tensor([2.992172, 3.989563]), atol=1e-6, rtol=0)


def test_g_a_weight_without_gradient_still_shrinks() -> None:
    assert_close(lars_on([0.0, 0.0], 1)[0], torch.tensor([2.997305, 3.996407]), atol=1e-6, rtol=0)


def test_rate_outside_the_momentum_buffer_differs_only_when_the_rate_changes() -> None:
    ends = []
    for inside in (True, False):
        weight = nn.Parameter(torch.tensor([1.0]))
        optimizer = LARS([dict(params=[weight], adapt=False)], lr=1.0, rate_in_momentum=inside)
        for rate in (1.0, 0.5):
            optimizer.param_groups[0]["lr"] = rate
            weight.grad = torch.tensor([1.0])
            optimizer.step()
        ends.append(weight.item())
    # inside: 1 - 1 - (.9*1 + .5) = -1.4; outside: 1 - 1 - .5 * (.9*1 + 1) = -.95
    assert ends == pytest.approx([-1.4, -0.95])


def larc_on(weight: list[float], gradient: list[float] | None) -> torch.Tensor:
    model = nn.ParameterDict({"weight": nn.Parameter(torch.tensor(weight))})
    optimizer = build_optimizer(OptimizerConfig(name="larc", learning_rate=2.0, weight_decay=0.1), model)
    assert len(optimizer.param_groups) == 1
    model["weight"].grad = None if gradient is None else torch.tensor(gradient)
    optimizer.step()
    return model["weight"].detach()


def test_larc_adapts_and_decays_every_tensor_also_vectors() -> None:
    # |w| = 5, |g| = 1: g + .1 w = (.9, 1.2), times .001 * 5 / (1 + .1 * 5) = 1/300, times rate 2
    assert_close(larc_on([3.0, 4.0], [0.6, 0.8]), torch.tensor([3 - 2 * 0.9 / 300, 4 - 2 * 1.2 / 300]))


def test_larc_neither_adapts_nor_decays_what_is_zero_or_has_no_gradient() -> None:
    # a zero bias takes the plain step, rate 2 times its gradient; without gradient nothing moves
    assert_close(larc_on([0.0, 0.0], [0.6, 0.8]), torch.tensor([-1.2, -1.6]))
    assert_close(larc_on([3.0, 4.0], [0.0, 0.0]), torch.tensor([3.0, 4.0]))
    assert_close(larc_on([3.0, 4.0], None), torch.tensor([3.0, 4.0]))


def test_larcs_rate_is_outside_the_momentum_buffer_as_in_sgd() -> None:
    weight = nn.Parameter(torch.tensor([0.0]))
    model = nn.ParameterDict({"weight": weight})
    optimizer = build_optimizer(OptimizerConfig(name="larc", learning_rate=1.0, trust=1.0, weight_decay=0.0), model)
    weight.grad = torch.tensor([1.0])
    optimizer.step()  # zero weight: plain step to -1
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()  # |w| = |g| = 1: the gradient as it is; buffer .9 + 1, rate .5
    assert weight.item() == pytest.approx(-1 - 0.5 * 1.9)


def test_exclusion_rules_differ_in_head_norms_and_layer_norms() -> None:
    model = nn.ModuleDict(dict(norm=nn.LayerNorm(3), bn1=nn.BatchNorm1d(3), linear=nn.Linear(3, 3)))
    by_shape = build_optimizer(OptimizerConfig(exclude="one_dim"), model)
    by_name = build_optimizer(OptimizerConfig(exclude="official_names"), model)
    # vectors: two of the layer norm, two of the batch norm, the linear bias; by name: not the layer norm's weight
    assert [len(group["params"]) for group in by_shape.param_groups] == [1, 5]
    assert [len(group["params"]) for group in by_name.param_groups] == [2, 4]


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_predictors_alone_have_their_own_rate(name: Any) -> None:
    model = nn.ModuleDict(dict(predictor=nn.Linear(3, 3), face_predictor=nn.Linear(3, 3), encoder=nn.Linear(3, 3)))
    config = OptimizerConfig(name=name, learning_rate=0.1, predictor_rate=5)
    named = {weight: key for key, weight in model.named_parameters()}
    rates = {
        named[weight]: group.get("peak", 0.1)
        for group in build_optimizer(config, model).param_groups
        for weight in group["params"]
    }
    assert rates == {key: 0.5 if "predictor" in key else 0.1 for key in named.values()}


def test_larc_has_no_rate_for_predictors() -> None:
    with pytest.raises(ValueError, match="leave it out"):
        OptimizerConfig(name="larc", predictor_rate=5)


def test_published_learning_rates() -> None:
    schedule = ScheduleConfig(epochs=400, warmup_epochs=10)
    for epoch, iteration, rate in [
        (0, 0, 0.0018), (0, 99, 0.18), (5, 0, 0.9018), (9, 99, 1.8), (10, 0, 1.8),
        (100, 50, 1.573660), (200, 0, 0.936239), (399, 99, 0.0000292),
    ]:  # fmt: skip
        assert schedule.rate(1.8, epoch * 100 + iteration, 100) == pytest.approx(
            rate, rel=2e-3 if rate < 1e-4 else 1e-6
        )


def test_swavs_rate_rises_from_its_first_to_the_peak_and_ends_at_its_last() -> None:
    schedule = ScheduleConfig(epochs=400, warmup_epochs=10, form="stepwise", first_rate=0.3, last_rate=0.0048)
    rates = [schedule.rate(4.8, step, 100) for step in range(40_000)]
    # 1,000 even steps from .3 to 4.8, both included; then half a cosine over 39,000 steps
    assert rates[0] == 0.3
    assert rates[500] == pytest.approx(0.3 + 4.5 * 500 / 999)
    assert rates[999] == rates[1000] == pytest.approx(4.8)
    assert rates[1000 + 19_500] == pytest.approx((4.8 + 0.0048) / 2)
    assert rates[-1] == pytest.approx(0.0048, abs=1e-7)


def test_stepwise_cosine_starts_at_the_peak_and_ends_near_zero() -> None:
    schedule = ScheduleConfig(epochs=2, warmup_epochs=1, form="stepwise")
    rates = [schedule.rate(1.0, step, 10) for step in range(20)]
    assert rates[9] == 1.0
    assert rates[10] == 1.0
    assert rates[15] == pytest.approx(0.5)
    assert 0 < rates[19] < 0.03


def test_g_fine_tuning_takes_the_published_rates() -> None:
    schedule = CosineFromZero(epochs=100, warmup_epochs=5, last_rate=1e-6)
    expected = {0: 0.0, 0.5: 2e-5, 2.5: 1e-4, 5: 2e-4, 50: 1.0872e-4, 99.5: 1.0136e-6}
    for epoch, rate in expected.items():
        assert schedule.rate(2e-4, round(epoch * 40), 40) == pytest.approx(rate, rel=1e-4)


def rates_of_torch(scheduler: Callable[[torch.optim.Optimizer], Any], steps: int, *, peak: float = 1.8) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    following, found = scheduler(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        following.step()
    return found


def cosine_after_warm_up(optimizer: torch.optim.Optimizer) -> Any:
    """2 epochs of warm-up and 6 of a cosine, of 20 steps each."""
    parts = [torch_rates.LinearLR(optimizer, 1 / 40, total_iters=39), torch_rates.CosineAnnealingLR(optimizer, 120)]
    return torch_rates.SequentialLR(optimizer, parts, milestones=[40])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ScheduleConfig(epochs=8, warmup_epochs=2, form="stepwise"), cosine_after_warm_up),
        (Stairs(epochs=8, falls=(5, 6.5)), lambda optimizer: torch_rates.MultiStepLR(optimizer, [100, 130], gamma=0.1)),
        (Exponential(epochs=8, decay=0.9), lambda optimizer: torch_rates.StepLR(optimizer, 20, gamma=0.9)),
    ],
)
def test_rates_are_those_of_torchs_schedulers_where_these_have_the_form(
    ours: Schedule, theirs: Callable[[torch.optim.Optimizer], Any]
) -> None:
    rates = [ours.rate(1.8, step, 20) for step in range(160)]
    assert rates == pytest.approx(rates_of_torch(theirs, 160), rel=1e-12)


def test_each_epoch_of_eac_has_nine_tenths_of_the_rate_before() -> None:
    rates = [Exponential(epochs=3, decay=0.9).rate(1e-4, step, 2) for step in range(6)]
    assert rates == pytest.approx([1e-4, 1e-4, 9e-5, 9e-5, 8.1e-5, 8.1e-5])
