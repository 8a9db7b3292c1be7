"""Silent loss: whatever was given to a command that reads photos is used, or skipped with the reason, or counted."""

import csv
import errno
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from planted_tasks import EXPRESSION, plant
from tiny_runs import FRA_TINY, run

from fra import cli
from fra.crop.cut import CropSettings
from fra.crop.detectors import make_detector
from fra.crop.run import crop
from fra.crop.tiles import why_no_face
from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image
from fra.models.encoder import Encoder, EncoderConfig
from fra.pools.listing import Account, closing_line, image_files
from fra.pools.unlabelled import open_pool
from fra.runtime import Runtime
from fra.weights.load import encoder_metadata, save_weights

ALONE = Runtime(workers=1, quiet=True)

Command = Callable[[Path, Path], list[str]]


@pytest.fixture(scope="session")
def pretrained(drawn_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch of FRA, and beside it a learned task."""
    folder = tmp_path_factory.mktemp("silent")
    run(drawn_faces, folder / "fra", "schedule.epochs=1", "schedule.warmup_epochs=0.5")
    network = Encoder(EncoderConfig(name="resnet10_quarter", image_size=32))
    save_weights(folder / "encoder.safetensors", network.backbone, encoder_metadata(network))
    plant(folder / "task", EXPRESSION, "synthetic", folder / "encoder.safetensors")
    return folder


@pytest.fixture
def commands(pretrained: Path) -> dict[str, Command]:
    """From photos and an output folder to the arguments of each command that reads photos."""
    settings = [word for setting in [*FRA_TINY, "schedule.epochs=1"] for word in ("--set", setting)]
    device = ["--device", "cpu"]
    return {
        "crop": lambda photos, out: ["crop", str(photos), "--out", str(out), "--detector", "none", "--workers", "1"],
        "predict": lambda photos, out: [
            *("predict", str(photos), "--out", str(out), "--detector", "none", *device),
            *("--task", str(pretrained / "task")),
        ],
        "embed": lambda photos, out: [
            *("embed", str(photos), "--out", str(out), "--detector", "none", *device),
            *("--encoder", str(pretrained / "encoder.safetensors")),
        ],
        "regions": lambda photos, out: [
            *("regions", str(pretrained / "fra"), "--faces", str(photos), "--out", str(out), *device)
        ],
        "pretrain": lambda photos, out: [
            *("pretrain", "smoke/resnet10_half.fra", "--faces", str(photos), "--out", str(out), "--workers", "0"),
            *device,
            *settings,
        ],
    }


OF_PHOTOS = ("crop", "predict", "embed")
COMMANDS = (*OF_PHOTOS, "regions", "pretrain")


def photos_in(folder: Path, *, count: int = 10) -> Path:
    folder.mkdir(parents=True)
    for seed in range(count):
        write_image(folder / f"{seed}.png", draw_face(seed, size=40).image)
    return folder


# --- one closing line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_closes_with_all_that_was_given(
    name: str, commands: dict[str, Command], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = photos_in(tmp_path / "photos")
    for other in ("a.gif", "b/clip.MP4", "b/notes", ".hidden/x.jpg", ".y.jpg", ".DS_Store"):
        (photos / other).parent.mkdir(exist_ok=True)
        (photos / other).touch()
    (photos / "bad.jpg").write_text("no picture")
    (photos / "circle").symlink_to(photos)
    assert cli.main(commands[name](photos, tmp_path / "out")) == 0
    noun = "photo" if name in OF_PHOTOS else "face"
    printed = " ".join(capsys.readouterr().out.split())
    assert f"11 {noun}s: 10 used, 1 skipped (unreadable" in printed
    assert "ignored: 1 .gif, 1 .mp4, 1 without ending (only files that end in " in printed
    assert "2 hidden; 1 listed twice" in printed


def test_the_account_is_kept_in_the_files_that_commands_write(commands: dict[str, Command], tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos", count=8)
    for other in ("a.gif", "b.gif"):
        (photos / other).touch()
    files = dict(predict="predictions.json", embed="embed.json", regions="regions.json", pretrain="summary.json")
    for name, file in files.items():
        assert cli.main([*commands[name](photos, tmp_path / name), "--quiet"]) == 0
        content = json.loads((tmp_path / name / file).read_text())
        assert content["not_photos" if name in ("predict", "embed") else "not_faces"]["ignored"] == {".gif": 2}
    assert cli.main([*commands["crop"](photos, tmp_path / "crop"), "--quiet"]) == 0
    assert "ignored:\n      .gif: 2" in (tmp_path / "crop/crop.yaml").read_text()


def test_faces_beyond_max_faces_are_counted(
    commands: dict[str, Command], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = commands["pretrain"](photos_in(tmp_path / "photos"), tmp_path / "out")
    assert cli.main([*arguments, "--set", "max_faces=8"]) == 0
    assert "10 faces: 8 used, 2 skipped (beyond max_faces)" in capsys.readouterr().out


def test_the_closing_line_names_reasons_once_and_counts_the_rest() -> None:
    account = Account()
    account.ignored.update({f".{number}": 1 for number in range(10)})
    line = closing_line(account, used=1, skipped={"no face": 2, "unreadable": 0})
    assert line.startswith("3 photos: 1 used, 2 skipped (no face); ignored: 1 .0, 1 .1, ")
    assert "1 .7, 2 others (only" in line
    assert "unreadable" not in line


# --- folders that may not be entered, and links


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ENOENT, errno.ESTALE])
@pytest.mark.parametrize("where", ["locked", "deep/er/locked"])
def test_a_folder_that_cannot_be_entered_is_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, where: str
) -> None:
    photos = photos_in(tmp_path / "photos", count=1)
    photos_in(photos / where, count=1)
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise OSError(code, os.strerror(code), path)
        return scandir(path)

    monkeypatch.setattr("fra.pools.listing.os.scandir", refuse)
    account = Account()
    assert image_files(photos, account=account) == [photos / "0.png"]
    assert account.closed_folders == [(str(photos / where), os.strerror(code))]
    assert f"1 folder could not be entered ({photos / where}: {os.strerror(code)})" in account.parts()
    with pytest.raises(ValueError, match=f"no images below .*1 folder could not be entered .*{os.strerror(code)}"):
        image_files(photos / where)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may enter every folder")
def test_a_really_locked_folder_is_told_by_crop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = photos_in(tmp_path / "photos", count=1)
    (photos / "locked").mkdir(mode=0)
    crop(photos, tmp_path / "out", CropSettings(detector="none"), runtime=Runtime(workers=1))
    assert "1 photo: 1 used; 1 folder could not be entered" in capsys.readouterr().out


def test_circles_of_links_end_and_dangling_links_are_unreadable_photos(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos", count=1)
    (photos / "up").symlink_to("..", target_is_directory=True)
    (photos / "one").mkdir()
    (photos / "two").mkdir()
    (photos / "one/other").symlink_to("../two")
    (photos / "two/other").symlink_to("../one")
    (photos / "self.jpg").symlink_to("self.jpg")
    (photos / "gone.jpg").symlink_to("nowhere.jpg")
    (photos / "self").symlink_to("self")
    account = Account()
    assert [file.name for file in image_files(photos, account=account)] == ["0.png", "gone.jpg", "self.jpg"]
    assert account.repeated >= 3  # over `up` once more, and each of the two from the other
    assert account.ignored == {"without ending": 1}
    summary = crop(photos, tmp_path / "out", CropSettings(detector="none"), runtime=ALONE)
    assert (summary.faces, summary.skipped) == (1, {"unreadable": 2})


def test_folders_may_be_nested_deeper_than_python_recurses(tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["d"] * 300)
    deep.mkdir(parents=True)
    (deep / "a.png").touch()
    allowed = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack(0)) + 100)
        assert image_files(tmp_path) == [deep / "a.png"]
    finally:
        sys.setrecursionlimit(allowed)


# --- nothing can be read


@pytest.mark.parametrize("name", COMMANDS)
def test_when_nothing_can_be_read_the_status_is_2_and_nothing_is_written(
    name: str, commands: dict[str, Command], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "win.txt").write_text("photos\\a.jpg\nphotos\\b.jpg\n")
    (tmp_path / "bad").mkdir()
    for number in range(3):
        (tmp_path / f"bad/{number}.jpg").write_text("no picture")
    (tmp_path / "heic").mkdir()
    (tmp_path / "heic/clip.mp4").touch()
    for given, expected in (
        ("win.txt", f"the first is {tmp_path}/photos\\a.jpg (No such file or directory); this is a Windows path"),
        ("bad", f"none of the 3 {'photo' if name in OF_PHOTOS else 'image'}s in {tmp_path}/bad can be read"),
        ("bad/0.jpg", f"cannot read the image {tmp_path}/bad/0.jpg: not an image"),
        ("heic", "ignored: 1 .mp4"),
        ("absent", "no such file or folder"),
    ):
        assert cli.main(commands[name](tmp_path / given, tmp_path / "out")) == 2, given
        error = capsys.readouterr().err
        assert expected in error
        assert "Traceback" not in error
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("line, hint", [
    (r"sub\a.png", "this is a Windows path"),
    (r"C:\Users\me\a.png", "the drive by a folder"),
    ("photos/a.png 3", "after a space"),
    ("photos/a.png\t3", "after a tab"),
    ("photos/a.png,3", "after a comma"),
    ("photos/a.png;happy", "after a semicolon"),
    ('"photos/a.png"', "remove the quotation marks"),
    ("https://example.org/a.png", "download it first"),
    ("~/photos/a.png", "instead of ~"),
    ("photos/a.png", "relative to the list's own folder"),
])  # fmt: skip
def test_the_likely_fault_of_a_list_is_named(
    line: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos_in(tmp_path / "photos", count=0)
    write_image(tmp_path / "photos/a.png", draw_face(1, size=40).image)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/list.txt").write_text(line + "\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="nothing in lists/list.txt can be read") as caught:
        crop(
            Path("lists/list.txt"),
            tmp_path / "out",
            CropSettings(detector="none"),
            runtime=ALONE,
        )
    assert hint in str(caught.value)


def test_a_list_of_which_something_can_be_read_goes_on(tmp_path: Path) -> None:
    photos_in(tmp_path / "photos", count=1)
    (tmp_path / "list.txt").write_text("gone/a.png\nphotos/0.png\nphotos/../photos/0.png\n")
    summary = crop(tmp_path / "list.txt", tmp_path / "out", CropSettings(detector="none"), runtime=ALONE)
    assert (summary.photos, summary.faces, summary.account.repeated) == (2, 1, 1)


# --- kinds


def test_photos_are_taken_by_all_usual_endings(tmp_path: Path) -> None:
    picture = Image.new("RGB", (30, 30), "red")
    for ending in ("jpg", "JPEG", "jpe", "jfif"):
        picture.save(tmp_path / f"a.{ending}", format="JPEG")
    summary = crop(tmp_path, tmp_path.parent / "crops", CropSettings(detector="none"), runtime=ALONE)
    assert (summary.faces, summary.skipped) == (4, {})


def test_a_photo_that_is_given_by_itself_needs_no_ending(tmp_path: Path) -> None:
    Image.new("RGB", (30, 30), "red").save(tmp_path / "upload", format="PNG")
    assert image_files(tmp_path / "upload") == [tmp_path / "upload"]
    (tmp_path / "notes.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(ValueError, match="neither an image nor a folder"):
        image_files(tmp_path / "notes.pdf")


def test_what_lies_beside_shards_is_counted(tmp_path: Path) -> None:
    photos_in(tmp_path / "photos", count=3)
    crop(
        tmp_path / "photos",
        tmp_path / "out",
        CropSettings(detector="none", shards=True),
        runtime=ALONE,
    )
    shards = tmp_path / "out/shards"
    photos_in(shards / "more", count=1)
    (shards / "notes.md").touch()
    pool = open_pool(shards)
    assert len(pool) == 3
    assert pool.account.ignored == {"folder": 1, ".md": 1}


# --- faces too small to be found


@pytest.mark.parametrize("width, height, said", [
    (4000, 3000, "scaled down from 4000x3000 to 640x480, so faces smaller than about 100 pixels"),
    (800, 24000, "scaled down from 800x24000 to 21x640, so faces smaller than about 600 pixels"),
    (641, 640, "scaled down from 641x640 to 640x639, so faces smaller than about 16 pixels"),
])  # fmt: skip
def test_the_reason_says_that_a_photo_was_reduced(width: int, height: int, said: str) -> None:
    assert why_no_face(height, width, detail="whole") == f"no face: the photo was {said} cannot be found"
    assert why_no_face(640, 640) == why_no_face(1, 1) == "no face"


def test_crop_and_predict_say_which_photos_were_reduced(
    commands: dict[str, Command], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for name, size in (("large", 1280), ("small", 64)):
        write_image(tmp_path / f"photos/{name}.png", torch.full((3, size // 2, size), 90, dtype=torch.uint8))
    for name in ("crop", "predict"):
        assert cli.main([*commands[name](tmp_path / "photos", tmp_path / name), "--detector", "retinaface"]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "2 photos: 0 used, 2 skipped (no face)" in printed
        assert "1 photo without a face had to be scaled down: small faces cannot be found there" in printed
    with open(tmp_path / "crop/crops.csv", newline="") as stream:
        reasons = [row["reason"] for row in csv.DictReader(stream)]
    assert reasons == [why_no_face(640, 1280), "no face"]
    found = {each["photo"]: each for each in json.loads((tmp_path / "predict/predictions.json").read_text())["photos"]}
    assert found["large.png"]["no_face"].startswith("the photo was scaled down from 1280x640 to 640x320")
    assert "no_face" not in found["small.png"]
    assert make_detector("none", min_score=0.5).find_faces(torch.zeros(3, 9, 9, dtype=torch.uint8))
