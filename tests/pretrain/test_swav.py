"""SwAV: its golden value, lightly as an oracle, prototypes, queue, LARC."""

import pytest
import torch
from lightly.loss.swav_loss import SwaVLoss
from lightly.loss.swav_loss import sinkhorn as lightlys_sinkhorn
from torch.testing import assert_close

from fra.models.encoder import Encoder, EncoderConfig
from fra.models.sinkhorn import sinkhorn
from fra.pretrain.method import HeadConfig
from fra.pretrain.swav import PrototypeNetwork, SwAV, SwAVConfig, swapped_prediction
from fra.training.optimizers import OptimizerConfig, build_optimizer
from fra.training.trainable import Progress

SMALL = HeadConfig(hidden=32, out=16)
START = Progress(step=0, steps=10, epoch=0, epochs=2)


def small_swav(**settings: object) -> SwAV:
    config = SwAVConfig(**{"head": SMALL, "prototypes": 12, "freeze_steps": 0, **settings})
    return SwAV(config, Encoder(EncoderConfig(name="resnet10_quarter", image_size=32)))


def views(*sizes: int, count: int = 4, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(count, 3, size, size, generator=generator) for size in sizes]


def test_golden_assignments_and_loss_of_two_large_views_and_a_small_one() -> None:
    scores = [
        torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.0, 0.1]]),
        torch.tensor([[0.2, 0.1, 0.3], [0.25, 0.05, 0.1]]),
        torch.tensor([[0.0, 0.1, 0.2], [0.2, 0.2, 0.1]]),
    ]
    first, second = (sinkhorn((own / 0.05).exp()) for own in scores[:2])
    wanted = torch.tensor([[0.002715, 0.498643, 0.498643], [0.890282, 0.054859, 0.054859]])
    assert_close(first, wanted, atol=1e-6, rtol=0)
    wanted = torch.tensor([[0.078525, 0.322387, 0.599087], [0.622267, 0.345745, 0.031988]])
    assert_close(second, wanted, atol=1e-6, rtol=0)
    loss = swapped_prediction(scores, [first, second], temperature=0.1)
    assert loss.item() == pytest.approx(0.959203, abs=1e-6)


@pytest.mark.parametrize("small", [0, 2])
def test_sinkhorn_and_loss_equal_lightlys(small: int) -> None:
    scores = [torch.rand(6, 10).mul(2).sub(1).requires_grad_() for _ in range(2 + small)]
    assert_close(sinkhorn((scores[0].detach() / 0.05).exp()), lightlys_sinkhorn(scores[0].detach()))
    ours = swapped_prediction(scores, [sinkhorn((s.detach() / 0.05).exp()) for s in scores[:2]], temperature=0.1)
    theirs = SwaVLoss()(scores[:2], scores[2:]).squeeze()
    assert_close(ours, theirs)
    for mine, other in zip(torch.autograd.grad(ours, scores), torch.autograd.grad(theirs, scores), strict=True):
        assert_close(mine, other)


def test_the_whole_method_gives_the_loss_of_its_scores() -> None:
    method = small_swav().eval()
    seen = views(32, 32, 16)
    scores = [method.online(view) @ method.online.prototypes.weight.T for view in seen]
    expected = SwaVLoss()(scores[:2], scores[2:]).squeeze()
    assert_close(method.loss(seen, START).total, expected)


def test_batch_norm_sees_all_views_of_one_size_together_and_the_projector_all() -> None:
    method = small_swav().train()
    network: PrototypeNetwork = method.online
    first, second, small = views(32, 32, 16)
    together = [network.encoder(torch.cat([first, second])), network.encoder(small)]
    expected = torch.nn.functional.normalize(network.projector(torch.cat(together)))
    assert_close(network.embeddings([first, second, small]), expected)
    apart = torch.cat([network([view][0]) for view in (first, second, small)])
    assert not torch.allclose(apart, expected, atol=1e-3)


def test_prototypes_have_length_one_before_every_forward_pass() -> None:
    method = small_swav()
    lengths = method.online.prototypes.weight.norm(dim=1)
    assert_close(lengths, torch.ones(12))
    with torch.no_grad():
        method.online.prototypes.weight.mul_(3)
    method.after_step(START)
    assert_close(method.online.prototypes.weight.norm(dim=1), torch.ones(12))


@pytest.mark.parametrize("optimizer", ["larc", "lars", "sgd"])
def test_frozen_prototypes_stay_and_all_else_moves(optimizer: str) -> None:
    method = small_swav(freeze_steps=3).train()
    moved = build_optimizer(OptimizerConfig(name=optimizer, learning_rate=0.5, weight_decay=1e-3), method)
    before = {name: weight.detach().clone() for name, weight in method.named_parameters()}
    for step in range(5):
        method.loss(views(32, 32, seed=step), START._replace(step=step)).total.backward()
        moved.step()
        moved.zero_grad()
        method.after_step(START)
        # decay shortens rows of zero gradient, which the next normalisation undoes but for rounding
        stays = torch.allclose(method.online.prototypes.weight, before["online.prototypes.weight"], atol=1e-6)
        assert stays == (step < 3)
    assert not torch.equal(method.online.encoder.backbone.conv1.weight, before["online.encoder.backbone.conv1.weight"])


def trained(method: SwAV, steps: int, *, epoch: int) -> list[torch.Tensor]:
    """Loss and step on new views each time; the embeddings of the two large views, newest last."""
    seen = []
    for step in range(steps):
        method.loss(views(32, 32, seed=100 * epoch + step), START._replace(epoch=epoch))
        seen += [torch.cat(method._embeddings_of_step)] if method._embeddings_of_step else []
        method.after_step(START)
    return seen


def test_the_queue_fills_from_its_epoch_on_newest_first_and_is_used_once_full() -> None:
    method = small_swav(queue=10, queue_from_epoch=1).train()
    assert trained(method, 3, epoch=0) == []
    assert not method.queue.any()
    first, second = trained(method, 2, epoch=1)
    # 4 faces a step: 8 of 10 rows are filled, the second batch before the first; the last two wait
    assert_close(method.queue[:, :4], second)
    assert_close(method.queue[:, 4:8], first)
    assert not method._has_full_queue()
    (third,) = trained(method, 1, epoch=1)
    assert_close(method.queue, torch.cat([third, second, first], 1)[:, :10])
    assert method._has_full_queue()


def test_a_full_queue_takes_part_in_the_balancing() -> None:
    method = small_swav(queue=8, queue_from_epoch=0).train()
    trained(method, 2, epoch=0)
    scores = [
        view @ method.online.prototypes.weight.T for view in torch.nn.functional.normalize(torch.randn(2, 4, 16), dim=2)
    ]
    with_queue = method._assignments(scores)
    for view, own in enumerate(scores):
        earlier = method.queue[view] @ method.online.prototypes.weight.T
        assert_close(with_queue[view], lightlys_sinkhorn(torch.cat([own, earlier]))[:4])
        assert not torch.allclose(with_queue[view], lightlys_sinkhorn(own), atol=1e-3)


def test_the_queue_lies_in_the_checkpoint_and_evaluation_does_not_touch_it() -> None:
    method = small_swav(queue=8, queue_from_epoch=0).train()
    trained(method, 2, epoch=0)
    other = small_swav(queue=8, queue_from_epoch=0)
    other.load_state_dict(method.state_dict())
    assert_close(other.queue, method.queue)
    assert other._has_full_queue()
    before = method.queue.clone()
    method.eval()
    trained(method, 1, epoch=0)
    assert torch.equal(method.queue, before)


def test_health_counts_prototypes_in_use_and_names_their_collapse() -> None:
    method = small_swav(prototypes=3).eval()
    faces = views(32, count=16)[0]
    with torch.no_grad():
        embeddings = method.online(faces)
        # one prototype lies on the mean of all faces, two on the other side: one of three is used
        mean = torch.nn.functional.normalize(embeddings.mean(0), dim=0)
        method.online.prototypes.weight.copy_(torch.stack([mean, -mean, -mean]))
        found = method.own_health(faces)
    assert found["prototype_usage"] == pytest.approx(1 / 3)
    assert 0 < found["prototype_entropy"] < torch.log(torch.tensor(3.0))
    assert method.own_warnings(found) == []
    assert "one prototype" in method.own_warnings(found | {"prototype_usage": 1 / 256})[0]
