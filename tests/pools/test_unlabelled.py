"""The pool of faces: the same batches whoever loads them, and images that cannot be read."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fra.pools.listing import image_files, image_folder
from fra.pools.unlabelled import FolderPool
from fra.pretrain.loader import (
    Batch,
    EpochBatches,
    FaceLoader,
    default_workers,
    face_batch,
)
from fra.pretrain.views import ViewMaker, ViewsConfig

CONFIG = ViewsConfig(size=24)


def write_face(path: Path, level: int, *, size: tuple[int, int] = (32, 32)) -> None:
    """One flat colour with some texture, so that faces can be told apart by their mean."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(level).integers(-5, 6, (*size, 3)) + level
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """19 faces in three folders, of two sizes, one of them PNG."""
    root = tmp_path_factory.mktemp("faces")
    for i in range(18):
        write_face(root / f"person{i % 3}" / f"{i:02d}.jpg", 10 + 12 * i, size=(32, 32) if i % 2 else (40, 28))
    write_face(root / "zoë.png", 240)
    return root


def batches(folder: Path, count: int, *, workers: int = 0, batch_size: int = 4, **order: int) -> list[Batch]:
    pool = FolderPool(folder)
    which = EpochBatches(len(pool), batch_size=batch_size, seed=7, **order)
    loader = FaceLoader(pool, ViewMaker(CONFIG, seed=7), which, workers=workers, with_frames=True)
    return list(itertools.islice(loader, count))


def equal(a: Batch, b: Batch) -> bool:
    parts = zip([a.indices, *a.views, *a.frames], [b.indices, *b.views, *b.frames], strict=True)
    return all(torch.equal(one, other) for one, other in parts)


def test_a_folder_is_read_in_sorted_order(folder):
    pool = FolderPool(folder)
    paths = [pool.path(i) for i in range(len(pool))]
    assert paths == sorted(folder.rglob("*.*"))
    assert pool.crop_settings is None
    image, unreadable = pool.read(18)
    assert image.shape == (3, 32, 32)
    assert unreadable == []


def test_a_list_of_paths_is_a_pool(folder, tmp_path):
    chosen = [folder / "zoë.png", folder / "person1" / "04.jpg"]
    (tmp_path / "faces.txt").write_text("".join(f"{path}\n" for path in chosen), encoding="utf-8")
    pool = FolderPool(tmp_path / "faces.txt")
    assert [pool.path(i) for i in range(len(pool))] == chosen


def test_a_crop_folder_brings_its_settings_and_only_its_crops(tmp_path):
    write_face(tmp_path / "crops" / "a.jpg", 50)
    write_face(tmp_path / "contact_sheet.jpg", 90)
    (tmp_path / "crop.yaml").write_text(yaml.safe_dump({"margin": 0.25, "align": "none"}))
    pool = FolderPool(tmp_path)
    assert [pool.path(i) for i in range(len(pool))] == [tmp_path / "crops" / "a.jpg"]
    assert pool.crop_settings == {"margin": 0.25, "align": "none"}


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(
        ValueError, match=r"no faces found in .*: expected .jpg, .png or .tar in it; did you run `fra crop"
    ):
        FolderPool(tmp_path)


def test_the_index_takes_its_name_and_eight_bytes_for_each_face(tmp_path):
    # "person12/photo_00345.jpg" has 24 bytes; Path objects in a list would take several hundred each
    names = [f"person{i % 90 + 10}/photo_{i:05d}.jpg" for i in range(2000)]
    (tmp_path / "faces.txt").write_text("\n".join(names))
    pool = FolderPool(tmp_path / "faces.txt")
    assert pool.index_bytes == (24 + 8) * 2000
    assert {pool.path(i) for i in range(2000)} == {tmp_path / name for name in names}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_batches_that_the_main_process_makes(folder, workers):
    # 19 faces are 4 batches of 4, so ten batches reach into the third epoch, with the same workers
    alone, helped = batches(folder, 10), batches(folder, 10, workers=workers)
    assert all(map(equal, alone, helped))
    assert not equal(alone[0], alone[4])
    assert [view.shape for view in alone[0].views] == [(4, 3, 24, 24)] * 2
    assert [frame.shape for frame in alone[0].frames] == [(4, 4)] * 2
    for view, sent in zip(alone[0].views_on(torch.device("cpu")), helped[0].views, strict=True):
        assert view.dtype == torch.float32
        assert 0.5 < view.max() <= 1
        assert torch.equal((view * 255).round().byte(), sent)


def test_starting_in_the_middle_equals_skipping(folder):
    everything = batches(folder, 10)
    for first in (1, 4, 6):  # inside an epoch, at the start of the second, inside the second
        assert all(map(equal, everything[first:], batches(folder, 10 - first, first_batch=first)))


def test_an_epoch_shows_every_face_at_most_once_and_epochs_differ():
    order = EpochBatches(19, batch_size=4, seed=1)
    assert order.steps_per_epoch == order.batches_per_epoch == 4
    first, second = order.epoch(0).flatten().tolist(), order.epoch(1).flatten().tolist()
    assert len(set(first)) == 16
    assert first != second
    assert first != EpochBatches(19, batch_size=4, seed=2).epoch(0).flatten().tolist()
    left_out = [set(range(19)) - set(order.epoch(epoch).flatten().tolist()) for epoch in range(20)]
    assert set().union(*left_out) == set(range(19))  # nobody is left out for ever


def test_a_step_holds_the_same_images_for_any_processes_and_accumulation(folder):
    # 8 images a step as one batch, as two processes, as two batches in a row, as two processes of two batches
    alone = EpochBatches(19, batch_size=8, seed=3).epoch(0)
    half = [EpochBatches(19, batch_size=4, seed=3, rank=rank, world=2).epoch(0) for rank in (0, 1)]
    assert torch.equal(torch.cat(half, 1), alone)
    row = EpochBatches(19, batch_size=4, seed=3, accumulate=2)
    assert row.batches_per_epoch == 4
    assert row.steps_per_epoch == 2
    assert torch.equal(row.epoch(0).reshape(2, 8), alone)
    both = [EpochBatches(19, batch_size=2, seed=3, rank=r, world=2, accumulate=2).epoch(0) for r in (0, 1)]
    assert torch.equal(torch.cat([each.reshape(2, 4) for each in both], 1), alone)

    whole = batches(folder, 3, batch_size=8)
    parts = [batches(folder, 3, batch_size=4, rank=rank, world=2) for rank in (0, 1)]
    for one, left, right in zip(whole, *parts, strict=True):
        assert torch.equal(one.indices, torch.cat([left.indices, right.indices]))
        for view, a, b in zip(one.views, left.views, right.views, strict=True):
            assert torch.equal(view, torch.cat([a, b]))


def test_a_pool_smaller_than_a_step_says_what_to_do():
    with pytest.raises(ValueError, match=r"19 faces cannot fill a step of 32 .* smaller batch_size"):
        EpochBatches(19, batch_size=8, world=2, accumulate=2)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Six files: 1 and 2 (a text, a cut JPEG) and 5 (an empty file) cannot be read."""
    for i in (0, 3, 4):
        write_face(tmp_path / f"{i}.jpg", 40 * i + 20)
    (tmp_path / "1.jpg").write_text("this is no picture")
    write_face(tmp_path / "2.jpg", 100, size=(64, 64))
    content = (tmp_path / "2.jpg").read_bytes()
    (tmp_path / "2.jpg").write_bytes(content[: len(content) // 4])
    (tmp_path / "5.jpg").write_bytes(b"")
    return tmp_path


def test_the_next_readable_face_stands_in_for_an_unreadable_one(damaged):
    pool = FolderPool(damaged)
    for index, instead, unreadable in ((1, 3, [1, 2]), (2, 3, [2]), (5, 0, [5]), (4, 4, [])):
        image, missing = pool.read(index)
        assert missing == unreadable
        assert torch.equal(image, pool.read(instead)[0])


def test_unreadable_faces_are_listed_once_by_the_loader(damaged):
    pool = FolderPool(damaged)
    seen = []
    for workers in (0, 2):
        order = EpochBatches(6, batch_size=3, seed=0)
        loader = FaceLoader(pool, ViewMaker(CONFIG, seed=0), order, workers=workers)
        seen.append(list(itertools.islice(loader, 6)))  # three epochs
        assert loader.unreadable == {i: damaged / f"{i}.jpg" for i in (1, 2, 5)}
    assert all(map(equal, *seen))
    assert [batch.unreadable for batch in seen[0]] == [batch.unreadable for batch in seen[1]]
    assert set().union(*(batch.unreadable for batch in seen[0][:2])) == {1, 2, 5}


def test_a_pool_without_any_readable_face_stops(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_text("no")
    with pytest.raises(ValueError, match="cannot read 3 images in a row"):
        FolderPool(tmp_path).read(1)


def test_plain_faces_are_central_squares(tmp_path):
    # 20 high, 40 wide: columns 10 to 29 remain, of which the left half is black and the right half white
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    pixels[:, :10] = pixels[:, 30:] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    faces = face_batch(FolderPool(tmp_path), torch.tensor([0, 0]), size=10)
    expected = torch.zeros(10, 10)
    expected[:, 5:] = 1
    # a pixel is a triangle of two pixels' half width: the two columns at the edge each get 1/8 of the other side
    expected[:, 4], expected[:, 5] = 1 / 8, 7 / 8
    torch.testing.assert_close(faces, expected.expand(2, 3, 10, 10), atol=1 / 255, rtol=0)


SCRIPT = """
import sys
from fra.pools.unlabelled import FolderPool
from fra.pretrain.loader import EpochBatches, FaceLoader
from fra.pretrain.views import ViewMaker, ViewsConfig
if __name__ == "__main__":
    import torch
    torch.multiprocessing.set_start_method("spawn")
    pool = FolderPool(sys.argv[1])
    order = EpochBatches(len(pool), batch_size=4, seed=7)
    loader = FaceLoader(pool, ViewMaker(ViewsConfig(size=24), seed=7), order, workers=1)
    torch.save([next(loader).views for _ in range(2)], sys.argv[2])
    sys.exit(3)  # while the worker still runs: it must not keep the program from ending
"""


def test_spawned_workers_make_the_same_batches_and_end_with_the_program(folder, tmp_path):
    (tmp_path / "main.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "main.py", folder, tmp_path / "views.pt"]
    root = Path(__file__).parents[2]
    assert subprocess.run(command, cwd=root, env={"PYTHONPATH": str(root)}, timeout=60).returncode == 3
    for views, batch in zip(torch.load(tmp_path / "views.pt"), batches(folder, 2), strict=True):
        assert all(map(torch.equal, views, batch.views))


def test_default_workers_are_few_without_a_gpu():
    assert default_workers(on_gpu=False) == 1
    assert 1 <= default_workers(on_gpu=True, processes=1000) <= default_workers(on_gpu=True) <= 16


def test_drawn_faces_are_read_once_though_they_lie_in_several_layouts(few_faces: Path) -> None:
    assert image_folder(few_faces) == few_faces / "images"
    assert len(image_files(few_faces)) == 40
