"""The published modules' numbers (spec fra.md, section 13): every loss and part of FRA to six decimals."""

import math

import pytest
import torch
from official_names import official_name
from torch import Tensor, nn
from torch.testing import assert_close

from fra.models.encoder import Encoder, EncoderConfig, Seen
from fra.models.heads import MLPHead
from fra.models.mask_decoder import DecoderConfig, MaskDecoder, sine_encoding
from fra.models.momentum_teacher import rising_momentum
from fra.models.region_head import RegionHead, RegionHeadConfig, pool_regions
from fra.models.similarity import cosine_distance, mean_pairwise_cosine
from fra.models.sinkhorn import sinkhorn
from fra.pretrain.fra import FRA, FRAConfig, RegionNetwork, assignment_loss, mean_entropy_loss, region_distance
from fra.pretrain.method import HeadConfig
from fra.training.trainable import Progress

TEACHER = torch.tensor([[0.10, 0.12, 0.08], [0.05, 0.11, 0.09], [0.20, 0.01, 0.03], [0.07, 0.07, 0.07]])
STUDENT = torch.tensor([[0.12, 0.05, 0.01], [0.02, 0.10, 0.06], [0.15, 0.03, 0.02], [0.0, 0.09, 0.05]])


def as_maps(rows: Tensor) -> Tensor:
    """R pixels of K scores as one image (1, K, R, 1)."""
    return rows.T[None, :, :, None]


def test_a_sinkhorn_balances_softmaxed_probabilities() -> None:
    probabilities = (TEACHER / 0.04).softmax(-1)
    expected = [
        [0.307196, 0.506480, 0.186324],
        [0.121952, 0.546549, 0.331499],
        [0.977597, 0.008458, 0.013945],
        [1 / 3, 1 / 3, 1 / 3],
    ]
    assert_close(probabilities, torch.tensor(expected), atol=1e-6, rtol=0)
    balanced = [
        [0.184769, 0.510696, 0.304535],
        [0.062893, 0.472533, 0.464574],
        [0.949428, 0.013770, 0.036802],
        [0.185396, 0.310804, 0.503799],
    ]
    assert_close(sinkhorn(probabilities), torch.tensor(balanced), atol=1e-6, rtol=0)


def test_sinkhorn_of_exponentials_is_swavs() -> None:
    expected = [
        [0.169252, 0.504994, 0.325755],
        [0.071273, 0.473278, 0.455448],
        [0.876758, 0.039228, 0.084014],
        [0.170320, 0.340644, 0.489036],
    ]
    assert_close(sinkhorn((TEACHER / 0.05).exp()), torch.tensor(expected), atol=1e-6, rtol=0)


def test_b_cluster_terms() -> None:
    probabilities = (TEACHER / 0.04).softmax(-1)
    assignment = assignment_loss(as_maps(STUDENT), sinkhorn(probabilities), temperature=0.1)
    entropy = mean_entropy_loss(as_maps(STUDENT), 0.1)
    assert assignment.item() == pytest.approx(0.975237, abs=1e-6)
    assert entropy.item() == pytest.approx(0.018274, abs=1e-6)
    assert (assignment + entropy).item() == pytest.approx(0.993511, abs=1e-6)
    without_sinkhorn = assignment_loss(as_maps(STUDENT), probabilities, temperature=0.1) + entropy
    assert without_sinkhorn.item() == pytest.approx(0.965987, abs=1e-6)


def test_c_region_distance_and_its_negative_term() -> None:
    numbers = torch.arange(1.0, 25.0)
    predictions, targets = numbers.sin().view(2, 3, 4), numbers.cos().view(2, 3, 4)
    positive = region_distance(predictions, targets, negative_weight=0.0)
    assert positive.item() == pytest.approx(1.988142, abs=1e-6)
    negative = region_distance(predictions, targets, negative_weight=1.0) - positive
    # 0.471101 in exact arithmetic; the 0.471103 of the specification carries the rounding of a float32 difference.
    assert negative.item() == pytest.approx(0.471101, abs=1e-6)
    assert region_distance(predictions, targets, negative_weight=0.02).item() == pytest.approx(1.997564, abs=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # too coarse for cosines
        assert region_distance(predictions, targets, negative_weight=0.02).item() == pytest.approx(1.997564, abs=1e-6)


def test_d_cosine_distance() -> None:
    a, b = torch.tensor([[1.0, 2, 3], [0, 1, -1]]), torch.tensor([[1.0, 0, 1], [1, 1, 1]])
    assert cosine_distance(a, b).item() == pytest.approx(1.244071, abs=1e-6)


def test_e_sine_encoding_of_a_seven_by_seven_map() -> None:
    encoding = sine_encoding(7, 7, 256).view(7, 7, 256)
    assert_close(encoding[0, 0, :4], torch.tensor([0.781831, 0.623490, 0.701349, 0.712818]), atol=1e-6, rtol=0)
    third = torch.tensor([-0.433883, -0.900969, 0.032436, -0.999474])
    assert_close(encoding[3, 0, :4], third, atol=1e-6, rtol=0)
    assert_close(encoding[0, 3, 128:132], third, atol=1e-6, rtol=0)
    assert_close(encoding[6, 0, 126:128], torch.tensor([0.000726, 1.0]), atol=1e-6, rtol=0)


def test_f_teacher_momentum_rises_by_a_cosine() -> None:
    found = [rising_momentum(0.996, fraction) for fraction in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([0.996, 0.9965857864, 0.998, 0.9994142136, 1.0], abs=1e-10)


def test_h_regions_are_pooled_under_their_heatmaps() -> None:
    maps = torch.tensor([[[1.0, 2], [3, 4]], [[0.0, 1], [1, 0]]])[None]
    scores = torch.tensor([[[0.5, -0.5], [0, 0.2]], [[0.0, 0.1], [0.3, -0.4]]])[None]
    heatmaps = scores.softmax(1) + 1e-7
    assert_close(heatmaps[0, 0].flatten(), torch.tensor([0.622459, 0.354344, 0.425558, 0.645656]), atol=1e-6, rtol=0)
    vectors = pool_regions(maps.flatten(2).transpose(1, 2), heatmaps.flatten(2))
    assert_close(vectors[0], torch.tensor([[2.534376, 0.380808], [2.463933, 0.625056]]), atol=1e-6, rtol=0)


class IdentityEncoder(Encoder):
    """Six channels in, the same six out: the whole-model test needs no backbone."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.channels = 6

    def both(self, images: Tensor) -> Seen:
        return Seen(images, images.mean((2, 3)))


@torch.no_grad()
def fill(module: nn.Module, prefix: str, phase: float) -> None:
    for name, parameter in module.named_parameters():
        theirs = official_name(prefix + name)
        index = torch.arange(1, parameter.numel() + 1, dtype=torch.float64)
        values = 0.8 * torch.sin(12.9898 * index + len(theirs) + phase)
        if parameter.dim() == 1 and theirs.endswith("weight"):
            values += 1
        parameter.copy_(values.view_as(parameter))


def whole_model(layers: int) -> FRA:
    config = FRAConfig(
        regions=2, head=HeadConfig(hidden=8, out=8), decoder=DecoderConfig(layers=layers, width=8, heads=8)
    )
    model = FRA(config, IdentityEncoder())
    fill(model.online, "", 0.0)
    fill(model.teacher.network, "", 0.5)
    fill(model.face_predictor, "face_predictor.", 1.0)
    fill(model.region_predictor, "region_predictor.", 1.5)
    return model.eval()


def golden_views() -> list[Tensor]:
    index = torch.arange(1, 2 * 6 * 9 + 1, dtype=torch.float64)
    return [(2 * torch.cos(78.233 * index + k)).view(2, 6, 3, 3).float() for k in (0, 1)]


@pytest.mark.parametrize(
    ("layers", "total", "base", "regions", "clusters"),
    [(1, 2.537435, 2.467762, 0.479508, 0.696724), (2, 2.537257, 2.467782, 0.479528, 0.694749)],
)
def test_i_whole_model(layers: int, total: float, base: float, regions: float, clusters: float) -> None:
    loss = whole_model(layers).loss(golden_views(), Progress(0, 1, 0, 1))
    assert loss.total.item() == pytest.approx(total, abs=2e-6)
    assert loss.terms["clusters"].item() == pytest.approx(clusters, abs=2e-6)
    assert 0.5 * loss.terms["same_region"].item() == pytest.approx(regions, abs=2e-6)
    assert 0.5 * loss.terms["same_face"].item() == pytest.approx(1.988254, abs=2e-6)
    assert (loss.total - 0.1 * loss.terms["clusters"]).item() == pytest.approx(base, abs=2e-6)


def test_i_intermediate_values_with_one_layer() -> None:
    found = whole_model(1).online(golden_views()[0])
    embedding = [-0.159774, -0.565538, -0.711876, -0.784240, -0.777204, -0.466442, -0.337060]
    assert_close(found.embeddings[0], torch.tensor([0.016499, *embedding]), atol=2e-6, rtol=0)
    scores = [0.027355, 0.037023, 0.021891, 0.044062, 0.022214, 0.062084, 0.033921, 0.067193, 0.043831]
    assert_close(found.scores[0, 0].flatten(), torch.tensor(scores), atol=2e-6, rtol=0)
    face = [-0.178077, 0.166409, -0.144734, 0.114355, -0.077099, 0.035208, 0.008801, -0.052281]
    assert_close(found.face[0], torch.tensor(face), atol=2e-6, rtol=0)


def test_i_two_layers_start_with_the_given_embedding() -> None:
    found = whole_model(2).online(golden_views()[0])
    assert_close(found.embeddings[0, :3], torch.tensor([0.011013, -0.155621, -0.568109]), atol=2e-6, rtol=0)


def test_parameter_counts_are_the_supplements() -> None:
    assert sum(p.numel() for p in MLPHead(2048).parameters()) == 9_445_376
    assert sum(p.numel() for p in MLPHead(256).parameters()) == 2_105_344
    for layers, width, count in [(2, 256, 2_043_392), (1, 256, 1_383_936), (1, 2048, 2_303_232)]:
        decoder = MaskDecoder(2048, DecoderConfig(layers=layers, width=width))
        assert sum(p.numel() for p in decoder.parameters()) == count
    with torch.device("meta"):
        network = RegionNetwork(FRAConfig(decoder=DecoderConfig(layers=2)), Encoder(EncoderConfig()))
    assert sum(p.numel() for p in network.encoder.parameters()) == 23_508_032
    assert sum(p.numel() for p in network.parameters()) == 53_887_552 == 23_508_032 + 30_379_520


def test_head_weights_start_with_kaiming_fan_out() -> None:
    torch.manual_seed(0)
    head = MLPHead(2048)
    assert head.first.weight.std().item() == pytest.approx(math.sqrt(2 / 4096), rel=0.01)
    assert head.last.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.01)


def test_running_mask_embeddings_start_with_the_first_batch_and_then_follow() -> None:
    head = RegionHead(4, RegionHeadConfig(regions=2, hidden=8, out=8))
    head.remember(torch.ones(2, 8))
    head.remember(torch.zeros(2, 8))
    assert_close(head.prototypes, torch.full((2, 8), 0.9))


@torch.no_grad()
def test_j_the_released_network_starts_with_uniform_maps_at_full_size() -> None:
    """Spec, sections 4 and 13 j: ResNet-50, 224 px, train mode. Eight faces instead of sixteen, so wider bounds."""
    model = FRA(FRAConfig(decoder=DecoderConfig(layers=2), teacher_dropout=True), Encoder(EncoderConfig())).train()
    views = [torch.nn.functional.interpolate(torch.rand(8, 3, 8, 8), size=224, mode="bilinear") for _ in range(2)]
    scores: list[Tensor] = []
    model.online.region_head.register_forward_hook(lambda head, inputs, found: scores.append(found.scores))
    loss = model.loss(views, Progress(0, 1, 0, 1))
    assert loss.total.item() == pytest.approx(4.21, abs=0.2)
    assert loss.terms["clusters"].item() == pytest.approx(2.08, abs=0.02)
    assert 0 <= loss.terms["mean_entropy"].item() < 0.006
    for found, embeddings in zip(scores, model._embeddings_of_step, strict=True):
        assert found.shape == (8, 8, 7, 7)
        assert 0.05 < found.abs().max().item() < 0.3
        assert_close(found.softmax(1), torch.full_like(found, 1 / 8), atol=0.01, rtol=0)
        assert mean_pairwise_cosine(embeddings).item() > 0.95


def test_the_released_design_starts_undecided() -> None:
    """Spec, section 4: at the start total 4.2, base 4.0, clusters log 8 = 2.08, embeddings nearly parallel."""
    torch.manual_seed(0)
    config = FRAConfig(decoder=DecoderConfig(layers=2), teacher_dropout=True)
    model = FRA(config, Encoder(EncoderConfig(name="resnet18", image_size=64))).train()
    smooth = torch.nn.functional.interpolate(torch.rand(32, 3, 8, 8), size=64, mode="bilinear")
    views = [smooth + 0.05 * torch.rand(32, 3, 64, 64) for _ in range(2)]
    loss = model.loss(views, Progress(0, 1, 0, 1))
    assert loss.total.item() == pytest.approx(4.2, abs=0.15)
    assert loss.terms["clusters"].item() == pytest.approx(math.log(8), abs=0.01)
    assert loss.terms["mean_entropy"].item() < 0.01
    embeddings = model._embeddings_of_step[0]
    assert mean_pairwise_cosine(embeddings).item() > 0.95
    alive = FRAConfig(decoder=DecoderConfig(content="queries", mask_mlp="orthogonal"))
    model = FRA(alive, Encoder(EncoderConfig(name="resnet18", image_size=64))).train()
    model.loss(views, Progress(0, 1, 0, 1))
    assert mean_pairwise_cosine(model._embeddings_of_step[0]).item() < 0.8
