"""`fra crop --shards --out s3://...`: what arrives is what is written here, whole, once, and with the manifest last."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import stores
from small_photos import TwoFaces, contents, photo

from fra import cli
from fra.crop import detectors
from fra.crop.cut import CropSettings
from fra.crop.run import crop
from fra.pools import remote
from fra.pools.remote import Remote
from fra.pools.unlabelled import open_pool
from fra.runtime import Runtime
from fra.system.processes import Lost

PACKED = CropSettings(detector="two", choose="all", size=16, shards=True, shard_faces=30)
ALONE = Runtime(workers=1, quiet=True)
RESUMED = replace(ALONE, resume=True)
FILES = ["contact_sheet.jpg", "crop.yaml", "crops.csv", "manifest.json", ".fra-run"]
SHARDS = [f"shards/faces-00000{number}{ending}" for number in range(3) for ending in (".tar", ".index.npz")]


class Killed(BaseException):
    """Nothing in the program catches it."""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(detectors.DETECTORS, "two", TwoFaces)
    monkeypatch.setattr(remote, "WAITS", (0.0,) * 6)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with stores.s3() as address:
        yield address


@pytest.fixture
def to(bucket: str, request: pytest.FixtureRequest) -> Remote:
    """A place of the test's own."""
    return Remote(f"{bucket}/{request.node.name.partition('[')[0]}/faces")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 photos with two faces each: three chunks of work, and shards of 30, 30 and 20 faces."""
    folder = tmp_path_factory.mktemp("upload") / "photos"
    for number in range(40):
        photo(folder / f"{number:02}.jpg", seed=number)
    return folder


@pytest.fixture(scope="module")
def local(photos: Path) -> dict[str, bytes]:
    """What the same run leaves here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(detectors.DETECTORS, "two", TwoFaces)
        crop(photos, photos.parent / "local", PACKED, runtime=ALONE)
    return contents(photos.parent / "local")


def there(to: Remote) -> dict[str, bytes]:
    """All objects below the place."""
    path = to.url.removeprefix("s3://")
    system = fsspec.filesystem("s3", use_listings_cache=False)
    return {name.removeprefix(path + "/"): system.cat_file(name) for name in system.find(path)}


def require_whole(to: Remote, local: dict[str, bytes]) -> None:
    found = there(to)
    assert sorted(found) == sorted([*FILES, *SHARDS])
    for name in ("crops.csv", "crop.yaml", "contact_sheet.jpg", *(name for name in SHARDS if name.endswith(".tar"))):
        assert found[name] == local[name], name
    listed = json.loads(found["manifest.json"])
    assert [shard["faces"] for shard in listed["shards"]] == [30, 30, 20]
    assert listed["faces"] == 80


def test_what_arrives_is_what_is_written_here(photos: Path, local: dict[str, bytes], to: Remote):
    summary = crop(photos, to, PACKED, runtime=ALONE)
    assert f"80 faces cropped into {to}/shards; the first ones are shown in {to}/contact_sheet.jpg" in str(summary)
    require_whole(to, local)
    # here the shards are gone; what a run needs to go on is left
    assert not list(Path("faces.upload/shards").iterdir())
    before = there(to)
    crop(photos, to, PACKED, runtime=RESUMED)
    assert there(to) == before


@pytest.mark.parametrize("some", [(1, 5, 14), pytest.param(None, marks=pytest.mark.slow)])
def test_wherever_it_ends_readers_see_nothing_or_all_and_resuming_equals_not_stopping(
    photos: Path, local: dict[str, bytes], to: Remote, monkeypatch: pytest.MonkeyPatch, some: tuple[int, ...] | None
):
    # Objects appear in put: the run ends before and after each such call, one after the other.
    left, sent = 10**9, []
    put = Remote.put

    def counted(self: Remote, file: Path) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        put(self, file)
        sent.append(self.name)
        left -= 1
        if left == 0:
            raise Killed

    monkeypatch.setattr(Remote, "put", counted)
    crop(photos, to / f"{bool(some)}/whole/faces", PACKED, runtime=ALONE)
    assert sent[0] == ".fra-run"
    assert sent[-1] == "manifest.json"
    assert [name for name in sent if name.endswith(".tar")] == [f"faces-00000{number}.tar" for number in range(3)]
    for stop in some or range(1, 2 * len(sent)):
        place, left = to / f"{bool(some)}/{stop}/faces", stop
        shutil.rmtree("faces.upload")
        with pytest.raises(Killed):
            crop(photos, place, PACKED, runtime=ALONE)
        left = 10**9
        if stop > 1:
            with pytest.raises(ValueError, match=r"is not finished: manifest.json comes last"):
                open_pool(place)
        crop(photos, place, PACKED, runtime=RESUMED)
        require_whole(place, local)


def test_a_run_whose_folder_here_is_lost_sends_the_same_again(
    photos: Path, local: dict[str, bytes], to: Remote, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr("fra.crop.upload.Upload.finish", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            crop(photos, to, PACKED, runtime=ALONE)
    shutil.rmtree("faces.upload")
    with pytest.raises(ValueError, match=r"/faces already holds a run of `fra crop`: add --resume"):
        crop(photos, to, PACKED, runtime=ALONE)
    assert not Path("faces.upload").exists()
    crop(photos, to, PACKED, runtime=RESUMED)
    require_whole(to, local)


def test_other_photos_or_settings_and_foreign_places_are_refused(photos: Path, to: Remote, tmp_path: Path):
    crop(photos, to, PACKED, runtime=ALONE)
    before = there(to)
    shutil.rmtree("faces.upload")
    for options in ({"size": 24}, {"shard_faces": 20}):
        with pytest.raises(ValueError, match="holds crops of other photos or settings: choose another --out"):
            crop(photos, to, replace(PACKED, **options), runtime=RESUMED)
    photo(tmp_path / "others/1.jpg", seed=1)
    with pytest.raises(ValueError, match="holds crops of other photos or settings"):
        crop(tmp_path / "others", to, PACKED, runtime=RESUMED)
    with pytest.raises(ValueError, match=r"/shards is not empty and was not made by fra"):
        crop(photos, to / "shards", PACKED, runtime=ALONE)
    assert there(to) == before
    crop(photos, to, PACKED, runtime=RESUMED)
    with pytest.raises(ValueError, match=r"faces.upload belongs to s3://.*/faces: run the command in another"):
        crop(photos, to.parent / "b/faces", PACKED, runtime=RESUMED)


def test_a_store_that_fails_now_and_then_gets_all_and_one_that_is_away_is_told(
    photos: Path, local: dict[str, bytes], to: Remote, monkeypatch: pytest.MonkeyPatch
):
    kind, tries = fsspec.get_filesystem_class("s3"), []
    put = kind._put_file

    async def failing(self: Any, file: str, path: str, **named: Any) -> None:
        tries.append(path)
        if len(tries) % 3 == 1:
            raise OSError(5, f"secret {stores.SECRET}")
        if len(tries) % 3 == 2:  # half of it arrives
            await self._pipe_file(path, Path(file).read_bytes()[: os.path.getsize(file) // 2])
        else:
            await put(self, file, path, **named)

    monkeypatch.setattr(kind, "_put_file", failing)
    kind.clear_instance_cache()
    crop(photos, to, PACKED, runtime=ALONE)
    assert len(tries) == 3 * (len(FILES) + len(SHARDS))
    require_whole(to, local)

    async def away(*_: Any, **__: Any) -> None:
        raise TimeoutError(stores.SECRET)

    monkeypatch.setattr(kind, "_put_file", away)
    kind.clear_instance_cache()
    shutil.rmtree("faces.upload")
    with pytest.raises(
        Lost, match=r"s3://.*/2/faces/.fra-run cannot be written \(FSTimeoutError after 7 tries\)"
    ) as lost:
        crop(photos, to / "2/faces", PACKED, runtime=ALONE)
    assert stores.SECRET not in str(lost.value)
    kind.clear_instance_cache()


def test_a_large_file_goes_in_parts_and_is_not_seen_before_the_last(to: Remote, monkeypatch: pytest.MonkeyPatch):
    import s3fs.core

    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda *_, **__: 5 << 20)
    Path("large.tar").write_bytes(os.urandom(11 << 20))
    call, parts = s3fs.S3FileSystem._call_s3, []

    async def cut(self: Any, method: str, *arguments: Any, **named: Any) -> Any:
        parts.append(method)
        if method == "upload_part" and named["PartNumber"] == 3:
            raise ConnectionError
        return await call(self, method, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_call_s3", cut)
        with pytest.raises(Lost, match="large.tar cannot be written"):
            (to / "large.tar").put(Path("large.tar"))
    assert parts.count("upload_part") == 3 * 7
    assert parts.count("complete_multipart_upload") == 0
    assert to.listed() == {}
    (to / "large.tar").put(Path("large.tar"))
    assert there(to)["large.tar"] == Path("large.tar").read_bytes()


def test_where_nothing_can_be_written_is_one_line(
    bucket: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "web").mkdir()
    with stores.web(tmp_path / "web") as server:
        for out, message in {
            f"{server.address}/faces": "cannot be written: give s3://, gs:// or a folder",
            "s3://no-such-bucket/faces": "cannot be written: make its bucket, or its folder, first",
            "s3://": "s3:// has no folder: add a bucket and a name",
        }.items():
            words = ["crop", str(photos), "--detector", "none", "--shards", "--workers", "1", "--out", out]
            assert cli.main(words) == 2
            said = capsys.readouterr().err
            assert message in said
            assert said.count("\n") == 1
            shutil.rmtree("faces.upload", ignore_errors=True)
