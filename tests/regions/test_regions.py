"""Heatmaps: formulas worked out by hand on planted maps, pictures, and the command on drawn faces."""

import json
import math
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fra.drawing.drawn_face import draw_face
from fra.faces import pictures
from fra.faces.image import write_image
from fra.models.region_head import RegionModel, RegionOutput, assignment, owners, region_shares
from fra.models.similarity import mean_entropy
from fra.regions import draw
from fra.regions import heatmaps as measure
from fra.regions import run as command
from fra.runtime import Runtime

QUIET = Runtime(quiet=True)


class PlantedModel(RegionModel):
    """Three regions on a 2 x 2 map: region 2 owns the bottom row, region 0 the top left, region 1 the top right."""

    regions = 3
    encoder = SimpleNamespace(image_size=16)
    scores = torch.tensor([[[0.9, 0.1], [0.0, 0.0]], [[0.0, 0.5], [0.1, 0.1]], [[0.0, 0.0], [0.9, 0.9]]])

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, images: torch.Tensor) -> RegionOutput:
        assert images.shape[1:] == (3, 16, 16)
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        scores = self.scores.expand(len(images), -1, -1, -1)
        return RegionOutput(scores, scores.softmax(1), torch.zeros(len(images), 3, 1), torch.zeros(3, 1))


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> PlantedModel:
    model = PlantedModel()
    monkeypatch.setattr(command, "load_region_model", lambda what, **options: model)
    return model


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    for seed in range(3):
        write_image(tmp_path / f"faces/{seed}.png", draw_face(seed, size=48).image)
    return tmp_path / "faces"


def snapshots(folder: Path, epochs: int) -> None:
    folder.mkdir(parents=True)
    np.savez(folder / "faces.npz", images=torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8).numpy())
    for epoch in range(epochs):
        maps = (torch.rand(2, 4, 3, 3) * epoch).softmax(1).half().numpy()
        np.savez(folder / f"epoch_{epoch:04d}.npz", heatmaps=maps)


def test_spatial_variance_divides_by_the_positions_minus_one():
    # (1, 2, 3, 6): mean 3, squared distances 4 + 1 + 0 + 9 = 14, over 3.
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[5.0, 5.0], [5.0, 5.0]]]])
    assert torch.allclose(measure.spatial_variance(maps), torch.tensor([[14 / 3, 0.0]]))


def test_the_ranking_averages_over_the_set_unless_each_face_is_asked_for():
    # Variances: face 0 (0, 2, 4.5), face 1 (8, 0, 0.5). Means (4, 1, 2.5): regions 0, 2, 1.
    first = torch.tensor([[1.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    second = torch.tensor([[0.0, 4.0], [7.0, 7.0], [1.0, 2.0]])
    maps = torch.stack([first, second]).unsqueeze(2)
    assert torch.allclose(measure.spatial_variance(maps), torch.tensor([[0.0, 2.0, 4.5], [8.0, 0.0, 0.5]]))
    assert measure.ranking(maps).tolist() == [[0, 2, 1], [0, 2, 1]]
    assert measure.ranking(maps, per_image=True).tolist() == [[2, 1, 0], [0, 2, 1]]


def test_shares_count_the_positions_that_a_region_wins():
    maps = torch.tensor([[[[0.6, 0.1], [0.5, 0.2]], [[0.3, 0.8], [0.4, 0.7]], [[0.1, 0.1], [0.1, 0.1]]]])
    assert owners(maps).tolist() == [[[0, 1], [0, 1]]]
    assert region_shares(maps).tolist() == [0.5, 0.5, 0.0]


def test_the_cosine_of_maps_is_the_mean_over_different_pairs():
    # (3, 4), (4, 3), (0, 5): cosines 24/25, 20/25, 15/25, mean 59/75.
    maps = torch.tensor([[3.0, 4.0], [4.0, 3.0], [0.0, 5.0]]).view(1, 3, 1, 2)
    assert float(measure.map_cosine(maps)) == pytest.approx(59 / 75)
    assert float(measure.map_cosine(torch.full((2, 4, 3, 3), 0.25))) == pytest.approx(1.0)
    assert math.isnan(float(measure.map_cosine(maps[:, :1])))


def test_the_entropy_is_log_k_when_undecided_and_0_when_certain():
    undecided, certain = torch.full((1, 4, 1, 1), 0.25), torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 4, 1, 1)
    assert mean_entropy(undecided, dim=1) == pytest.approx(math.log(4))
    assert mean_entropy(certain, dim=1) == 0.0
    both = torch.cat([undecided, certain], dim=3)
    assert mean_entropy(both, dim=1) == pytest.approx(math.log(4) / 2)


def test_an_assignment_is_ten_times_sharper_than_the_heatmap():
    # exp(.2 / .1) = e^2 against 1.
    sharp = assignment(torch.tensor([0.2, 0.0]).view(1, 2, 1, 1))
    assert sharp.flatten().tolist() == pytest.approx([math.e**2 / (1 + math.e**2), 1 / (1 + math.e**2)])


def test_evenly_spread_indices_keep_both_ends():
    assert draw.evenly(3, 5) == [0, 1, 2]
    assert draw.evenly(9, 3) == [0, 4, 8]
    assert draw.evenly(9, 1) == [8]


def test_the_sheet_has_a_row_per_face_and_can_be_cut_between_faces():
    images = [torch.zeros(3, 20, 20, dtype=torch.uint8)] * 3
    maps = torch.rand(3, 5, 4, 4)
    sheet = draw.faces_with_heatmaps(images, maps, measure.ranking(maps), top=2)
    step = draw.TILE + 6
    assert sheet.shape == (3, draw.HEADER + 3 * step, 6 + 4 * step)  # face, two heatmaps, owner
    assert draw.first_rows(sheet, 3, 2).shape[1] == draw.HEADER + 2 * step
    everything = draw.faces_with_heatmaps(images, maps, measure.ranking(maps), top=99)
    assert everything.shape[2] == 6 + 7 * step


def test_a_planted_hot_corner_is_red_in_its_column_and_owns_its_pixels():
    maps = torch.full((1, 2, 8, 8), 0.2)
    maps[0, 1] += 0.2
    maps[0, 0, :2, :2] = 0.8
    grey = torch.full((3, 20, 20), 128, dtype=torch.uint8)
    sheet = draw.faces_with_heatmaps([grey], maps, measure.ranking(maps), top=1)
    column = 6 + draw.TILE + 6
    hot, cold = sheet[:, draw.HEADER + 8, column + 8], sheet[:, draw.HEADER + 150, column + 150]
    assert hot[0] > hot[2]
    assert cold[2] > cold[0]
    owner = sheet[:, draw.HEADER :, column + draw.TILE + 6 :].float()
    first, second = (torch.tensor(colour) * 0.55 + 128 * 0.45 for colour in pictures.region_colours(2))
    assert torch.allclose(owner[:, 8, 8], first, atol=1)
    assert torch.allclose(owner[:, 150, 150], second, atol=1)


def test_the_command_writes_heatmaps_pictures_and_numbers(planted, faces, tmp_path):
    out = tmp_path / "out"
    found = command.draw_regions("model", faces, out, top=2, runtime=QUIET)
    with np.load(out / "heatmaps.npz") as archive:
        stored = dict(archive)
    assert stored["heatmaps"].shape == (3, 3, 2, 2)
    assert stored["heatmaps"].dtype == np.float32
    assert np.allclose(stored["heatmaps"][1], PlantedModel.scores.softmax(0).numpy())
    assert [Path(name).name for name in stored["files"]] == ["0.png", "1.png", "2.png"]
    assert found.shares == [0.25, 0.25, 0.5]
    with Image.open(out / "regions.png") as sheet:
        assert sheet.height == draw.HEADER + 3 * (draw.TILE + 6)
    assert json.loads((out / "regions.json").read_text())["faces"] == 3
    assert found.skipped == []
    assert not (out / "timeline.gif").exists()


def test_faces_in_shards_give_the_heatmaps_of_faces_in_files(planted, faces, tmp_path):
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        for file in sorted(faces.iterdir()):
            tar.add(file, file.name)
    for source in (faces, tmp_path / "faces.tar"):
        command.draw_regions("model", source, tmp_path / f"out.{source.suffix}", runtime=QUIET)
    with (
        np.load(tmp_path / "out..tar" / "heatmaps.npz") as packed,
        np.load(tmp_path / "out." / "heatmaps.npz") as loose,
    ):
        assert np.array_equal(packed["heatmaps"], loose["heatmaps"])
        assert [Path(name).name for name in packed["files"]] == ["0.png", "1.png", "2.png"]


def test_an_unreadable_face_is_skipped_and_named(planted, faces, tmp_path, capsys):
    (faces / "1b.jpg").write_bytes(b"not an image")
    found = command.draw_regions("model", faces, tmp_path / "out")
    assert found.faces == 3
    assert [Path(name).name for name, _ in found.skipped] == ["1b.jpg"]
    assert "1b.jpg" in capsys.readouterr().out


def test_one_face_alone_is_enough(planted, faces, tmp_path):
    assert command.draw_regions("model", faces / "0.png", tmp_path / "out", runtime=QUIET).faces == 1


def test_only_some_faces_of_many_are_drawn_and_all_are_counted(planted, faces, tmp_path):
    found = command.draw_regions("model", faces, tmp_path / "out", rows=2, runtime=QUIET)
    assert (found.faces, found.drawn) == (3, 2)


@pytest.mark.parametrize("content", [{}, {"broken.jpg": b"no"}])
def test_a_folder_without_readable_faces_is_one_clear_error(planted, tmp_path, content):
    (tmp_path / "empty").mkdir()
    for name, data in content.items():
        (tmp_path / "empty" / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"no faces found in|can be read"):
        command.draw_regions("model", tmp_path / "empty", tmp_path / "out", runtime=QUIET)
    assert not (tmp_path / "out").exists()  # free for the right faces


def test_a_model_without_regions_is_one_clear_error(faces, tmp_path):
    from fra.weights.load import save_weights

    save_weights(tmp_path / "model.safetensors", torch.nn.Linear(1, 1), {"encoder": {}, "method": "byol"})
    with pytest.raises(ValueError, match="no regions"):
        command.draw_regions(str(tmp_path / "model.safetensors"), faces, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_at_least_one_heatmap_must_be_asked_for(planted, faces, tmp_path):
    with pytest.raises(ValueError, match="--top is 0"):
        command.draw_regions("model", faces, tmp_path / "out", top=0)


def test_a_run_with_snapshots_gives_an_animation_with_a_frame_per_epoch(planted, faces, tmp_path):
    snapshots(tmp_path / "run/snapshots", 3)
    command.draw_regions(str(tmp_path / "run"), faces, tmp_path / "out", runtime=QUIET)
    with Image.open(tmp_path / "out/timeline.gif") as animation:
        assert animation.n_frames == 3
        assert animation.info["loop"] == 0
    command.draw_regions(str(tmp_path / "run"), faces, tmp_path / "out", runtime=Runtime(resume=True, quiet=True))


def test_a_timeline_keeps_one_colour_scale_so_that_a_flat_start_stays_flat():
    images = torch.full((1, 3, 16, 16), 128, dtype=torch.uint8)
    flat = torch.full((1, 2, 2, 2), 0.5) + torch.tensor([[1e-4, 0.0], [0.0, 0.0]])
    lively = torch.tensor([[[[0.9, 0.1], [0.1, 0.1]], [[0.1, 0.9], [0.9, 0.9]]]])
    frames = draw.timeline_frames(draw.Snapshots(images, [0, 5], [flat, lively]), top=1, tile=16)
    assert [epoch for epoch, _ in frames] == [0, 5]
    first, last = (picture[:, 4 + 20 : 4 + 36, 4:20].float() for _, picture in frames)  # the heatmap below the owner
    assert float(first.std(dim=(1, 2)).max()) < 1 < float(last.std(dim=(1, 2)).max())


def test_damaged_snapshots_are_named(tmp_path):
    snapshots(tmp_path / "snapshots", 2)
    assert draw.load_snapshots(tmp_path / "snapshots") is not None
    (tmp_path / "snapshots/epoch_0001.npz").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"epoch_0001\.npz is damaged"):
        draw.load_snapshots(tmp_path / "snapshots")
