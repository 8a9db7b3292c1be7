"""The soak writes what it has found, whatever becomes of its parts."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import soak
from scripts.soak import Line, Soak

PAGE = "# Page\n\n<!-- soak -->\nold\n<!-- end of soak -->\n\nThe end.\n"


def some(dice: random.Random, work: Path, drawn: Path, until: float) -> Iterator[Line]:
    line = Line("some", planned=5)
    yield line
    line.tries = 3
    line.failed("a\nb")


def breaks(dice: random.Random, work: Path, drawn: Path, until: float) -> Iterator[Line]:
    yield Line("begun", planned=5)
    raise OSError("no more")


def interrupted(dice: random.Random, work: Path, drawn: Path, until: float) -> Iterator[Line]:
    line = Line("long", planned=5)
    yield line
    line.tries = 2
    raise KeyboardInterrupt


def test_what_was_found_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "PARTS", {"some": some, "breaks": breaks, "long": interrupted})
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    found = Soak(4, page)
    found.attack("some", tmp_path / "some", tmp_path, 0)
    found.attack("breaks", tmp_path / "breaks", tmp_path, 0)
    assert "| begun | 0 of 5 | 0 | 0 |" in page.read_text()
    with pytest.raises(KeyboardInterrupt):
        found.attack("long", tmp_path / "long", tmp_path, 0)
    found.save(", interrupted")
    rows = page.read_text().splitlines()
    assert rows[:3] == PAGE.splitlines()[:3]
    assert rows[-3:] == PAGE.splitlines()[-3:]
    assert "| some | 3 of 5 | 1 | 0 |" in rows
    assert "| breaks: the soak itself | 0 | 1 | 0 |" in rows
    assert "| long | 2 of 5 | 0 | 0 |" in rows
    assert "| **all**, seed 4, interrupted | 5 | 2 | 0 |" in rows
    assert r"    some: a\nb" in rows


def test_all_parts_together_end_in_time() -> None:
    assert list(soak.SHARES) == list(soak.PARTS)
    assert list(soak.SHARES.values()) == sorted(soak.SHARES.values())
    assert max(soak.SHARES.values()) == 1


def test_resumed_predictions_may_differ_in_the_last_digit_and_nothing_else_may() -> None:
    one = {"photos": [{"name": "a", "probabilities": {"x": 0.0962673, "y": 9.39665e-05}}]}
    assert soak.alike(one, {"photos": [{"name": "a", "probabilities": {"x": 0.0962672, "y": 9.39663e-05}}]})
    assert not soak.alike(one, {"photos": [{"name": "a", "probabilities": {"x": 0.0962, "y": 9.39665e-05}}]})
    assert not soak.alike(one, {"photos": [{"name": "b", "probabilities": {"x": 0.0962673, "y": 9.39665e-05}}]})
    assert not soak.alike(one, {"photos": one["photos"] * 2})
    assert not soak.alike({"crops.csv": b"1"}, {"crops.csv": b"2"})
