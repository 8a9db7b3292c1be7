"""The command line: quick help, one clear line for bad input, and what a first user types."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from fra import cli

ROOT = Path(__file__).parents[1]
TINY = ["method.head={hidden: 32, out: 16}", "method.decoder.width=16", "encoder.image_size=32", "views.size=32"]
TINY += ["schedule.epochs=1", "schedule.warmup_epochs=0.5", "batch_size=8", "health_faces=8"]
SETTINGS = [word for setting in TINY for word in ("--set", setting)]
SMOKE = ["pretrain", "smoke/resnet10_half.fra", "--workers", "0", "--quiet", *SETTINGS]


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a failing command prints."""
    assert cli.main([str(word) for word in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("fra: ")
    return lines[0]


def test_help_answers_in_under_a_second() -> None:
    times = []
    for _ in range(3):
        before = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "fra.cli", "--help"], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - before)
    assert "pretrain" in done.stdout
    assert min(times) < 1.0


def test_help_loads_no_torch() -> None:
    code = "import sys; from fra import cli; cli._parser(); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_pretrain_then_regions_then_report(drawn_faces: Path, tmp_path: Path) -> None:
    run, found = tmp_path / "run", tmp_path / "found"
    assert cli.main([*SMOKE, "--faces", str(drawn_faces), "--out", str(run)]) == 0
    arguments = ["regions", str(run), "--faces", str(drawn_faces), "--out", str(found), "--quiet"]
    assert cli.main(arguments) == 0
    assert (found / "regions.png").exists()
    assert (found / "heatmaps.npz").exists()
    assert (found / "timeline.gif").exists()
    assert cli.main(["report", str(run), str(found), "--out", str(tmp_path / "report.html"), "--quiet"]) == 0
    assert "FRA" in (tmp_path / "report.html").read_text()


def test_plan_says_what_it_takes_and_writes_nothing(drawn_faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(drawn_faces.iterdir())
    assert cli.main([*SMOKE, "--faces", str(drawn_faces), "--plan"]) == 0
    said = capsys.readouterr().out
    for word in ("weights", "multiply-adds", "memory", "steps", "time"):
        assert word in said
    assert sorted(drawn_faces.iterdir()) == before


def test_print_config_prints_the_resolved_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrain", "smoke/resnet10_half.byol", "--print_config", "--set", "seed=7"]) == 0
    said = capsys.readouterr().out
    assert "seed: 7" in said
    assert "name: byol" in said


def test_recipes_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recipes"]) == 0
    assert "paper/resnet50.fra_vggface2_400ep" in capsys.readouterr().out
    assert cli.main(["recipes", "laptop/demo.fra"]) == 0
    assert "content: queries" in capsys.readouterr().out


def test_bad_input_is_one_clear_line(drawn_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, out = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    assert "no faces found in" in fails(capsys, *SMOKE, "--faces", empty, "--out", out)
    assert "--faces is missing" in fails(capsys, *SMOKE, "--out", out)
    assert "--out is missing" in fails(capsys, *SMOKE, "--faces", drawn_faces)
    assert "no recipe named 'no/such'" in fails(capsys, "pretrain", "no/such", "--faces", drawn_faces, "--out", out)
    line = fails(capsys, *SMOKE, "--set", "optimizer.learning_rate=fast", "--faces", drawn_faces, "--out", out)
    assert "learning_rate" in line
    assert "float" in line
    line = fails(capsys, *SMOKE, "--set", "optimizer.lerning_rate=1", "--faces", drawn_faces, "--out", out)
    assert "has no setting 'lerning_rate'; it has name, learning_rate" in line
    assert "cannot fill a step of 512" in fails(
        capsys, *SMOKE, "--set", "batch_size=512", "--faces", drawn_faces, "--out", out
    )
    assert "needs a CUDA GPU" in fails(
        capsys, *SMOKE, "--device", "cpu", "--precision", "16", "--faces", drawn_faces, "--out", out
    )
    assert "no such file or folder" in fails(
        capsys, "regions", tmp_path / "nothing", "--faces", drawn_faces, "--out", out
    )
    assert "give a finished run" in fails(capsys, "regions", empty, "--faces", drawn_faces, "--out", out)
    assert not out.exists()
    reproduce, transfer = ["reproduce", "table4", "--scale", "smoke"], ["transfer", "smoke/rafdb.linear"]
    for words in ([*reproduce, "--seed", "3"], [*transfer, "--devices", "0"], [*transfer, "--seeds", "0"]):
        assert " --help`" in fails(capsys, *words)  # --seed is not short for --seeds


def test_a_run_of_byol_has_no_regions(drawn_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [word for setting in TINY if "decoder" not in setting for word in ("--set", setting)]
    run = tmp_path / "byol"
    command = ["pretrain", "smoke/resnet10_half.byol", *settings, "--workers", "0", "--quiet"]
    assert cli.main([*command, "--faces", str(drawn_faces), "--out", str(run)]) == 0
    assert "has no regions" in fails(capsys, "regions", run, "--faces", drawn_faces, "--out", tmp_path / "found")


def test_odd_pictures_are_read_or_skipped_and_never_fatal(
    drawn_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CMYK, 16 bit, 1 x 1, truncated, and a text file called .jpg among good faces."""
    faces = tmp_path / "faces"
    faces.mkdir()
    for source in sorted(drawn_faces.iterdir())[:16]:
        (faces / source.name).write_bytes(source.read_bytes())
    good = Image.open(next(iter(sorted(drawn_faces.iterdir()))))
    good.convert("CMYK").save(faces / "cmyk.jpg")
    Image.fromarray(torch.full((20, 20), 40000, dtype=torch.int32).numpy().astype("uint16")).save(faces / "deep.png")
    good.resize((1, 1)).save(faces / "dot.png")
    good.save(faces / "whole.jpg")
    (faces / "cut.jpg").write_bytes((faces / "whole.jpg").read_bytes()[:300])
    (faces / "text.jpg").write_text("I am not a picture")
    run = tmp_path / "run"
    assert cli.main([*SMOKE, "--set", "schedule.epochs=3", "--faces", str(faces), "--out", str(run)]) == 0
    assert "text.jpg" in (run / "summary.json").read_text()
    assert "dot.png" not in (run / "summary.json").read_text()


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(
    drawn_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import fra.training.checkpoint as checkpoint

    run, saved = tmp_path / "run", torch.save
    saves = 0

    def fill_up(state: object, path: Path) -> None:
        nonlocal saves
        saves += 1
        if saves > 1:
            raise OSError(28, "No space left on device", str(path))
        saved(state, path)

    monkeypatch.setattr(checkpoint.torch, "save", fill_up)
    line = fails(capsys, *SMOKE, "--faces", drawn_faces, "--out", run)
    assert "No space left on device" in line
    assert "--resume" in line
    monkeypatch.undo()
    assert checkpoint.torch.load(run / "last.ckpt", weights_only=True)["step"] == 0
    assert cli.main([*SMOKE, "--faces", str(drawn_faces), "--out", str(run), "--resume"]) == 0
