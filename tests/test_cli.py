"""The command line: quick help, one clear line for bad input, and what a first user types."""

import os
import pty
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image

from fra import cli, doctor
from fra.data.datasets import DATASETS
from fra.shipped import KINDS, SMALL, shipped_recipes
from fra.weights import bundled
from fra.weights.bundled import shipped_names

ROOT = Path(__file__).parents[1]
TINY = ["method.head={hidden: 32, out: 16}", "method.decoder.width=16", "encoder.image_size=32", "views.size=32"]
TINY += ["schedule.epochs=1", "schedule.warmup_epochs=0.5", "batch_size=8", "health_faces=8"]
SETTINGS = [word for setting in TINY for word in ("--set", setting)]
FACE = "(a drawn face)"
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
    assert cli.main(["recipes", "rafdb", "LAPTOP", "eac"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in found] == ["fra", "laptop/rafdb.eac", "smoke/rafdb.eac"]
    assert "did you mean 'laptop'" in fails(capsys, "recipes", "lptop")


def test_on_a_terminal_the_recipes_fit_a_screen_and_none_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        shown = _on_a_terminal("recipes")
    assert len(shown.splitlines()) <= 48
    for kind in KINDS:
        for name in shipped_recipes(kind):
            scale, _, rest = name.partition("/")
            assert scale == SMALL or rest.partition(".")[2] in shown, name
            assert rest.partition(".")[0] in shown, name
    for name in shipped_names():
        assert name in shown


def _on_a_terminal(*words: str) -> str:
    """What a command prints on a terminal of 100 columns."""
    terminal, inside = pty.openpty()
    try:
        environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb"}
        subprocess.run([sys.executable, "-m", "fra.cli", *words], stdout=inside, env=environment, check=True, cwd=ROOT)
        os.set_blocking(terminal, False)
        return os.read(terminal, 1 << 16).decode()
    finally:
        os.close(terminal)
        os.close(inside)


def test_bare_fra_prints_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    for command in ("crop", "pretrain", "transfer", "regions", "predict", "doctor"):
        assert f"    {command} " in said


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["pretrain", "laptop/fra"], "'laptop/demo.fra', 'laptop/resnet10_half.fra'"),
        (["transfer", "laptop/rafdb"], "'laptop/rafdb.eac', 'laptop/rafdb.finetune' or 'laptop/rafdb.linear'"),
        (["transfer", "rafdb"], "'laptop/rafdb.eac', 'laptop/rafdb.finetune' or 'laptop/rafdb.linear'"),
        (["pretrain", "laptop/demo.fra", "--set", "epochs=3"], "'schedule.epochs'"),
        (["pretrain", "laptop/demo.fra", "--set", "lr=3"], "'optimizer.learning_rate'"),
        (["pretrain", "laptop/demo.fra", "--set", "method.regionz=3"], "'method.regions'"),
        (["transfer", "laptop/rafdb.eac", "--set", "epoch=3"], "'epochs'"),
        (["transfer", "laptop/rafdb.eac", "--set", "dataset=rafbd", "--encoder", "laptop", "--data", "."], "'rafdb'"),
        (["transfer", "laptop/rafdb.eac", "--encoder", "lptop", "--data", "."], "'laptop'"),
        (["predict", FACE, "--task", "laptop_aeg"], "'laptop_age'"),
        (["regions", "laptop_fin", "--faces", FACE], "'laptop_fine'"),
        (["export", "laptop_bol", "--format", "torch"], "'laptop_byol'"),
        (["data", "layout", "rafb"], "'rafdb'"),
    ],
)
def test_what_is_misspelt_is_answered_with_what_may_be_meant(
    words: list[str],
    meant: str,
    drawn_faces: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    face = str(min(drawn_faces.iterdir()))
    line = fails(capsys, *(face if word == FACE else word for word in words))
    assert f"; did you mean {meant}" in line
    assert line.count("', '") + line.count("' or '") <= 2
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_of_the_other_command_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert "is a recipe of `fra transfer`" in fails(capsys, "pretrain", "laptop/rafdb.linear")
    assert "is a recipe of `fra pretrain`" in fails(capsys, "transfer", "smoke/demo.fra")


def test_the_names_that_people_try_for_datasets_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    for name, shows in {"lfw": "Name_0001.jpg", "affectnet": "affectnet8"}.items():
        assert cli.main(["data", "layout", name]) == 0
        assert shows in capsys.readouterr().out
    assert "use lfwa" in fails(capsys, "data", "check", "lfw", ".")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("fra pre", {"predict", "pretrain"}),
        ("fra pretrain laptop/de", {"laptop/demo.fra"}),
        ("fra transfer laptop/rafdb.", {"laptop/rafdb.eac", "laptop/rafdb.finetune", "laptop/rafdb.linear"}),
        ("fra transfer laptop/rafdb.eac --encoder laptop_f", {"laptop_fine"}),
        ("fra predict a.jpg --task laptop_a", {"laptop_age"}),
        ("fra data layout raf", {"rafdb"}),
        ("fra crop --det", {"--detector", "--detail"}),
    ],
)
def test_the_shell_offers_what_may_follow(line: str, offered: set[str]) -> None:
    shell = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": " ", "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    shell |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": "/dev/stdout"}
    done = subprocess.run(
        [sys.executable, "-m", "fra.cli"], env={**os.environ, **shell}, capture_output=True, text=True, cwd=ROOT
    )
    assert {word.strip() for word in done.stdout.split(" ")} == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_one(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--completion", shell])
    assert ended.value.code == 0
    script = capsys.readouterr().out
    assert "fra" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n", "/dev/stdin"], input=script, text=True, check=True)


def test_datasets_are_offered_without_their_readers() -> None:
    assert cli._datasets() == set(DATASETS)


def test_without_out_a_numbered_folder_is_taken(
    drawn_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = ["data", "synthetic", "--count", "10", "--size", "16", "--workers", "0"]
    assert cli.main(draw) == 0
    assert "output folder: runs/drawn\n" in capsys.readouterr().out
    assert cli.main([*draw, "--quiet"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["drawn", "drawn-2"]
    assert cli.main([*draw, "--resume"]) == 0
    assert "output folder: runs/drawn-2\n" in capsys.readouterr().out
    assert len(list((tmp_path / "runs").iterdir())) == 2
    regions = ["regions", "laptop", "--faces", str(drawn_faces), "--quiet"]
    assert cli.main(regions) == 0
    assert (tmp_path / "runs/regions.laptop/regions.png").exists()


def test_photos_given_as_face_crops_are_told(
    drawn_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "my photos"
    photos.mkdir()
    face = Image.open(min(drawn_faces.iterdir())).resize((60, 60))
    for number in range(4):
        picture = Image.new("RGB", (400, 300), "gray")
        picture.paste(face, (50 + 40 * number, 80))
        picture.save(photos / f"{number}.png")
    words = ["regions", "laptop", "--faces", str(photos), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "4 of 4 pictures looked at show a small face or none" in told[0]
    assert f"`fra crop '{photos}'`" in told[0]
    assert cli.main([*words, "--resume", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main(["regions", "laptop", "--faces", str(drawn_faces), "--out", str(tmp_path / "crops")]) == 0
    assert capsys.readouterr().err == ""


def test_what_reads_the_output_may_end() -> None:
    """`fra recipes | head -1` ends as other programs do, without a word."""
    words = [sys.executable, "-m", "fra.cli", "recipes"]
    for read in (0, 10):
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as command:
            assert command.stdout is not None
            assert command.stderr is not None
            command.stdout.read(read)
            command.stdout.close()
            assert command.stderr.read() == b""
        assert command.returncode in (0, 141)


def test_doctor_tells_what_there_is_and_what_would_stop_a_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("fra", "torch", "processor", "device", "extra app", "here", "weights", "advice"):
        assert f"\n{word} " in "\n" + said
    damaged = tmp_path / "weights/laptop"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{}")
    monkeypatch.setattr(bundled, "SHIPPED", tmp_path / "weights")
    assert cli.main(["doctor"]) == 1
    assert "advice          the bundled weights 'laptop' are damaged" in capsys.readouterr().out


def test_a_misspelt_flag_or_command_is_answered_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "embed", "photos", "--encodr", "laptop")
    assert "unrecognized arguments: --encodr laptop; did you mean '--encoder'" in line
    assert line.endswith("(see `fra embed --help`)")
    assert "invalid choice: 'embd'; did you mean 'embed'? (choose from" in fails(capsys, "embd", "photos")
    assert "'chek'; did you mean 'check'?" in fails(capsys, "data", "chek", "folder", "here")


def test_the_description_of_a_command_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["compare"], ["embed"], ["data", "check"]):
        with pytest.raises(SystemExit):
            cli.main([*words, "--help"])
        said = capsys.readouterr().out
        assert ("?\n" in said) is (words == ["compare"])
        assert "?." not in said


def test_doctor_looks_for_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {name: tuple(one.partition(">")[0] for one in packages) for name, packages in extras.items()}
    del asked["dev"]
    assert asked == doctor.EXTRAS


def test_doctor_finds_a_folder_without_permission_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    found = {finding.what: finding for finding in doctor.examine()}
    assert found["here"].stops
    assert "Permission denied" in found["here"].says
    assert found["no-such-package"].stops
    assert not found["torch"].advice


def test_bad_input_is_one_clear_line(drawn_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, out = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    assert "no faces found in" in fails(capsys, *SMOKE, "--faces", empty, "--out", out)
    assert "--faces is missing" in fails(capsys, *SMOKE, "--out", out)
    assert "no recipe named 'no/such'" in fails(capsys, "pretrain", "no/such", "--faces", drawn_faces, "--out", out)
    line = fails(capsys, *SMOKE, "--set", "optimizer.learning_rate=fast", "--faces", drawn_faces, "--out", out)
    assert "learning_rate" in line
    assert "expected a number" in line
    line = fails(capsys, *SMOKE, "--set", "optimizer.lerning_rate=1", "--faces", drawn_faces, "--out", out)
    assert "no setting named 'optimizer.lerning_rate'; did you mean 'optimizer.learning_rate'" in line
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
