"""Every command in `sh` blocks of docs/start and docs/guides runs, in miniature, as does what the guides say to add."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hand_labels
import pytest
import timm
import torch
from documented import FACES, ROOT, blocks, commands, copy_package, miniature, run
from drawn_clip import draw_clip

from fra import cli
from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image

ADDING = ("add_a_detector", "add_a_dataset", "add_a_method")  # the first crops what the last is trained on
PAGES = {path.stem: path for folder in ("start", "guides") for path in sorted((ROOT / "docs" / folder).glob("*.md"))}
ORDINARY = [name for name, path in PAGES.items() if name not in ADDING and commands(path)]
FIRST = ("fra crop photos --out crops", "fra data synthetic --out drawn", "fra --version")
"""What many pages begin with: done once."""
FOUNDATIONS = {"tf_efficientnet_lite0": "imagenet.pth", "vit_tiny_patch16_224": "vit.pth"}
"""Networks of timm, and the files that pages take for their weights; here these are random."""
DRIVER = """
import json, sys
from fra import cli
for words in json.loads(sys.argv[1]):
    status = cli.main(words)
    if status:
        sys.exit(f"{status}: {words}")
"""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos`, `crops` and `drawn`, as the guides make them, and labels of one's own."""
    folder = tmp_path_factory.mktemp("guides")
    for seed in range(12):
        write_image(folder / "photos" / f"{seed:02d}.jpg", draw_face(seed, size=192).image)
    for words in (
        ["crop", str(folder / "photos"), "--out", str(folder / "crops"), "--workers", "1", "--quiet"],
        ["data", "synthetic", "--out", str(folder / "drawn"), "--count", FACES],
    ):
        assert cli.main(words) == 0
    for name, file in FOUNDATIONS.items():
        torch.save(timm.create_model(name).state_dict(), folder / file)
    draw_clip(folder / "clip.mp4", count=4, faces=(3,), size=(128, 128))
    hand_labels.write_folder(folder / "drawn", folder / "my_faces")
    hand_labels.write_table(
        hand_labels.with_images(folder / "drawn", folder / "my_table"), hand_labels.table_rows(folder / "drawn")
    )
    hand_labels.write_points(folder / "drawn", folder / "my_points")
    return folder


def test_guides_have_commands_that_run() -> None:
    assert len(ORDINARY) >= 8
    assert sum(len(commands(PAGES[name])) for name in ORDINARY) > 20


@pytest.mark.parametrize("name", ORDINARY)
def test_the_commands_of_a_page_run(
    name: str, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("photos", "crops", "drawn", "my_faces", "my_table", "my_points", "clip.mp4", *FOUNDATIONS.values()):
        (tmp_path / part).symlink_to(begun / part)
    monkeypatch.chdir(tmp_path)
    run(commands(PAGES[name]), done=FIRST)


def add(block: str, package: Path) -> None:
    """Do what a block of a guide says: a new file, or lines for a place in an old one, which its first line names."""
    first, _, text = block.partition("\n")
    path, _, place = first.removeprefix("# fra/").partition(", ")
    file = package / path
    if not place:
        file.parent.mkdir(parents=True, exist_ok=True)
        assert not file.exists(), path
        file.write_text(text)
        return
    old = file.read_text()
    table = place.removeprefix("before ")
    (start,) = re.finditer(rf"^{table}\b.*= ?\{{", old, re.MULTILINE)
    if place.startswith("before "):
        file.write_text(old[: start.start()] + text + "\n\n" + old[start.start() :])
        return
    imports = "".join(line + "\n" for line in text.splitlines() if line.startswith("from "))
    row = "".join(line + "\n" for line in text.splitlines() if line.startswith("    "))
    assert row, block
    new = old[: start.end()] + "\n" + row + old[start.end() :]
    last = [match.end() for match in re.finditer(r"^(?:from|import) .*(?:\((?:\n.*)*?\n\))?\n", new, re.MULTILINE)][-1]
    file.write_text(new[:last] + imports + new[last:])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the copy of the package lies, and what its commands write."""
    return tmp_path_factory.mktemp("added")


@pytest.fixture(scope="module")
def added(begun: Path, place: Path) -> "subprocess.CompletedProcess[str]":
    """All three guides followed in one copy of the package, and their commands run by it in a process of its own."""
    folder = place
    package = copy_package(folder)
    for name in ADDING:
        for kind in ("python", "yaml"):
            for block in blocks(PAGES[name], kind):
                add(block, package)
    for part in ("photos", "drawn"):
        (folder / part).symlink_to(begun / part)
    glasses(begun / "drawn", folder / "glasses")
    lines = [line for name in ADDING for line in commands(PAGES[name])]
    words = [miniature(line) for line in lines]
    command = [sys.executable, "-c", DRIVER, json.dumps(words)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def glasses(drawn: Path, folder: Path) -> None:
    """The example's dataset, out of drawn faces; every other one is said to wear glasses."""
    shutil.copytree(drawn / "images", folder / "images")
    with (drawn / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [f"{row['file']},{row['split']},{'yes' if place % 2 else 'no'}" for place, row in enumerate(rows)]
    (folder / "glasses.csv").write_text("\n".join(["file,split,glasses", *lines]) + "\n")


def test_a_method_a_dataset_and_a_detector_are_added_as_their_guides_say(
    added: "subprocess.CompletedProcess[str]",
) -> None:
    assert added.returncode == 0, added.stderr[-2000:] + added.stdout[-2000:]


def test_the_report_shows_the_added_methods_own_column_with_its_title(
    added: "subprocess.CompletedProcess[str]", place: Path
) -> None:
    page = (place / "simsiam.html").read_text()
    assert "Agreement of the predictor" in page
    assert "mean cosine of a face&#39;s embedding and what the predictor makes of it" in page.replace("Mean", "mean")
    assert "two views of a face agree" in page


def test_the_added_dataset_shows_its_layout(added: "subprocess.CompletedProcess[str]") -> None:
    assert "file,split,glasses" in added.stdout


@pytest.mark.parametrize("name", ADDING)
def test_a_guide_names_the_table_that_its_row_goes_to(name: str) -> None:
    places = [block.partition("\n")[0] for block in blocks(PAGES[name], "python")]
    assert any(re.fullmatch(r"# fra/\S+\.py, [A-Z]+", place) for place in places)
