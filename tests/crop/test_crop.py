"""`fra crop`: every photo is accounted for, nothing depends on workers or interruptions, and real faces are found."""

import csv
import errno
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_photos import TwoFaces, contents, face, photo, table
from torch.testing import assert_close
from torchvision.ops import box_iou

from fra.crop import cluster, cut, detectors, retinaface
from fra.crop.cut import CropSettings, choose_faces
from fra.crop.detectors import Face, make_detector
from fra.crop.photos import PhotoList
from fra.crop.run import crop
from fra.faces.image import read_image
from fra.files import temporary_prefix
from fra.pools.listing import image_files
from fra.runtime import Runtime
from fra.system.processes import available_cores

ALONE = Runtime(workers=1, quiet=True)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """40 photos in two folders; three chunks of work."""
    for number in range(40):
        photo(tmp_path / "photos" / f"{number % 2}" / f"{number:02}.jpg", seed=number)
    return tmp_path / "photos"


@pytest.fixture
def two_faces(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(detectors.DETECTORS, "two", TwoFaces)
    return "two"


# --- what is written ---------------------------------------------------------------------------------------------


def test_crops_mirror_the_tree_and_the_table_names_each_photo(photos: Path, tmp_path: Path):
    summary = crop(photos, tmp_path / "out", CropSettings(detector="none", size=32), runtime=ALONE)
    rows = table(tmp_path / "out")
    assert (summary.photos, summary.faces, summary.skipped) == (40, 40, {})
    assert [row["photo"] for row in rows] == [file.relative_to(photos).as_posix() for file in image_files(photos)]
    assert all(row["crop"] == f"crops/{row['photo']}" for row in rows)
    assert rows[0]["x1"] == "-0.50"
    assert rows[0]["x2"] == "39.50"
    assert rows[0]["lx1"] == ""
    assert all(read_image(tmp_path / "out" / row["crop"]).shape == (3, 32, 32) for row in rows[:3])


def test_a_pool_that_is_given_the_folder_finds_the_crops_alone(photos: Path, tmp_path: Path):
    crop(photos, tmp_path / "out", CropSettings(detector="none"), runtime=ALONE)
    assert (tmp_path / "out/contact_sheet.jpg").is_file()
    assert image_files(tmp_path / "out") == image_files(tmp_path / "out/crops")
    assert len(image_files(tmp_path / "out")) == 40


def test_the_settings_and_counts_are_kept_for_checkpoints(photos: Path, tmp_path: Path, two_faces: str):
    photo(photos / "wide.png", size=(50, 20))
    crop(
        photos,
        tmp_path / "out",
        CropSettings(detector=two_faces, choose="all", margin=0.5, size=16),
        runtime=ALONE,
    )
    record = yaml.safe_load((tmp_path / "out/crop.yaml").read_text())
    assert record["settings"] == {
        "detector": "two", "choose": "all", "size": 16, "margin": 0.5, "align": "none", "min_score": 0.6, "seed": 0,
        "detail": "auto",
        "shards": False, "shard_faces": 10000,
    }  # fmt: skip
    assert record["counts"] == {"photos": 41, "faces": 80, "skipped": {"no face": 1}}
    assert record["photos"]["count"] == 41
    assert record["fra"]


def test_all_faces_are_numbered_and_one_face_is_not(tmp_path: Path, two_faces: str):
    photo(tmp_path / "photos/a/b.jpg")
    crop(
        tmp_path / "photos",
        tmp_path / "all",
        CropSettings(detector=two_faces, choose="all"),
        runtime=ALONE,
    )
    crop(
        tmp_path / "photos",
        tmp_path / "one",
        CropSettings(detector=two_faces, choose="largest"),
        runtime=ALONE,
    )
    assert [row["crop"] for row in table(tmp_path / "all")] == ["crops/a/b_0.jpg", "crops/a/b_1.jpg"]
    [row] = table(tmp_path / "one")
    assert row["crop"] == "crops/a/b.jpg"
    assert [row[name] for name in ("x1", "y1", "x2", "y2", "score")] == ["15.00", "5.00", "35.00", "25.00", "0.7000"]
    assert (row["lx1"], row["ly1"]) == ("21.00", "13.00")  # 15 + .3 * 20, 5 + .4 * 20


def test_photos_that_would_share_a_crop_each_keep_their_own(tmp_path: Path):
    for seed, name in enumerate(["b.jpg", "b.png", "B.JPEG", "c.png", f"{'é' * 120}.jpg"]):
        photo(tmp_path / "photos" / name, seed=seed)
    crop(tmp_path / "photos", tmp_path / "out", CropSettings(detector="none"), runtime=ALONE)
    crops = {row["photo"]: row["crop"] for row in table(tmp_path / "out")}
    assert crops["c.png"] == "crops/c.jpg"
    assert crops["b.png"].startswith("crops/b-png-")
    assert len({name.casefold() for name in crops.values()}) == 5
    assert len(image_files(tmp_path / "out")) == 5


def test_a_list_may_name_photos_from_anywhere(tmp_path: Path):
    photo(tmp_path / "one/a.jpg")
    photo(tmp_path / "two/b.jpg")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/some.txt").write_text("../one/a.jpg\n../two/b.jpg\n../one/a.jpg\n../one/lost.jpg\n")
    summary = crop(
        tmp_path / "lists/some.txt",
        tmp_path / "out",
        CropSettings(detector="none"),
        runtime=ALONE,
    )
    assert (summary.photos, summary.faces, summary.skipped) == (3, 2, {"unreadable": 1})
    assert [row["crop"] for row in table(tmp_path / "out")] == ["crops/one/a.jpg", "crops/two/b.jpg", ""]


def test_photos_that_cannot_be_used_are_listed_with_the_reason(tmp_path: Path, two_faces: str):
    folder = tmp_path / "photos"
    whole = photo(folder / "good.jpg", size=(200, 200)).read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("hello")
    (folder / "empty.jpg").touch()
    photo(folder / "nobody.png", size=(50, 50))
    Image.new("CMYK", (40, 40), (0, 200, 200, 0)).save(folder / "print.jpg")
    Image.fromarray(np.full((40, 40), 40000, dtype=np.uint16)).save(folder / "xray.png")
    summary = crop(
        folder,
        tmp_path / "out",
        CropSettings(detector=two_faces, choose="random"),
        runtime=ALONE,
    )
    reasons = {row["photo"]: row["reason"] for row in table(tmp_path / "out")}
    assert (summary.photos, summary.faces, summary.skipped) == (7, 3, {"no face": 1, "unreadable": 3})
    assert "truncated" in reasons["cut.jpg"].lower()
    assert reasons["text.jpg"] == "unreadable: not an image"
    assert reasons["empty.jpg"] == "unreadable: the file is empty"
    assert reasons["nobody.png"] == "no face"
    assert reasons["print.jpg"] == reasons["xray.png"] == reasons["good.jpg"] == ""


def test_boxes_belong_to_the_photo_as_people_see_it(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 60 x 40, seen 40 wide and 60 high
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (60, 40), "red").save(tmp_path / "photos/a.jpg", exif=exif)
    crop(tmp_path / "photos", tmp_path / "out", CropSettings(detector="none"), runtime=ALONE)
    [row] = table(tmp_path / "out")
    assert (row["x2"], row["y2"]) == ("39.50", "59.50")


# --- which face, and how it is cut -------------------------------------------------------------------------------


def test_the_random_face_depends_on_seed_and_name_alone():
    faces = [face(0, 0, 10), face(20, 0, 12), face(40, 0, 14)]
    chosen = [choose_faces(faces, choose="random", key=f"0 {n}.jpg") for n in range(3000)]
    assert chosen == [choose_faces(faces, choose="random", key=f"0 {n}.jpg") for n in range(3000)]
    counts = Counter(float(one.box[0]) for [one] in chosen)
    # each about 1000 times; the standard deviation is sqrt(3000 * 1/3 * 2/3) = 26
    assert all(abs(counts[x] - 1000) < 4 * 26 for x in (0.0, 20.0, 40.0))
    others = [choose_faces(faces, choose="random", key=f"1 {n}.jpg") for n in range(300)]
    assert others != chosen[:300]
    assert choose_faces([], choose="random", key="0 a.jpg") == []


def test_the_crop_is_square_about_the_box_and_a_mirror_continues_the_photo():
    image = torch.arange(40, dtype=torch.uint8).expand(3, 40, 40)  # pixel value = x
    one = Face(torch.tensor([-0.5, 9.5, 9.5, 29.5]), None, 0.9)  # 10 wide, 20 high, centre (4.5, 19.5)
    made = cut.cut_face(image, one, CropSettings(size=20, margin=0.0))  # so x from -5.5 to 14.5
    assert made[0, 0].tolist() == [4, 3, 2, 1, 0, *range(15)]


def test_aligned_crops_have_the_points_on_the_template():
    image = torch.zeros(3, 300, 300, dtype=torch.uint8)
    angle = torch.tensor([[0.8, -0.6], [0.6, 0.8]])  # turned by 37 degrees
    points = (detectors_template(100) - 49.5) @ angle.T + 150
    x, y = (round(value) for value in points[0].tolist())
    image[:, y - 2 : y + 3, x - 2 : x + 3] = 255  # a white eye
    one = Face(torch.tensor([100.0, 100.0, 200.0, 200.0]), points, 0.9)
    made = cut.cut_face(image, one, CropSettings(size=100, margin=0.0, align="five-point"))
    brightness = made[0].float()
    seen_x = (brightness.sum(0) * torch.arange(100)).sum() / brightness.sum()
    seen_y = (brightness.sum(1) * torch.arange(100)).sum() / brightness.sum()
    assert_close(torch.stack((seen_x, seen_y)), detectors_template(100)[0], atol=0.6, rtol=0)  # whole-pixel square


def detectors_template(size: int) -> torch.Tensor:
    """The eyes of ArcFace's 112-pixel crop lie at (38.3, 51.7) and (73.5, 51.5); in pixel-centre coordinates."""
    points = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    return (torch.tensor(points) + 0.5) * size / 112 - 0.5


# --- interruptions -----------------------------------------------------------------------------------------------


def test_one_and_two_workers_write_the_same(photos: Path, tmp_path: Path):
    for count in (1, 2):
        crop(
            photos,
            tmp_path / f"out{count}",
            CropSettings(detector="none", size=24),
            runtime=Runtime(workers=count, quiet=True),
        )
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")


@pytest.mark.parametrize("after", [0, 1, 16, 20, 39])
def test_a_full_disk_is_one_line_and_resuming_equals_not_stopping(
    photos: Path, tmp_path: Path, two_faces: str, monkeypatch: pytest.MonkeyPatch, after: int
):
    settings = CropSettings(detector=two_faces, choose="all", size=16)
    crop(photos, tmp_path / "whole", settings, runtime=ALONE)
    written = 0

    def full_after(path: Path, image: torch.Tensor) -> None:
        nonlocal written
        if written == 2 * after:
            raise OSError(errno.ENOSPC, "No space left on device")
        written += 1
        write(path, image)

    write = cut.write_image
    monkeypatch.setattr(cut, "write_image", full_after)
    with pytest.raises(
        ValueError, match=r"^the disk of .* is full: free some space, then run the same command with --resume; .*$"
    ):
        crop(photos, tmp_path / "stopped", settings, runtime=ALONE)
    monkeypatch.setattr(cut, "write_image", write)
    assert crop(photos, tmp_path / "stopped", settings, runtime=replace(ALONE, resume=True)).faces == 80
    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")


def test_rows_that_were_half_written_and_temporary_files_disappear(photos: Path, tmp_path: Path):
    settings = CropSettings(detector="none", size=16)
    crop(photos, tmp_path / "whole", settings, runtime=ALONE)
    before = contents(tmp_path / "whole")
    with open(tmp_path / "whole/crops.csv", "a") as stream:
        stream.write("1/39.jpg,crops/1/3")
    (tmp_path / "whole/crops/0/.00-abcdefgh.jpg").write_text("half a crop")
    (tmp_path / "whole/.crop-abcdefgh.yaml").write_text("half a record")
    (tmp_path / f"whole/crops/1/{temporary_prefix()}abcdefgh.jpg").write_text("half a crop")
    crop(photos, tmp_path / "whole", settings, runtime=replace(ALONE, resume=True))
    assert contents(tmp_path / "whole") == before


def test_a_kill_ends_the_workers_and_resuming_equals_not_stopping(tmp_path: Path):
    pictures = [photo(tmp_path / "source" / f"{number}.jpg", seed=number).read_bytes() for number in range(5)]
    (tmp_path / "photos").mkdir()
    for number in range(500):
        (tmp_path / "photos" / f"{number:03}.jpg").write_bytes(pictures[number % 5])
    crop(
        tmp_path / "photos",
        tmp_path / "whole",
        CropSettings(detector="none", size=64),
        runtime=ALONE,
    )
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    from fra.crop.run import CropSettings, Runtime, crop\n"
        "    settings, runtime = CropSettings(detector='none', size=64), Runtime(workers=2, quiet=True)\n"
        "    crop(Path(sys.argv[1]), Path(sys.argv[2]), settings, runtime=runtime)\n"
    )
    out = tmp_path / "killed"
    command = [sys.executable, str(script), str(tmp_path / "photos"), str(out)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (out / ".position.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert len(_alive(process.pid)) >= 3 or not Path("/proc/self/stat").exists()  # itself and two workers
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it had not ended by itself
    assert not (out / "contact_sheet.jpg").exists()
    deadline = time.monotonic() + 20
    while _alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(process.pid)
    crop(
        tmp_path / "photos",
        out,
        CropSettings(detector="none", size=64),
        runtime=Runtime(workers=1, quiet=True, resume=True),
    )
    assert contents(tmp_path / "whole") == contents(out)


def test_a_cluster_cuts_the_same_crops(photos: Path, tmp_path: Path):
    crop(photos, tmp_path / "alone", CropSettings(detector="none", size=64), runtime=ALONE)
    command = [sys.executable, "-m", "fra.cli", "crop", photos, "--out", tmp_path / "cluster"]
    command += ["--detector", "none", "--size", "64", "--cluster", "local", "--quiet"]
    subprocess.run(command, check=True, cwd=ROOT)
    assert contents(tmp_path / "alone") == contents(tmp_path / "cluster")


def test_a_machine_that_does_not_see_the_output_says_so(photos: Path, tmp_path: Path):
    (chunk,) = PhotoList(photos).chunks(0, 100)
    with pytest.raises(ValueError, match="cannot see .*elsewhere: all machines must share its file system"):
        cluster.in_sight_of(tmp_path / "elsewhere", len, chunk)
    assert cluster.in_sight_of(None, len, chunk) == len(chunk)


def test_without_a_cluster_nothing_is_begun(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"^no Ray cluster answers at {address}: start one there"):
            crop(photos, tmp_path / "out", CropSettings(detector="none"), cluster=address, runtime=Runtime(quiet=True))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"^--cluster needs Ray: run `pip install"):
        crop(photos, tmp_path / "out", CropSettings(detector="none"), cluster="auto", runtime=Runtime(quiet=True))
    assert not (tmp_path / "out").exists()


def _alive(group: int) -> list[str]:
    """Processes of a process group that still run (Linux; elsewhere none are seen)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it ended meanwhile
        if process_group == str(group) and state != "Z":
            found.append(stat.parent.name)
    return found


def test_resuming_with_other_settings_or_photos_is_refused(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    crop(photos, out, CropSettings(detector="none"), runtime=ALONE)
    with pytest.raises(ValueError, match="add --resume"):
        crop(photos, out, CropSettings(detector="none"), runtime=ALONE)
    with pytest.raises(ValueError, match="started with size 128, not 64"):
        crop(photos, out, CropSettings(detector="none", size=64), runtime=Runtime(workers=1, quiet=True, resume=True))
    photo(photos / "new.jpg")
    with pytest.raises(ValueError, match=r"photos have changed .* \(40 then, 41 now\)"):
        crop(photos, out, CropSettings(detector="none"), runtime=Runtime(workers=1, quiet=True, resume=True))


def test_wrong_input_is_one_line_before_anything_is_written(photos: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    cases: Sequence[tuple[Path, dict, str]] = [
        (tmp_path / "empty", {}, "no images below"),
        (tmp_path / "absent", {}, "no such file or folder"),
        (photos, {"size": 0}, "size is 0"),
        (photos, {"size": 4097}, "size is 4097: give 1 to 4096 pixels"),
        (photos, {"margin": -0.1}, "margin is -0.1"),
        (photos, {"margin": float("inf")}, "margin is inf"),
        (photos, {"margin": float("nan")}, "margin is nan"),
        (photos, {"min_score": 60}, "min-score is 60"),
        (photos, {"align": "five-point"}, "align five-point needs a detector"),
        (photos, {"detector": "viola"}, "no detector named 'viola': choose one of retinaface, yunet, none"),
    ]
    for source, settings, message in cases:
        with pytest.raises(ValueError, match=message):
            crop(source, tmp_path / "out", CropSettings(**{"detector": "none", **settings}), runtime=ALONE)
        assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="is inside the photo folder"):
        crop(photos, photos / "crops", CropSettings(detector="none"), runtime=ALONE)


def test_without_quiet_it_says_what_it_did_and_where(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (photos / "bad.jpg").write_text("no")
    crop(photos, tmp_path / "out", CropSettings(detector="none"), runtime=Runtime(workers=1))
    printed = capsys.readouterr().out
    assert "\n41 photos: 40 used, 1 skipped (unreadable)\n40 faces cropped into " in printed
    assert str(tmp_path / "out" / "crops") in printed
    crop(photos, tmp_path / "silent", CropSettings(detector="none"), runtime=ALONE)
    assert capsys.readouterr().out == ""


def test_what_is_not_looked_at_is_said_and_a_sheet_that_is_not_there_is_not(
    tmp_path: Path, two_faces: str, capsys: pytest.CaptureFixture[str]
):
    photo(tmp_path / "photos/nobody.jpg", size=(50, 20))
    for name in ["a.mov", "b/c.MOV", "d.zip", "e.1", "f.2", "g.3", "h.4", os.fsdecode(b"i.\xe9")]:
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / name).touch()
    crop(tmp_path / "photos", tmp_path / "out", CropSettings(detector=two_faces), runtime=Runtime(workers=1))
    printed = capsys.readouterr().out
    assert "ignored: 2 .mov, 1 .1, 1 .2, 1 .3, 1 .4, 1 .zip, 1 .\\xe9 (only files that end in " in printed
    assert not (tmp_path / "out/contact_sheet.jpg").exists()
    assert "contact_sheet.jpg" not in printed


def test_more_workers_than_cores_are_not_the_default():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


# --- detectors ---------------------------------------------------------------------------------------------------


def test_decoding_gives_the_golden_box():
    # anchor centre (.5, .5) size (.1, .1), offsets (1, -1, .5, 0): centre (.51, .49), width .1 e^.1, height .1
    box = retinaface.decode_boxes(torch.tensor([[1.0, -1.0, 0.5, 0.0]]), torch.tensor([[0.5, 0.5, 0.1, 0.1]]))
    assert_close(box, torch.tensor([[0.4547415, 0.44, 0.5652585, 0.54]]))
    points = retinaface.decode_points(torch.tensor([[1.0, -1.0] + [0.0] * 8]), torch.tensor([[0.5, 0.5, 0.1, 0.1]]))
    assert_close(points[0, :2], torch.tensor([[0.51, 0.49], [0.5, 0.5]]))


def test_anchors_are_ordered_by_stride_row_column_and_side():
    found = retinaface.anchors(640, 640)
    assert len(found) == 2 * (6400 + 1600 + 400)
    assert found[:3].tolist() == [[4, 4, 16, 16], [4, 4, 32, 32], [12, 4, 16, 16]]
    assert found[2 * 6400].tolist() == [8, 8, 64, 64]
    assert len(retinaface.anchors(33, 70)) == 2 * (5 * 9 + 3 * 5 + 2 * 3)  # cells are rounded up


def test_of_overlapping_boxes_the_surest_stays_and_unsure_ones_go():
    priors = retinaface.anchors(64, 64)
    scores = torch.zeros(len(priors))
    scores[[1, 3, 100, 120]] = torch.tensor([0.9, 0.95, 0.7, 0.5])  # 1 and 3 are 32 px wide and 8 px apart: IoU .6
    raw = retinaface.RawOutput(torch.zeros(len(priors), 4), scores, torch.zeros(len(priors), 10))
    found = retinaface.decode(raw, height=64, width=64, min_score=0.6)
    assert_close(found.scores, torch.tensor([0.95, 0.7]))
    assert found.boxes[0].tolist() == [12 - 16, 4 - 16, 12 + 16, 4 + 16]


def test_retinaface_needs_neither_opencv_nor_the_package_that_imports_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cv2", None)  # as without libGL: every `import cv2` fails
    monkeypatch.delitem(sys.modules, "retinaface", raising=False)
    with pytest.raises(ImportError):
        importlib.import_module("retinaface")
    grey = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    assert make_detector("retinaface", min_score=0.6).find_faces(grey) == []
    assert "retinaface" not in sys.modules


@pytest.mark.parametrize("kind", ["retinaface", "yunet"])
def test_a_file_that_is_no_model_is_one_line(kind: str, tmp_path: Path):
    (tmp_path / "no.onnx").write_text("not a network")
    with pytest.raises(ValueError, match=r"no\.onnx"):
        make_detector(f"{kind}:{tmp_path / 'no.onnx'}", min_score=0.6)


def test_a_network_that_is_not_retinaface_is_one_line(tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1])
    same = onnx.helper.make_tensor_value_info("faces", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["pixels"], ["faces"])], "g", [value], [same])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="is not RetinaFace: it has pixels and faces, expected input and loc, conf"):
        make_detector(f"retinaface:{tmp_path / 'other.onnx'}", min_score=0.6)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 3000), (3000, 2), (33, 65), (640, 31)])
def test_any_shape_of_photo_can_be_searched(height: int, width: int):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    assert make_detector("retinaface", min_score=0.6).find_faces(image) == []


def test_reduced_photos_give_places_in_the_photo():
    small, scale = detectors.reduce(torch.zeros(3, 1000, 1280, dtype=torch.uint8))
    assert small.shape == (3, 500, 640)
    # the outer corner of the reduced photo is that of the photo, (-.5, -.5); its end (640, 500) is (1279.5, 999.5)
    corners = detectors.to_photo(torch.tensor([0.0, 0.0, 640.0, 500.0]), scale)
    assert corners.tolist() == [-0.5, -0.5, 1279.5, 999.5]


class FakeCV2:
    """As much of OpenCV as YuNet needs; finds one face in the lower right quarter, and another that is less sure."""

    def __init__(self) -> None:
        self.FaceDetectorYN = SimpleNamespace(create=self.create)
        self.size = (0, 0)

    def setNumThreads(self, threads: int) -> None:
        assert threads == 1

    def create(
        self, model: str, config: str, size: tuple[int, int], score: float, overlap: float, top: int
    ) -> "FakeCV2":
        assert Path(model).is_file()
        return self

    def setInputSize(self, size: tuple[int, int]) -> None:
        self.size = size

    def detect(self, pixels: np.ndarray) -> tuple[int, np.ndarray | None]:
        width, height = self.size
        assert pixels.shape == (height, width, 3)
        assert pixels[0, 0].tolist() == [3, 2, 1]  # blue first
        if width == 50:
            return 0, None
        unsure = np.array([0.0, 0, 10, 10] + [5.0] * 10 + [0.7], dtype=np.float32)
        sure = np.array([width / 2, height / 2, width / 2, height / 2] + [9.0] * 10 + [0.9], dtype=np.float32)
        return 2, np.stack((unsure, sure))


def test_yunet_speaks_opencvs_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cv2", FakeCV2())
    (tmp_path / "yunet.onnx").touch()
    detector = make_detector(f"yunet:{tmp_path / 'yunet.onnx'}", min_score=0.6)
    image = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None].expand(3, 400, 1280)
    sure, unsure = detector.find_faces(image)  # searched at 640 x 200
    assert sure.box.tolist() == [639.5, 199.5, 1279.5, 399.5]
    assert (sure.score, unsure.score) == (pytest.approx(0.9), pytest.approx(0.7))
    assert sure.five_points is not None
    assert sure.five_points[4].tolist() == [17.5, 17.5]  # (9, 9) * 2 - .5
    assert detector.find_faces(image[:, :, :50].contiguous()) == []


def test_yunet_without_weights_or_opencv_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(detectors.YUNET_VARIABLE, raising=False)
    with pytest.raises(ValueError, match="set FRA_YUNET_MODEL=FILE"):
        make_detector("yunet", min_score=0.6)
    with pytest.raises(ValueError, match="are not at"):
        make_detector(f"yunet:{tmp_path}/absent.onnx", min_score=0.6)
    (tmp_path / "yunet.onnx").touch()
    monkeypatch.setenv(detectors.YUNET_VARIABLE, str(tmp_path / "yunet.onnx"))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match="pip install opencv-python-headless"):
        make_detector("yunet", min_score=0.6)


# --- real faces --------------------------------------------------------------------------------------------------


def test_all_annotated_faces_are_found_and_none_where_there_is_none(real_faces: Path, tmp_path: Path):
    summary = crop(real_faces / "photos", tmp_path / "out", CropSettings(choose="all"), runtime=ALONE)
    found: dict[str, list[list[float]]] = {}
    for row in table(tmp_path / "out"):
        boxes = found.setdefault(row["photo"], [])
        if row["crop"]:
            boxes.append([float(row[name]) for name in ("x1", "y1", "x2", "y2")])
    annotated = hit = 0
    with open(real_faces / "photos/boxes.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            annotated += 1
            tight = torch.tensor([[float(row[name]) for name in ("x1", "y1", "x2", "y2")]])  # brows to chin
            boxes = torch.tensor(found[row["file"]]).reshape(-1, 4)
            hit += bool((box_iou(tight, boxes) >= 0.4).any())
    assert (hit, annotated) == (84, 84)
    with open(real_faces / "photos/no_face.csv", newline="") as stream:
        assert [found[row["file"]] for row in csv.DictReader(stream)] == [[]] * 5
    assert summary.photos == 55
    assert summary.skipped == {"no face": 5}
    assert len(image_files(tmp_path / "out")) == summary.faces
