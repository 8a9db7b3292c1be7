"""Augmented training images of landmarks show the photo around the crop; black is only where the photo ends.

The photo tells where each of its pixels is: red is x, green is y, blue says that there is a photo at all.
"""

from dataclasses import replace
from pathlib import Path

import landmark_miniatures as mini
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from fra.data import read as images_module
from fra.data.datasets import DATASETS
from fra.data.labelled import LabelledFaces
from fra.models.encoder import Encoder, EncoderConfig
from fra.runtime import Runtime
from fra.tasks.point_tables import POINT_TABLES
from fra.training.devices import make_fabric
from fra.transfer.alignment import augment as augment_landmarks
from fra.transfer.alignment.augment import REACH, vary_landmarks
from fra.transfer.alignment.network import AlignmentConfig
from fra.transfer.alignment.star import Star, StarRecipe
from fra.transfer.eac import EAC
from fra.transfer.finetune import FineTune
from fra.transfer.network import WholeNetwork
from fra.transfer.protocol import LabelledBatch, Learner, NetworkRecipe

SIZE = 32
RECIPE = StarRecipe(name="x", task="landmarks", dataset="x", epochs=1, batch_size=8, alignment=AlignmentConfig(width=8))
UNPAIRED = [8, 30, 57]
"""Landmarks of iBUG's that no mirror renames: three of them say where an image came from."""


def grid_photo(width: int, height: int) -> Tensor:
    """Red is x, green y, each from 1 a step per pixel; blue is full."""
    x, y = torch.arange(width) + 1, torch.arange(height)[:, None] + 1
    return torch.stack((x.expand(height, width), y.expand(height, width), torch.full((height, width), 255))).byte()


def written(root: Path, *, photo: tuple[int, int], face: tuple[int, int, int, int], count: int = 4) -> Path:
    """300-W's tree with `count` training faces and one test face, all in the box `face` of a grid photo."""
    x1, y1, x2, y2 = face
    points = torch.tensor([x1, y1]) + torch.rand(68, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [x2 - x1, y2 - y1]
    )
    points[UNPAIRED] = torch.tensor([[x1, y1], [x2, y1], [x1, y2]]).float()
    lines = [f"{x + 1:.4f} {y + 1:.4f}" for x, y in points.tolist()]  # counted from 1
    for number in range(count + 1):
        name = root / ("afw" if number < count else "helen/testset") / f"{number}"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grid_photo(*photo).permute(1, 2, 0).numpy()).save(f"{name}.png")
        mini.put_text(Path(f"{name}.pts"), "version: 1", "n_points:  68", "{", *lines, "}")
    return root


def network(faces: LabelledFaces, learner: type[Learner] = Star, recipe: NetworkRecipe = RECIPE) -> WholeNetwork:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(name="resnet10_quarter", last_stride=1, image_size=SIZE))
    fabric = make_fabric(Runtime("cpu", "32"))
    train = faces.splits["train"]
    return WholeNetwork(
        learner,
        recipe,
        faces.tasks[recipe.task],
        faces,
        encoder,
        train=train,
        fabric=fabric,
        runtime=Runtime(quiet=True),
    )


def a_batch(faces: LabelledFaces, count: int = 64) -> tuple[WholeNetwork, LabelledBatch]:
    """What training is given, the training images over and over."""
    run, train = network(faces), faces.splits["train"]
    chosen = train.repeat(-(-count // len(train)))[:count]
    return run, LabelledBatch(run.images.wide(chosen), faces.targets["landmarks"][chosen], 1.0, run.images.margin)


def only_the_similarity(monkeypatch: pytest.MonkeyPatch, **changed: float) -> None:
    for name in ("COVERED", "BLURRED", "GAMMA", "NOISY", "GREY"):
        monkeypatch.setattr(augment_landmarks, name, 0.0)
    for name, value in changed.items():
        monkeypatch.setattr(augment_landmarks, name, value)


def shown_places(moved: Tensor, points: Tensor) -> Tensor:
    """Photo pixels (B, S, S, 2) that a warp of the photo shows at each pixel, from three landmarks of each face."""
    ones = torch.ones(len(moved), 3, 1)
    back = torch.linalg.solve(torch.cat((moved[:, UNPAIRED], ones), 2), points[:, UNPAIRED])  # (B, 3, 2)
    middle = (2 * torch.arange(SIZE) + 1) / SIZE - 1
    grid = torch.stack((*torch.meshgrid(middle, middle, indexing="xy"), torch.ones(SIZE, SIZE)), -1)
    return torch.einsum("ijk,bkc->bijc", grid, back)


@pytest.mark.parametrize("crop", ["hrnet", "star"])
@pytest.mark.parametrize(
    "photo, face, changed",
    [
        pytest.param((240, 240), (80, 80, 160, 160), {}, id="in the middle"),
        pytest.param((240, 240), (80, 80, 160, 160), {"MIRRORED": 1.0}, id="mirrored"),
        pytest.param((240, 240), (90, 90, 150, 150), {"TURN": 90.0}, id="turned"),
        pytest.param((240, 240), (90, 90, 150, 150), {"SCALE": 0.4}, id="scaled"),
        pytest.param((240, 240), (90, 90, 150, 150), {"SHIFT": 0.4}, id="shifted"),
        pytest.param((240, 160), (2, 1, 80, 77), {}, id="at the photo's corner"),
        pytest.param((120, 240), (42, 165, 117, 238), {}, id="at the other corner of a high photo"),
        pytest.param((240, 60), (100, 10, 140, 50), {"TURN": 60.0}, id="in a wide photo"),
        pytest.param((60, 60), (22, 22, 38, 38), {}, id="smaller than the image"),
    ],
)
def test_every_pixel_is_the_photos_and_black_is_only_beyond_its_edge(
    crop: str,
    photo: tuple[int, int],
    face: tuple[int, int, int, int],
    changed: dict[str, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only_the_similarity(monkeypatch, **changed)
    faces = DATASETS["300w"](written(tmp_path, photo=photo, face=face), crop=crop)
    _, batch = a_batch(faces)
    torch.manual_seed(1)
    found, moved = vary_landmarks(batch.images, batch.targets, POINT_TABLES[68], margin=batch.margin)
    box = faces.boxes[0]
    places = shown_places(moved, batch.targets)
    pixels = box[:2] + (places + 1) / 2 * (box[2:] - box[:2])
    # How far inside the photo's edge, in pixels of the image that was kept.
    step = float(box[2] - box[0]) / SIZE
    width, height = torch.tensor(photo).tolist()
    inside = torch.stack(
        (pixels[..., 0] + 0.5, pixels[..., 1] + 0.5, width - 0.5 - pixels[..., 0], height - 0.5 - pixels[..., 1]), -1
    ).amin(-1)
    blur = 2 * max(step, 1.0)
    assert (inside > blur).double().mean() > 0.2  # else nothing is tested
    values = 255 * found.permute(0, 2, 3, 1)
    assert values[..., 2][inside > blur].min() > 254, "black where the photo is"
    assert values[..., 2][inside < -blur].numel() == 0 or values[..., 2][inside < -blur].max() < 1
    error = (values[..., :2] - (pixels + 1)).abs()[inside > blur]
    assert error.max() < 1.5  # bytes, of which a pixel of the photo is one


def test_extreme_draws_stay_within_what_is_kept_and_are_not_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    only_the_similarity(monkeypatch, MIRRORED=0.0)
    torch.manual_seed(0)
    points = torch.zeros(40_000, 19, 2)
    points[:, 1, 0] = 0.5
    _, moved = vary_landmarks(torch.full((40_000, 3, 4, 4), 255).byte(), points, POINT_TABLES[19], margin=1)
    arm = moved[:, 1] - moved[:, 0]
    # Of a side of 2 pixels the shift's deviation is .05 x 1 pixel, and a pixel is 1 of what reaches from -1 to 1.
    assert_close(moved[:, 0].std(0), torch.tensor([0.05, 0.05]), rtol=0.02, atol=0)
    assert_close(torch.rad2deg(torch.atan2(arm[:, 1], arm[:, 0])).std(), torch.tensor(18.0), rtol=0.02, atol=0)
    assert_close((arm.norm(dim=1) / 0.5).std(), torch.tensor(0.1), rtol=0.02, atol=0)


@pytest.mark.parametrize("crop", ["hrnet", "star", "square"])
def test_images_of_evaluation_are_what_they_were(crop: str, tmp_path: Path) -> None:
    faces = DATASETS["300w"](mini.put_300w_pts(tmp_path), crop=crop)
    store = network(faces).images
    every = torch.arange(len(faces.files))
    assert_close(store[every], torch.stack([faces.image(index, size=SIZE) for index in every.tolist()]), atol=0, rtol=0)


@pytest.mark.parametrize(
    "name, put",
    [("300w", mini.put_300w_pts), ("wflw", mini.put_wflw), ("cofw", mini.put_cofw), ("aflw", mini.put_aflw)],
)
def test_every_dataset_is_kept_with_what_is_around_its_faces(name: str, put, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fra.data.datasets.aflw.TRAINING_FACES", 2)
    faces = DATASETS[name](put(tmp_path), crop="hrnet")
    run, batch = a_batch(faces, count=2)
    assert run.images.margin == (REACH - 1) * SIZE / 2
    assert batch.images.shape[-1] == REACH * SIZE
    middle = batch.images[:, :, batch.margin : -batch.margin, batch.margin : -batch.margin]
    assert_close(middle, run.images[faces.splits["train"][:2]], atol=0, rtol=0)
    ring = batch.images.clone()
    ring[:, :, batch.margin : -batch.margin, batch.margin : -batch.margin] = 0
    assert (ring.flatten(1).amax(1) > 0).all()
    test = faces.splits["test"]
    assert run.images[test].shape[-1] == SIZE
    with pytest.raises(RuntimeError):  # of test faces nothing more is kept
        run.images.wide(torch.cat((test[:1], faces.splits["train"][:1])))


def test_a_square_that_repeats_the_photos_border_repeats_it_around_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_the_similarity(monkeypatch)
    faces = DATASETS["300w"](written(tmp_path, photo=(100, 100), face=(20, 20, 80, 80)), crop="square")
    _, batch = a_batch(faces)
    found, _ = vary_landmarks(batch.images, batch.targets, POINT_TABLES[68], margin=batch.margin)
    assert found[:, 2].min() > 0.99


def test_an_image_that_is_the_whole_picture_has_black_around_it(tmp_path: Path) -> None:
    faces = DATASETS["300w"](written(tmp_path, photo=(100, 100), face=(20, 20, 80, 80)), crop="hrnet")
    faces = replace(faces, boxes=None)
    run, batch = a_batch(faces)
    assert (run.images.margin, batch.images.shape[-1]) == (0, SIZE)
    found, _ = vary_landmarks(batch.images, batch.targets, POINT_TABLES[68], margin=batch.margin)
    assert (found[:, 2] == 0).any()


def test_images_beyond_the_memory_are_read_again_with_what_is_around_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = DATASETS["300w"](mini.put_300w_pts(tmp_path), crop="hrnet")
    train, test = faces.splits["train"], faces.splits["test"]
    kept = network(faces).images
    monkeypatch.setattr(images_module, "KEPT_BYTES", int(1.5 * 3 * (REACH * SIZE) ** 2))  # one training image
    few = network(faces).images
    order = train[torch.tensor([2, 0, 1, 2])]
    assert_close(few.wide(order), kept.wide(order), atol=0, rtol=0)
    mixed = torch.stack((test[0], train[1], test[-1], train[0]))
    assert_close(few[mixed], kept[mixed], atol=0, rtol=0)


def test_protocols_that_show_nothing_else_keep_nothing_else() -> None:
    assert (Learner.reach, FineTune.reach, EAC.reach, Star.reach) == (1, 1, 1, 2)
