"""The README's six lines run as they stand, on drawn faces and with a smaller recipe."""

import re
import shlex
from pathlib import Path

import pytest

from fra import cli
from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image

README = Path(__file__).parents[1] / "README.md"
QUICKER = {
    "laptop/resnet10_half.fra": "smoke/resnet10_half.fra",
    "laptop/synthetic_expression": "smoke/synthetic_expression",
    "2000": "60",
}


def commands() -> list[list[str]]:
    block = re.search(r"## Six lines\n\n```\n(.*?)```", README.read_text(), re.DOTALL)
    assert block
    return [shlex.split(line) for line in block[1].strip().splitlines()]


def test_the_six_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = commands()
    assert len(lines) == 6
    monkeypatch.chdir(tmp_path)
    for seed in range(24):
        write_image(tmp_path / "photos" / f"{seed}.jpg", draw_face(seed, size=256).image)
    for line in lines:
        words = [QUICKER.get(word, word) for word in line[1:]] + ["--quiet"]
        if words[0] == "crop":
            words += ["--workers", "1"]
        if words[0] == "pretrain":
            words += ["--set", "method.head={hidden: 32, out: 16}", "--set", "batch_size=4", "--workers", "0"]
            words += ["--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0.5"]
        assert cli.main(words) == 0, line
    assert (tmp_path / "report.html").stat().st_size > 50_000


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert len(links) >= 5
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_the_tree_is_true() -> None:
    lines = re.findall(r"[├└]── (.+?)  ", README.read_text())
    names = [name.strip() for line in lines for name in line.split(",")]
    assert len(names) >= 10
    assert [name for name in names if not (README.parent / "fra" / name).exists()] == []
