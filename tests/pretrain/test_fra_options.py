"""Every option of FRA (spec fra.md, 9: where paper and released code differ) changes what it should, nothing else."""

import copy
import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
import torchvision
from official_names import official_name
from torch import Tensor, nn
from torch.testing import assert_close

from fra.models.distributed import mean_over_processes
from fra.models.encoder import Encoder, EncoderConfig, Seen
from fra.models.mask_decoder import DecoderConfig
from fra.models.sinkhorn import sinkhorn, sinkhorn_within
from fra.pretrain.fra import FRA, FaceAndRegions, FRAConfig, RegionNetwork, pixel_rows, seen_from, unmirrored
from fra.pretrain.method import FramedViews, HeadConfig
from fra.pretrain.run import load_pretrain_recipe
from fra.pretrain.views import ViewMaker, ViewsConfig
from fra.training.optimizers import OptimizerConfig, build_optimizer
from fra.training.schedules import ScheduleConfig
from fra.training.trainable import Progress

START = Progress(step=0, steps=10, epoch=0, epochs=1)
BASE = FRAConfig(
    regions=3,
    head=HeadConfig(hidden=8, out=8),
    decoder=DecoderConfig(width=8, heads=2, dropout=0.0, content="queries"),
    teacher_momentum=0.9,
)
PARTS = [
    "online.encoder",
    "online.face_projector",
    "online.region_projector",
    "online.region_head.pixel_projector",
    "online.region_head.decoder",
    "face_predictor",
    "region_predictor",
]
# What the cluster term trains, and what the same-region term trains besides.
OF_CLUSTERS = {"online.encoder", "online.region_head.pixel_projector", "online.region_head.decoder"}
OF_REGIONS = OF_CLUSTERS | {"online.region_projector", "region_predictor"}
OF_FACES = {"online.encoder", "online.face_projector", "face_predictor"}


class OneLayerEncoder(Encoder):
    """Three colours to six channels at every pixel."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.backbone = nn.Conv2d(3, 6, 1)
        self.channels = 6

    def both(self, images: Tensor) -> Seen:
        maps = self.backbone(images)
        return Seen(maps, maps.mean((2, 3)))


@torch.no_grad()
def build(**settings: Any) -> FRA:
    """FRA whose weights depend on their names and shapes alone, in eval mode; teacher and student are unlike."""
    method = FRA(replace(BASE, **settings), OneLayerEncoder())
    for name, weight in method.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        weight.copy_(torch.randn(weight.shape, generator=generator))
        weight.mul_(1.5 / math.sqrt(weight[0].numel()) if weight.dim() > 1 else 0.1)
        if weight.dim() == 1 and name.endswith("weight"):
            weight.add_(1.0)
    return method.eval()


def views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 3, 3, generator=generator) for _ in range(2)]


class Measured(NamedTuple):
    """A loss, the gradient of its total, and what both networks said of both views."""

    total: Tensor
    terms: dict[str, Tensor]
    gradients: dict[str, Tensor]
    online: list[FaceAndRegions]
    targets: list[FaceAndRegions]
    method: FRA


def measure(**settings: Any) -> Measured:
    method = build(**settings)
    loss = method.loss(views(), START)
    loss.total.backward()
    with torch.no_grad():
        online, targets = ([network(view) for view in views()] for network in (method.online, method.teacher))
    gradients = {name: weight.grad for name, weight in method.named_parameters() if weight.grad is not None}
    return Measured(loss.total.detach(), loss.terms, gradients, online, targets, method)


def changed_terms(one: Measured, other: Measured) -> set[str]:
    """Terms that are not equal to the last bit."""
    return {name for name in one.terms if not torch.equal(one.terms[name], other.terms[name])}


def changed_parts(one: Measured, other: Measured) -> set[str]:
    """Parts of the network with a gradient that is not equal to the last bit."""
    assert one.gradients.keys() == other.gradients.keys()
    names = [name for name in one.gradients if not torch.equal(one.gradients[name], other.gradients[name])]
    return {part for part in PARTS if any(name.startswith(part + ".") for name in names)}


def same_outputs(one: list[FaceAndRegions], other: list[FaceAndRegions]) -> bool:
    return all(torch.equal(a, b) for mine, theirs in zip(one, other, strict=True) for a, b in zip(mine, theirs))  # noqa: B905


def cross_entropy(student: FaceAndRegions, weights: Tensor, *, temperature: float = 0.1) -> float:
    """Mean over pixels of -sum_q k_q log p_q, with k the balanced weights."""
    rows = (pixel_rows(student.scores) / temperature).softmax(-1)
    return float(-(sinkhorn(weights) * rows.log()).sum(-1).mean())


def probabilities(teacher: FaceAndRegions, *, temperature: float = 0.04) -> Tensor:
    return (pixel_rows(teacher.scores) / temperature).softmax(-1)


@pytest.mark.parametrize(
    ("settings", "terms", "parts"),
    [
        (dict(face_weight=1.0), set(), OF_FACES),
        (dict(region_weight=1.0), set(), OF_REGIONS),
        (dict(negative_weight=0.5), {"same_region"}, OF_REGIONS),
        (dict(heatmap_scale=0.1), {"same_region"}, OF_REGIONS),
        (dict(cluster_weight=0.5), set(), OF_CLUSTERS),
        (dict(student_temperature=0.2), {"assignment", "mean_entropy", "clusters"}, OF_CLUSTERS),
        (dict(teacher_temperature=0.07), {"assignment", "clusters"}, OF_CLUSTERS),
        (dict(assignment="exponentials"), {"assignment", "clusters"}, OF_CLUSTERS),
        (dict(sinkhorn_rounds=1), {"assignment", "clusters"}, OF_CLUSTERS),
        (dict(mean_entropy_weight=0.5), {"clusters"}, OF_CLUSTERS),
        (dict(cluster_views="crossed"), {"assignment", "clusters"}, OF_CLUSTERS),
        (dict(cluster_views="aligned"), {"assignment", "clusters"}, OF_CLUSTERS),
        (dict(cluster_views="matched"), {"assignment", "clusters"}, OF_CLUSTERS),
        (dict(balance="face"), {"assignment", "clusters"}, OF_CLUSTERS),
        (dict(balance_strength=0.5), {"assignment", "clusters"}, OF_CLUSTERS),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_setting_of_the_loss_changes_its_own_terms_and_gradients_only(
    settings: dict[str, Any], terms: set[str], parts: set[str]
) -> None:
    base, other = measure(), measure(**settings)
    assert other.total != base.total
    assert changed_terms(base, other) == terms
    assert changed_parts(base, other) == parts
    assert other.gradients.keys() == base.gradients.keys()
    assert same_outputs([found._replace(regions=found.face) for found in base.online],
                        [found._replace(regions=found.face) for found in other.online])  # fmt: skip


def test_normalised_projectors_leave_faces_nothing_in_common_and_the_maps_as_they_are() -> None:
    base, other = build(), build(head=HeadConfig(hidden=8, out=8, normalised=True)).train()
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in base.named_parameters()]
    base.train()
    plain, found = base.online(views()[0]), other.online(views()[0])
    assert_close(plain.scores, found.scores)
    for network in (other.online, other.teacher.network):
        for embeddings in (network(views()[0]).face, network(views()[0]).regions.flatten(0, 1)):
            assert_close(embeddings.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
            assert_close(embeddings.var(0, correction=0), torch.ones(8), atol=1e-2, rtol=0)
    assert plain.face.mean(0).abs().max() > 0.1


def test_detached_regions_reach_the_encoder_by_what_is_pooled_under_them_alone() -> None:
    base, other = measure(), measure(detached_regions=True)
    assert other.total == base.total
    assert changed_parts(base, other) == {"online.encoder"}
    # The cluster term trains the region head and leaves the encoder alone; the region vectors do not.
    clusters_alone = dict(face_weight=0.0, region_weight=0.0)
    alone = measure(**clusters_alone, detached_regions=True).gradients
    assert not any(weight.any() for name, weight in alone.items() if name.startswith("online.encoder."))
    assert any(weight.any() for name, weight in alone.items() if name.startswith("online.region_head.decoder."))
    vectors = measure(face_weight=0.0, cluster_weight=0.0, detached_regions=True).gradients
    assert vectors["online.encoder.backbone.weight"].any()


def test_the_cluster_weight_multiplies_the_cluster_term_in_the_total() -> None:
    base, other = measure(), measure(cluster_weight=0.5)
    assert (other.total - base.total).item() == pytest.approx(0.4 * base.terms["clusters"].item(), abs=1e-6)


def test_the_negative_weight_adds_its_share_of_the_squared_cosines_of_different_regions() -> None:
    base, without = measure(), measure(negative_weight=0.0)
    shares = []
    for view in (0, 1):
        predictions = base.method.region_predictor(base.online[view].regions)
        targets = base.targets[1 - view].regions
        squares = [
            F.cosine_similarity(predictions[face, mine], targets[face, other], dim=0).item() ** 2
            for face in range(4)
            for mine in range(3)
            for other in range(3)
            if mine != other
        ]
        shares.append(sum(squares) / (4 * 3) / 3)  # mean over faces and regions, then divided by K = 3, not by 2
    added = 0.02 * sum(shares)
    assert added > 1e-3
    assert (base.terms["same_region"] - without.terms["same_region"]).item() == pytest.approx(added, abs=1e-6)
    assert (base.total - without.total).item() == pytest.approx(0.5 * added, abs=1e-6)


def test_crossed_views_swap_what_the_assignments_are_compared_with() -> None:
    same, crossed = measure(), measure(cluster_views="crossed")
    for found, order in [(same, (0, 1)), (crossed, (1, 0))]:
        pairs = [(found.online[view], found.targets[other]) for view, other in zip((0, 1), order, strict=True)]
        by_hand = sum(cross_entropy(student, probabilities(teacher)) for student, teacher in pairs) / 2
        assert found.terms["assignment"].item() == pytest.approx(by_hand, abs=1e-6)


def test_aligned_views_of_whole_faces_are_crossed_views() -> None:
    crossed, aligned = build(cluster_views="crossed"), build(cluster_views="aligned")
    assert aligned.wants_frames
    assert not crossed.wants_frames
    frames = [torch.tensor([[0.2, 0.1, 0.5, 0.6]]).repeat(4, 1)] * 2  # the same part of the face in both views
    expected = crossed.loss(views(), START).total
    assert_close(aligned.loss(views(), START).total, expected, atol=1e-6, rtol=0)
    assert_close(aligned.loss(FramedViews(views(), frames), START).total, expected, atol=1e-6, rtol=0)


def test_a_view_is_told_what_the_other_one_says_of_the_same_place() -> None:
    """The other view's map is linear in the place of the face, so bilinear sampling is exact between its middles."""
    shape, middle = (2, 2, 4, 5), [(torch.arange(length) + 0.5) / length for length in (4, 5)]
    here = torch.tensor([[0.3, 0.2, 0.4, 0.4], [0.0, 0.0, 1.0, 1.0]])
    there = torch.tensor([[0.1, 0.1, 0.8, 0.7], [0.5, 0.25, 0.5, 0.75]])

    def linear(frames: Tensor) -> Tensor:
        x = (frames[:, 0, None] + middle[1] * frames[:, 2, None])[:, None].expand(-1, 4, -1)
        y = (frames[:, 1, None] + middle[0] * frames[:, 3, None])[..., None].expand(-1, -1, 5)
        share = 0.1 + 0.3 * x + 0.5 * y
        return pixel_rows(torch.stack([share, 1 - share], 1))

    inside, partly = seen_from(linear(there), shape, here, there).view(2, 4, 5, 2)
    expected = linear(here).view(2, 4, 5, 2)
    assert_close(inside, expected[0])
    # The second view shows everything, the other its right half below a quarter: three columns and three rows of it.
    shown = torch.zeros(4, 5)
    shown[1:, 2:] = 1
    assert torch.equal(partly.sum(-1) > 0, shown.bool())
    assert_close(partly[2:, 3:], expected[1][2:, 3:] * 20 / 9)  # between the other's middles
    assert float(partly.sum()) == pytest.approx(20)


def test_matched_views_agree_about_physical_places_and_aligned_ones_about_those_of_the_mirrored_face() -> None:
    """On a picture whose colours are its coordinates, what the other view says of a position is what lies there."""
    size, ramp = 32, torch.linspace(0, 250, 100)
    picture = torch.stack([ramp.expand(100, -1), ramp[:, None].expand(-1, 100), torch.zeros(100, 100)]).byte()
    plain = ViewsConfig(size=size, scale=(0.3, 1.0), jitter=0, grayscale=0, blur=(0, 0), solarize=(0, 0))
    maker, pool = ViewMaker(plain, seed=1), torch.arange(60)
    views, (here, there) = maker.make_with_frames([picture] * 60, pool, epoch=0)
    ours, other = (view.float() / 250 for view in views)
    mirrored = (here[:, 2] < 0) != (there[:, 2] < 0)
    assert 10 < int(mirrored.sum()) < 50
    for frames, across in (
        ((here, there), ours[:, 0]),
        ((unmirrored(here), unmirrored(there)), torch.where(mirrored[:, None, None], 1 - ours[:, 0], ours[:, 0])),
    ):
        seen = seen_from(pixel_rows(other), other.shape, *frames).view(60, size, size, 3).permute(0, 3, 1, 2)
        shown = seen_from(torch.ones(60 * size**2, 1), (60, 1, size, size), *frames).view(60, 1, size, size)
        assert (shown.flatten(1).gt(0).float().mean(1) > 0.05).all()
        # What a view does not show has no weight, and all that it shows together weighs as much as a whole view.
        assert_close(shown.flatten(1).mean(1), torch.ones(60), atol=1e-5, rtol=0)
        for channel, expected in ((0, across), (1, ours[:, 1])):
            found = seen[:, channel] / shown[:, 0].clamp(min=1e-6)
            assert_close(found[shown[:, 0] > 0], expected[shown[:, 0] > 0], atol=0.04, rtol=0)


def test_balancing_within_a_face_gives_every_face_every_region_and_a_soft_share_less_of_what_it_hides() -> None:
    """Two faces: all positions of the first prefer region 0 and those of the second region 1, each by e : 1."""
    weights = torch.tensor([[[math.e, 1.0]] * 4, [[1.0, math.e]] * 4])
    together = sinkhorn(weights.flatten(0, 1)).view(2, 4, 2)
    assert_close(together.mean(1), torch.tensor([[math.e, 1.0], [1.0, math.e]]) / (1 + math.e))
    assert_close(sinkhorn_within(weights), torch.full((2, 4, 2), 0.5))
    # One round: columns (e, 1) / (e + 1) to the power .5 leave e**.5 : 1; a half of the odds' logarithm a round.
    soft = sinkhorn_within(weights, rounds=1, strength=0.5)
    assert_close(soft[0, 0], torch.tensor([math.e**0.5, 1.0]) / (1 + math.e**0.5))
    assert_close(sinkhorn_within(weights[:1])[0], sinkhorn(weights[0]))


@pytest.mark.parametrize(
    "settings", [dict(balance_strength=0.0), dict(balance_strength=1.5), dict(balance_strength=math.nan)]
)
def test_a_strength_of_balance_outside_its_range_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="balance_strength is .*above 0 and at most 1"):
        FRAConfig(**settings)


def test_faces_are_balanced_one_by_one_when_asked() -> None:
    method = build(balance="face", assignment="exponentials", sinkhorn_epsilon=0.5, sinkhorn_rounds=30)
    shares = method._balanced(torch.randn(3, 8, 4, 4)).view(3, 16, 8).mean(1)
    assert_close(shares, torch.full((3, 8), 1 / 8), atol=1e-3, rtol=0)


def test_a_view_that_shares_nothing_with_the_other_is_told_nothing() -> None:
    left, right = torch.tensor([[0.0, 0.0, 0.4, 1.0]]), torch.tensor([[0.5, 0.0, 0.5, 1.0]])
    assert seen_from(torch.full((4, 3), 1 / 3), (1, 3, 2, 2), left, right).abs().sum() == 0


def test_sinkhorn_balances_probabilities_or_exponentials() -> None:
    found = measure(assignment="exponentials", sinkhorn_epsilon=0.1)
    pairs = list(zip(found.online, found.targets, strict=True))
    by_hand = [cross_entropy(student, (pixel_rows(teacher.scores) / 0.1).exp()) for student, teacher in pairs]
    assert found.terms["assignment"].item() == pytest.approx(sum(by_hand) / 2, abs=1e-6)


def test_each_form_of_assignment_listens_to_its_own_sharpness_only() -> None:
    base, exponentials = measure(), measure(assignment="exponentials")
    assert measure(sinkhorn_epsilon=0.2).total == base.total
    assert measure(assignment="exponentials", teacher_temperature=0.2).total == exponentials.total
    assert measure(assignment="exponentials", sinkhorn_epsilon=0.2).total != exponentials.total


def test_temperatures_divide_the_scores_of_student_and_teacher() -> None:
    found = measure(student_temperature=0.2, teacher_temperature=0.07)
    pairs = list(zip(found.online, found.targets, strict=True))
    by_hand = [cross_entropy(o, probabilities(t, temperature=0.07), temperature=0.2) for o, t in pairs]
    assert found.terms["assignment"].item() == pytest.approx(sum(by_hand) / 2, abs=1e-6)
    means = [(pixel_rows(student.scores) / 0.2).softmax(-1).mean(0) for student in found.online]
    lacking = [math.log(3) + float((mean * mean.log()).sum()) for mean in means]
    assert found.terms["mean_entropy"].item() == pytest.approx(sum(lacking) / 2, abs=1e-6)


def test_embeddings_count_by_their_direction_only() -> None:
    """The released flag for L2 norm has to be on, so there is no such setting."""
    method = build()
    before = method.loss(views(), START).total
    with torch.no_grad():
        for head in (method.face_predictor, method.region_predictor):
            head.last.weight *= 3
        for network in (method.online, method.teacher.network):
            network.region_head.pixel_projector.last.weight *= 3
            network.region_head.decoder.mask_mlp[-1].weight *= 3
            network.region_head.decoder.mask_mlp[-1].bias *= 3
        method.teacher.network.face_projector.last.weight *= 3
        method.teacher.network.region_projector.last.weight *= 3
    assert_close(method.loss(views(), START).total, before)


# Sizes


def full_size(**settings: Any) -> FRA:
    """FRA with ResNet-50 and the paper's heads, without storage."""
    with torch.device("meta"):
        return FRA(FRAConfig(**settings), Encoder(EncoderConfig()))


def shapes(method: FRA) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in method.state_dict().items()}


def trained(method: FRA) -> int:
    return sum(weight.numel() for weight in method.parameters() if weight.requires_grad)


def test_a_second_decoder_layer_adds_its_weights_to_both_networks() -> None:
    one, two = full_size(), full_size(decoder=DecoderConfig(layers=2))
    # two attentions of 4 * 256 * 256 + 4 * 256, a feed-forward network of 2 * 256 * 256 + 2 * 256, three norms of 512
    added = 2 * 263_168 + 131_584 + 1_536
    assert trained(two) - trained(one) == added == 2_043_392 - 1_383_936
    new = shapes(two).keys() - shapes(one).keys()
    assert {name.split(".layers.1.")[0] for name in new} == {
        "online.region_head.decoder",
        "teacher.network.region_head.decoder",
    }
    assert {name: shape for name, shape in shapes(two).items() if name not in new} == shapes(one)


def test_decoder_width_is_that_of_the_feed_forward_network_alone() -> None:
    narrow, wide = full_size(), full_size(decoder=DecoderConfig(width=2048))
    assert trained(wide) - trained(narrow) == (2048 - 256) * (256 + 1 + 256) == 2_303_232 - 1_383_936
    mine, theirs = shapes(narrow), shapes(wide)
    assert mine.keys() == theirs.keys()
    different = {name.split(".layers.0.")[1] for name in mine if mine[name] != theirs[name]}
    assert different == {"first.weight", "first.bias", "last.weight"}


def test_the_number_of_regions_changes_the_queries_and_their_running_embeddings_alone() -> None:
    eight, sixteen = shapes(full_size()), shapes(full_size(regions=16))
    different = {name for name in eight if eight[name] != sixteen[name]}
    heads = ("online.region_head.", "teacher.network.region_head.")
    assert different == {head + name for head in heads for name in ("decoder.queries.weight", "prototypes")}
    assert sixteen["online.region_head.decoder.queries.weight"] == (16, 256)


def test_the_image_size_changes_the_number_of_positions_alone() -> None:
    states = []
    for size, positions in [(224, 7), (128, 4)]:
        torch.manual_seed(0)
        encoder = Encoder(EncoderConfig(name="resnet10_quarter", image_size=size))
        network = RegionNetwork(BASE, encoder).eval()
        found = network(torch.rand(2, 3, size, size))
        assert found.scores.shape == (2, 3, positions, positions)
        assert found.regions.shape == (2, 3, 8)
        assert found.face.shape == (2, 8)
        states.append(network.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# Teacher


def test_teacher_dropout_makes_targets_noisy_in_train_mode_and_touches_nothing_online() -> None:
    dropped = replace(BASE.decoder, dropout=0.5)
    on, off = (build(decoder=dropped, teacher_dropout=choice) for choice in (True, False))
    for method in (on, off):
        method.train()

    def said(network: Callable[[Tensor], FaceAndRegions], seed: int) -> FaceAndRegions:
        torch.manual_seed(seed)
        return network(views()[0])

    assert not torch.equal(said(on.teacher, 1).scores, said(on.teacher, 2).scores)
    assert torch.equal(said(off.teacher, 1).scores, said(off.teacher, 2).scores)
    assert torch.equal(said(on.teacher, 1).face, said(off.teacher, 1).face)  # only the mask decoder has dropout
    assert same_outputs([said(on.online, 1)], [said(off.online, 1)])
    assert not torch.equal(said(off.online, 1).scores, said(off.online, 2).scores)

    # Batch norm stays in train mode: only the teacher's decoder, which has none, goes to eval mode.
    modes = {name: module.training for name, module in off.named_modules()}
    still = {name for name, module in on.named_modules() if module.training and not modes[name]}
    assert still
    assert all(name.startswith("teacher.network.region_head.decoder") for name in still)
    # In eval mode there is nothing to switch.
    in_eval = [build(decoder=dropped, teacher_dropout=choice).loss(views(), START).total for choice in (True, False)]
    assert in_eval[0] == in_eval[1]


def total_by_hand(method: FRA, online: list[FaceAndRegions], targets: list[FaceAndRegions]) -> Tensor:
    """Section 4 of the specification with the default weights, written out for three regions."""
    total = torch.zeros(())
    for view in (0, 1):
        face, regions = method.face_predictor(online[view].face), method.region_predictor(online[view].regions)
        target = targets[1 - view]
        total = total + 0.5 * (2 - 2 * F.cosine_similarity(face, target.face).mean())
        cosines = F.cosine_similarity(regions[:, :, None], target.regions[:, None], dim=-1)
        different = (cosines**2).sum((1, 2)) - (cosines**2).diagonal(dim1=1, dim2=2).sum(1)
        total = total + 0.5 * (2 - 2 * cosines.diagonal(dim1=1, dim2=2).mean() + 0.02 * different.mean() / 3 / 3)
        mean = (pixel_rows(online[view].scores) / 0.1).softmax(-1).mean(0)
        entropy = math.log(3) + float((mean * mean.log()).sum())
        total = total + 0.1 * 0.5 * (cross_entropy(online[view], probabilities(targets[view])) + entropy)
    return total


@pytest.mark.parametrize("follow_buffers", [False, True])
def test_following_buffers_gives_targets_from_running_statistics(follow_buffers: bool) -> None:
    method = build(follow_buffers=follow_buffers).train()
    twin = copy.deepcopy(method)
    teacher = twin.teacher.network.train(not follow_buffers)
    with torch.no_grad():
        online, targets = ([network(view) for view in views()] for network in (twin.online, teacher))
    assert_close(method.loss(views(), START).total, total_by_hand(twin, online, targets))


def test_following_buffers_leaves_the_online_network_as_it_is() -> None:
    losses = []
    for choice in (False, True):
        method = build(follow_buffers=choice).train()
        method.loss(views(), START)
        losses.append([value.clone() for value in method.online.state_dict().values()])
        assert all(module.training for module in method.online.modules())
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))


def test_followed_buffers_are_averaged_and_counters_copied() -> None:
    method = build(follow_buffers=True).train()
    before = {name: value.clone() for name, value in method.teacher.network.state_dict().items()}
    method.loss(views(), START)
    assert all(torch.equal(before[name], value) for name, value in method.teacher.network.state_dict().items())
    method.after_step(START)
    after, online = method.teacher.network.state_dict(), method.online.state_dict()
    counted = 0
    for name, value in after.items():
        if value.is_floating_point():
            assert_close(value, 0.9 * before[name] + 0.1 * online[name], msg=name)
        else:
            counted += 1
            assert value == online[name] == (1 if name.endswith("updates") else 2)  # two views went through
    assert counted == 4  # three batch norms, and the running mask embeddings
    assert after["face_projector.norm.running_mean"].abs().max() > 0


def test_without_following_the_teacher_keeps_batch_statistics_of_its_own() -> None:
    method = build().train()
    method.loss(views(), START)
    gathered = {name: value.clone() for name, value in method.teacher.network.named_buffers()}
    method.after_step(START)
    assert all(torch.equal(gathered[name], value) for name, value in method.teacher.network.named_buffers())
    own, online = method.teacher.network.face_projector.norm, method.online.face_projector.norm
    assert own.num_batches_tracked == 2
    assert not torch.equal(own.running_mean, online.running_mean)


# Optimiser and schedule


def released_names() -> set[str]:
    """Names of all trained tensors of the released network with two decoder layers (spec fra.md, section 10)."""
    with torch.device("meta"):
        resnet = torchvision.models.resnet50()
    names = [f"backbone.{name}" for name, _ in resnet.named_parameters() if not name.startswith("fc.")]
    heads = ("proj", "proj_pixel", "proj_obj", "predictor", "predictor_obj")
    names += [f"{head}.mlp.{end}" for head in heads for end in ("0.weight", "1.weight", "1.bias", "3.weight")]
    for layer in ("proj_attn.transformer.decoder.layers.0.", "proj_attn.transformer.decoder.layers.1."):
        for attention in ("self_attn.", "multihead_attn."):
            ends = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
            names += [layer + attention + end for end in ends]
        for part in ("linear1", "linear2", "norm1", "norm2", "norm3"):
            names += [f"{layer}{part}.weight", f"{layer}{part}.bias"]
    names += [f"proj_attn.transformer.decoder.norm.{end}" for end in ("weight", "bias")]
    names += ["proj_attn.query_embed.weight", "proj_attn.input_proj.weight", "proj_attn.input_proj.bias"]
    return {*names, *(f"proj_attn.mask_embed.layers.{i}.{end}" for i in range(3) for end in ("weight", "bias"))}


def released_name(ours: str) -> str:
    for predictor, theirs in (("face_predictor.", "predictor."), ("region_predictor.", "predictor_obj.")):
        if ours.startswith(predictor):
            return theirs + official_name(ours)
    name = ours.removeprefix("online.")
    return name.removeprefix("encoder.") if name.startswith("encoder.") else official_name(name)


def excluded(method: FRA, rule: str) -> set[str]:
    """Released names of what the optimiser neither adapts nor decays."""
    groups = build_optimizer(OptimizerConfig(exclude=rule), method).param_groups
    assert [group["adapt"] for group in groups] == [True, False]
    spared = {id(weight) for weight in groups[1]["params"]}
    return {released_name(name) for name, weight in method.named_parameters() if id(weight) in spared}


def test_lars_excludes_by_our_names_what_the_released_rule_excludes_by_its_own() -> None:
    method = full_size(decoder=DecoderConfig(layers=2))
    names = released_names()
    mine = {released_name(name) for name, weight in method.named_parameters() if weight.requires_grad}
    assert mine == names
    assert len(names) == 159 + 5 * 4 + 47
    by_name = {name for name in names if "bn" in name or "downsample.1" in name or "bias" in name}
    # 53 batch norms; 5 head norms; biases: 9 in each of two decoder layers, final norm, input, three of the mask MLP
    assert len(by_name) == 2 * 53 + 5 + 2 * 9 + 1 + 1 + 3
    assert excluded(method, "official_names") == by_name


def test_the_exclusion_rules_differ_in_the_weights_of_head_norms_and_layer_norms_alone() -> None:
    method = full_size(decoder=DecoderConfig(layers=2))
    heads = ("proj", "proj_pixel", "proj_obj", "predictor", "predictor_obj")
    decoder = "proj_attn.transformer.decoder"
    layers = (f"{decoder}.layers.{layer}.norm{norm}.weight" for layer in (0, 1) for norm in (1, 2, 3))
    different = {*(f"{head}.mlp.1.weight" for head in heads), *layers, f"{decoder}.norm.weight"}
    by_shape, by_name = excluded(method, "one_dim"), excluded(method, "official_names")
    assert by_shape - by_name == different
    assert not by_name - by_shape
    assert "proj_attn.query_embed.weight" not in by_shape  # a table of vectors is adapted under both rules


def test_rate_decay_and_momentum_reach_the_optimiser_and_the_decay_only_what_is_not_excluded() -> None:
    def groups(**settings: float) -> list[dict[str, Any]]:
        found = build_optimizer(OptimizerConfig(**settings), build()).param_groups
        return [{key: value for key, value in group.items() if key != "params"} for group in found]

    supplement, released = groups(), groups(learning_rate=0.9, weight_decay=1e-6)
    assert [(group["lr"], group["weight_decay"]) for group in supplement] == [(1.8, 1.5e-6), (1.8, 0.0)]
    assert [(group["lr"], group["weight_decay"]) for group in released] == [(0.9, 1e-6), (0.9, 0.0)]
    for mine, theirs in zip(supplement, released, strict=True):
        assert {key for key in mine if mine[key] != theirs[key]} <= {"lr", "weight_decay"}
        assert mine["momentum"] == theirs["momentum"] == 0.9


def test_a_longer_warm_up_rises_more_slowly_and_leaves_peak_and_length() -> None:
    short, long = (ScheduleConfig(epochs=10, warmup_epochs=epochs) for epochs in (2, 4))
    for schedule, warmup in [(short, 2), (long, 4)]:
        assert schedule.rate(1.8, 0, 5) == pytest.approx(1.8 / (5 * warmup))
        assert schedule.rate(1.8, 5 * warmup - 1, 5) == schedule.rate(1.8, 5 * warmup, 5) == 1.8
    # epoch 6 is half of the eight epochs after the short warm-up, and a third of the six after the long one
    assert short.rate(1.8, 30, 5) == pytest.approx(0.9)
    assert long.rate(1.8, 30, 5) == pytest.approx(1.8 * 0.5 * (1 + 0.5))


def test_the_released_recipe_differs_from_the_papers_in_these_rows_alone() -> None:
    paper, released = (
        load_pretrain_recipe(f"paper/resnet50.{name}", []) for name in ("fra_vggface2_50ep", "fra_official")
    )
    different = dict(decoder=DecoderConfig(layers=2), teacher_dropout=True, gradients="released")
    assert paper.method == FRAConfig()
    assert released.method == FRAConfig(**different)
    assert paper.optimizer == OptimizerConfig()
    assert released.optimizer == OptimizerConfig(learning_rate=0.9, weight_decay=1e-6, exclude="official_names")
    assert (paper.batch_size, released.batch_size) == (1024, 512)
    assert replace(released, method=paper.method, optimizer=paper.optimizer, batch_size=1024) == paper


# Several processes


def of_two(rank: int, folder: str) -> None:
    """What two processes find together: for both settings every term, and its gradient averaged over processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for gradients in ("exact", "released"):
        method = build(gradients=gradients)
        weights = {name: weight for name, weight in method.named_parameters() if weight.requires_grad}
        loss = method.loss([view[2 * rank : 2 * rank + 2] for view in views()], START)
        found[gradients] = {}
        for term, value in loss.terms.items():
            own = torch.autograd.grad(
                value, list(weights.values()), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            averaged = [mean_over_processes(gradient) for gradient in own]
            found[gradients][term] = (value.detach(), dict(zip(weights, averaged, strict=True)))
        x, c = ((3.0, 1.0), (-1.0, -3.0))[rank]
        theta = torch.ones((), requires_grad=True)
        (c * mean_over_processes(theta * x, gradients=gradients)).backward()  # type: ignore[arg-type]
        found[gradients]["toy"] = mean_over_processes(theta.grad).item()
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("two")
    mp.spawn(of_two, args=(str(folder),), nprocs=2)
    return torch.load(folder / "found.pt", weights_only=True)


def test_alone_released_gradients_are_the_exact_ones() -> None:
    base, other = measure(), measure(gradients="released")
    assert other.total == base.total
    assert changed_terms(base, other) == set()
    assert changed_parts(base, other) == set()


def test_released_gradients_leave_every_term_as_it_is(two_processes: dict[str, Any]) -> None:
    exact, released = two_processes["exact"], two_processes["released"]
    for term in measure().terms:
        assert torch.equal(exact[term][0], released[term][0])


def test_released_gradients_miss_what_other_processes_say(two_processes: dict[str, Any]) -> None:
    """Losses c * mean(theta * x) with x = 3, -1 and c = 1, -3 on the two processes.

    True: d/dtheta of mean(c) * mean(x) = -1 * 1. Released: each process has c * x / 2, that is 1.5 and 1.5.
    """
    assert two_processes["exact"]["toy"] == pytest.approx(-1.0)
    assert two_processes["released"]["toy"] == pytest.approx(1.5)


def test_released_mean_entropy_gradient_is_half_of_the_exact_one(two_processes: dict[str, Any]) -> None:
    """Exactly half where it arrives through the pixels; the decoder lies behind the mean of mask embeddings too."""
    exact, released = (two_processes[gradients]["mean_entropy"][1] for gradients in ("exact", "released"))
    pixels = [name for name in exact if ".pixel_projector." in name]
    assert len(pixels) == 4
    for name in pixels:
        assert exact[name].abs().max() > 1e-6
        assert torch.equal(released[name], exact[name] / 2)


def joined(gradients: dict[str, Tensor], part: str) -> Tensor:
    return torch.cat([value.flatten() for name, value in gradients.items() if name.startswith(part)])


@pytest.mark.parametrize("term", ["same_region", "assignment"])
def test_released_gradients_of_the_mask_embeddings_point_elsewhere(term: str, two_processes: dict[str, Any]) -> None:
    exact, released = (two_processes[gradients][term][1] for gradients in ("exact", "released"))
    mine, theirs = (joined(found, "online.region_head.decoder.") for found in (exact, released))
    assert F.cosine_similarity(mine, theirs, dim=0) < 0.95


def test_released_gradients_change_nothing_that_does_not_pass_through_a_mean(two_processes: dict[str, Any]) -> None:
    exact, released = two_processes["exact"], two_processes["released"]
    behind = ("online.region_head.decoder.", "online.encoder.")
    for term in ("same_face", "same_region", "assignment"):
        mine, theirs = exact[term][1], released[term][1]
        spared = [name for name in mine if term == "same_face" or not name.startswith(behind)]
        assert any(mine[name].any() for name in spared)
        assert all(torch.equal(mine[name], theirs[name]) for name in spared)
