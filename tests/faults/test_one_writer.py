"""One writer: a second process is refused everywhere, and a lock dies with its holder."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_runs import FRA_TINY, run

from fra import cli
from fra.files import (
    LOCK,
    MARK,
    TEMPORARY,
    atomic,
    claim_file,
    claim_folder,
    one_writer,
    remove_leftovers,
    temporary_prefix,
)
from fra.system import lock
from fra.system.lock import InUse, claim

HOLD = r"""
import os, sys, time
from contextlib import ExitStack
from pathlib import Path
from fra.system.lock import claim
with ExitStack() as held:
    for place in sys.argv[2:]:
        folder, name = os.path.split(place)
        assert held.enter_context(claim(Path(folder), name))
    if sys.argv[1] == "fork" and os.fork() == 0:
        os.write(1, b"%d\n" % os.getpid())  # at once, so that the two lines do not mix
        time.sleep(100)
        os._exit(0)
    os.write(1, b"held\n")
    time.sleep(100)
"""

FOLDERS = {
    "crop": ["crop", "FACES", "--detector", "none", "--workers", "1"],
    "pretrain": ["pretrain", "smoke/resnet10_half.fra", "--faces", "FACES", "--workers", "0", "--device", "cpu"],
    "transfer": ["transfer", "laptop/synthetic_expression", "--encoder", "random", "--data", "DRAWN"],
    "regions": ["regions", "RUN", "--faces", "FACES", "--device", "cpu"],
    "score": ["regions", "RUN", "--score", "DRAWN", "--device", "cpu"],
    "predict": ["predict", "FACES", "--task", "TASK", "--detector", "none", "--device", "cpu"],
    "embed": ["embed", "FACES", "--detector", "none", "--device", "cpu"],
    "export": ["export", "RUN", "--format", "official"],
    "demo": ["demo"],
}
"""Commands whose `--out` is a folder of theirs."""
FILES = {"report": ["report", "RUN"], "synthetic": ["data", "synthetic", "--count", "10"]}
"""Commands that make one file or folder whole."""


@contextmanager
def hold(kind: str, *places: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A process that has these claims, and the number of its forked worker, if it has one."""
    words = [sys.executable, "-c", HOLD, kind, *map(str, places)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = {process.stdout.readline().strip() for _ in range(2 if kind == "fork" else 1)}
    worker = next((int(line) for line in said if line.isdigit()), 0)
    try:
        assert "held" in said
        yield process, worker
    finally:
        process.kill()
        process.wait()
        if worker:
            os.kill(worker, 9)
        process.stdout.close()


@pytest.fixture(scope="module")
def inputs(drawn_faces: Path, few_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from planted_tasks import EXPRESSION, plant

    root = tmp_path_factory.mktemp("inputs")
    trained = run(drawn_faces, root / "run", "schedule.epochs=1")
    task = plant(root / "task", EXPRESSION, "rafdb", trained)
    return {"FACES": drawn_faces, "DRAWN": few_faces, "RUN": trained, "TASK": task}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with one folder for every command, which another process holds."""
    root = tmp_path_factory.mktemp("held")
    places = [root / name / LOCK for name in FOLDERS]
    for name, words in FOLDERS.items():
        (root / name).mkdir()
        (root / name / MARK).write_text(json.dumps({"command": words[0]}))
    places += [root / f".report.html{LOCK}", root / f".synthetic{LOCK}"]
    with hold("alone", *places):
        yield root


@pytest.mark.parametrize("more", [[], ["--resume"]], ids=["", "resume"])
@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_a_second_process_on_the_same_out_is_refused(
    name: str, more: list[str], held: Path, inputs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = {**FOLDERS, **FILES}[name]
    out = held / ("report.html" if name == "report" else name)
    settings = [word for setting in FRA_TINY for word in ("--set", setting)] if name == "pretrain" else []
    if name in ("demo", "report"):
        more = []  # they always go on
    before = {path: path.stat().st_mtime_ns for path in held.rglob("*") if LOCK not in path.name}
    command = [str(inputs.get(word, word)) for word in words] + settings + more
    assert cli.main([*command, "--out", str(out), "--quiet"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fra: ")]
    assert f"{out} is being written by another process" in said[-1]
    assert "choose another --out" in said[-1]
    assert {path: path.stat().st_mtime_ns for path in held.rglob("*") if LOCK not in path.name} == before


def test_what_is_finished_leaves_no_claim(inputs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("report", "synthetic", "export"):
        words = [str(inputs.get(word, word)) for word in {**FOLDERS, **FILES}[name]]
        assert cli.main([*words, "--out", str(tmp_path / "out" / name), "--quiet"]) == 0
    assert [path.name for path in (tmp_path / "out").rglob(".*") if path.name != MARK] == []


@pytest.mark.parametrize("kind", ["alone", "fork"])
def test_a_lock_dies_with_its_holder_also_when_a_forked_worker_lives(kind: str, tmp_path: Path) -> None:
    with hold(kind, tmp_path / LOCK) as (process, worker):
        with pytest.raises(InUse, match=f"process {process.pid}"):
            claim_folder(tmp_path, command="crop", resume=False)
        process.kill()
        process.wait()
        if worker:
            os.kill(worker, 0)  # it lives
        assert not claim_folder(tmp_path, command="crop", resume=False)


def test_a_claim_lasts_until_the_command_ends_however_it_ends(tmp_path: Path) -> None:
    @one_writer
    def command(out: Path, error: Exception | None = None) -> None:
        claim_folder(out, command="crop", resume=True)
        claim_file(out.with_suffix(".html"))
        with claim(out, LOCK) as folder, claim(out.parent, f".{out.stem}.html{LOCK}") as file:
            assert (folder, file) == (False, False)
        if error:
            raise error

    command(tmp_path / "out")
    with pytest.raises(OSError, match="full"):
        command(tmp_path / "out", OSError("full"))
    with claim(tmp_path / "out", LOCK) as folder, claim(tmp_path, f".out.html{LOCK}") as file:
        assert (folder, file) == (True, True)


def test_a_machine_that_may_be_dead_is_watched_for_a_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LOOK", 0.02)
    other = tmp_path / f"{LOCK}.1"
    other.write_text("another kernel\nelsewhere, process 7\n")
    with claim(tmp_path, LOCK, stale=0.3, watch=True) as mine:  # it shows no sign of life
        assert mine
    other.write_text("another kernel\nelsewhere, process 7\n")
    beats = iter(range(3))
    sleep = time.sleep

    def beat(seconds: float) -> None:
        next(beats)
        os.utime(other)
        sleep(seconds)

    monkeypatch.setattr(lock.time, "sleep", beat)
    with claim(tmp_path, LOCK, stale=100, watch=True) as mine:  # it does
        assert not mine


def test_temporaries_of_killed_runs_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = temporary_prefix()
    dead = mine.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    elsewhere = f"{TEMPORARY}00000000-1-"
    for prefix in (mine, dead, elsewhere):
        (tmp_path / f"{prefix}abcdefgh.csv").touch()
    (tmp_path / f"{elsewhere}old.csv").touch()
    os.utime(tmp_path / f"{elsewhere}old.csv", (1, 1))
    (tmp_path / f"{dead}folder").mkdir()
    remove_leftovers(tmp_path, alone=False)
    assert {path.name for path in tmp_path.iterdir()} == {f"{mine}abcdefgh.csv", f"{elsewhere}abcdefgh.csv"}


def test_a_run_that_goes_on_removes_what_it_left_but_not_what_is_in_other_runs(tmp_path: Path) -> None:
    claim_folder(tmp_path / "out", command="demo", resume=False)
    claim_folder(tmp_path / "out/crops", command="crop", resume=False)
    left = [tmp_path / "out/deep/er", tmp_path / "out", tmp_path / "out/crops"]
    for folder in left:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{TEMPORARY}00000000-1-abcdefgh.png").touch()
    claim_folder(tmp_path / "out", command="demo", resume=True)
    assert [folder for folder in left if any(folder.glob(f"{TEMPORARY}*"))] == [tmp_path / "out/crops"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")

    def write() -> None:
        with atomic(tmp_path / "a.json") as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_command_that_is_refused_leaves_no_folder_behind(tmp_path: Path) -> None:
    @one_writer
    def work(out: Path, error: Exception | None, *, write: bool) -> None:
        claim_folder(out, command="crop", resume=False)
        if write:
            (out / "crops.csv").write_text("begun")
        if error:
            raise error

    for error in (ValueError("none has a face"), OSError("gone")):
        with pytest.raises(type(error)):
            work(tmp_path / "deep" / "out", error, write=False)
        assert not (tmp_path / "deep" / "out").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    with pytest.raises(ValueError, match="none"):
        work(mine, ValueError("none"), write=False)
    assert list(mine.iterdir()) == []  # and may be tried again
    with pytest.raises(ValueError, match="late"):
        work(mine, ValueError("late"), write=True)
    assert {file.name for file in mine.iterdir()} == {MARK, "crops.csv"}
    with pytest.raises(ValueError, match="already holds a run"):
        work(mine, None, write=False)
    assert (mine / MARK).exists()
    with pytest.raises(RuntimeError):  # a fault of ours is looked at
        work(tmp_path / "fault", RuntimeError(), write=False)
    assert (tmp_path / "fault" / MARK).exists()


def test_refused_photos_may_be_asked_again(tmp_path: Path, drawn_faces: Path) -> None:
    """`fra embed` finds only after it has begun that nothing can be read."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"\xff\xd8 no picture")
    words = ["embed", str(tmp_path / "broken"), "--detector", "none", "--device", "cpu", "--quiet"]
    out = ["--out", str(tmp_path / "out")]
    assert cli.main([*words, *out]) == 2
    assert cli.main([words[0], str(drawn_faces), *words[2:], *out]) == 0
