"""`fra demo`: whose folder it is, and where `make demo` puts it. (What it trains is tested where it is trained.)"""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import fra
from fra import demo
from fra.crop.cut import CropSettings
from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image
from fra.files import MARK, claim_folder
from fra.report.folders import read_runs
from fra.runtime import Runtime

QUIET = Runtime(quiet=True)

REPOSITORY = Path(fra.__file__).parent.parent


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo without training: its photographs are crops already, and other runs are claimed folders."""
    crop = demo.crop

    def begun(command: str, out: Path) -> None:
        claim_folder(out, command=command, resume=True)

    def whole(photos: Path, out: Path, settings: CropSettings, *, runtime: Runtime) -> None:
        crop(photos, out, replace(settings, detector="none", size=32), runtime=replace(runtime, workers=0))

    monkeypatch.setattr(demo, "crop", whole)
    monkeypatch.setattr(demo, "DRAWN_FACES", 10)
    monkeypatch.setattr(demo, "pretrain", lambda recipe, faces, out, **options: begun("pretrain", out))
    monkeypatch.setattr(demo, "draw_regions", lambda model, faces, out, **options: begun("regions", out))
    monkeypatch.setattr(demo, "transfer", lambda recipe, *, out, **options: begun("transfer", out))
    monkeypatch.setattr(demo, "write_report", lambda runs, out, title: out / f"{title}.html")


def put_photos(folder: Path) -> Path:
    for seed in range(demo.FEWEST_FACES):
        write_image(folder / f"{seed}.png", draw_face(seed, size=32).image)
    return folder


@pytest.mark.usefixtures("quick")
def test_the_demo_takes_no_folder_of_others(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file.txt").touch()
    with pytest.raises(ValueError, match="was not made by fra"):
        demo.demo(tmp_path / "mine", runtime=QUIET)
    claim_folder(tmp_path / "crops", command="crop", resume=False)
    with pytest.raises(ValueError, match="belongs to `fra crop`"):
        demo.demo(tmp_path / "crops", runtime=QUIET)
    assert sorted(path.name for path in tmp_path.glob("*/*")) == [MARK, "file.txt"]


@pytest.mark.usefixtures("quick")
def test_the_demo_goes_on_with_the_same_faces_only(tmp_path: Path) -> None:
    first, second = put_photos(tmp_path / "first"), put_photos(tmp_path / "second")
    drawn, photographed = tmp_path / "drawn", tmp_path / "photographed"
    for _ in range(2):
        assert demo.demo(drawn, runtime=QUIET).stem == "FRA on drawn faces"
        assert demo.demo(photographed, photos=first, runtime=QUIET).stem == "FRA on first"
    with pytest.raises(ValueError, match="drawn holds a demo on drawn faces: choose another --out for .*first"):
        demo.demo(drawn, photos=first, runtime=QUIET)
    with pytest.raises(ValueError, match="holds a demo on .*first: choose another --out for drawn faces"):
        demo.demo(photographed, runtime=QUIET)
    with pytest.raises(ValueError, match="holds a demo on .*first: choose another --out for .*second"):
        demo.demo(photographed, photos=second, runtime=QUIET)
    assert not (drawn / "crops").exists()
    assert len(read_runs([drawn]).regions) == len(read_runs([photographed]).crop) == 1


@pytest.mark.usefixtures("quick")
def test_photos_may_begin_at_home_and_wrong_ones_block_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put_photos(tmp_path / "my pics")
    with pytest.raises(ValueError, match="no such file or folder"):
        demo.demo(tmp_path / "out", photos=Path("~/my pic"), runtime=QUIET)
    assert not (tmp_path / "out").exists()
    assert demo.demo(tmp_path / "out", photos=Path("~/my pics"), runtime=QUIET).stem == "FRA on my pics"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")
@pytest.mark.parametrize(
    ("given", "options"),
    [
        ((), '--out "runs/demo"'),
        (("PHOTOS=my pics/",), '--out "runs/demo.my pics" --photos "my pics/"'),
        (("PHOTOS=~/Pictures",), '--out "runs/demo.Pictures" --photos "~/Pictures"'),
        (("PHOTOS=a/b", "OUT=c"), '--out "c" --photos "a/b"'),
    ],
)
def test_make_gives_each_folder_of_photos_its_own_demo(
    given: tuple[str, ...], options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OUT", "PHOTOS", "MAKEFLAGS"):
        monkeypatch.delenv(name, raising=False)
    said = subprocess.run(["make", "-n", "demo", *given], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert f"fra demo {options}" in said.stdout
