"""`fra pretrain --plan` on many GPUs, worked out by hand."""

import pytest

from fra.pretrain.plan import Plan


def plan(*, batch: int) -> Plan:
    # 156e12 multiply-adds a second of an A100, of which 40 % are reached: 62.4e12 / 62.4e9 are 1,000 pairs a second.
    return Plan(
        50_000_000, 1, 62.4e9, 1.0, kept_bytes_per_pair=0.0, pairs_per_second=1.0, steps=1000, pairs=1000 * batch
    )


def test_a_step_is_arithmetic_and_the_way_of_the_gradients():
    # 1,000 pairs: a second on one, an eighth on eight; 50 M gradients are 200 MB, of which 7/8 go twice: 350 MB
    # at 200 GB/s are 1.75 ms, at 12.5 GB/s 28 ms.
    found = plan(batch=1000)
    assert found.step_on(1) == pytest.approx((1.0, 0.0))
    assert found.step_on(8) == pytest.approx((0.125, 0.00175))
    assert found.step_on(64) == pytest.approx((0.015625, 0.028))
    # 1,000 steps: 1,000 s; 126.75 s; 43.6 s, of which 28 are 64 %
    assert found.at_scale() == "1: 16 min 40 s, 8: 2 min 7 s (1% network), 64: 44 s (64% network)"
    assert any(found.at_scale() in line for line in found.lines())


def test_no_more_gpus_are_told_of_than_get_two_pairs():
    assert plan(batch=127).at_scale().count(":") == 2
    assert plan(batch=128).at_scale().count(":") == 3
    assert plan(batch=1).at_scale() == ""
    assert "many A100s" not in "\n".join(plan(batch=1).lines())
