"""Views that the device finishes are those that workers make, and pre-training with them is the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp
from test_views import effects, mixed, picture
from tiny_runs import FRA_TINY, same_bits

from fra.pools.unlabelled import FolderPool
from fra.pretrain import views, views_on_device
from fra.pretrain.loader import EpochBatches, FaceLoader
from fra.pretrain.run import load_pretrain_recipe, pretrain
from fra.pretrain.views import ViewMaker, ViewsConfig, crop_only
from fra.pretrain.views_on_device import device_should_finish, finish, multiply_adds_per_second
from fra.runtime import Runtime
from fra.training.checkpoint import written_identity

CPU = torch.device("cpu")


def finished(maker: ViewMaker, images: list[torch.Tensor], *, epoch: int = 0) -> list[torch.Tensor]:
    """In whole levels."""
    drawn = maker.draw(images, torch.arange(len(images)), epoch=epoch)
    made = [finish(crop_only(each.config, images, each.parameters), each) for each in drawn]
    return [(view * 255).round().byte() for view in made]


@pytest.mark.parametrize("size", [24, 37])
def test_they_are_the_workers_views(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(views_on_device, "AT_ONCE", 3 * size**2 * 10)  # so that 24 faces take three turns
    maker = ViewMaker(ViewsConfig(size=size, blur=(1.0, 0.5), solarize=(0.3, 0.3)), seed=5)
    workers = maker.make(mixed(), torch.arange(24), epoch=0)
    assert all(map(torch.equal, finished(maker, mixed()), workers))  # one level apart on a GPU, says its own check


def test_their_distribution_is_that_of_the_workers() -> None:
    """Two samples with different draws: no statistic of the pictures tells which was made where."""
    image, count = picture(8, 48, 48), 600
    maker = ViewMaker(ViewsConfig(size=32), seed=3)
    here = maker.make([image] * count, torch.arange(count), epoch=0)
    there = finished(maker, [image] * count, epoch=1)
    for mine, other in zip(there, here, strict=True):
        ours, theirs = effects(mine / 255), effects(other / 255)
        for name in ours:
            assert ks_2samp(ours[name], theirs[name]).pvalue > 0.001, name
    unjittered = ViewMaker(ViewsConfig(size=32, jitter=0), seed=3)  # and the test would notice
    plain = effects(finished(unjittered, [image] * count, epoch=1)[0] / 255)
    assert min(ks_2samp(plain[name], effects(here[0] / 255)[name]).pvalue for name in plain) < 1e-6


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_of_crops_gives_the_same_faces_and_frames(drawn_faces: Path, workers: int) -> None:
    def first(**options: Any) -> tuple[list[torch.Tensor], Any]:
        order, maker = EpochBatches(40, batch_size=8), ViewMaker(ViewsConfig(size=24), seed=1)
        loader = FaceLoader(FolderPool(drawn_faces), maker, order, workers=workers, with_frames=True, **options)
        batch = next(loader)
        return batch.views_on(CPU), batch

    (whole, made), (late, crops) = first(), first(crops_only=True)
    assert made.unfinished == []
    assert torch.equal(made.indices, crops.indices)
    assert all(map(torch.equal, made.frames, crops.frames))
    assert len(whole) == len(late) == 2
    for one, other in zip(whole, late, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(crops.views[0], made.views[0])


def train(faces: Path, out: Path, views_on: str, *settings: str, resume: bool = False) -> Path:
    recipe = load_pretrain_recipe("smoke/resnet10_half.fra", [*FRA_TINY, *settings])
    runtime = Runtime("cpu", "32", workers=0, threads=1, views_on=views_on, resume=resume, quiet=True)
    return pretrain(recipe, faces, out, runtime=runtime)


def test_a_run_says_where_its_views_are_made_and_keeps_to_it(drawn_faces: Path, tmp_path: Path) -> None:
    short = ["schedule.epochs=1", "schedule.warmup_epochs=0", "max_faces=16"]
    there = train(drawn_faces, tmp_path / "there", "device", *short)
    before = (there / "last.ckpt").read_bytes()
    train(drawn_faces, there, "auto", *short, resume=True)
    assert (there / "last.ckpt").read_bytes() == before
    with pytest.raises(ValueError, match="views_on = device, not None"):
        train(drawn_faces, there, "cpu", *short, resume=True)
    here = train(drawn_faces, tmp_path / "here", "auto", *short)  # which a processor makes by its workers
    assert written_identity(there) == {**written_identity(here), "views_on": "device"}
    assert same_bits(here, there)


def test_the_device_finishes_where_it_trains_on_more_than_the_workers_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views_on_device, "_seconds", lambda work: 0.01)  # of 24 faces, on one core
    monkeypatch.setattr(views_on_device, "multiply_adds_per_second", lambda device: 1e12)
    maker = ViewMaker(ViewsConfig(size=24), seed=0)

    def chosen(workers: int, work: float) -> bool:
        return device_should_finish(maker, mixed(), device=CPU, cores=workers, work=work)

    # one worker makes 2,400 a second; the device trains on .4 * 1e12 / 1e8 = 4,000
    assert chosen(1, 1e8)
    assert chosen(0, 1e8)
    assert not chosen(2, 1e8)
    assert not chosen(1, 2e8)


def test_rates_are_measured_on_what_there_is() -> None:
    assert 1e8 < multiply_adds_per_second(CPU, size=256) < 1e13


def test_a_crop_is_the_first_half_of_a_view() -> None:
    plain = ViewsConfig(size=32, jitter=0, grayscale=0, blur=(0, 0), solarize=(0, 0))
    maker = ViewMaker(plain, seed=2)
    whole = maker.make(mixed(), torch.arange(24), epoch=4)
    for view, (config, parameters) in zip(whole, maker.draw(mixed(), torch.arange(24), epoch=4), strict=True):
        assert torch.equal(views.crop_only(config, mixed(), parameters), view)
        assert parameters.flip.any()
