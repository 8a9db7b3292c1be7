"""A machine whose clock is an hour off, on a disk that others share."""

import time
from pathlib import Path

import pytest

from fra.files import TEMPORARY, remove_leftovers
from fra.system.lock import claim, holder


@pytest.mark.parametrize("hours", [-1.5, 1.5])
def test_neither_a_claim_nor_a_file_of_another_machine_is_taken_for_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: float
):
    theirs = tmp_path / f"{TEMPORARY}another-1-abcdefgh.tar"  # it is being written there
    theirs.touch()
    (tmp_path / "run.1").write_text("another kernel\nanother machine, process 7\n")
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 3600 * hours)
    remove_leftovers(tmp_path, alone=False)
    assert theirs.exists()
    assert holder(tmp_path, "run") == "another machine, process 7"
    with claim(tmp_path, "run") as mine:
        assert not mine
