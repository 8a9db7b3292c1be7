"""The benchmarks run, and their guard sees a loss."""

import time
from dataclasses import replace

import pytest

from benchmarks.check import losses
from benchmarks.paired import Row, compare
from benchmarks.suites import step

ROW = Row("step", "small", "fra", 10.0, "pairs", "bare network", ratio=0.9, low=0.8, high=1.0)


def test_rates_and_ratios_of_known_work() -> None:
    def work(seconds: float) -> float:
        time.sleep(seconds)
        return 1

    rows = compare(
        "s", "sleep", {"slow": lambda: work(0.04), "fast": lambda: work(0.01)}, unit="naps", against="slow", rounds=3
    )
    slow, fast = rows
    assert slow.ratio == 1
    assert 2 < fast.ratio < 6  # four, but for what the machine does besides
    assert 15 < slow.rate < 26
    assert fast.low <= fast.ratio <= fast.high


def test_the_guard_reports_what_lost_more_than_its_share() -> None:
    assert losses([ROW], [replace(ROW, ratio=0.75, high=0.77)]) == []  # may be noise
    assert losses([ROW], [replace(ROW, ratio=0.75, high=0.76)]) == [
        "step, small: fra is 0.75 of bare network, was 0.90",
    ]
    memory = replace(ROW, unit="MiB")
    assert losses([memory], [replace(memory, ratio=0.75, low=0.75)]) == []
    assert len(losses([memory], [replace(memory, ratio=1.05, low=1.05)])) == 1
    assert losses([], [ROW]) == []


@pytest.mark.slow
def test_a_small_step_is_measured_for_every_method_and_peer() -> None:
    rows = step(rounds=1, networks=(("resnet18", 32, 4, True),))
    measured = {row.candidate for row in rows}
    assert {"byol", "fra", "swav", "lewel", "lightly byol", "lightly swav", "bare network"} <= measured
    assert {row.setting for row in rows} == {"resnet18, 32 px, batch 4, fp32", "resnet18, 32 px, batch 4, bf16"}
    assert all(row.rate > 0 for row in rows)
    own = {row.candidate: row.ratio for row in rows if row.against == "own bound" and "fp32" in row.setting}
    plain = {
        row.candidate: row.ratio
        for row in rows
        if row.against == "bare network, channels last" and "fp32" in row.setting
    }
    assert own["fra"] > plain["fra"]  # its regions are work that the bare network does not do
