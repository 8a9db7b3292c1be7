"""docs/guides/mistakes.md: every command is answered as the page says."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import fra
from fra import cli
from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image

PAGE = (Path(__file__).parents[1] / "docs/guides/mistakes.md").read_text()
ANSWERS = [
    (command, answer.rstrip().splitlines())
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for command, answer in re.findall(r"^\$ (fra .*)\n((?:(?!\$ ).*\n)+)", block, re.MULTILINE)
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three photos of small faces and eight crops."""
    for number in range(3):
        photo = torch.full((3, 480, 640), 128, dtype=torch.uint8)
        photo[:, 60:160, 100:200] = draw_face(number, size=100).image
        write_image(tmp_path / f"photos/{number}.jpg", photo)
    for number in range(8):
        write_image(tmp_path / f"crops/{number}.png", draw_face(number, size=64).image)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_ten() -> None:
    assert re.findall(r"^\*\*(\d+)\.", PAGE, re.MULTILINE) == [str(number) for number in range(1, 11)]
    assert len(ANSWERS) == 11


@pytest.mark.parametrize("command, lines", ANSWERS, ids=[command for command, _ in ANSWERS])
def test_a_mistake_is_answered_as_the_page_says(
    command: str, lines: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path for path in here.rglob("*") if path.is_file()}
    status = cli.main(shlex.split(command)[1:])
    said = capsys.readouterr()
    printed = " ".join((said.err + said.out).split())
    for line in lines:
        pattern = ".*".join(re.escape(" ".join(part.split())) for part in line.split("…"))
        assert re.search(pattern, printed), printed
    assert status == (0 if "--plan" in command else 2)
    assert {path for path in here.rglob("*") if path.is_file()} == before


def test_images_of_the_wrong_range_are_refused() -> None:
    found = re.search(r"ValueError: (.*)", PAGE)
    assert found
    with pytest.raises(ValueError, match=re.escape(found[1])):
        fra.load_encoder("laptop")(torch.rand(1, 3, 64, 64) * 255)
