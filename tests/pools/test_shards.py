"""Shards: plain tools read what `fra crop --shards` writes, interruptions leave no trace, and pools may be large."""

import io
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
import yaml
from PIL import Image
from small_photos import TwoFaces, contents, photo, table
from tiny_runs import interrupt_step, same_bits
from tiny_runs import run as pretrain_tiny

from fra.crop import detectors, shards
from fra.crop.cut import CropSettings
from fra.crop.run import crop
from fra.pools import shards as reading
from fra.pools.listing import image_files
from fra.pools.shards import Shards, index_file, load_index
from fra.pools.unlabelled import FolderPool, Pool, ShardPool, open_pool
from fra.pretrain.loader import Batch, EpochBatches, FaceLoader
from fra.pretrain.views import ViewMaker, ViewsConfig
from fra.runtime import Runtime

ROOT = Path(__file__).parents[2]
PACKED = CropSettings(detector="two", choose="all", size=16, shards=True, shard_faces=30)
ALONE = Runtime(workers=1, quiet=True)
RESUMED = replace(ALONE, resume=True)


@pytest.fixture(autouse=True)
def _two_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(detectors.DETECTORS, "two", TwoFaces)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 photos with two faces each: three chunks of work, and shards of 30, 30 and 20 faces."""
    folder = tmp_path_factory.mktemp("shards") / "photos"
    for number in range(40):
        photo(folder / f"{number % 2}" / f"{number:02}.jpg", seed=number)
    return folder


def picture(level: int, *, ending: str = "jpeg", size: int = 16) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(level).integers(-5, 6, (size, size, 3)) + level
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, ending)
    return stream.getvalue()


def tar(path: Path, members: dict[str, bytes], **options: int) -> Path:
    """A .tar as Python's tarfile makes it."""
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def webdataset_samples(shard: Path) -> list[dict]:
    """What webdataset reads. (WebDataset(...) does the same, but leaves the file open.)"""
    with open(shard, "rb") as stream:
        source = {"url": str(shard), "stream": stream}
        return list(webdataset.tariterators.group_by_keys(webdataset.tariterators.tar_file_expander([source])))


def names(pool: Pool) -> list[str]:
    return [pool.path(index).name for index in range(len(pool))]


def batches(pool: Pool, count: int, *, workers: int = 0, batch_size: int = 4, **order: int) -> list[Batch]:
    which = EpochBatches(len(pool), batch_size=batch_size, seed=7, **order)
    maker = ViewMaker(ViewsConfig(size=24), seed=7)
    return list(itertools.islice(FaceLoader(pool, maker, which, workers=workers), count))


def equal(a: Batch, b: Batch) -> bool:
    return torch.equal(a.indices, b.indices) and all(map(torch.equal, a.views, b.views))


# --- writing -----------------------------------------------------------------------------------------------------


def test_webdataset_reads_the_crops_and_what_is_known_about_them(photos: Path, tmp_path: Path):
    summary = crop(photos, tmp_path / "packed", PACKED, runtime=ALONE)
    crop(photos, tmp_path / "loose", replace(PACKED, shards=False), runtime=ALONE)
    files = sorted((tmp_path / "packed/shards").glob("*.tar"))
    assert [file.name for file in files] == [f"faces-00000{number}.tar" for number in range(3)]
    samples = [sample for file in files for sample in webdataset_samples(file)]
    rows = table(tmp_path / "packed")
    loose = table(tmp_path / "loose")
    assert (summary.photos, summary.faces, len(samples), len(rows)) == (40, 80, 80, 80)
    for number, (sample, row, plain) in enumerate(zip(samples, rows, loose, strict=True)):
        assert sample["__key__"] == f"{number:09}"
        assert sample["jpg"] == (tmp_path / "loose" / plain["crop"]).read_bytes()
        assert row == {**plain, "crop": f"shards/faces-{number // 30:06}.tar/{number:09}.jpg"}
        known = json.loads(sample["json"])
        assert known["photo"] == row["photo"]
        assert known["box"] == [float(row[name]) for name in ("x1", "y1", "x2", "y2")]
        assert known["points"][4] == [float(row["lx5"]), float(row["ly5"])]
        assert known["score"] == float(row["score"])
    assert contents(tmp_path / "packed")["contact_sheet.jpg"] == contents(tmp_path / "loose")["contact_sheet.jpg"]


def test_tar_unpacks_shards_without_dates_or_owners(photos: Path, tmp_path: Path):
    crop(photos, tmp_path / "out", PACKED, runtime=ALONE)
    shard = tmp_path / "out/shards/faces-000000.tar"
    with tarfile.open(shard) as archive:
        members = archive.getmembers()
    assert [member.name for member in members[:2]] == ["000000000.jpg", "000000000.json"]
    assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in members} == {
        (0, 0, 0, "", 0o644)
    }
    assert shard.stat().st_size % tarfile.RECORDSIZE == 0


@pytest.mark.slow
def test_one_and_two_workers_write_the_same_shards(photos: Path, tmp_path: Path):
    for count in (1, 2):
        crop(
            photos,
            tmp_path / f"{count}",
            replace(PACKED, detector="none", choose="random"),
            runtime=replace(ALONE, workers=count),
        )
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len(list((tmp_path / "1/shards").glob("*.tar"))) == 2


class Killed(BaseException):
    """Nothing in the program catches it."""


@pytest.mark.slow
def test_wherever_a_run_ends_readers_see_whole_shards_and_resuming_equals_not_stopping(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Files become durable in fsync and visible in replace: the run ends before each such call, one after the other.
    left = 10**9

    def counted(real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            real(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(os, "replace", counted(os.replace))
    crop(photos, tmp_path / "whole", PACKED, runtime=ALONE)
    calls, whole = 10**9 - left, contents(tmp_path / "whole")
    # three chunks: rows, position (2), shard; three shards: end, name, index (2); mark, sheet, crop.yaml twice (2 each)
    assert calls >= 3 * 3 + 3 * 4 + 4 * 2
    for stop in range(calls):
        out, left = tmp_path / f"{stop}", stop
        with pytest.raises(Killed):
            crop(photos, out, PACKED, runtime=ALONE)
        for file in out.glob("shards/[!.]*"):
            assert file.read_bytes() == whole[f"shards/{file.name}"], f"{file.name} after {stop} calls"
        left = 10**9
        crop(photos, out, PACKED, runtime=ALONE.continuing(out))
        assert contents(out) == whole, f"ended after {stop} calls"


@pytest.mark.parametrize("after", [0, 59, 60, 100, 159])
def test_a_full_disk_ends_a_shard_anywhere_and_resuming_equals_not_stopping(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
):
    crop(photos, tmp_path / "whole", PACKED, runtime=ALONE)
    member, written = shards._member, itertools.count()

    def full(name: str, content: bytes) -> bytes:
        if next(written) == after:
            raise OSError(28, "No space left on device")
        return member(name, content)

    monkeypatch.setattr(shards, "_member", full)
    with pytest.raises(ValueError, match="the disk of .* is full"):
        crop(photos, tmp_path / "stopped", PACKED, runtime=ALONE)
    monkeypatch.undo()
    monkeypatch.setitem(detectors.DETECTORS, "two", TwoFaces)
    crop(photos, tmp_path / "stopped", PACKED, runtime=RESUMED)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_kill_in_the_middle_of_a_shard_leaves_no_trace_after_resuming(tmp_path: Path):
    content = [photo(tmp_path / "source" / f"{number}.jpg", seed=number).read_bytes() for number in range(5)]
    (tmp_path / "photos").mkdir()
    for number in range(400):
        (tmp_path / "photos" / f"{number:03}.jpg").write_bytes(content[number % 5])
    how = CropSettings(detector="none", size=64, shards=True, shard_faces=150)
    crop(tmp_path / "photos", tmp_path / "whole", how, runtime=ALONE)
    command = [sys.executable, "-m", "fra.cli", "crop", tmp_path / "photos", "--detector", "none", "--size", "64"]
    command += ["--shards", "--shard-faces", "150", "--workers", "0", "--quiet", "--out", tmp_path / "killed"]
    process = subprocess.Popen([str(word) for word in command], cwd=ROOT)
    while not (tmp_path / "killed/.position.json").exists():
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(list(tmp_path.glob("killed/shards/faces-*.tar"))) < 3
    crop(tmp_path / "photos", tmp_path / "killed", how, runtime=RESUMED)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("detector, faces, files", [("two", 80, 2), ("nobody", 0, 0)])
def test_no_shard_is_empty(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detector: str, faces: int, files: int
):
    class Nobody(TwoFaces):
        def find_faces(self, image: torch.Tensor) -> list:
            return []

    monkeypatch.setitem(detectors.DETECTORS, "nobody", Nobody)
    how = replace(PACKED, detector=detector, shard_faces=40)
    for resume in (False, True):  # the second time everything is there already
        assert crop(photos, tmp_path / "out", how, runtime=replace(ALONE, resume=resume)).faces == faces
        assert len(list(tmp_path.glob("out/shards/*.tar"))) == files


def test_what_a_kill_left_behind_disappears(photos: Path, tmp_path: Path):
    crop(photos, tmp_path / "out", PACKED, runtime=ALONE)
    before = contents(tmp_path / "out")
    for name in (".faces-000001.index-abcdefgh.npz", ".faces-000003.tar"):
        (tmp_path / "out/shards" / name).write_bytes(b"half")
    crop(photos, tmp_path / "out", PACKED, runtime=RESUMED)
    assert contents(tmp_path / "out") == before


def test_a_shard_that_was_taken_away_or_cut_is_missed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shards.ShardWriter, "finish", lambda self: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        crop(photos, tmp_path / "out", PACKED, runtime=ALONE)
    monkeypatch.undo()
    monkeypatch.setitem(detectors.DETECTORS, "two", TwoFaces)
    os.truncate(tmp_path / "out/shards/.faces-000002.tar", 5000)
    with pytest.raises(
        ValueError, match=r"faces-000002.tar is shorter than when it was written: restore it from a backup"
    ):
        crop(photos, tmp_path / "out", PACKED, runtime=RESUMED)


def test_files_and_shards_are_not_mixed_in_one_folder(photos: Path, tmp_path: Path):
    crop(photos, tmp_path / "out", PACKED, runtime=ALONE)
    with pytest.raises(ValueError, match="started with shards True, not False"):
        crop(photos, tmp_path / "out", replace(PACKED, shards=False), runtime=RESUMED)
    with pytest.raises(ValueError, match="started with shard_faces 30, not 40"):
        crop(photos, tmp_path / "out", replace(PACKED, shard_faces=40), runtime=RESUMED)
    with pytest.raises(ValueError, match="shard-faces is 0"):
        crop(photos, tmp_path / "new", replace(PACKED, shard_faces=0), runtime=ALONE)


def test_what_cannot_read_shards_says_how_to_unpack_them(photos: Path, tmp_path: Path):
    crop(photos, tmp_path / "out", PACKED, runtime=ALONE)
    with pytest.raises(ValueError, match=r"packed in shards, .* `tar -xf .*faces-000000.tar -C FOLDER`"):
        image_files(tmp_path / "out")


# --- reading -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pool, Pool]:
    """The same 80 faces in the same order: in three shards, and as files in a list."""
    out = tmp_path_factory.mktemp("listed")
    detectors.DETECTORS["two"] = TwoFaces
    crop(photos, out / "packed", PACKED, runtime=ALONE)
    crop(photos, out / "loose", replace(PACKED, shards=False), runtime=ALONE)
    del detectors.DETECTORS["two"]
    (out / "loose/faces.txt").write_text("".join(row["crop"] + "\n" for row in table(out / "loose")))
    return open_pool(out / "packed"), open_pool(out / "loose/faces.txt")


def test_a_crop_folder_of_shards_is_a_pool_with_its_settings(listed: tuple[Pool, Pool]):
    packed, loose = listed
    assert isinstance(packed, ShardPool)
    assert isinstance(loose, FolderPool)
    assert len(packed) == len(loose) == 80
    assert packed.index_bytes == 80 * 3 * 8
    assert packed.crop_settings is not None
    assert packed.crop_settings["settings"]["shard_faces"] == 30
    assert packed.path(30).parts[-3:] == ("shards", "faces-000001.tar", "000000030.jpg")
    assert all(torch.equal(packed.image(index), loose.image(index)) for index in (0, 29, 30, 79))


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_give_the_batches_that_the_files_give(listed: tuple[Pool, Pool], workers: int):
    # 80 faces are 20 batches of 4: 25 reach into the second epoch; the shards are open before the workers are forked
    packed, loose = listed
    assert all(map(equal, batches(packed, 25, workers=workers), batches(loose, 25)))


def test_starting_in_the_middle_of_shards_equals_skipping(listed: tuple[Pool, Pool]):
    everything = batches(listed[0], 25)
    for first in (7, 20, 23):
        assert all(map(equal, everything[first:], batches(listed[0], 25 - first, first_batch=first, workers=1)))


def test_two_processes_share_shards_evenly_and_miss_no_face(listed: tuple[Pool, Pool]):
    # 80 faces, 2 processes of 4 faces: 10 steps, no face twice, and together the batches of 8 of one process
    alone = batches(listed[0], 10, batch_size=8)
    halves = [batches(listed[0], 10, rank=rank, world=2, workers=2) for rank in (0, 1)]
    seen = torch.stack([batch.indices for half in halves for batch in half])
    assert seen.shape == (20, 4)
    assert seen.flatten().sort().values.tolist() == list(range(80))
    for one, left, right in zip(alone, *halves, strict=True):
        assert torch.equal(one.indices, torch.cat([left.indices, right.indices]))
        for view, a, b in zip(one.views, left.views, right.views, strict=True):
            assert torch.equal(view, torch.cat([a, b]))


def test_shards_of_other_tools_are_read(tmp_path: Path):
    faces = {f"{number:04}": picture(10 * number + 20) for number in range(3)}
    with webdataset.TarWriter(str(tmp_path / "a-0.tar")) as writer:
        for key, content in faces.items():
            writer.write({"__key__": key, "jpg": content, "cls": 7, "txt": "no label is read"})
    long = f"{'very' * 30}/{'long' * 40}.webp"
    others = {"b/1.PNG": picture(90, ending="png"), long: picture(120, ending="webp"), "README": b"hello"}
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        tar(tmp_path / "b-0.tar", others, format=kind)
        pool = open_pool(tmp_path)
        assert names(pool) == ["0000.jpg", "0001.jpg", "0002.jpg", "1.PNG", Path(long).name]
        levels = [pool.image(index).float().mean().item() for index in range(5)]
        assert levels == pytest.approx([20, 30, 40, 90, 120], abs=2)


def test_a_sample_is_one_face_and_dotted_names_are_not_lost(tmp_path: Path):
    image = picture(100)
    members = ["k.jpg", "k.mask.png", "k.png", "IMG.2020.jpg", "IMG.2021.jpg", "a/k.jpg", ".k.jpg", "._k.jpg", "x/"]
    shard = tar(tmp_path / "a.tar", dict.fromkeys(members, image))
    with tarfile.open(shard, "a") as archive:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "k.jpg"
        archive.addfile(link)
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    pool = open_pool(shard)
    assert [str(pool.path(index).relative_to(shard)) for index in range(len(pool))] == [
        "k.jpg", "IMG.2020.jpg", "IMG.2021.jpg", "a/k.jpg",
    ]  # fmt: skip


def test_one_shard_and_a_list_of_shards_are_pools(tmp_path: Path):
    for name in ("a", "b", "c"):
        tar(tmp_path / f"{name}.tar", {f"{name}.jpg": picture(100)})
    (tmp_path / "list.txt").write_text("# two of three\nc.tar\n./a.tar\nc.tar\n")
    assert names(open_pool(tmp_path / "b.tar")) == ["b.jpg"]
    assert names(open_pool(tmp_path / "list.txt")) == ["c.jpg", "a.jpg"]
    assert names(open_pool(tmp_path)) == ["a.jpg", "b.jpg", "c.jpg"]


def test_input_that_is_no_pool_of_shards_is_one_clear_line(tmp_path: Path):
    whole = tar(tmp_path / "whole.tar", {f"{number}.jpg": picture(number) for number in range(9)})
    content = whole.read_bytes()
    second = 512 + len(picture(0)) + -len(picture(0)) % 512  # where the second header begins
    (tmp_path / "mixed.txt").write_text("whole.tar\nface.jpg\n")
    (tmp_path / "lost.txt").write_text("lost.tar\n")
    (tmp_path / "both").mkdir()
    tar(tmp_path / "both/a.tar", {"a.jpg": picture(9)})
    (tmp_path / "both/b.jpg").write_bytes(picture(9))
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 2])
    (tmp_path / "torn.tar").write_bytes(content[:second] + b"?" * 512 + content[second + 512 :])
    (tmp_path / "zip.tar").write_bytes(b"\x1f\x8b" + bytes(1000))
    (tmp_path / "empty.tar").touch()
    tar(tmp_path / "texts.tar", {"a.txt": b"hello"})
    (tmp_path / "none/shards").mkdir(parents=True)
    (tmp_path / "none/crop.yaml").write_text(yaml.safe_dump({"settings": {"shards": True}}))
    for name, message in {
        "mixed.txt": "lists shards, but also .*face.jpg",
        "lost.txt": "cannot read the shard .*lost.tar: No such file",
        "both": r"holds shards \(a.tar\) and images \(b.jpg\): separate them",
        "cut.tar": "is not a complete .tar .*: copy it again",
        "torn.tar": f"is not a complete .tar .no member begins at byte {second}",
        "zip.tar": "decompress it if it is compressed",
        "empty.tar": "is not a complete .tar",
        "texts.tar": "no images in .*texts.tar: expected .*[.]jpg",
        "none": "no faces found in .*none: .* --resume",
    }.items():
        with pytest.raises(ValueError, match=message):
            open_pool(tmp_path / name)


def test_the_next_face_of_the_shards_stands_in_for_an_unreadable_one(tmp_path: Path):
    tar(tmp_path / "a.tar", {"0.jpg": picture(50), "1.jpg": b"no picture"})
    tar(tmp_path / "b.tar", {"2.jpg": b"", "3.jpg": picture(150)})
    pool = open_pool(tmp_path)
    image, unreadable = pool.read(1)
    assert unreadable == [1, 2]
    assert torch.equal(image, pool.image(3))
    loader = FaceLoader(pool, ViewMaker(ViewsConfig(size=16), seed=0), EpochBatches(4, batch_size=4), workers=1)
    next(loader)
    assert loader.unreadable == {1: tmp_path / "a.tar/1.jpg", 2: tmp_path / "b.tar/2.jpg"}


# --- the index ---------------------------------------------------------------------------------------------------


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The shards whose headers are read."""
    scanned: list[Path] = []
    scan = reading.scan
    monkeypatch.setattr(reading, "scan", lambda shard: scanned.append(shard) or scan(shard))
    return scanned


def test_headers_are_read_once_and_again_when_the_shard_has_changed(tmp_path: Path, scans: list[Path]):
    shard = tar(tmp_path / "a.tar", {"0.jpg": b"1234", "0.json": b"{}", "1.jpg": b"x" * 600})
    # a header and one block; the same for the json; then the header at 2048
    assert load_index(shard).tolist() == [[0, 512, 4], [2048, 2560, 600]]
    assert load_index(shard).tolist() == [[0, 512, 4], [2048, 2560, 600]]
    assert scans == [shard]

    index_file(shard).write_bytes(b"half an index")
    load_index(shard)
    assert len(scans) == 2

    tar(shard, {"0.jpg": b"1234" * 5000, "1.jpg": b"5"})  # another size
    before = index_file(shard).stat()
    os.utime(shard, ns=(before.st_mtime_ns - 10**9,) * 2)
    assert len(load_index(shard)) == 2
    assert len(scans) == 3

    tar(shard, {"0.jpg": b"1234" * 5000})  # shorter by one block, but filled up to the same size; newer
    assert shard.stat().st_size == 20 * 1024 + 10240
    os.utime(shard, ns=(time.time_ns() + 10**9,) * 2)
    assert len(load_index(shard)) == 1
    assert len(scans) == 4


def test_crop_leaves_an_index_so_that_headers_need_not_be_read(listed: tuple[Pool, Pool], scans: list[Path]):
    folder = listed[0].path(0).parents[1]
    assert len(open_pool(folder)) == 80
    assert scans == []


def test_a_folder_that_may_not_be_written_needs_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reading, "write_index", forbidden)
    assert len(open_pool(tar(tmp_path / "a.tar", {"0.jpg": picture(1)}))) == 1
    assert os.listdir(tmp_path) == ["a.tar"]


def test_a_copy_of_a_pool_reads_the_same(listed: tuple[Pool, Pool]):
    listed[0].image(0)  # now a shard is open, which the copy cannot share
    assert torch.equal(pickle.loads(pickle.dumps(listed[0])).image(79), listed[0].image(79))


def test_few_shards_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "KEPT_OPEN", 3)
    pool = Shards([tar(tmp_path / f"{number}.tar", {f"{number}.jpg": picture(number)}) for number in range(9)])

    def opened() -> list[str]:
        targets = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _exists(name)]
        return sorted(Path(target).name for target in targets if target.startswith(str(tmp_path)))

    if not Path("/proc/self/fd").exists():
        pytest.skip("open files can be listed on Linux only")
    assert opened() == []
    for index in (0, 1, 2, 3, 4, 2, 5):
        pool.image(index)
    assert opened() == ["2.tar", "4.tar", "5.tar"]
    # forked copies share the position in a file: reading must neither need nor move it
    assert [os.lseek(descriptor, 0, os.SEEK_CUR) for descriptor in pool._descriptors.values()] == [0, 0, 0]
    del pool
    assert opened() == []


def _exists(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


def test_a_folder_tree_comes_in_the_order_of_its_paths(tmp_path: Path):
    for name in ("a/b.jpg", "a-b.jpg", "a.jpg", "a/b/c.jpg", "a/b-c.jpg", "a/B.jpg", "b/z/ä.jpg", "b/z.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c").symlink_to(tmp_path / "b" / "z")
    (tmp_path / "d.jpg").symlink_to(tmp_path / "nowhere.jpg")
    expected = sorted(tmp_path.rglob("*.jpg"))  # paths are compared part by part; rglob does not follow the link
    assert image_files(tmp_path) == expected
    pool = FolderPool(tmp_path)
    assert [pool.path(index) for index in range(len(pool))] == expected


# --- memory ------------------------------------------------------------------------------------------------------

MILLION = 1_000_000
SHARE = 1000  # names that are there once, and a thousand times through links


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A million faces without a million files: 1000 linked folders of 1000 files, 100 linked shards of 10,000 faces."""
    root = tmp_path_factory.mktemp("million")
    (root / "d000").mkdir()
    for number in range(SHARE):
        (root / "d000" / f"photo_{number:05}.jpg").write_bytes(picture(number % 250))
    for number in range(1, MILLION // SHARE):
        (root / f"d{number:03}").symlink_to(root / "d000")
    for name, count in (("small", SHARE), ("large", MILLION)):
        with open(root / f"{name}.txt", "w") as stream:
            stream.writelines(f"d{index // SHARE:03}/photo_{index % SHARE:05}.jpg\n" for index in range(count))
    (root / "large").mkdir()
    shard = tar(root / "large/000.tar", {f"{number:09}.jpg": picture(number % 250) for number in range(10_000)})
    load_index(shard)
    for number in range(1, 100):
        (root / f"large/{number:03}.tar").symlink_to(shard)
        (root / f"large/{number:03}.index.npz").symlink_to(index_file(shard))
    tar(root / "small.tar", {f"{number:09}.jpg": picture(number % 250) for number in range(SHARE)})
    return root


MEASURE = """
import json, sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from fra.pools.unlabelled import open_pool
from fra.pretrain.loader import EpochBatches, FaceLoader
from fra.pretrain.views import ViewMaker, ViewsConfig

def measure(path, *counts):  # MiB that a worker shares with no other process, after so many batches
    pool = open_pool(path)
    order = EpochBatches(len(pool), batch_size=64)
    loader = FaceLoader(pool, ViewMaker(ViewsConfig(size=8), seed=0), order, workers=1)
    private, done = [], 0
    for count in counts:
        for _ in range(count - done):
            next(loader)
        done = count
        [worker] = loader._running[0]._workers
        rollup = Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines()
        private.append(sum(int(line.split()[1]) for line in rollup if line.startswith("Private_")) / 1024)
    return dict(faces=len(pool), index=pool.index_bytes, private=private, pickled=len(ForkingPickler.dumps(pool)))

print(json.dumps([measure(sys.argv[1], 20), measure(sys.argv[2], 20, 120)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is measured on Linux only")
@pytest.mark.parametrize("small, large", [("small.txt", "large.txt"), ("small.tar", "large")], ids=["list", "shards"])
def test_the_memory_of_a_worker_does_not_grow_with_the_number_of_faces(million: Path, small: str, large: str):
    """Measured after 20, 200 and 600 batches, Python 3.11, Linux, in MiB of a worker alone:

    list: 24, 25, 31 (thousand faces) and 32, 33, 31 (million, of which an index of 26.7 is shared by all workers);
    shards: 24, 25, 25 and 25, 25, 25 (index 22.9). With a Python list of a million paths: 38, 70, 104.
    """
    command = [sys.executable, "-c", MEASURE, million / small, million / large]
    few, many = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    assert (few["faces"], many["faces"]) == (SHARE, MILLION)
    assert 22 * MILLION < many["index"] < 30 * MILLION
    early, late = many["private"]
    assert early - few["private"][0] < 12  # MiB; the index alone would be 23 or more
    assert late - early < 5  # 6,400 more faces, each on a page of 4 KiB of its own, would be 25
    assert many["pickled"] < 20_000  # what a spawned worker is sent: the index itself is in shared memory


# --- training ----------------------------------------------------------------------------------------------------


def test_training_on_shards_stops_and_goes_on_and_equals_training_on_files(
    drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from fra.system.stopping import Stopped

    files = image_files(drawn_faces)
    tar(tmp_path / "0.tar", {file.name: file.read_bytes() for file in files[:25]})
    tar(tmp_path / "1.tar", {file.name: file.read_bytes() for file in files[25:]})
    whole = pretrain_tiny(drawn_faces, tmp_path / "whole")
    interrupt_step(monkeypatch, 6)  # in the middle of the second of two epochs of 5 steps
    with pytest.raises(Stopped, match="step 7 of 10"):
        pretrain_tiny(tmp_path, tmp_path / "parts")
    monkeypatch.undo()
    pretrain_tiny(tmp_path, tmp_path / "parts", resume=True)
    assert same_bits(whole, tmp_path / "parts")
