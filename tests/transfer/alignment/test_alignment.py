"""The star protocol: its networks by hand, four faces learned by heart, and whole runs on drawn faces."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted import places, plant_drawn
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

import fra
from fra.data.labelled import LabelledFaces
from fra.drawing.drawn_face import DrawnFace, draw_face
from fra.faces.image import write_image
from fra.files import read_rows
from fra.models.encoder import HOURGLASS, Encoder, EncoderConfig
from fra.models.hourglass import CoordinateConvolution, Hourglass, coordinates
from fra.predict.predictor import Predictor, predict
from fra.runtime import Runtime
from fra.tasks.expression import Expression
from fra.tasks.landmarks import Landmarks
from fra.tasks.point_tables import POINT_TABLES
from fra.training.schedules import Stairs
from fra.training.trainable import Progress
from fra.transfer.alignment import certainty
from fra.transfer.alignment.maps import adaptive_wing, edge_maps, point_maps
from fra.transfer.alignment.network import AlignmentConfig, Attention, Deconvolutions, Hourglasses, alignment_head
from fra.transfer.alignment.star import Star, StarRecipe
from fra.transfer.alignment.star_loss import star_loss
from fra.transfer.linear import LinearRecipe
from fra.transfer.network import weight_groups
from fra.transfer.protocol import LabelledBatch, TransferRecipe, batch_for
from fra.transfer.recipes import load_transfer_recipe
from fra.transfer.run import NamedEncoder, transfer
from fra.weights.load import load_encoder

SMALL = AlignmentConfig(width=16, consistent_grid=True)
RECIPE = StarRecipe(
    name="planted", task="landmarks", dataset="planted", optimizer="adamw", learning_rate=0.003,
    weight_decay=1e-5, epochs=2, batch_size=8, alignment=SMALL,
)  # fmt: skip
TINY = EncoderConfig(name="resnet10_quarter", last_stride=1, image_size=32)
START = Progress(step=0, steps=10, epoch=0, epochs=1)
NINETEEN = [17, 19, 21, 22, 24, 26, 36, 37, 39, 42, 44, 45, 31, 30, 35, 48, 51, 54, 8]  # of 68, about as AFLW's


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def encoder(size: int = 32) -> Encoder:
    torch.manual_seed(0)
    return Encoder(replace(TINY, image_size=size))


def learner(task: Landmarks, config: AlignmentConfig = SMALL, net: Encoder | None = None) -> Star:
    recipe, net = replace(RECIPE, alignment=config), net or encoder()
    return Star(recipe, task, net, Star.new_head(recipe, task, net))


@pytest.fixture(scope="module")
def drawn() -> list[DrawnFace]:
    return [draw_face(seed, size=48) for seed in range(60)]


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[DrawnFace]) -> LabelledFaces:
    return plant_drawn(monkeypatch, tmp_path / "faces", drawn)


def judge(recipe: TransferRecipe, faces: LabelledFaces, out: Path, seeds: int = 1, **runtime: Any) -> dict[str, Any]:
    settings = Runtime("cpu", "32", quiet=True, **runtime)
    return transfer(recipe, encoder=tiny(), data=faces.root, out=out, seeds=seeds, runtime=settings)


def tiny() -> NamedEncoder:
    return NamedEncoder(encoder(), source="x", label="tiny")


# Networks


@pytest.mark.parametrize("points", [19, 29, 68, 98])
def test_a_landmark_counts_where_its_point_map_and_its_edges_are_bright(points: int) -> None:
    table = POINT_TABLES[points]
    attention, features = Attention(4, table), torch.randn(2, 4, 8, 8)
    maps = attention(features)
    assert maps.fused.shape == maps.points.shape == (2, points, 8, 8)
    assert maps.edges.shape == (2, len(table.edges), 8, 8)
    heat = attention.heat(features)
    assert_close(heat, nn.functional.instance_norm(attention.heat[0](features)).relu())
    for point in range(points):
        mine = [number for number, edge in enumerate(table.edges) if point in edge.points]
        lines = maps.edges[:, mine].sum(1) if mine else torch.ones(2, 8, 8)
        assert_close(maps.fused[:, point], lines * maps.points[:, point] * heat[:, point])


@pytest.mark.parametrize(
    "image, third_stride, last_stride, side",
    [(256, 2, 2, 64), (128, 2, 2, 32), (128, 2, 1, 64), (64, 2, 1, 32), (64, 2, 2, 16), (96, 2, 1, 48), (64, 1, 1, 64)],
)
def test_heatmaps_are_eight_times_the_encoders_map(image: int, third_stride: int, last_stride: int, side: int) -> None:
    net = Encoder(replace(TINY, third_stride=third_stride, last_stride=last_stride))
    head = alignment_head(AlignmentConfig(width=8), Landmarks(98), net).eval()
    maps = net.eval().maps(torch.rand(1, 3, image, image))
    assert head.stages(maps)[0].fused.shape == (1, 98, side, side)
    assert head(maps).shape == (1, 196)


def test_the_papers_head_has_three_deconvolutions_of_256_channels_and_small_first_weights() -> None:
    head = Deconvolutions(2048, POINT_TABLES[68], width=256, consistent_grid=False)
    layers = [layer for layer in head.layers if isinstance(layer, nn.ConvTranspose2d)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(2048, 256, 4, 4), (256, 256, 4, 4), (256, 256, 4, 4)]
    assert all(layer.bias is None and 0.0009 < float(layer.weight.detach().std()) < 0.0011 for layer in layers)


def test_a_network_without_a_map_of_its_own_image_size_is_the_hourglass() -> None:
    net = load_encoder("random:hourglass")
    assert net.config == HOURGLASS
    assert torch.equal(load_encoder("random:hourglass").backbone.first[0].weight, net.backbone.first[0].weight)
    head = alignment_head(AlignmentConfig(stacks=2), Landmarks(68), net)
    assert isinstance(head, Hourglasses)
    maps = net.maps(torch.rand(1, 3, 64, 64))
    assert maps.shape == (1, 256, 16, 16)
    stages = head.eval().stages(maps)
    assert [stage.fused.shape for stage in stages] == [(1, 68, 16, 16)] * 2
    columns = stages[1].fused[0, 0].sum(0)
    assert_close(head(maps)[0, 0], (columns / columns.sum()) @ torch.linspace(-1, 1, 16))


def test_stars_own_network_has_as_many_weights_as_its_authors_program() -> None:
    def weights(part: nn.Module) -> int:
        return sum(weight.numel() for weight in part.parameters())

    net = load_encoder("random:hourglass")
    head = alignment_head(AlignmentConfig(stacks=4), Landmarks(68), net)
    assert isinstance(head, Hourglasses)
    # (256 + 3) x 256 + 256 before the first hourglass, (256 + 5) x 256 + 256 before each of the three others
    assert weights(head.places) == 267_776
    assert weights(net) + weights(head) == 13_368_708


def test_coordinates_are_x_y_and_the_distance_from_the_middle() -> None:
    corner, edge = 1.0, 0.5**0.5  # (1, 1) is the root of 2 away, which counts as 1
    assert_close(
        coordinates(3, 3, like=torch.zeros(1)),
        torch.tensor(
            [
                [[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]],
                [[-1.0, -1.0, -1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]],
                [[corner, edge, corner], [edge, 0.0, edge], [corner, edge, corner]],
            ]
        ),
    )


def test_a_coordinate_convolution_sees_where_it_is_and_where_the_last_heatmap_is_bright() -> None:
    maps = torch.randn(2, 4, 3, 3)
    heat = torch.zeros(2, 7, 3, 3)
    heat[:, :-1] = 1  # other landmarks say nothing
    heat[0, -1, 0, 2], heat[0, -1, 1, 0], heat[0, -1, 2, 1] = 0.0501, 0.05, 3.0
    layer = CoordinateConvolution(4, first=False)
    seen: dict[int, Tensor] = {}
    for channel in range(9):
        with torch.no_grad():
            layer.mix.weight.zero_()
            layer.mix.bias.zero_()
            layer.mix.weight[0, channel] = 1
            seen[channel] = layer(maps, heat)[:, 0]
    assert_close(torch.stack([seen[channel] for channel in range(4)], 1), maps)
    where = coordinates(3, 3, like=maps)
    assert_close(torch.stack([seen[channel] for channel in (4, 5, 6)], 1), where.expand(2, -1, -1, -1))
    # Row 0, column 2 is x 1, y -1; row 2, column 1 is x 0, y 1; .05 itself is not enough.
    assert_close(seen[7][0], torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert_close(seen[8][0], torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert_close(torch.stack((seen[7][1], seen[8][1])), torch.zeros(2, 3, 3))
    first = CoordinateConvolution(4, first=True)
    assert first.mix.weight.shape == (4, 7, 1, 1)
    assert first(maps).shape == maps.shape


def test_between_stages_go_features_and_maps_and_the_heatmaps_before_anything_limits_them() -> None:
    torch.manual_seed(0)
    head = Hourglasses(8, POINT_TABLES[19], stacks=3, consistent_grid=False).eval()
    given: dict[str, list[Any]] = {"places": [], "features": []}
    for place in head.places:
        place.register_forward_pre_hook(lambda _, args: given["places"].append(args))
    for features in head.features:
        features.register_forward_hook(lambda _, args, result: given["features"].append(result))
    start = torch.randn(2, 8, 16, 16)
    stages = head.stages(start)
    maps, heat = given["places"][0]
    assert_close(maps, start, atol=0, rtol=0)
    assert heat is None
    for number in (0, 1):
        stage, merge = stages[number], head.merges[number]
        assert (stage.heat - stage.fused).abs().max() > 0.1  # else the test says nothing
        maps = maps + (
            merge.features(given["features"][number])
            + merge.heat(head.attentions[number].heat(given["features"][number]))
            + merge.points(stage.points)
            + merge.edges(stage.edges)
        )
        assert_close(given["places"][number + 1][0], maps)
        assert_close(given["places"][number + 1][1], stage.heat)


def test_hourglasses_see_the_whole_map() -> None:
    hourglass = Hourglass(8).eval()
    image = torch.rand(1, 8, 16, 16, requires_grad=True)
    hourglass(image)[0, :, 0, 0].sum().backward()
    assert image.grad is not None
    # Max pooling looks away from some positions; none of the four corners is out of reach.
    reached = image.grad[0].abs().sum(0) > 0
    for rows in (slice(4), slice(-4, None)):
        for columns in (slice(4), slice(-4, None)):
            assert reached[rows, columns].any()
    assert reached.float().mean() > 0.5


def test_each_hourglass_weighs_half_of_the_next(drawn: list[DrawnFace]) -> None:
    net = load_encoder("random:hourglass")
    model = learner(Landmarks(68), AlignmentConfig(stacks=2), net).eval()
    faces, points = torch.stack([face.image for face in drawn[:2]]) / 255, places(drawn[:2])
    loss = model.terms(faces, points)
    by_hand = []
    for maps in model.head.stages(net.maps(faces)):
        size = maps.points.shape[-1]
        by_hand.append(
            star_loss(maps.fused, points)
            + 10 * adaptive_wing(maps.points, point_maps(points, size))
            + 10 * adaptive_wing(maps.edges, edge_maps(points, POINT_TABLES[68], size))
        )
    assert_close(loss.total, by_hand[0] / 2 + by_hand[1])
    assert set(loss.terms) == {"star", "points", "edges"}


# Learning


@pytest.mark.slow
def test_four_faces_are_learned_by_heart(drawn: list[DrawnFace]) -> None:
    task = Landmarks(19)
    faces, points = torch.stack([face.image for face in drawn[:4]]) / 255, places(drawn[:4])[:, NINETEEN]
    model = learner(task, AlignmentConfig(width=32, consistent_grid=True), encoder(48))
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    before = float(task.errors(model(faces), points).mean().detach())
    for step in range(320):
        if step in (230, 280):
            optimizer.param_groups[0]["lr"] /= 10
        optimizer.zero_grad()
        model.terms(faces, points).total.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        errors = task.errors(model(faces), points)
    assert before > 30
    assert float(errors.mean()) < 1


def test_a_mirrored_network_and_mirrored_faces_have_the_same_loss(drawn: list[DrawnFace]) -> None:
    """The order of landmarks and edges is the only thing that a mirror image changes."""
    task = Landmarks(68)
    model = learner(task).eval()
    faces, points = torch.stack([face.image for face in drawn[:4]]) / 255, places(drawn[:4])
    order = list(POINT_TABLES[68].flip)
    edges = [0, 2, 1, 3, 4, 6, 5, 7, 8]  # brows and eyes change places
    straight = model.head.stages
    loss = model.terms(faces, points).terms

    def mirrored(maps: Tensor) -> list[Any]:
        return [
            type(stage)(
                *[stage.fused.flip(-1)[:, order], stage.points.flip(-1)[:, order], stage.edges.flip(-1)[:, edges]],
                stage.heat.flip(-1)[:, order],
            )
            for stage in straight(maps)
        ]

    model.head.stages = mirrored  # type: ignore[method-assign]
    other = model.terms(faces, task.mirror(points)).terms
    assert_close(other["star"], loss["star"], atol=1e-4, rtol=1e-4)
    assert_close(other["edges"], loss["edges"], atol=1e-4, rtol=1e-4)
    # Gaussians reach one pixel further to the left than to the right.
    assert_close(other["points"], loss["points"], atol=1e-2, rtol=1e-2)


def test_landmarks_outside_the_image_pull_to_its_border(drawn: list[DrawnFace]) -> None:
    model = learner(Landmarks(68)).eval()
    faces, points = torch.stack([face.image for face in drawn[:2]]) / 255, places(drawn[:2])
    far = points.clone()
    far[:, 0] = torch.tensor([-3.0, 2.0])
    border = points.clone()
    border[:, 0] = torch.tensor([-1.0, 1.0])
    assert_close(model.terms(faces, far).terms["star"], model.terms(faces, border).terms["star"])


def test_the_average_forgets_half_of_the_network_in_half_life_images() -> None:
    model = learner(Landmarks(19), replace(SMALL, half_life=40.0))
    model.images_per_step = 8  # a fifth: momentum .5 ** .2
    weight = model.head.attention.point[0].bias
    first = float(weight[0].detach())
    with torch.no_grad():
        weight.fill_(1.0)
    for _ in range(5):
        model.after_step(Progress(step=1000, steps=2000, epoch=0, epochs=1))
    averaged = model.average.network.head.attention.point[0].bias
    assert float(averaged[0]) == pytest.approx(1 - (1 - first) / 2, rel=1e-5)
    assert not averaged.requires_grad
    model.after_step(START)  # the first step: a tenth of what was, whatever the half-life
    assert float(averaged[0]) == pytest.approx(1 - (1 - first) / 20, rel=1e-5)


def test_the_average_follows_batch_norms_statistics_too(drawn: list[DrawnFace]) -> None:
    model = learner(Landmarks(68)).train()
    images = torch.stack([face.image for face in drawn[:4]])
    model.loss(LabelledBatch(images, places(drawn[:4])), START)
    norm, averaged = model.head.layers[1], model.average.network.head.layers[1]
    assert not averaged.training
    before = averaged.running_var.clone()
    model.after_step(START)
    assert_close(averaged.running_var, 0.1 * before + 0.9 * norm.running_var)


# Settings


def test_the_supplements_settings_stand_in_the_papers_recipes() -> None:
    for dataset in ("300w", "wflw", "cofw", "aflw"):
        recipe = load_transfer_recipe(f"paper/{dataset}.star")
        assert (recipe.epochs, recipe.batch_size, recipe.optimizer) == (100, 128, "adamw")
        assert (recipe.learning_rate, recipe.backbone_rate, recipe.falls) == (5e-4, None, (80, 90))
        assert (recipe.image_size, recipe.alignment, recipe.crop) == (256, AlignmentConfig(), "star")
    for dataset in ("300w", "wflw"):
        recipe = load_transfer_recipe(f"paper/{dataset}.star_fewshot")
        assert (recipe.learning_rate, recipe.backbone_rate, recipe.falls) == (1e-3, 5e-5, (80, 90))
        assert [batch_for(count, recipe) for count in (75, 314, 7_500)] == [75, 128, 128]
    assert load_transfer_recipe("paper/wflw.star_fewshot", protocol="star").name == "wflw.star_fewshot"
    assert load_transfer_recipe("paper/300w.star", ["alignment.stacks=2"]).alignment.stacks == 2


def test_the_rate_falls_to_a_tenth_at_80_and_90() -> None:
    recipe = replace(RECIPE, epochs=100, falls=(80, 90))
    stairs = recipe.schedule(100)
    rates = [stairs.rate(1.0, epoch * 7, 7) for epoch in (0, 79, 80, 89, 90, 99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    # twice the epochs for few labels: at the same shares
    assert recipe.schedule(200) == Stairs(200, (160.0, 180.0))


def test_encoder_and_head_learn_at_their_own_rates_and_the_average_does_not() -> None:
    recipe, task, net = replace(RECIPE, backbone_rate=5e-5, learning_rate=1e-3), Landmarks(68), encoder()
    model = Star(recipe, task, net, Star.new_head(recipe, task, net))
    groups = weight_groups(recipe, model)
    assert [group["peak"] for group in groups] == [5e-5, 1e-3]
    learned = {id(weight) for group in groups for weight in group["params"]}
    assert learned == {id(weight) for weight in model.parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("300w.linear", ["alignment.width=16"], "linear protocol has no setting 'alignment', which only star has"),
        ("300w.star", ["balanced=true"], "star protocol has no setting 'balanced', which only linear, finetune, eac"),
        ("300w.star", ["decay=0.9"], "two schedules"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(name: str, settings: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_transfer_recipe(f"laptop/{name}", settings)


def test_star_is_for_landmarks_only() -> None:
    with pytest.raises(ValueError, match="star is for landmarks, not for expression: use finetune"):
        Star.new_head(RECIPE, Expression(("a", "b")), encoder())


# Whole runs


def test_a_run_learns_and_reports_the_last_epoch_and_the_average(
    planted: LabelledFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certainty, "FEWEST", 6)
    recipe = replace(RECIPE, epochs=12, falls=(10,), batch_size=4, learning_rate=0.01)
    results = judge(recipe, planted, tmp_path / "run")
    scores = results["metrics"]["nme"]
    assert scores["selected"] == "last"
    assert scores["normaliser"] == "inter-ocular"
    assert scores["mean"] < 30  # 55 before training, when every landmark is in the middle
    kept = load_file(tmp_path / "run/seeds/seed_0.safetensors")
    targets = planted.targets["landmarks"][planted.splits["test"]]
    errors = Landmarks(68).errors(kept["averaged_outputs"], targets)
    assert scores["averaged"]["values"] == [pytest.approx(float(errors.mean()))]
    assert scores["averaged"]["mean"] != scores["mean"]
    assert "best_on_validation" in scores
    log = read_rows(tmp_path / "run/log.csv")
    assert {"star", "points", "edges", "val_nme"} <= set(log[0])
    assert float(log[-1]["loss"]) < float(log[0]["loss"]) / 3
    assert (tmp_path / "run/landmarks.png").stat().st_size > 10_000
    # Its landmarks say how sure they are, and the places are those of the head alone.
    found = results["calibration"]
    assert found["held_out_images"] == 6
    assert 0 <= found["error"] < 50
    model = fra.load_task_model(tmp_path / "run")
    image = planted.image(int(planted.splits["test"][0]), size=32)
    answer = model.predict(image)
    assert len(answer["confidence"]) == 68
    assert all(0 < share < 1 for share in answer["confidence"])
    model.certainty = None
    alone = model.predict(image)
    assert alone.keys() == {"landmarks"}
    assert torch.allclose(torch.tensor(alone["landmarks"]), torch.tensor(answer["landmarks"]), atol=1e-3)


def test_the_worst_faces_come_first_in_the_picture(planted: LabelledFaces) -> None:
    task, targets = Landmarks(68), planted.targets["landmarks"][:5]
    outputs = targets.flatten(1) + torch.tensor([0.1, 0.5, 0.0, 0.3, 0.2])[:, None]
    errors = task.errors(outputs, targets)
    assert task.order(outputs, targets).tolist() == errors.argsort(descending=True).tolist()
    assert task.order(outputs, targets)[-1] == 2
    order = task.order(outputs, targets)
    images = [planted.image(int(index), size=24) for index in order[:2]]
    figure = task.picture(outputs[order], targets[order], images)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == [f"NME {errors[int(index)]:.1f} %" for index in order[:2]]
    curve = figure.axes[-1].lines[0]
    # Each face below the end of the axis adds a fifth of 100 %.
    shown = errors[errors <= 10].sort().values
    assert list(curve.get_xdata())[1 : 1 + len(shown)] == pytest.approx(shown.tolist())
    assert list(curve.get_ydata())[1 : 1 + len(shown)] == pytest.approx([20.0 * (k + 1) for k in range(len(shown))])


def test_the_saved_network_answers_as_it_did(planted: LabelledFaces, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1, image_size=40, alignment=replace(SMALL, consistent_grid=False))
    judge(recipe, planted, tmp_path / "run")
    model = fra.load_task_model(tmp_path / "run")
    assert not model.head.consistent_grid
    kept = load_file(tmp_path / "run/seeds/seed_0.safetensors")["outputs"][0]
    image = planted.image(36, size=40)
    with torch.no_grad():
        assert_close(model(image[None] / 255)[0], kept, atol=1e-5, rtol=1e-5)
    found = torch.tensor(model.predict(planted.picture(36))["landmarks"])
    assert_close(found, (kept.view(68, 2) + 1) * 24 - 0.5, atol=0.05, rtol=0)  # in pixels of the picture of 48


def test_a_photo_shows_its_landmarks_beside_those_of_a_linear_task(planted: LabelledFaces, tmp_path: Path) -> None:
    judge(replace(RECIPE, epochs=1), planted, tmp_path / "star")
    linear, source = LinearRecipe(name="x", task="landmarks", dataset="planted", image_size=32), "random:resnet10"
    transfer(linear, encoder=source, data=planted.root, out=tmp_path / "linear", runtime=Runtime("cpu", quiet=True))
    photo = tmp_path / "photo.png"
    write_image(photo, draw_face(3, size=160).image)
    predict(
        [photo],
        [tmp_path / "star", tmp_path / "linear"],
        tmp_path / "out",
        detector="none",
        runtime=Runtime(quiet=True),
    )
    face = json.loads((tmp_path / "out/predictions.json").read_text())["photos"][0]["faces"][0]
    star, probe = (torch.tensor(face["answers"][name]["landmarks"]) for name in ("star", "linear"))
    assert star.shape == probe.shape == (68, 2)
    assert 0 <= float(star.min()) <= float(star.max()) <= 160
    assert (tmp_path / "out/pictures/photo.jpg").exists()
    assert len(Predictor([tmp_path / "star", tmp_path / "linear"], detector="none").groups) == 2


class Killed(BaseException):
    pass


def test_a_run_killed_in_the_middle_goes_on_to_the_same_files(
    planted: LabelledFaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, epochs=3, falls=(2,), fraction=0.8)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    judge(recipe, planted, whole)
    loss, calls = Star.loss, []

    def dies_in_the_second_epoch(self: Any, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) == 3 + 2:  # 24 images are 3 steps of 8
            raise Killed
        return loss(self, *rest)

    monkeypatch.setattr(Star, "loss", dies_in_the_second_epoch)
    with pytest.raises(Killed):
        judge(recipe, planted, killed)
    calls.clear()
    monkeypatch.setattr(Star, "loss", lambda self, *rest: calls.append(1) or loss(self, *rest))
    judge(recipe, planted, killed, resume=True)
    assert len(calls) == 2 * 3
    for name in ("results.json", "predictions.csv", "log.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    for name in ("task.safetensors", "seeds/seed_0.safetensors"):  # outputs of the average are in the second
        mine, theirs = load_file(killed / name), load_file(whole / name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[tensor], theirs[tensor]) for tensor in mine), name


# WFLW, as downloaded


@pytest.fixture(scope="module")
def wflw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn faces in WFLW's layout, eight to train."""
    root = tmp_path_factory.mktemp("wflw")
    lists = root / "WFLW_annotations/list_98pt_rect_attr_train_test"
    lists.mkdir(parents=True)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for seed in range(12):
        face, split = draw_face(seed, size=64), "train" if seed < 8 else "test"
        write_image(root / f"WFLW_images/drawn/{seed}.jpg", face.image)
        numbers = [f"{value:.4f}" for value in face.points98.flatten().tolist()]
        low, high = face.points98.amin(0).floor().int().tolist(), face.points98.amax(0).ceil().int().tolist()
        flags = [str(int(seed % 6 == kind)) for kind in range(6)]
        lines[split].append(" ".join([*numbers, *map(str, low + high), *flags, f"drawn/{seed}.jpg"]))
    for split, rows in lines.items():
        (lists / f"list_98pt_rect_attr_{split}.txt").write_text("\n".join(rows) + "\n")
    return root


def test_98_landmarks_go_from_wflws_files_to_points_in_a_photo(wflw: Path, tmp_path: Path) -> None:
    recipe = load_transfer_recipe("smoke/wflw.star", ["alignment.width=8", "fraction=1.0", "image_size=32"])
    runtime = Runtime("cpu", "32", quiet=True)
    results = transfer(recipe, encoder=tiny(), data=wflw, out=tmp_path / "run", runtime=runtime)
    counts = results["points"], results["train_images"], results["test_images"]
    assert counts == (98, 8, 4)
    assert np.isfinite(results["metrics"]["nme"]["averaged"]["mean"])
    assert results["crop"]["name"] == "hrnet"
    model = fra.load_task_model(tmp_path / "run")
    assert model.task.points == 98
    assert len(model.predict(draw_face(1, size=64).image)["landmarks"]) == 98


@pytest.mark.slow
@pytest.mark.parametrize("extra", [("--devices", "2"), ("--precision", "bf16")], ids=["two processes", "bf16"])
def test_the_command_trains_with_two_processes_and_in_mixed_precision(
    extra: tuple[str, str], wflw: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "fra.cli", "transfer", "smoke/wflw.star", "--data", str(wflw)]
    command += ["--encoder", "random:resnet10_quarter", "--set", "alignment.width=8", "--set", "subset=first"]
    command += ["--fraction", "0.8", "--device", "cpu", "--quiet", "--out", str(tmp_path / "run"), *extra]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["train_images"] == 6
    assert np.isfinite(results["metrics"]["nme"]["mean"])
    assert np.isfinite(results["metrics"]["nme"]["averaged"]["mean"])
    subset = load_file(tmp_path / "run/seeds/seed_0.safetensors")["subset"]
    assert subset.tolist() == [0, 1, 2, 3, 4, 5]


def test_real_faces_are_cut_read_and_learned_by_the_smoke_recipe(real_faces: Path, tmp_path: Path) -> None:
    recipe = load_transfer_recipe("smoke/300w.star", ["alignment.width=8", "fraction=0.01", "epochs=2"])
    runtime = Runtime("cpu", "32", quiet=True)
    results = transfer(recipe, encoder=tiny(), data=real_faces / "300w", out=tmp_path / "run", runtime=runtime)
    assert results["test_images"] > 100
    assert results["crop"]["outside"]["landmarks"] == 0


def test_a_face_box_behind_the_landmarks_is_no_landmark(drawn: list[DrawnFace]) -> None:
    points = places(drawn[:2])[:, NINETEEN]
    images = torch.stack([face.image for face in drawn[:2]])
    model = learner(Landmarks(19, normaliser="diag"))
    losses = []
    for box in (torch.zeros(2, 1, 2), torch.full((2, 1, 2), 1.5)):
        torch.manual_seed(0)
        losses.append(model.loss(LabelledBatch(images, torch.cat([points, box], 1)), START).total)
    assert_close(losses[0], losses[1])
