"""Claims: one writer, whoever dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fra.system import lock
from fra.system.lock import claim, holder

HOLD = """
import sys, time
from pathlib import Path
from fra.system.lock import claim
with claim(Path(sys.argv[1]), "run", beat=0.1) as mine:
    print(mine, flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(folder: Path, seconds: float = 60) -> subprocess.Popen[str]:
    """A process that has tried to claim, and says whether it could."""
    words = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_many_processes_at_once_one_has_the_run(tmp_path: Path) -> None:
    processes = [hold(tmp_path, 3) for _ in range(6)]
    answers = [said(process) for process in processes]
    for process in processes:
        process.communicate()
    assert sorted(answers) == ["False"] * 5 + ["True"]


def test_a_claim_is_free_after_the_block_and_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with claim(tmp_path, "run") as mine:
            assert mine
            with claim(tmp_path, "run") as again, claim(tmp_path, "another") as other:
                assert (again, other) == (False, True)
            assert "process " in str(holder(tmp_path, "run"))
        assert holder(tmp_path, "run") is None
    with pytest.raises(ValueError, match="broken"), claim(tmp_path, "run"):
        raise ValueError("broken")
    assert holder(tmp_path, "run") is None


def test_names_that_begin_alike_are_different_runs(tmp_path: Path) -> None:
    with claim(tmp_path, "fra_1ep") as one, claim(tmp_path, "fra_1ep.more") as two, claim(tmp_path, "fra_1") as three:
        assert (one, two, three) == (True, True, True)


def test_a_killed_process_of_this_machine_frees_its_run_at_once(tmp_path: Path) -> None:
    process = hold(tmp_path)
    assert said(process) == "True"
    assert holder(tmp_path, "run", stale=1000)
    process.kill()
    process.communicate()
    with claim(tmp_path, "run", stale=1000) as mine:
        assert mine


def test_a_claim_of_another_machine_is_free_when_it_was_not_touched_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.1"
    file.write_text("another kernel\nelsewhere, process 7\n")
    assert holder(tmp_path, "run", stale=100) == "elsewhere, process 7"
    with claim(tmp_path, "run", stale=100) as mine:
        assert not mine
    long_ago = file.stat().st_mtime - 101
    os.utime(file, (long_ago, long_ago))
    assert holder(tmp_path, "run", stale=100) is None
    with claim(tmp_path, "run", stale=100) as mine:
        assert mine
        assert (tmp_path / "run.2").exists()
        assert not file.exists()
        # two that see the same stale claim make the same file, which only one of them can
        file.write_text("another kernel\nelsewhere, process 7\n")
        os.utime(file, (long_ago, long_ago))
        monkeypatch.setattr(lock, "_numbers", lambda folder, name: [1])
        with claim(tmp_path, "run", stale=100) as also:
            assert not also


def test_who_has_seen_an_old_list_of_the_folder_gives_up_for_one_that_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = lock._numbers
    with claim(tmp_path, "run"):
        seen = iter([[7]])  # 7 was dead, and is gone since
        monkeypatch.setattr(lock, "_numbers", lambda folder, name: next(seen, None) or look(folder, name))
        with claim(tmp_path, "run") as also:
            assert not also
        assert [path.name for path in tmp_path.iterdir()] == ["run.1"]


def test_the_owner_touches_its_claim(tmp_path: Path) -> None:
    with claim(tmp_path, "run", beat=0.05):
        os.utime(tmp_path / "run.1", (1, 1))
        time.sleep(0.5)
        assert (tmp_path / "run.1").stat().st_mtime > 1000


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no such signal here")
def test_a_process_that_slept_too_long_ends_when_it_wakes(tmp_path: Path) -> None:
    process = hold(tmp_path)
    assert said(process) == "True"
    process.send_signal(signal.SIGSTOP)
    (tmp_path / "run.2").write_text("another kernel\nelsewhere, process 7\n")  # who took it over
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "was taken over" in errors
    assert holder(tmp_path, "run") == "elsewhere, process 7"
