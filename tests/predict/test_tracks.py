"""Tracks on planted boxes, and smoothing on planted points."""

import math

import pytest
import torch

from fra.predict.tracks import PATIENCE, Smoother, Tracker


def box(x: float, y: float, side: float = 20.0) -> torch.Tensor:
    return torch.tensor([x, y, x + side, y + side])


def test_faces_keep_their_numbers_while_they_move_and_change_their_order() -> None:
    tracker = Tracker()
    for step in range(30):
        here = [box(10 + 3 * step, 10), box(10, 40 + 2 * step)]
        numbers = tracker.follow(here if step % 2 else here[::-1], step / 25)
        assert numbers == ([1, 2] if step % 2 else [2, 1]) or step == 0
        if step == 0:
            tracker.tracks[0].number, tracker.tracks[1].number = 2, 1
    assert tracker.count == 2


def test_a_fast_face_is_followed_by_where_it_must_be() -> None:
    # It moves by its whole side in a frame, so that no two boxes overlap; from the third frame on its speed is known.
    tracker = Tracker()
    seen = [tracker.follow([box(at, 0)], number / 25) for number, at in enumerate([0, 10, 25, 45, 65, 85])]
    assert seen == [[1]] * 6


def test_a_face_that_is_hidden_for_a_moment_stays_and_one_that_is_away_for_long_is_another() -> None:
    tracker = Tracker()
    assert tracker.follow([box(0, 0), box(100, 0)], 0.0) == [1, 2]
    assert tracker.follow([box(100, 0)], 0.5) == [2]
    assert tracker.follow([box(0, 0), box(100, 0)], PATIENCE) == [1, 2]
    assert tracker.follow([], PATIENCE + 0.1) == []
    assert tracker.follow([box(0, 0)], 2.5 * PATIENCE) == [3]


def test_of_all_ways_to_pair_boxes_the_one_that_overlaps_most_is_taken() -> None:
    # The first box overlaps both tracks; taken greedily, the better one would leave the other track without a box.
    tracker = Tracker()
    assert tracker.follow([box(0, 0), box(12, 0)], 0.0) == [1, 2]
    assert tracker.follow([box(7, 0), box(17, 0)], 0.04) == [1, 2]


def test_between_detections_a_track_moves_on() -> None:
    tracker = Tracker()
    for number in range(20):
        tracker.follow([box(10.0 * number, 5)], number * 0.1)
    assert tracker.tracks[0].at(2.1)[0].item() == pytest.approx(210, abs=0.01)
    assert tracker.tracks[0].at(2.1)[1].item() == pytest.approx(5, abs=1e-4)


def test_smoothing_takes_jitter_away_and_follows_a_movement() -> None:
    noise = torch.Generator().manual_seed(0)
    still, moving = Smoother(), Smoother()
    errors, lags = [], []
    for number in range(200):
        seconds = number / 25
        jitter = 0.5 * torch.randn(5, 2, generator=noise)
        truth = torch.full((5, 2), 50.0)
        found = still(truth + jitter, track=1, of="a", seconds=seconds, side=100.0)
        errors.append((float((found - truth).square().mean()), float(jitter.square().mean())))
        way = truth + 100 * math.sin(seconds)  # a box side a second at most
        lags.append(float((moving(way, track=1, of="a", seconds=seconds, side=100.0) - way).abs().max()))
    smooth, raw = (math.sqrt(sum(values) / len(values)) for values in zip(*errors[20:], strict=True))
    assert smooth < 0.6 * raw
    assert max(lags) < 8


def test_smoothing_leaves_other_tracks_tasks_and_cuts_alone() -> None:
    smoother, points = Smoother(), torch.zeros(3, 2)
    smoother(points, track=1, of="a", seconds=0.0, side=10.0)
    for track, of, seconds in ((2, "a", 0.04), (1, "b", 0.04), (1, "a", 5.0)):
        assert torch.equal(smoother(points + 9, track=track, of=of, seconds=seconds, side=10.0), points + 9)
