"""Where to compute, and how precisely."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fra.runtime import Runtime
from fra.training import devices
from fra.training.checkpoint import Position, save_checkpoint, written_identity
from fra.training.devices import bf16_speedup, choose_device, choose_precision, make_fabric
from fra.training.loop import Fit, fit
from fra.training.schedules import ScheduleConfig
from fra.training.trainable import Loss, Part, Progress


@pytest.mark.parametrize(("speedup", "precision"), [(0.6, "32"), (1.2, "32"), (1.9, "bf16")])
def test_auto_takes_bf16_on_a_processor_only_where_it_is_faster(
    speedup: float, precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    (tmp_path / "cpuinfo").write_text("flags : avx512f avx512_bf16 amx_tile\n")
    monkeypatch.setattr(devices, "Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setattr(devices, "bf16_speedup", lambda: speedup)
    devices._bf16_pays_on_the_processor.cache_clear()
    assert choose_precision("cpu") == precision
    assert choose_precision("cpu", processes=2) == "32"  # each process would measure for itself
    devices._bf16_pays_on_the_processor.cache_clear()


def test_a_processor_that_does_not_announce_bf16_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "cpuinfo").write_text("flags : avx2\n")
    monkeypatch.setattr(devices, "Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setattr(devices, "bf16_speedup", lambda: pytest.fail("measured"))
    devices._bf16_pays_on_the_processor.cache_clear()
    assert choose_precision("cpu") == "32"
    devices._bf16_pays_on_the_processor.cache_clear()


def test_the_speedup_is_a_ratio_of_measured_times() -> None:
    assert 0.005 < bf16_speedup(64) < 200


def test_what_a_device_cannot_do_is_refused() -> None:
    assert choose_precision("cpu", "bf16") == "bf16"
    with pytest.raises(ValueError, match="precision 16 needs a CUDA GPU and this is cpu"):
        choose_precision("cpu", "16")
    with pytest.raises(ValueError, match="use auto, 32, bf16 or 16"):
        choose_precision("cpu", "8")
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        choose_device("tpu")


def test_a_resumed_run_can_ask_its_checkpoint_for_the_precision(tmp_path) -> None:
    assert written_identity(tmp_path) is None
    model = torch.nn.Linear(2, 2)
    save_checkpoint(
        tmp_path,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        precision={},
        position=Position(3, {"precision": "bf16"}),
    )
    assert written_identity(tmp_path) == {"precision": "bf16"}
    (tmp_path / "last.ckpt").write_bytes(b"half a file")
    assert written_identity(tmp_path) is None


class Line(nn.Module):
    """Fits a line, and remembers in what precision."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def parts(self, batch: Tensor, progress: Progress) -> list[Part]:
        return [lambda: self.loss(batch)]

    def loss(self, batch: Tensor) -> Loss:
        answers = self.layer(batch)
        self.given, self.computed = batch.dtype, answers.dtype
        return Loss(answers.float().square().mean(), {})

    def after_step(self, progress: Progress) -> None:
        pass


@pytest.mark.parametrize(("precision", "kind"), [("32", torch.float32), ("bf16", torch.bfloat16)])
def test_training_on_one_device_computes_in_the_precision_asked_for(
    precision: str, kind: torch.dtype, tmp_path: Path
) -> None:
    line, schedule = Line(), ScheduleConfig(epochs=1, warmup_epochs=0)
    how = Fit(
        make_fabric(Runtime("cpu", precision)), tmp_path, {}, schedule, learning_rate=0.1, steps_per_epoch=1, quiet=True
    )
    fit(line, torch.optim.SGD(line.parameters()), lambda start: iter([torch.ones(4, 2)]), how)
    assert line.computed == kind
    assert line.given == line.layer.weight.dtype == torch.float32


def test_processes_that_train_together_are_given_unrounded_numbers() -> None:
    """Frames and landmarks lose pixels in bf16, which is what Fabric would give them in."""
    places = torch.tensor([63.3])
    assert make_fabric(Runtime("cpu", "bf16", devices=2)).strategy.precision.convert_input([places])[0] is places


@pytest.mark.parametrize(
    ("environment", "first"),
    [({}, True), ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True), ({"LOCAL_RANK": "1"}, False), ({"RANK": "4"}, False)],
)
def test_the_first_process_is_known_before_the_others_are_met(
    environment: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fra.training.peers import is_first

    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first() is first
