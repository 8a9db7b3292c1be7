"""The README's six lines run as they stand, on fewer drawn faces; its links and its tree are true."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from documented import commands, run

README = Path(__file__).parents[1] / "README.md"


def test_the_six_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = commands(README)
    assert len(lines) == 6
    monkeypatch.chdir(tmp_path)
    run(lines[:-1])
    assert (tmp_path / "crops" / "contact_sheet.jpg").exists()
    assert (tmp_path / "regions" / "regions.png").exists()
    assert (tmp_path / "expression" / "results.json").exists()
    answers = (tmp_path / "answers" / "predictions.json").read_text()
    assert '"expression"' in answers
    assert '"landmarks"' in answers


def test_the_last_of_the_six_lines_opens_a_page() -> None:
    words = commands(README)[-1].split()
    assert words[:2] == ["fra", "app"]
    command = [sys.executable, "-m", "fra.cli", *words[1:], "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as page:
        assert page.stdout is not None
        line = page.stdout.readline()
        page.kill()
    assert re.search(r"http://127\.0\.0\.1:\d+", line)


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert len(links) >= 4
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_the_tree_is_true() -> None:
    lines = re.findall(r"[├└]── (.+?)  ", README.read_text())
    named = [name.strip().rstrip("/") for line in lines for name in line.split(",")]
    assert [name for name in named if not (README.parent / "fra" / name).exists()] == []
    rooms = [path.name for path in (README.parent / "fra").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert sorted(rooms) == sorted(name for name in named if not name.endswith(".py"))


def test_no_room_holds_more_than_15_percent_of_the_lines() -> None:
    lines: dict[str, int] = {}
    package = README.parent / "fra"
    for file in package.rglob("*.py"):
        room = file.relative_to(package).parts[0]
        lines[room] = lines.get(room, 0) + len(file.read_text(encoding="utf-8").splitlines())
    largest = max(lines, key=lambda room: lines[room])
    assert lines[largest] <= 0.15 * sum(lines.values()), largest
