"""The minutes are kept, every result is written at once, and the encoder comes back whole."""

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import encoder, speed
from benchmarks.gpu.encoder import epochs_for, into_pieces, joined, rate_of
from benchmarks.gpu.modelled import modelled
from benchmarks.gpu.report import markdown
from benchmarks.gpu.shot import Shot, Target
from fra.models.encoder import Encoder, EncoderConfig
from fra.weights.load import encoder_metadata, load_encoder, save_weights

SMALL = Target("cpu", miniature=True)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_stage_ends_at_its_share_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    clock = Clock()
    shot = Shot(tmp_path, seconds=100, clock=clock)

    def spend(seconds: float) -> dict[str, float]:
        clock.now += seconds
        return {"spent": seconds}

    with shot.stage("first", until=0.5):
        assert shot.left == 50
        shot.do("short", lambda: spend(30), needs=10)
        assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1  # at once
        shot.do("long", lambda: spend(30), needs=21)
    with shot.stage("second", until=1.0):
        shot.do("long", lambda: spend(30), needs=21)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["name"], row["status"]) for row in rows] == [
        ("first", "short", "measured"), ("first", "long", "did not fit"), ("second", "long", "measured"),
    ]  # fmt: skip
    assert rows == list(shot.rows)


def test_an_item_is_broken_off_when_its_stage_ends(tmp_path: Path) -> None:
    shot = Shot(tmp_path, seconds=0.4)
    with shot.stage("all", until=1.0):
        began = time.monotonic()
        row = shot.do("endless", lambda: time.sleep(20) or {})
        assert time.monotonic() - began < 5
        assert row["status"] == "did not fit"
        assert shot.do("after it", dict)["status"] == "did not fit"


def test_errors_and_failures_are_rows(tmp_path: Path) -> None:
    shot = Shot(tmp_path, seconds=60)
    with shot.stage("checks", until=1.0):
        shot.do("good", lambda: {"passed": True, "off": 1e-6})
        shot.do("bad", lambda: {"passed": False, "off": 0.5})
        shot.do("broken", lambda: {"x": 1 / 0})
    assert [row["status"] for row in shot.rows] == ["passed", "failed", "broken"]
    assert "ZeroDivisionError: division by zero (test_shot.py:" in shot.rows[2]["error"]
    table = markdown(shot.rows)
    assert "| good | passed | off 1e-06 |" in table
    assert "| checks | bad | failed |" in table
    assert "| checks | broken | ZeroDivisionError" in table


def cell(candidate: str, rate: float, precision: str = "bf16") -> dict[str, object]:
    found = speed.Cell("resnet50", 128, 256, precision, candidate)
    return dict(stage="speed", name=found.name, status="measured", pairs_per_second=rate, memory_mib=5e3, **vars(found))


def test_the_table_puts_candidates_of_a_setting_side_by_side() -> None:
    table = markdown(
        [cell("fra", 800.0), cell("byol", 1000.0), cell("bare network", 1100.0), cell("fra", 300.0, "fp32")]
    )
    assert "| resnet50, 128 px, batch 256, bf16 | 800 | 1,000 | 1,100 | – | 1.25 | 5,000 |" in table
    assert "| resnet50, 128 px, batch 256, fp32 | 300 | – | – | – | – | 5,000 |" in table


def test_as_many_epochs_are_planned_as_fit() -> None:
    # .8 of 225 - 25 seconds at 750 pairs a second are 120,000 pairs: five epochs of 24,000 faces
    assert epochs_for(225, faces=24_000, pairs_per_second=750) == 5
    assert epochs_for(30, faces=24_000, pairs_per_second=750) == 1
    assert rate_of([cell("byol", 9.0), cell("fra", 2.0, "fp32"), cell("fra", 7.0)], otherwise=1.0) == 7
    assert rate_of([], otherwise=1.0) == 1
    broken = {"candidate": "fra", "precision": "bf16", "status": "did not fit"}
    assert rate_of([broken], otherwise=1.0) == 1


def test_what_is_most_worth_knowing_is_measured_first() -> None:
    cells = list(speed.cells(Target("cuda")))
    assert len({each.name for each in cells}) == len(cells) == 2 * 4 * 4 + 4 * 2
    first = cells[0]
    assert (first.network, first.size, first.precision, first.candidate) == ("resnet50", 128, "bf16", "fra")
    assert cells[-1].precision == "compiled"
    assert {(each.network, each.size) for each in cells} == {
        ("resnet50", 112), ("resnet50", 128), ("resnet50", 224), ("vit_small_patch16_224", 224),
    }  # fmt: skip


def test_the_model_counts_more_for_fra_and_less_for_a_slower_gpu() -> None:
    lines = modelled([("resnet10_quarter", 32)], batch=4).splitlines()
    assert lines[0].startswith("| setting | fra, A100 | byol, A100 |")
    cells = [each.strip() for each in lines[2].strip("|").split("|")]
    fra_a100, byol_a100, fra_h100, byol_h100, _, _, ratio = (float(each.replace(",", "")) for each in cells[1:])
    assert fra_a100 < fra_h100
    assert byol_a100 < byol_h100
    assert ratio == pytest.approx(byol_h100 / fra_h100, rel=0.01)
    assert ratio > 1


def test_a_cell_and_views_are_measured() -> None:
    found = speed.measure(speed.Cell("resnet10_quarter", 32, 4, "bf16", "bare network"), SMALL)
    assert found["pairs_per_second"] > 0
    assert found["memory_mib"] is None  # of GPUs alone
    views = speed.views_per_second(SMALL)
    assert min(views["whole_per_core"], views["crops_per_core"], views["device"]) > 0


def saved_encoder(folder: Path) -> Path:
    network = Encoder(EncoderConfig(name="resnet10_quarter", image_size=32)).eval()
    save_weights(folder / "encoder.safetensors", network.backbone, encoder_metadata(network))
    return folder / "encoder.safetensors"


def test_an_encoder_comes_back_from_its_pieces(tmp_path: Path) -> None:
    whole = saved_encoder(tmp_path)
    described = into_pieces(whole, tmp_path / "pieces", largest=100_000)
    sizes = [(tmp_path / "pieces" / name).stat().st_size for name in described["pieces"]]
    assert len(sizes) > 3
    assert max(sizes) == 100_000
    assert sum(sizes) == described["bytes"] < 0.55 * whole.stat().st_size
    back = joined(tmp_path / "pieces", tmp_path / "back.safetensors")
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        mine, theirs = (load_encoder(path)(images) for path in (back, whole))
    torch.testing.assert_close(mine, theirs, atol=0.01, rtol=0.01)
    (tmp_path / "pieces" / "encoder.safetensors.01").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="not what was written"):
        joined(tmp_path / "pieces", tmp_path / "again.safetensors")
    (tmp_path / "pieces" / "encoder.safetensors.02").unlink()
    with pytest.raises(ValueError, match=r"lacks encoder.safetensors.02: fetch"):
        joined(tmp_path / "pieces", tmp_path / "again.safetensors")


def test_what_half_precision_cannot_hold_stays(tmp_path: Path) -> None:
    network = Encoder(EncoderConfig(name="resnet10_quarter", image_size=32))
    network.backbone.bn1.running_var.fill_(1e6)
    save_weights(tmp_path / "encoder.safetensors", network.backbone, encoder_metadata(network))
    into_pieces(tmp_path / "encoder.safetensors", tmp_path)
    state = load_file(joined(tmp_path, tmp_path / "back.safetensors"))
    assert state["bn1.running_var"].dtype == torch.float32
    assert float(state["bn1.running_var"][0]) == 1e6
    assert state["conv1.weight"].dtype == torch.float16


def test_the_largest_piece_fits_what_a_lent_machine_gives_back() -> None:
    assert encoder.LARGEST == 15 * 1024 * 1024


def test_the_command_writes_rows_and_table_and_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--device", "cpu", "--miniature", "--only", "views", "--out", str(tmp_path / "shot")]
    assert command.main(arguments) == 0
    rows = [json.loads(line) for line in (tmp_path / "shot" / "results.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["machine", "views per second"]
    assert "whole_per_core" in (tmp_path / "shot" / "table.md").read_text()
    if not torch.cuda.is_available():
        assert command.main(["--device", "cuda", "--out", str(tmp_path)]) == 2
        assert "this machine has no cuda" in capsys.readouterr().err


def test_a_failed_check_is_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.checks, "CHECKS", {"fails": lambda target: {"passed": False}})
    arguments = ["--device", "cpu", "--miniature", "--only", "checks", "--out", str(tmp_path)]
    assert command.main(arguments) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_whole_shot_in_miniature(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        assert command.main(["--device", "cpu", "--miniature", "--minutes", "15", "--out", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(before)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {"machine", *command.STAGES}
    assert {row["status"] for row in rows} == {"passed", "measured"}
    assert load_encoder(joined(tmp_path, tmp_path / "encoder.safetensors")).config.name == "resnet10_half"
