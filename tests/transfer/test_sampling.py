"""Which images are shown when: the same for all processes, none twice, classes balanced where asked for."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.testing import assert_close

from fra.transfer.sampling import TrainingBatches, class_balance
from fra.transfer.subsets import draw_subset, hold_out

IMAGES = torch.arange(100, 203)


def test_an_epoch_shows_every_image_once_in_steps_of_equal_size() -> None:
    batches = TrainingBatches(IMAGES, batch_size=25)
    steps = [step.images for step in batches.epoch(0)]
    assert batches.steps_per_epoch == len(steps) == 5
    assert sorted(map(len, steps)) == [20, 20, 21, 21, 21]
    assert sorted(torch.cat(steps).tolist()) == IMAGES.tolist()
    assert not torch.equal(torch.cat(steps), torch.cat([step.images for step in batches.epoch(1)]))


def test_batches_from_a_later_step_are_those_that_would_have_come() -> None:
    batches = TrainingBatches(IMAGES, batch_size=25, seed=3)
    whole, later = batches.from_step(0), batches.from_step(7)
    first = [next(whole) for _ in range(12)]
    for step in range(7, 12):
        assert torch.equal(first[step].images, next(later).images)


@pytest.mark.parametrize("world", [1, 2, 8])
def test_the_mean_over_processes_is_the_mean_over_a_steps_images(world: int) -> None:
    losses = torch.rand(300, dtype=torch.double)
    parts = [TrainingBatches(IMAGES, batch_size=25, rank=rank, world=world).epoch(0) for rank in range(world)]
    for step in zip(*parts, strict=True):
        over_processes = sum(part.weight * losses[part.images].mean() for part in step) / world
        assert_close(over_processes, losses[torch.cat([part.images for part in step])].mean())
        assert world > 1 or step[0].weight == 1


def test_few_images_are_repeated_until_each_process_has_two() -> None:
    parts = [TrainingBatches(torch.tensor([7, 8]), batch_size=8, rank=rank, world=2).epoch(0) for rank in (0, 1)]
    assert [len(part[0].images) for part in parts] == [2, 2]
    assert sorted(torch.cat([part[0].images for part in parts]).tolist()) == [7, 7, 8, 8]


def test_balanced_draws_show_every_class_equally_often_and_absent_ones_do_no_harm() -> None:
    classes = torch.tensor([0] * 900 + [2] * 90 + [3] * 10)  # class 1 has no image
    # By hand: a class of n images has n weights of 1/n.
    assert class_balance(classes)[[0, 900, 990]].tolist() == [1 / 900, 1 / 90, 1 / 10]
    batches = TrainingBatches(torch.arange(1000), batch_size=100, weights=class_balance(classes))
    drawn = classes[torch.cat([step.images for epoch in range(9) for step in batches.epoch(epoch)])]
    counts = torch.bincount(drawn).tolist()
    # 3,000 of 9,000 each, standard deviation 45
    assert counts[1] == 0
    assert all(abs(counts[k] - 3000) < 200 for k in (0, 2, 3))


def test_a_tenth_of_each_class_is_held_out_and_no_image_is_in_both_parts() -> None:
    targets = torch.tensor([0] * 50 + [1] * 20 + [2] * 3)
    images = torch.arange(200, 273)
    train, val = hold_out(images, targets, seed=0)
    assert torch.bincount(targets[val - 200], minlength=3).tolist() == [5, 2, 0]
    assert sorted(torch.cat([train, val]).tolist()) == images.tolist()
    assert not torch.equal(val, hold_out(images, targets, seed=1)[1])
    attributes = torch.zeros(73, 4, dtype=torch.bool)
    assert len(hold_out(images, attributes, seed=0)[1]) == 7


def draw(rank: int, folder: str) -> None:
    torch.manual_seed(rank)  # whatever a process has drawn before must not matter
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    subset = draw_subset(1000, fraction=0.1, seed=0)
    classes = (torch.arange(1000) < 900).long()[subset]
    plain = TrainingBatches(subset, batch_size=20, rank=rank, world=2).epoch(1)
    balanced = TrainingBatches(subset, batch_size=20, weights=class_balance(classes), rank=rank, world=2).epoch(1)
    torch.save((subset, [step.images for step in plain], [step.images for step in balanced]), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_draw_one_subset_and_share_its_batches(tmp_path: Path) -> None:
    mp.spawn(draw, args=(str(tmp_path),), nprocs=2)
    (subset, plain, balanced), (other, other_plain, other_balanced) = (
        torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)
    )
    assert torch.equal(subset, other)
    assert len(subset) == 100
    assert sorted(torch.cat([*plain, *other_plain]).tolist()) == subset.tolist()
    # Together they are the draws of one process alone, of which half come from the class of a tenth of the images.
    alone = TrainingBatches(subset, batch_size=20, weights=class_balance((subset < 900).long())).epoch(1)
    for mine, theirs, both in zip(balanced, other_balanced, alone, strict=True):
        assert sorted(torch.cat([mine, theirs]).tolist()) == sorted(both.images.tolist())
    assert 30 < int((torch.cat([*balanced, *other_balanced]) >= 900).sum()) < 70
