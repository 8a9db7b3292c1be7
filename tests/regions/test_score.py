"""The region score, on planted heatmaps whose score is known, and the command on drawn and on real faces."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fra.cli import main
from fra.files import read_json
from fra.models.region_head import RegionOutput
from fra.regions import matching, score
from fra.regions.heatmaps import positions
from fra.regions.truth import PARTS, ScoredFaces, read_scored_faces
from fra.runtime import Runtime
from fra.tasks.metrics import inter_ocular_error

SIDE = 8


class PlantedModel(torch.nn.Module):
    """Region k is where the red channel is 10 k, of 255."""

    def __init__(self, regions: int, *, sides: bool = False, blind: bool = False) -> None:
        super().__init__()
        self.regions, self.sides, self.blind = regions, sides, blind

    def forward(self, images: torch.Tensor) -> RegionOutput:
        owners = (images[:, 0] * 25.5).round().long()
        if self.sides:  # left and right of the picture are regions of their own
            owners = owners + (owners > 0) * (torch.arange(images.shape[-1]) >= images.shape[-1] // 2)
        if self.blind:
            owners = torch.zeros_like(owners)
        # Ten temperatures apart: e^-10 is left for the losers.
        scores = torch.nn.functional.one_hot(owners, self.regions).movedim(-1, 1).float()
        embeddings = torch.eye(self.regions)
        return RegionOutput(scores, scores.softmax(1), torch.zeros(len(images), self.regions, 1), embeddings)


def spots(count: int = 60) -> ScoredFaces:
    """Faces with one bright pixel at a random place, whose 68 landmarks are a linear function of that place."""
    draw = torch.Generator().manual_seed(1)
    places = torch.randint(0, SIDE, (count, 2), generator=draw)
    images = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8)
    images[torch.arange(count), 0, places[:, 1], places[:, 0]] = 10
    middle = (2 * places + 1) / SIDE - 1
    offsets = torch.rand(68, 2, generator=draw)
    offsets[36], offsets[45] = torch.tensor([-0.25, 0.0]), torch.tensor([0.25, 0.0])  # eyes half a unit apart
    points = middle[:, None] + offsets
    numbers = torch.arange(count)
    return ScoredFaces(images, points, numbers[: count // 2], numbers[count // 2 :])


def test_the_error_is_in_percent_of_the_distance_of_the_outer_eye_corners():
    truth = torch.zeros(1, 68, 2)
    truth[0, 45, 0] = 4.0
    moved = truth + torch.tensor([0.6, 0.8])  # each point by 1, and 1 / 4 is 25 %
    assert inter_ocular_error(moved, truth).tolist() == pytest.approx([25.0])


def test_a_centroid_is_the_mean_place_from_edge_to_edge():
    # Columns of 4 have their middles at -.75, -.25, .25, .75; rows of 2 at -.5 and .5.
    maps = torch.zeros(1, 2, 2, 4)
    maps[0, 0, 1, 3] = 0.2
    maps[0, 1, 0, 0], maps[0, 1, 1, 2] = 3.0, 1.0  # x (3 * -.75 + .25) / 4, y (3 * -.5 + .5) / 4
    assert score.centroids(maps)[0].tolist() == [pytest.approx([0.75, 0.5]), pytest.approx([-0.5, -0.25])]


def eyes_apart(count: int = 80, side: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Heatmaps of a face that leans: one region on both eyes, one on the mouth; and where the two eyes are."""
    draw = torch.Generator().manual_seed(2)
    lean = (torch.rand(count, generator=draw) - 0.5) * 0.8
    apart = 0.25 + 0.3 * torch.rand(count, generator=draw)
    down = torch.stack([-lean.sin(), lean.cos()], -1)
    across = torch.stack([lean.cos(), lean.sin()], -1)
    eyes = torch.stack([-0.3 * down - apart[:, None] * across, -0.3 * down + apart[:, None] * across], 1)
    mouth = 0.4 * down
    grid = positions(side, side)

    def blob(places: torch.Tensor) -> torch.Tensor:
        return (-((grid - places[:, None]) ** 2).sum(-1) / 0.02).exp().view(-1, 1, side, side)

    maps = torch.cat([blob(eyes[:, 0]) + blob(eyes[:, 1]), blob(mouth)], 1)
    return maps, eyes, down


def test_halves_of_a_symmetric_region_tell_what_its_centroid_hides():
    maps, eyes, down = eyes_apart()
    train, test = torch.arange(40), torch.arange(40, 80)
    _, axis = score.face_axes(score.centroids(maps), train)
    assert ((axis * down).sum(-1) > 0.98).all()  # within 12 degrees of the truth, between 23 degrees either way
    points = eyes.repeat(1, 34, 1)
    read = {
        name: (score.read_landmarks(features, points, train)[test] - points[test]).norm(dim=-1).mean()
        for name, features in (("whole", score.centroids(maps)), ("halves", score.half_moments(maps, train)))
    }
    assert read["halves"] < 0.02
    assert read["whole"] > 3 * read["halves"]


def test_moments_of_a_half_are_those_of_its_weights():
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, 0, 0], maps[0, 0, 2, 0], maps[0, 0, 0, 3], maps[0, 0, 2, 3] = 1.0, 1.0, 1.0, 1.0
    maps[0, 1, 3, 1], maps[0, 1, 3, 2] = 1.0, 1.0
    moments = score.half_moments(maps, torch.tensor([0]))
    # Columns 0 and 3 have their middles at -.75 and .75, rows 0 and 2 at -.75 and .25: mean -.25, variance .25.
    assert moments[0, 0].tolist() == pytest.approx([0.75, -0.25, 0, 0, 0.25, -0.75, -0.25, 0, 0, 0.25])
    assert moments[0, 1, :2].tolist() == pytest.approx([0.25, 0.75])


def test_landmarks_that_follow_a_region_are_read_from_it_and_the_mean_face_is_not():
    faces = spots()
    found = score.score_regions(PlantedModel(2), faces)
    mean = faces.points[faces.train].mean(0)
    shift = (faces.points[faces.test] - mean)[:, 0].norm(dim=-1)  # all landmarks of a face move together
    assert found["mean_face_nme"] == pytest.approx(float(100 * shift.mean() / 0.5), rel=1e-4)
    assert found["landmark_nme"] < 0.02 * found["mean_face_nme"]
    assert found["usage"] == pytest.approx([63 / 64, 1 / 64])
    assert found["mask_cosine"] == 0
    # p = 1 / (1 + e^-10) at each position.
    losing = 1 / (1 + math.e**10)
    assert found["entropy"] == pytest.approx(-losing * math.log(losing) - (1 - losing) * math.log(1 - losing), rel=1e-3)
    assert found["flip_consistency"] == 1
    assert "iou" not in found


def test_regions_that_say_nothing_read_the_mean_face():
    found = score.score_regions(PlantedModel(2, blind=True), spots())
    assert found["landmark_nme"] == pytest.approx(found["mean_face_nme"], rel=1e-4)
    assert found["usage"] == [1, 0]
    assert found["flip_consistency"] == 0


def test_nothing_is_fitted_on_the_test_faces():
    faces = spots()
    draw = torch.randn(len(faces.test), 68, 2, generator=torch.Generator().manual_seed(2))
    points = faces.points.clone()
    points[faces.test] += draw
    places = score.centroids(torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(3)))
    first = score.read_landmarks(places, faces.points, faces.train)
    second = score.read_landmarks(places, points, faces.train)
    assert torch.equal(first, second)


def test_regions_that_swap_sides_in_the_mirror_are_consistent():
    # A face with a spot on both sides: region 1 is the one on the left, region 2 the one on the right.
    images = torch.zeros(20, 3, SIDE, SIDE, dtype=torch.uint8)
    images[:, 0, 2, 1] = images[:, 0, 2, 6] = 10
    numbers = torch.arange(20)
    faces = ScoredFaces(images, torch.rand(20, 68, 2), numbers[:10], numbers[10:])
    assert score.score_regions(PlantedModel(3, sides=True), faces)["flip_consistency"] == 1
    owners = torch.tensor([[[0, 1, 0, 2]]])
    assert matching.best_partners(owners, torch.tensor([[[0, 2, 0, 1]]]), count=3).tolist() == [0, 2, 1]


def test_one_matching_serves_all_faces():
    # Half of the faces swap 1 and 2: whichever way they are matched, one of two faces is wrong there.
    owners = torch.tensor([[[1, 2]], [[1, 2]]])
    others = torch.tensor([[[1, 2]], [[2, 1]]])
    partner = matching.best_partners(owners, others, count=3)
    # Half of the positions agree, and so they would by chance.
    assert matching.agreement(owners, partner[others], count=3) == pytest.approx(0)


def test_agreement_is_corrected_for_chance():
    # 3 of 4 agree. Shares (3/4, 1/4) and (1/2, 1/2): by chance 3/8 + 1/8 = 1/2, so (3/4 - 1/2) / (1/2).
    first, second = torch.tensor([[[0, 0, 0, 1]]]), torch.tensor([[[0, 0, 1, 1]]])
    assert matching.agreement(first, second, count=2) == pytest.approx(0.5)


def test_agreement_of_many_positions_is_the_formula_and_a_model_with_one_region_has_none():
    owners = torch.randint(0, 5, (40, 9, 9))
    others = torch.where(torch.rand(owners.shape) < 0.7, owners, torch.randint(0, 3, owners.shape))
    shares = [torch.bincount(which.flatten(), minlength=5) / which.numel() for which in (owners, others)]
    by_chance = (shares[0] * shares[1]).sum()
    expected = ((owners == others).float().mean() - by_chance) / (1 - by_chance)
    assert matching.agreement(owners, others, count=5) == pytest.approx(expected.item(), abs=1e-6)
    collapsed = torch.full((2, 3, 3), 1)
    assert matching.agreement(collapsed, collapsed, count=3) == 0


def test_a_part_has_the_iou_of_the_region_that_fits_it_best():
    # Of 8 x 8 pixels region 1 owns the left half, region 0 the rest; skin is the left quarter, hair the right half.
    maps = torch.zeros(2, 2, SIDE, SIDE)
    maps[:, 1, :, :4], maps[:, 0, :, 4:] = 1, 1
    parts = torch.full((2, SIDE, SIDE), len(PARTS), dtype=torch.uint8)
    names = list(PARTS)
    parts[:, :, :2], parts[:, :, 4:] = names.index("skin"), names.index("hair")
    found = matching.part_ious(maps, parts, list(PARTS), train=torch.tensor([0]), test=torch.tensor([1]))
    assert found["skin"] == pytest.approx(50)  # 16 of 32 pixels
    assert found["hair"] == pytest.approx(100)
    assert found["nose"] == 0


def test_the_region_of_a_part_is_chosen_on_the_train_faces():
    # In the test face the regions have swapped: the region chosen on the train face has nothing of the skin.
    maps = torch.zeros(2, 2, SIDE, SIDE)
    maps[0, 1, :, :4] = maps[0, 0, :, 4:] = maps[1, 0, :, :4] = maps[1, 1, :, 4:] = 1
    parts = torch.full((2, SIDE, SIDE), len(PARTS), dtype=torch.uint8)
    parts[:, :, :4] = list(PARTS).index("skin")
    assert matching.part_ious(maps, parts, list(PARTS), train=torch.tensor([0]), test=torch.tensor([1]))["skin"] == 0


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "faces"
    assert main(["data", "synthetic", "--out", str(folder), "--count", "20", "--size", "64", "--quiet"]) == 0
    return folder


def test_drawn_faces_are_read_with_their_regions(drawn):
    faces = read_scored_faces(drawn, size=32)
    assert faces.images.shape == (18, 3, 32, 32)  # of 20, two are for validation
    assert (len(faces.train), len(faces.test)) == (14, 4)
    assert faces.parts is not None
    assert faces.parts.shape == (18, 64, 64)
    # The tip of the nose lies on what is called nose, unless something is in front of it.
    tips = ((faces.points[:, 33 - 3] + 1) * 32 - 0.5).round().long().clamp(0, 63)
    there = faces.parts[torch.arange(18), tips[:, 1], tips[:, 0]]
    assert (there == list(PARTS).index("nose")).float().mean() > 0.7


def test_300w_has_transfers_splits_and_a_closer_frame(drawn):
    from fra.data.datasets import find_dataset

    labelled = find_dataset("300w")(drawn / "300w")
    faces = read_scored_faces(drawn / "300w", size=32)
    assert torch.equal(faces.test, labelled.splits["test"])
    # The same landmarks in a smaller square: 1.25 * 1.25 times the landmarks' box instead of 2 times.
    theirs = labelled.targets["landmarks"]
    assert torch.allclose(faces.points[..., 0], theirs[..., 0] * 2 / 1.25**2, atol=1e-4)
    # Its centre is higher by .13 of the detector's box, 1.25 times the landmarks' box; from edge to edge it is 2.
    assert torch.allclose(faces.points[..., 1], theirs[..., 1] * 2 / 1.25**2 + 2 * 0.13 / 1.25, atol=1e-4)


def test_a_face_of_300w_is_cut_where_its_landmarks_are(tmp_path):
    # A picture that is black but for the landmarks' box, which is a square of 40 pixels from (30, 50).
    from fra.faces.image import write_image

    points = torch.tensor([[30.0, 50.0], [70.0, 90.0]] * 34) - 0.5
    lines = [f"{x} {y}" for x, y in (points + 1).tolist()]
    for place in ("helen/trainset", "helen/testset"):
        (tmp_path / place).mkdir(parents=True)
        picture = torch.zeros(3, 120, 120, dtype=torch.uint8)
        picture[:, 50:90, 30:70] = 255
        write_image(tmp_path / place / "face.png", picture)
        (tmp_path / place / "face.pts").write_text("\n".join(["version: 1", "n_points: 68", "{", *lines, "}"]))
    faces = read_scored_faces(tmp_path, size=100)
    white = (faces.images[0, 0] > 127).nonzero()
    corners = (faces.points[0, :2].flip(-1) + 1) * 50 - 0.5  # rows, columns
    assert (white.amin(0) - (corners[0] + 0.5)).abs().max() < 1
    assert (white.amax(0) - (corners[1] - 0.5)).abs().max() < 1


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A region model with its first weights."""
    from fra.pretrain.run import build_method, export, load_pretrain_recipe

    recipe = load_pretrain_recipe("smoke/resnet10_half.fra", ["encoder.image_size=32", "views.size=32"])
    folder = tmp_path_factory.mktemp("untrained")
    export(build_method(recipe), folder, {"method": "fra"})
    return folder


def test_the_command_writes_the_promised_fields(untrained, drawn, tmp_path, capsys):
    arguments = ["regions", str(untrained), "--score", str(drawn), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(arguments) == 0
    found = read_json(tmp_path / "out/score.json")
    fields = "landmark_nme landmark_nme_moments mean_face_nme usage entropy mask_cosine flip_consistency iou iou_of"
    fields += " part_iou part_iou_of pointing pointing_constant nmi ari nmi_68 ari_68 stability"
    assert list(found) == fields.split()
    assert sum(found["usage"]) == pytest.approx(1)
    assert len(found["usage"]) == 8
    assert all(np.isfinite(value) for value in (found["landmark_nme"], found["iou"], found["flip_consistency"]))
    assert "NME" in capsys.readouterr().out
    assert main(arguments) == 2
    assert main([*arguments, "--resume", "--quiet"]) == 0
    assert read_json(tmp_path / "out/score.json") == found


def test_a_folder_without_landmarks_is_one_clear_line(untrained, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["regions", str(untrained), "--score", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 2
    assert "fra data layout 300w" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_real_faces_with_landmarks_are_scored(untrained, real_faces, tmp_path):
    found = score.write_score(
        str(untrained), real_faces / "300w", tmp_path / "out", runtime=Runtime(device="cpu", quiet=True)
    )
    assert 15 < found["mean_face_nme"] < 20
    assert found["landmark_nme"] < 1.1 * found["mean_face_nme"]
    assert "iou" not in found
