"""What a photo costs: commands decode it once, and the views of a batch are drawn once."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_tasks import EXPRESSION, plant
from small_photos import TwoFaces, photo
from tiny_runs import run

from fra.crop import detectors
from fra.crop.cut import CropSettings
from fra.crop.photos import PhotoList
from fra.crop.run import crop
from fra.drawing.drawn_face import draw_face
from fra.faces import image as reading
from fra.faces.image import read_image, write_image
from fra.pools.unlabelled import FolderPool
from fra.predict.predictor import predict
from fra.pretrain import views
from fra.pretrain.loader import EpochBatches, FaceLoader
from fra.pretrain.views import ViewMaker, ViewsConfig
from fra.regions.run import draw_regions
from fra.runtime import Runtime


class Decoded:
    """How often each photo was decoded."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._names = {path.read_bytes(): path.name for path in folder.iterdir()}
        self.times: Counter[str] = Counter()
        decode = reading.decode

        def counted(content: bytes, **options: Any) -> torch.Tensor:
            if content in self._names:  # crops and pictures are read too
                self.times[self._names[content]] += 1
            return decode(content, **options)

        monkeypatch.setattr(reading, "decode", counted)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first is damaged, three can be read."""
    monkeypatch.setitem(detectors.DETECTORS, "two", TwoFaces)
    folder = tmp_path / "photos"
    for seed in range(4):
        photo(folder / f"{seed}.png", seed=seed)
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    return folder


ONCE = {"1.png": 1, "2.png": 1, "3.png": 1}


def once(decoded: Decoded) -> bool:
    return {name: count for name, count in decoded.times.items() if name != "0.png"} == ONCE


@pytest.mark.parametrize("resume", [False, True])
def test_fra_predict_decodes_a_photo_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    task = plant(tmp_path / "task", EXPRESSION, "synthetic", Path("laptop_byol"), says=torch.zeros(3))
    decoded = Decoded(photos, monkeypatch)
    predict([photos], [task], tmp_path / "out", detector="two", runtime=Runtime(resume=resume, quiet=True))
    assert once(decoded)


def test_fra_crop_decodes_a_photo_once(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = Decoded(photos, monkeypatch)
    crop(photos, tmp_path / "out", CropSettings(detector="two"), runtime=Runtime(workers=0, quiet=True))
    assert once(decoded)


def test_a_photo_that_was_read_is_handed_on_once(photos: Path) -> None:
    found = PhotoList(photos)
    found.require_readable()
    (chunk,) = found.chunks(0, 4)
    assert [photo.known is None for photo in chunk] == [True, False, True, True]
    assert torch.equal(chunk[1].read(), read_image(chunk[1].path))
    (again,) = found.chunks(0, 4)
    assert again == chunk
    assert all(photo.known is None for photo in again)


@pytest.mark.parametrize("rows", [1, 24])  # alone, the photo that would be drawn is the damaged one
def test_fra_regions_decodes_a_face_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    decoded = Decoded(photos, monkeypatch)
    draw_regions("laptop", photos, tmp_path / "out", rows=rows, runtime=Runtime(device="cpu", quiet=True))
    assert once(decoded)


def test_before_training_a_face_that_is_watched_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(8):
        write_image(tmp_path / f"faces/{seed}.png", draw_face(seed, size=32).image)
    decoded = Decoded(tmp_path / "faces", monkeypatch)
    run(tmp_path / "faces", tmp_path / "run", "schedule.epochs=1", "health_faces=8", name="smoke/resnet10_half.byol")
    # once to watch it, and once in the epoch; the first also to know that anything can be read
    assert decoded.times == {f"{seed}.png": 2 + (seed == 0) for seed in range(8)}


@pytest.mark.parametrize("with_frames", [False, True])
def test_the_views_of_a_batch_are_drawn_once_and_frames_come_when_asked_for(
    drawn_faces: Path, monkeypatch: pytest.MonkeyPatch, with_frames: bool
) -> None:
    drawn: list[int] = []
    draw = views.draw
    monkeypatch.setattr(views, "draw", lambda *given, **how: (drawn.append(how["view"]), draw(*given, **how))[1])
    order = EpochBatches(40, batch_size=4)
    maker = ViewMaker(ViewsConfig(size=16), seed=0)
    loader = FaceLoader(FolderPool(drawn_faces), maker, order, workers=0, with_frames=with_frames)
    batch = next(loader)
    assert drawn == [0, 1]
    assert [frame.shape for frame in batch.frames] == [(4, 4)] * (2 if with_frames else 0)


@pytest.mark.parametrize(("method", "expected"), [("byol", False), ("fra", True)])
def test_frames_travel_only_to_a_method_that_uses_them(
    method: str, expected: bool, drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the tiny recipes FRA's cluster views are aligned, which takes frames."""
    asked: list[bool] = []
    begin = FaceLoader.__init__
    monkeypatch.setattr(
        FaceLoader,
        "__init__",
        lambda self, *given, **how: (asked.append(how["with_frames"]), begin(self, *given, **how))[1],
    )
    run(drawn_faces, tmp_path / "run", "schedule.epochs=1", "max_faces=8", name=f"smoke/resnet10_half.{method}")
    assert asked == [expected]
