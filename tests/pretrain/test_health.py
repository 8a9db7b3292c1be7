"""The health monitor on cases whose answer is known."""

import math
from pathlib import Path

import pytest
import torch

from fra.faces.image import write_image
from fra.models.similarity import effective_rank, mean_pairwise_cosine
from fra.pretrain.health import area_under_curve, diagnose, neighbour_accuracy, read_labelled, read_pairs


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


def test_area_under_curve_counts_ties_half() -> None:
    # positives .9 and .5, negatives .5 and .1: wins 1, 1, tie, 1 of 4 pairs
    scores, positive = torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([True, True, False, False])
    assert area_under_curve(scores, positive) == pytest.approx(100 * 3.5 / 4)


def healthy(**changes: float) -> dict[str, float]:
    row = dict(effective_rank=20.0, feature_std=0.05, mask_cosine=0.1, assignment_entropy=1.0)
    return row | {f"usage_{index}": 0.25 for index in range(4)} | changes


def test_a_healthy_run_gets_no_warning() -> None:
    assert diagnose(healthy(), epoch=3, highest_rank=25.0) == []


def test_collapse_dead_regions_and_unused_regions_are_named() -> None:
    assert "collapsing" in diagnose(healthy(effective_rank=1.2), epoch=3, highest_rank=25.0)[0]
    dead = healthy(mask_cosine=0.9999, assignment_entropy=math.log(4))
    assert "log K" in diagnose(dead, epoch=3, highest_rank=25.0)[0]
    assert "Regions 2 own" in diagnose(healthy(usage_2=0.001), epoch=3, highest_rank=25.0)[0]
    assert diagnose(dead, epoch=0, highest_rank=25.0) == []


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
