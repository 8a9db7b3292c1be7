"""`fra reproduce` at work: what is missing is done, once, whoever dies; a small run of everything."""

import json
import subprocess
import time
from pathlib import Path

import pytest
import torch
from small_paper import small_process

from fra import engine
from fra.files import MARK, claim_folder
from fra.pools.unlabelled import FolderPool
from fra.reproduce import run as paper
from fra.reproduce.runs import Place, Run
from fra.reproduce.supplement.scales import SCALES, Scale
from fra.reproduce.timing import time_per_step
from fra.runtime import Runtime
from fra.system.lock import claim

PATIENCE = 1200.0
"""Seconds for what takes about 20 on an idle machine."""


class Fake(Run):
    """A run that leaves a file, or fails."""

    def __init__(self, name: str, needs: tuple[Run, ...] = (), *, error: Exception | None = None) -> None:
        self._name, self._needs, self.error, self.times = name, needs, error, 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def needs(self) -> tuple[Run, ...]:
        return self._needs

    def finished(self, place: Place) -> bool:
        return (self.folder(place) / "done").exists()

    def work(self, place: Place) -> None:
        if self.error:
            raise self.error
        assert all(need.finished(place) for need in self._needs)
        self.times += 1
        self.folder(place).mkdir(parents=True, exist_ok=True)
        (self.folder(place) / "done").touch()

    def command(self, place: Place) -> str:
        return "fra nothing"


def do(runs: list[Run], place: Place, *, wait: bool = True) -> bool:
    return paper.do_runs(runs, SCALES["smoke"], place, wait=wait)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(paper, "_check", lambda *rest: None)
    monkeypatch.setattr(engine, "POLL", 0.1)
    return Place(tmp_path, tmp_path, tmp_path, runtime=Runtime(quiet=True))


def test_what_is_finished_is_not_done_again(place: Place) -> None:
    first = Fake("first")
    second = Fake("second", (first,))
    third = Fake("third", (second,))
    first.work(place)
    assert do([first, second, third], place)
    assert do([first, second, third], place)
    assert [run.times for run in (first, second, third)] == [1, 1, 1]
    assert json.loads((third.folder(place) / "cost.json").read_text())["seconds"] >= 0
    assert not (first.folder(place) / "cost.json").exists()  # it was made by hand


def test_what_another_process_has_is_left_to_it(place: Place) -> None:
    first, second = Fake("first"), Fake("second")
    with claim(place.out / "claims", "first") as mine:
        assert mine
        assert not do([first, second], place, wait=False)
    assert (first.times, second.times) == (0, 1)
    assert do([first, second], place, wait=False)
    assert (first.times, second.times) == (1, 1)


def test_a_run_that_fails_is_named_and_free_again(place: Place) -> None:
    broken = Fake("broken", error=ValueError("the loss is not finite"))
    with pytest.raises(ValueError, match="broken: the loss is not finite"):
        do([broken], place)
    stopped = Fake("stopped", error=KeyboardInterrupt())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt, match="stopped in stopped; the same command continues"):
        do([stopped], place)
    broken.error = None
    assert do([broken], place)


def test_a_mark_that_was_never_finished_is_no_content(tmp_path: Path) -> None:
    (tmp_path / f".{MARK}-abcdef").write_text("{")  # what kill -9 leaves in the middle of writing it
    assert not claim_folder(tmp_path, command="reproduce", resume=True)
    assert claim_folder(tmp_path, command="reproduce", resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file.txt").touch()
    with pytest.raises(ValueError, match="is not empty and was not made by fra"):
        claim_folder(tmp_path / "other", command="reproduce", resume=True)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"comm'])
def test_a_mark_that_names_no_command_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / MARK).write_text(content)
    with pytest.raises(ValueError, match="does not say which command made"):
        claim_folder(tmp_path, command="reproduce", resume=True)


@pytest.mark.slow
def test_two_processes_share_a_folder_and_do_no_run_twice(few_faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = small_process(out, few_faces, "table2")
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        said = [process.communicate(timeout=PATIENCE) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said
    done = [line.rpartition("now ")[2] for text, _ in said for line in text.splitlines() if "; now " in line]
    assert len(done) == len(set(done)) == len(list((out / "runs").iterdir()))
    assert all("; now " in text for text, _ in said)  # both had something to do
    assert (out / "table2.md").exists()


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_tables(few_faces: Path, tmp_path: Path) -> None:
    plain, killed = tmp_path / "plain", tmp_path / "killed"

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(small_process(out, few_faces, "table2", "figure1"), stdout=subprocess.DEVNULL)

    assert start(plain).wait(PATIENCE) == 0
    runs = len(list((plain / "runs").iterdir()))
    deaths = 0
    for fewest in (1, 3, runs - 1):  # after so many runs have begun
        process = start(killed)
        while process.poll() is None and len(list((killed / "runs").glob("*"))) < fewest:
            time.sleep(0.02)
        time.sleep(0.3)
        deaths += process.poll() is None
        process.kill()
        process.wait()
    assert deaths >= 2
    assert start(killed).wait(PATIENCE) == 0
    assert (plain / "table2.csv").read_bytes() == (killed / "table2.csv").read_bytes()
    assert (plain / "figure1.png").read_bytes() == (killed / "figure1.png").read_bytes()
    body = [
        [
            line
            for line in (out / "table2.md").read_text().splitlines()
            if "Cost:" not in line and not line.startswith("<!-- crc32 ")
        ]
        for out in (plain, killed)
    ]
    assert body[0] == body[1]


class Counted(FolderPool):
    """Counts the faces that are read."""

    count = 0

    def image(self, index: int) -> torch.Tensor:
        self.count += 1
        return super().image(index)


def test_times_are_measured_in_turn(few_faces: Path, small_scale: Scale) -> None:
    recipes = {method: small_scale.encoder(method).recipe for method in ("byol", "fra")}
    pool = Counted(few_faces / "images")
    found = time_per_step(recipes, pool, rounds=2, steps=1, runtime=Runtime(device="cpu", precision="32", workers=0))
    # Without loading one batch of 8 faces for each method; with it, for each, 2 rounds of one step and one unmeasured.
    assert pool.count == 2 * 8 + 2 * 2 * (1 + 1) * 8
    assert set(found) == {"with_loading", "without_loading"}
    for kind in found.values():
        assert kind["byol"]["ratio"] == 1
        assert kind["fra"]["low"] <= kind["fra"]["ratio"] <= kind["fra"]["high"]
        assert min(each["seconds"] for each in kind.values()) > 0
