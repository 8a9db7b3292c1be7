"""The health monitor on cases whose answer is known."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fra.faces.image import write_image
from fra.models.encoder import Encoder, EncoderConfig
from fra.models.similarity import effective_rank, mean_pairwise_cosine
from fra.pretrain.columns import undeclared
from fra.pretrain.health import (
    COMMON_COLUMNS,
    HealthMonitor,
    Pairs,
    collapse_warnings,
    neighbour_accuracy,
    pair_auc,
    read_labelled,
    read_pairs,
)
from fra.pretrain.method import Method
from fra.pretrain.region_health import USAGE, region_warnings
from fra.pretrain.run import METHODS


def test_effective_rank_counts_equal_directions() -> None:
    # three orthogonal directions of equal strength, centred: rank 3; one direction alone: rank 1
    corners = torch.cat([torch.eye(3), -torch.eye(3)])
    assert effective_rank(corners) == pytest.approx(3)
    assert effective_rank(torch.outer(torch.arange(5.0), torch.ones(4))) == pytest.approx(1)


def test_mean_pairwise_cosine() -> None:
    # pairs: (a, b) 0, (a, c) -1, (b, c) 0
    vectors = torch.tensor([[1.0, 0], [0, 2], [-3, 0]])
    assert mean_pairwise_cosine(vectors).item() == pytest.approx(-1 / 3)


def test_neighbours_vote_without_the_face_itself() -> None:
    features = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1.0], [0.1, 0.9]])
    assert neighbour_accuracy(features, torch.tensor([0, 0, 1, 1]), neighbours=1) == 100
    assert neighbour_accuracy(features, torch.tensor([0, 1, 0, 1]), neighbours=1) == 0


class Looked(Encoder):
    """An encoder whose features of a face are the red and green of its first pixel."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :2, 0, 0]


def pairs_with(cosines: torch.Tensor, same: torch.Tensor) -> Pairs:
    """One pair for each: (1, 0) beside a unit vector at that cosine."""
    images = torch.zeros(len(cosines) + 1, 3, 1, 1)
    images[0, 0] = 1
    images[1:, 0, 0, 0], images[1:, 1, 0, 0] = cosines, (1 - cosines**2).sqrt()
    numbers = torch.arange(len(cosines))
    return Pairs(images, torch.zeros_like(numbers), numbers + 1, same)


def test_pairs_are_ranked_and_ties_count_half() -> None:
    # one person .8 and .6, two people .6 and -.8: three of four comparisons are won, one is a tie
    same = torch.tensor([True, True, False, False])
    assert pair_auc(Looked(), pairs_with(torch.tensor([0.8, 0.6, 0.6, -0.8]), same)) == pytest.approx(100 * 3.5 / 4)
    assert math.isnan(pair_auc(Looked(), pairs_with(torch.tensor([0.8, 0.6]), torch.tensor([True, True]))))


def test_the_area_is_the_share_of_comparisons_won() -> None:
    cosines, same = torch.rand(300) * 2 - 1, torch.rand(300) > 0.6
    won = (cosines[same][:, None] > cosines[~same][None]).double().mean()
    assert pair_auc(Looked(), pairs_with(cosines, same)) == pytest.approx(100 * won.item(), abs=1e-4)


def healthy(**changes: float) -> dict[str, float]:
    row = dict(effective_rank=20.0, feature_std=0.05, mask_cosine=0.1, assignment_entropy=1.0)
    return row | {f"usage_{index}": 0.25 for index in range(4)} | changes


def test_a_healthy_run_gets_no_warning() -> None:
    assert collapse_warnings(healthy(), highest_rank=25.0) == []
    assert region_warnings(healthy()) == []


def test_collapse_equal_regions_and_unused_regions_are_named() -> None:
    assert "collapsing" in collapse_warnings(healthy(effective_rank=1.2), highest_rank=25.0)[0]
    dead = healthy(mask_cosine=0.9999, assignment_entropy=math.log(4))
    assert region_warnings(dead) == [
        "All regions look the same so far; training is plain BYOL until they differ. More faces or epochs usually help."
    ]
    assert region_warnings(healthy(usage_2=0.001)) == ["Region 3 covers under 2 % of the pixels."]
    both = healthy(usage_0=0.0, usage_2=0.001)
    assert region_warnings(both) == ["Regions 1 and 3 each cover under 2 % of the pixels."]


class Complaining(Method):
    """The least a method can be; it always finds something wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.online = Encoder(EncoderConfig(name="resnet10_quarter", image_size=32))

    @property
    def encoder(self) -> Encoder:
        return self.online

    def parts(self, views: Any, progress: Any) -> list[Any]:
        return []

    def after_step(self, progress: Any) -> None: ...

    def projections(self, faces: torch.Tensor) -> torch.Tensor:
        return self.online(faces)

    def own_warnings(self, row: dict[str, Any]) -> list[str]:
        return ["Wrong."]


def test_nothing_is_said_before_training_has_begun() -> None:
    monitor = HealthMonitor(torch.rand(4, 3, 32, 32))
    assert [monitor.measure(Complaining(), epoch)[0]["warning"] for epoch in (0, 1)] == ["", "Wrong."]


def test_every_column_that_a_method_fills_is_declared_with_all_its_words() -> None:
    for _, kind in METHODS.values():
        for column in (*COMMON_COLUMNS, *kind.health_columns):
            assert column.title
            assert column.meaning
            assert column.good
            assert column.title != column.name


def test_a_family_is_ordered_by_number_and_judged_where_all_are_known() -> None:
    table = {"usage_10": np.array([0.5, np.nan]), "usage_9": np.array([0.5, 0.1]), "usage_mean": np.array([1.0, 1.0])}
    assert USAGE.names(table) == ["usage_9", "usage_10"]
    judgement = USAGE.judged(table)
    assert judgement is not None
    assert judgement.observed.startswith("2 of 2 regions")
    assert [column.name for column in undeclared(table, [USAGE])] == ["usage_mean"]
    assert USAGE.judged({"usage_0": np.array([np.nan])}) is None


def test_side_sets_are_read_from_folders(tmp_path: Path) -> None:
    grey = torch.full((3, 8, 8), 128, dtype=torch.uint8)
    for name in ("Ann/Ann_0001.png", "Ann/Ann_0002.png", "Bob/Bob_0001.png"):
        write_image(tmp_path / name, grey)
    labelled = read_labelled(tmp_path, 4)
    assert labelled.labels.tolist() == [0, 0, 1]
    assert labelled.images.shape == (3, 3, 4, 4)
    with pytest.raises(ValueError, match="has no pairs"):
        read_pairs(tmp_path, 4)
    (tmp_path / "pairsDevTest.txt").write_text("1\nAnn\t1\t2\nAnn\t1\tBob\t1\n")
    pairs = read_pairs(tmp_path, 4)
    assert pairs.same.tolist() == [True, False]
    assert pairs.first.tolist() == [0, 0]
    assert pairs.second.tolist() == [1, 2]
    (tmp_path / "pairsDevTest.txt").write_text("1\nAnn\t1\t9\n")
    with pytest.raises(ValueError, match="lacks Ann_0001.jpg or Ann_0009.jpg"):
        read_pairs(tmp_path, 4)
    with pytest.raises(ValueError, match="fewer than two class folders"):
        read_labelled(tmp_path / "Ann", 4)
