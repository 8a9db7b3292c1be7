"""Shards elsewhere are read as shards here are: through failing stores, with a bounded cache, telling no secrets."""

import io
import os
import re
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import stores
import torch
from small_photos import TwoFaces, photo
from stores import Server
from tiny_runs import interrupt_step, same_bits
from tiny_runs import run as pretrain_tiny

from fra import cli
from fra.crop import detectors
from fra.crop.cut import CropSettings
from fra.crop.run import crop
from fra.pools import remote
from fra.pools.cache import Cache, shown_size, size_of
from fra.pools.manifest import find_shards
from fra.pools.remote import Remote, RemoteStream, expanded
from fra.pools.unlabelled import Pool, open_pool
from fra.pretrain.loader import EpochBatches, FaceLoader
from fra.pretrain.views import ViewMaker, ViewsConfig
from fra.runtime import Runtime
from fra.system.printable import without_secrets
from fra.system.processes import Lost

PACKED = CropSettings(detector="two", choose="all", size=16, shards=True, shard_faces=30)
ALONE = Runtime(workers=1, quiet=True)
SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote, "WAITS", (0.0,) * 6)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `fra crop --shards` makes of 40 photos with two faces each, here: shards of 30, 30 and 20 faces."""
    folder = tmp_path_factory.mktemp("remote")
    for number in range(40):
        photo(folder / "photos" / f"{number:02}.jpg", seed=number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(detectors.DETECTORS, "two", TwoFaces)
        crop(folder / "photos", folder / "packed", PACKED, runtime=ALONE)
        crop(folder / "photos", Remote(f"file://{folder}/sent"), PACKED, runtime=ALONE)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _working_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where `fra crop --out s3://...` keeps what it needs to go on."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("here"))
    yield
    os.chdir(before)


@pytest.fixture(scope="module")
def bucket(packed: Path) -> Iterator[str]:
    """The same shards in S3: as `fra crop` sends them (sent), and copied there (copied)."""
    with stores.s3() as address:
        system = fsspec.filesystem("s3")
        system.put(str(packed / "sent"), f"{stores.BUCKET}/sent", recursive=True)
        for file in (packed / "packed/shards").glob("*.tar"):
            system.put_file(str(file), f"{stores.BUCKET}/copied/{file.name}")
        yield address


@pytest.fixture
def server(packed: Path, tmp_path: Path) -> Iterator[Server]:
    """A web server of `sent`, in a copy that a test may damage."""
    for file in (packed / "sent").rglob("*"):
        if file.is_file():
            copy = tmp_path / "served" / file.relative_to(packed)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    with stores.web(tmp_path / "served") as served:
        yield served


def same_images(one: Pool, other: Pool) -> bool:
    return len(one) == len(other) and all(
        torch.equal(one.image(index), other.image(index)) for index in range(len(one))
    )


def batches(pool: Pool, count: int, *, workers: int, first: int = 0) -> list[list[torch.Tensor]]:
    order = EpochBatches(len(pool), batch_size=4, seed=7, first_batch=first)
    loader = FaceLoader(pool, ViewMaker(ViewsConfig(size=24), seed=7), order, workers=workers)
    return [next(loader).views for _ in range(count)]


# --- names -------------------------------------------------------------------------------------------------------


def test_braces_stand_for_names_as_in_a_shell():
    assert expanded("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expanded("{x,y}/{2..1}.tar") == ["x/2.tar", "x/1.tar", "y/2.tar", "y/1.tar"]
    assert expanded("{8..10}") == ["8", "9", "10"]
    assert expanded("no{thing}.tar") == ["no{thing}.tar"]
    with pytest.raises(ValueError, match=r"\{0..99999999\} stands for more than 1,000,000 names"):
        expanded("{0..99999999}.tar")


def test_what_is_shown_of_an_address_has_no_secret():
    place = Remote(f"https://user:{SECRET}@host:8080/faces/a.tar?X-Signature={SECRET}")
    assert str(place) == "https://host:8080/faces/a.tar"
    assert (place.name, str(place.parent), str(place.parent / "b.tar")) == (
        "a.tar", "https://host:8080/faces", "https://host:8080/faces/b.tar",
    )  # fmt: skip
    assert (place.parent / "b.tar").url == f"https://user:{SECRET}@host:8080/faces/b.tar?X-Signature={SECRET}"
    assert SECRET not in repr(place)
    assert without_secrets(f"cannot open 'ftp://u:p@ss@h/x?y={SECRET}', nor s3://b/c") == (
        "cannot open 'ftp://h/x', nor s3://b/c"
    )


def test_sizes_are_read_and_shown():
    assert [size_of(text) for text in ("50G", "1.5 k", "20000000", "2TB")] == [50 * 10**9, 1500, 20 * 10**6, 2 * 10**12]
    assert shown_size(31_400_000_000) == "31.4 GB"
    with pytest.raises(ValueError, match="much: give bytes"):
        size_of("much")


# --- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    ["sent", "sent/manifest.json", "sent/shards/faces-{000000..000002}.tar", "copied", "list.txt"],
)
def test_shards_in_a_bucket_are_the_pool_that_they_are_here(packed: Path, bucket: str, where: str, tmp_path: Path):
    names = [f"copied/faces-00000{number}.tar" for number in range(3)]
    if where == "list.txt":
        fsspec.filesystem("s3").pipe(
            f"{stores.BUCKET}/list.txt", f"# all\n{names[0]}\n{bucket}/{names[1]}\n{names[2]}".encode()
        )
    here, there = open_pool(packed / "packed"), open_pool(f"{bucket}/{where}")
    assert same_images(here, there)
    assert (
        there.path(31)
        == f"{bucket}/{'copied' if where in ('copied', 'list.txt') else 'sent/shards'}/faces-000001.tar/000000031.jpg"
    )
    assert (there.crop_settings is not None) == (where in ("sent", "sent/manifest.json"))
    # the index is kept: a second look asks for no shard
    again = open_pool(f"{bucket}/{where}")
    assert len(again) == 80
    assert len(list((tmp_path / "xdg/fra/indexes").iterdir())) == 3


def test_a_list_here_may_name_shards_here_and_elsewhere(packed: Path, bucket: str, tmp_path: Path):
    lines = [packed / "packed/shards/faces-000000.tar", f"{bucket}/copied/faces-{{000001..000002}}.tar"]
    (tmp_path / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    assert same_images(open_pool(packed / "packed"), open_pool(tmp_path / "list.txt"))
    local = open_pool(str(packed / "packed/shards/faces-{000000..000001}.tar"))
    assert len(local) == 60


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_what_else_fsspec_knows_is_read(packed: Path, protocol: str):
    address = f"file://{packed}/sent"
    if protocol == "memory":
        fsspec.filesystem("memory").put(f"{packed}/sent", "/sent", recursive=True)
        address = "memory://sent"
    assert same_images(open_pool(packed / "packed"), open_pool(address))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_a_bucket_are_those_from_here_also_from_the_middle(packed: Path, bucket: str, workers: int):
    # 80 faces are 20 batches of 4: 23 reach into the second epoch
    here, there = open_pool(packed / "packed"), open_pool(f"{bucket}/sent")
    there.image(0)  # the store is talked to before the workers are forked
    expected = batches(here, 23, workers=0)
    for first, found in ((0, batches(there, 23, workers=workers)), (19, batches(there, 4, workers=workers, first=19))):
        assert all(map(torch.equal, a, b) for a, b in zip(expected[first:], found, strict=True))
        for a, b in zip(expected[first:], found, strict=True):
            assert all(map(torch.equal, a, b))


@pytest.mark.slow
def test_a_run_on_a_bucket_that_is_interrupted_ends_as_one_on_files_here(
    packed: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = ("schedule.epochs=2", "max_faces=40")
    pretrain_tiny(packed / "packed", tmp_path / "here", *settings, name="smoke/resnet10_half.byol")
    there = Remote(f"{bucket}/sent", Cache(tmp_path / "cache", 10**6))
    with monkeypatch.context() as patch:
        interrupt_step(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            pretrain_tiny(there, tmp_path / "there", *settings, name="smoke/resnet10_half.byol")
    pretrain_tiny(there, tmp_path / "there", *settings, name="smoke/resnet10_half.byol", resume=True)
    assert same_bits(tmp_path / "here", tmp_path / "there")


# --- stores that fail --------------------------------------------------------------------------------------------


def test_every_third_request_fails_and_bodies_are_cut_yet_all_is_read(packed: Path, server: Server):
    server.fail = 3
    assert same_images(open_pool(packed / "packed"), open_pool(f"{server.address}/sent"))
    assert server.broken > 20
    # without a manifest the headers are read too
    names = f"{server.address}/sent/shards/faces-{{000000..000002}}.tar"
    for index in server.folder.rglob("*.index.npz"):
        index.unlink()
    assert same_images(open_pool(packed / "packed"), open_pool(names))


def test_a_stream_reads_what_the_file_holds_wherever_it_seeks(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "BLOCK", 700)
    file = server.folder / "sent/shards/faces-000002.tar"
    content = file.read_bytes()
    place = Remote(f"{server.address}/sent/shards/faces-000002.tar")
    assert b"".join(place.blocks(len(content))) == content
    with io.BufferedReader(RemoteStream(place, len(content)), 512) as stream, open(file, "rb") as expected:
        for offset, size in ((0, 10), (699, 2), (5, 1000), (len(content) - 3, 10), (1400, 0)):
            assert stream.seek(offset) == expected.seek(offset)
            assert stream.read(size) == expected.read(size)


def test_a_store_that_is_away_is_one_line_and_no_unreadable_image(server: Server, capsys: pytest.CaptureFixture[str]):
    pool = open_pool(f"{server.address}/sent")
    server.down = True
    with pytest.raises(Lost, match=r"faces-000000.tar cannot be read \(ClientResponseError 503 after 7 tries\)"):
        pool.read(0)
    assert cli.main(["pretrain", "smoke/resnet10_half.fra", "--faces", f"{server.address}/sent"]) == 1
    line = capsys.readouterr().err
    assert re.fullmatch(
        r"fra: http://127.0.0.1:\d+/sent/manifest.json cannot be read .*, with? .*\n|fra: .*later\n", line
    )


def test_what_is_not_there_or_cannot_be_read_in_parts_is_told(server: Server, bucket: str, tmp_path: Path):
    server.folder.joinpath("sent/shards/face.jpg").write_bytes(b"1")
    server.folder.joinpath("list.txt").write_text("a.tar\nb.jpg\n")
    (tmp_path / "list.txt").write_text("s3://bucket/a.tar\nb.jpg\n")
    for place, message in {
        f"{server.address}/nothing.tar": "no such file: http://127.0.0.1:[0-9]+/nothing.tar",
        f"{server.address}/list.txt": "list.txt lists .*/b.jpg: expected .tar files",
        f"{bucket}/nothing": f"no shards are listed at {bucket}/nothing: give a folder",
        "s3://no-such-bucket/faces": "no shards are listed at s3://no-such-bucket/faces",
        "abc://faces/x.tar": "abc://faces/x.tar is not known to fsspec: give s3://",
        tmp_path / "list.txt": "lists shards, but also b.jpg",
    }.items():
        with pytest.raises(ValueError, match=message):
            open_pool(place)
    pool = open_pool(f"{server.address}/sent")
    server.ranges = False
    with pytest.raises(ValueError, match="is on a server that sends whole files only: copy the shards"):
        pool.image(0)


def test_photos_elsewhere_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]):
    for words in (
        "crop s3://bucket/photos",
        f"crop https://user:{SECRET}@host/photos",
        "embed s3://bucket/photos --encoder laptop",
        "predict s3://bucket/face.jpg --task laptop_age",
        "pretrain smoke/resnet10_half.fra --faces photos --out s3://bucket/run",
    ):
        assert cli.main(words.split()) == 2, words
        said = capsys.readouterr().err
        assert re.search(r"(s3://bucket|https://host)/\S+ is elsewhere, and only shards of faces may be", said), said
        assert said.count("\n") == 1
        assert SECRET not in said
    assert cli.main(["crop", "photos", "--out", "s3://bucket/crops"]) == 2
    assert "s3://bucket/crops is elsewhere, where only shards are written: add --shards" in capsys.readouterr().err


# --- checksums ---------------------------------------------------------------------------------------------------


def test_an_image_that_was_changed_is_refused_and_not_passed_over(server: Server):
    pool = open_pool(f"{server.address}/sent")
    shard = server.folder / "sent/shards/faces-000001.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1  # in the first image, which begins at byte 512
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"faces-000001.tar/000000030.jpg does not have the checksum of the index"):
        pool.read(30)
    assert pool.read(31)[1] == []


@pytest.mark.parametrize("file", ["manifest.json", "shards/faces-000000.index.npz"])
def test_a_manifest_or_index_that_was_changed_is_refused(server: Server, file: str):
    path = server.folder / "sent" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file} (does not have the checksum|is damaged)"):
        open_pool(f"{server.address}/sent")


# --- the cache ---------------------------------------------------------------------------------------------------


def filled(pool: Pool) -> None:
    """Wait until what has room has been fetched."""
    pool.shards._filling.thread.join(20)
    pool.shards._missed.clear()


def kept(cache: Cache) -> dict[str, int]:
    return {file.name.partition("-")[2]: file.stat().st_size for file in sorted(cache.folder.glob("*-*.tar"))}


def test_shards_are_kept_and_read_without_asking_again(packed: Path, server: Server, tmp_path: Path):
    cache, sizes = Cache(tmp_path / "cache", 10**6), {}
    for file in sorted((server.folder / "sent/shards").glob("*.tar")):
        sizes[file.name] = file.stat().st_size
    server.fail = 3
    pool = open_pool(Remote(f"{server.address}/sent", cache))
    assert pool.begin_to_keep() == f"3 shards will be kept in {tmp_path / 'cache'} (at most 1 MB)"
    filled(pool)
    assert kept(cache) == sizes
    server.asked.clear()
    assert same_images(open_pool(packed / "packed"), pool)
    later = open_pool(Remote(f"{server.address}/sent", cache))
    assert same_images(open_pool(packed / "packed"), later)
    assert {line.split()[1] for line in server.asked} == {"/sent/manifest.json"}
    assert same_images(open_pool(packed / "packed"), FolderlessCopy(later))


class FolderlessCopy:
    """A pool as it arrives in another process."""

    def __init__(self, pool: Pool) -> None:
        import pickle

        self.pool = pickle.loads(pickle.dumps(pool))

    def __len__(self) -> int:
        return len(self.pool)

    def image(self, index: int) -> torch.Tensor:
        return self.pool.image(index)


def test_the_bound_holds_and_the_least_recently_used_go_first(packed: Path, server: Server, tmp_path: Path):
    size = (server.folder / "sent/shards/faces-000000.tar").stat().st_size
    cache = Cache(tmp_path / "cache", 2 * size + 100)
    cache.folder.mkdir()
    old, newer, foreign = (cache.folder / name for name in ("0" * 16 + "-a.tar", "1" * 16 + "-b.tar", "notes.txt"))
    for age, file in enumerate((newer, old)):
        file.write_bytes(bytes(size // 2))
        os.utime(file, (time.time() - 1000 - age, time.time() - 1000 - age))
    foreign.write_bytes(bytes(10 * size))  # nobody else's file is counted or removed
    pool = open_pool(Remote(f"{server.address}/sent", cache))
    assert pool.begin_to_keep().endswith(
        f"(at most {shown_size(2 * size + 100)}); faces of the other 1 are read one by one"
    )
    watched: list[int] = []
    while pool.shards._filling.thread.is_alive():
        with suppress(FileNotFoundError):
            watched.append(sum(file.stat().st_size for file in cache.folder.glob("*-*")))
    filled(pool)
    assert max(watched, default=0) <= cache.bytes
    assert kept(cache).keys() == {"faces-000000.tar", "faces-000001.tar"}
    assert not old.exists()
    assert foreign.exists()
    assert same_images(open_pool(packed / "packed"), pool)  # the third from the server, face by face


def test_of_two_old_files_only_the_older_goes_when_that_is_enough(server: Server, tmp_path: Path):
    size = (server.folder / "sent/shards/faces-000000.tar").stat().st_size
    cache = Cache(tmp_path / "cache", 2 * size)
    cache.folder.mkdir()
    old, newer = cache.folder / ("0" * 16 + "-a.tar"), cache.folder / ("1" * 16 + "-b.tar")
    for age, file in enumerate((newer, old)):
        file.write_bytes(bytes(size))
        os.utime(file, (time.time() - 1000 - age, time.time() - 1000 - age))
    shards = find_shards(Remote(f"{server.address}/sent", cache)).shards
    assert cache.keep(shards[0], among=shards[:1], stop=threading.Event())
    assert (old.exists(), newer.exists()) == (False, True)


def test_a_kept_shard_appears_whole_and_what_a_kill_left_is_removed(server: Server, tmp_path: Path):
    cache = Cache(tmp_path / "cache", 10**6)
    (shard, *_) = find_shards(Remote(f"{server.address}/sent", cache)).shards
    small, stop = replace(shard, block=1000), threading.Event()

    class Stopping(threading.Event):
        def is_set(self) -> bool:
            assert not cache.path(small).exists()
            sizes = [file.stat().st_size for file in cache.folder.glob(".fra-tmp-*")]
            assert sizes == [small.bytes]  # all of it is reserved
            return stop.is_set()

    assert cache.keep(small, among=[small], stop=Stopping())
    assert cache.path(small).read_bytes() == (server.folder / "sent/shards/faces-000000.tar").read_bytes()
    assert list(cache.folder.glob(".fra-tmp-*")) == []
    stop.set()
    cache.forget(small)
    assert not cache.keep(small, among=[small], stop=Stopping())
    assert sorted(file.name for file in cache.folder.iterdir()) == [".lock"]


def test_a_shard_with_another_checksum_is_not_kept(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    cache = Cache(tmp_path / "cache", 10**6)
    shard = server.folder / "sent/shards/faces-000000.tar"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1  # behind the last member: no image is hurt
    shard.write_bytes(content)
    pool = open_pool(Remote(f"{server.address}/sent", cache))
    pool.begin_to_keep()
    filled(pool)
    assert kept(cache).keys() == {"faces-000001.tar", "faces-000002.tar"}
    assert (
        "faces-000000.tar does not have the checksum that its manifest says: it is not kept" in capfd.readouterr().err
    )
    assert pool.read(0)[1] == []


def test_a_kept_shard_that_is_damaged_here_is_read_from_the_store(packed: Path, server: Server, tmp_path: Path):
    cache = Cache(tmp_path / "cache", 10**6)
    pool = open_pool(Remote(f"{server.address}/sent", cache))
    pool.begin_to_keep()
    filled(pool)
    (file,) = cache.folder.glob("*-faces-000000.tar")
    file.write_bytes(bytes(file.stat().st_size))
    assert same_images(open_pool(packed / "packed"), pool)
    assert not file.exists()


# --- secrets -----------------------------------------------------------------------------------------------------


TINY = ["pretrain", "smoke/resnet10_half.fra", "--debug", "--workers", "0", "--device", "cpu", "--set", "batch_size=4"]
TINY += ["--set", "schedule.epochs=1", "--set", "max_faces=12", "--set", "health_faces=8"]
TINY += ["--set", "method.head={hidden: 32, out: 16}"]


def require_untold(said: str, *folders: Path) -> None:
    for secret in (SECRET, stores.SECRET, stores.KEY):
        assert secret not in said
        for file in (file for folder in folders for file in folder.rglob("*") if file.is_file()):
            assert secret.encode() not in file.read_bytes(), file


def with_password(server: Server, password: str = SECRET) -> str:
    server.password = SECRET
    return server.address.replace("http://", f"http://user:{password}@") + "/sent"


def test_what_is_refused_or_lost_tells_no_secret(
    server: Server, bucket: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """A password in the address, or a signature, and keys in the environment; with tracebacks."""
    there, said = with_password(server), ""
    assert len(open_pool(there)) == 80
    for address, down in (
        (with_password(server, f"wrong{SECRET}"), False),
        (there, True),
        (f"{there}/{{1..2}}.tar?key={SECRET}", False),
        (f"s3://{stores.KEY}:{stores.SECRET}@{stores.BUCKET}/sent", False),
        (f"{bucket}/nothing", False),
    ):
        server.down = down
        with pytest.raises((ValueError, Lost)) as caught:
            cli.main([*TINY, "--faces", address, "--out", str(tmp_path / "refused")])
        said += "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    for words in (["--face", there], [f"--facse={there}"], ["--faces", there, "--cache-size", "1G"]):
        assert cli.main(["pretrain", "smoke/resnet10_half.fra", *words]) == 2
    assert cli.main(["cluster", "slurm", "pretrain", "laptop/resnet10_half.fra", "--faces", there, "--out", "x"]) == 2
    said += "".join(capfd.readouterr())
    assert "the job file would show the password" in said
    require_untold(said, tmp_path / "xdg")


@pytest.mark.slow
def test_runs_print_and_write_no_secret(server: Server, bucket: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    there = with_password(server)
    one, other, drawn = tmp_path / "run", tmp_path / "s3", tmp_path / "regions"
    assert cli.main([*TINY, "--faces", there, "--cache", str(tmp_path / "cache"), "--out", str(one)]) == 0
    assert cli.main([*TINY, "--faces", f"{bucket}/sent", "--out", str(other)]) == 0
    assert cli.main(["regions", str(one), "--faces", there, "--out", str(drawn), "--device", "cpu"]) == 0
    said = "".join(capfd.readouterr())
    assert f"--faces {server.address}/sent" in said  # the next command, as it can be shown
    assert (one / "encoder.safetensors").is_file()
    assert (drawn / "regions.png").is_file()
    require_untold(said, one, other, drawn, tmp_path / "cache", tmp_path / "xdg")
