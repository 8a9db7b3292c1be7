"""FRA (Gao and Patras, CVPR 2024): the same face and the same regions in two views, and regions that are clusters.

B images, K facial regions, C encoder channels, D embedding channels, P positions of the last map, S view size.
RGB is the three colours of a view.
Section numbers of the comments are those of the supplement.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fra.models.distributed import Gradients, mean_over_processes
from fra.models.encoder import Encoder
from fra.models.heads import MLPHead
from fra.models.mask_decoder import DecoderConfig
from fra.models.momentum_teacher import MomentumTeacher, rising_momentum
from fra.models.region_head import RegionHead, RegionHeadConfig, RegionModel
from fra.models.similarity import cosine_distance, cosines
from fra.models.sinkhorn import sinkhorn, sinkhorn_within
from fra.pretrain.method import FramedViews, HeadConfig, Method
from fra.pretrain.region_health import REGION_COLUMNS, region_warnings
from fra.pretrain.views import beside
from fra.recipe import LATER, Count, NotNegative, Positive, Range, Settings, Share
from fra.training.trainable import Loss, Part, Progress


@dataclass(frozen=True)
class FRAConfig(Settings):
    """Settings of FRA; the defaults are the supplement's, or the released code's where the supplement does not say."""

    name: Literal["fra"] = "fra"
    regions: Annotated[int, Range(2)] = 8
    """Number of facial heatmaps K (released command line)."""
    head: HeadConfig = field(default_factory=HeadConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    teacher_momentum: Share = 0.996
    """Momentum of the momentum encoder (teacher) at step 0; rises to 1 along a cosine (released command line)."""
    follow_buffers: bool = False
    """The momentum encoder also averages batch-norm statistics and runs in eval mode (the released EMAN variant)."""
    teacher_dropout: bool = False
    """Dropout in the teacher's decoder; on in the released code, off gives cleaner targets."""
    heatmap_scale: Positive = 1.0
    """Temperature of the softmax over regions (released code)."""
    face_weight: NotNegative = 0.5
    """Weight of the same-face term in each direction (released code)."""
    region_weight: NotNegative = 0.5
    """Weight of the same-region term in each direction (released code)."""
    negative_weight: NotNegative = 0.02
    """Weight that pushes different regions of a face apart, in the same-region term (released code; not in the
    supplement)."""
    cluster_weight: NotNegative = 0.1
    """Weight of the cluster term (released command line)."""
    student_temperature: Positive = 0.1
    """Softmax temperature of the student's pixel assignments (released code)."""
    teacher_temperature: Positive = 0.04
    """Softmax temperature of the teacher's pixel assignments (released command line)."""
    assignment: Literal["probabilities", "exponentials"] = "probabilities"
    """What Sinkhorn balances: softmax probabilities (released code), or exp(score / sinkhorn_epsilon) (SwAV)."""
    sinkhorn_epsilon: Positive = 0.05
    """Entropy regularisation of Sinkhorn; only with assignment: exponentials (SwAV)."""
    sinkhorn_rounds: Count = 3
    """Sinkhorn iterations (released code, SwAV)."""
    mean_entropy_weight: NotNegative = 1.0
    """Weight of the mean-entropy term inside the cluster term (released code)."""
    balance: Literal["batch", "face"] = field(default="batch", metadata=LATER)
    """Regions get equal shares of all positions of the batch (released code), or of each face's positions (ours: every
    face then has every region, and lighting or skin colour cannot claim a region of its own)."""
    balance_strength: Annotated[float, Range(0, 1, above=True)] = field(default=1.0, metadata=LATER)
    """How strictly shares are equal, in (0, 1]: 1 is exactly (released code); below, a region that a face hides may
    stay small."""
    cluster_views: Literal["same", "crossed", "aligned", "matched"] = "same"
    """Where the teacher's assignment of a position comes from: same, the same view (released code); crossed, the same
    position of the other view; aligned, the same place in the frame of the face in the other view, where a mirrored
    view counts as a different face; matched, the same physical place, so that the left eye of a view meets the left eye
    of its mirror image. The last two are ours: regions must follow the face when it moves in its view, and matched
    regions cannot tell left from right by position, so they become parts of the face."""
    detached_regions: bool = False
    """Regions do not train the encoder: scores and heatmaps send no gradient into it, only the features pooled under
    the heatmaps do (ours)."""
    gradients: Gradients = "exact"
    """How the means over processes (of mask embeddings and of assignments) are differentiated: exact, as one process
    with the whole batch would (ours), or released, each process's own gradient divided by W (in-place all_reduce). With
    one process both are the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.region_head  # raises ValueError for channels that its attention heads cannot share

    @property
    def region_head(self) -> RegionHeadConfig:
        return RegionHeadConfig(self.regions, self.head.hidden, self.head.out, self.heatmap_scale, self.decoder)


WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
"""The frame of a view that shows all of its image."""


class FaceAndRegions(NamedTuple):
    """What one network says of one view."""

    face: Tensor  # (B, D) H^g of the pooled map
    regions: Tensor  # (B, K, D) H^l of the region vectors
    scores: Tensor  # (B, K, h, w) cosine of pixels and mask embeddings
    embeddings: Tensor  # (K, D) mask embeddings of this batch


class RegionNetwork(nn.Module):
    """Encoder, global projector H^g, region head (with H^pix and the mask decoder), and local projector H^l."""

    def __init__(self, config: FRAConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.face_projector = config.head.projector(encoder.channels)
        self.region_projector = config.head.projector(encoder.channels)
        self.region_head = RegionHead(encoder.channels, config.region_head)

    def forward(self, images: Float[Tensor, "B RGB S S"]) -> FaceAndRegions:
        maps, features = self.encoder.both(images)
        found = self.region_head(maps, gradients=self.config.gradients, detached=self.config.detached_regions)
        return FaceAndRegions(
            face=self.face_projector(features),
            regions=self.region_projector(found.vectors),
            scores=found.scores,
            embeddings=found.embeddings,
        )


class FRA(Method):
    """Online network with two predictors, and a teacher that follows."""

    online: RegionNetwork
    loss_terms: ClassVar = {
        "same_face": "two views of a face agree",
        "same_region": "a region agrees over two views",
        "clusters": "assignment and mean entropy together",
        "assignment": "pixels choose as the teacher does",
        "mean_entropy": "regions are used evenly; 0 is even",
    }
    health_columns = REGION_COLUMNS

    def __init__(self, config: FRAConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        hidden, out = config.head.hidden, config.head.out
        self.online = RegionNetwork(config, encoder)
        self.face_predictor = MLPHead(out, hidden=hidden, out=out)
        self.region_predictor = MLPHead(out, hidden=hidden, out=out)
        self.teacher = MomentumTeacher(self.online, follow_buffers=config.follow_buffers)
        self.wants_frames = config.cluster_views in ("aligned", "matched")
        self._embeddings_of_step: list[Tensor] = []

    @property
    def encoder(self) -> Encoder:
        return self.online.encoder

    def train(self, mode: bool = True) -> "FRA":
        super().train(mode)
        if not self.config.teacher_dropout:
            # The decoder has layer norms but no batch norm, so this switches off dropout and nothing else.
            self.teacher.network.region_head.decoder.eval()
        return self

    def parts(self, views: Sequence[Float[Tensor, "B RGB S S"]] | FramedViews, progress: Progress) -> Sequence[Part]:
        """Without frames, which only aligned and matched clusters ask for, every view counts as the whole face."""
        if not isinstance(views, FramedViews):
            views = FramedViews(views, [beside(view, WHOLE).expand(len(view), -1) for view in views])
        views, frames = views
        targets = [self.teacher(view) for view in views]
        assignments = [self._balanced(target.scores) for target in targets]
        if self.config.cluster_views != "same":
            assignments.reverse()
        if self.wants_frames:
            shape = targets[0].scores.shape
            if self.config.cluster_views == "aligned":
                frames = [unmirrored(frame) for frame in frames]
            pairs = zip(assignments, frames, frames[::-1], strict=True)
            assignments = [seen_from(rows, shape, *both) for rows, *both in pairs]
        triples = zip(views, targets[::-1], assignments, strict=True)
        return [partial(self._loss_of_view, *triple) for triple in triples]

    def _loss_of_view(
        self, view: Float[Tensor, "B RGB S S"], target: FaceAndRegions, balanced: Float[Tensor, "R K"]
    ) -> Loss:
        """One direction: a view against the teacher's targets, and its clusters against the teacher's assignment."""
        found = self.online(view)
        if self.training:
            self._embeddings_of_step.append(found.embeddings.detach())
        same_face = cosine_distance(self.face_predictor(found.face), target.face)
        same_region = region_distance(
            self.region_predictor(found.regions), target.regions, negative_weight=self.config.negative_weight
        )
        # The cluster term is a mean over the two views, the others are sums.
        assignment = assignment_loss(found.scores, balanced, temperature=self.config.student_temperature) / 2
        mean_entropy = self._mean_entropy_loss(found.scores) / 2
        clusters = assignment + self.config.mean_entropy_weight * mean_entropy
        total = (
            self.config.face_weight * same_face
            + self.config.region_weight * same_region
            + self.config.cluster_weight * clusters
        )
        terms = dict(
            same_face=same_face,
            same_region=same_region,
            clusters=clusters,
            assignment=assignment,
            mean_entropy=mean_entropy,
        )
        return Loss(total, terms)

    def _mean_entropy_loss(self, scores: Tensor) -> Tensor:
        return mean_entropy_loss(scores, self.config.student_temperature, gradients=self.config.gradients)

    def _balanced(self, scores: Float[Tensor, "B K h w"]) -> Float[Tensor, "R K"]:
        """The teacher's assignment of every pixel, balanced over the regions."""
        rounds, strength = self.config.sinkhorn_rounds, self.config.balance_strength
        rows = pixel_rows(scores)
        if self.config.assignment == "probabilities":
            weights = (rows / self.config.teacher_temperature).softmax(-1)
        else:
            weights = (rows / self.config.sinkhorn_epsilon).exp()
        if self.config.balance == "batch":
            return sinkhorn(weights, rounds=rounds, strength=strength)
        faces = weights.view(len(scores), -1, scores.shape[1])
        return sinkhorn_within(faces, rounds=rounds, strength=strength).flatten(0, 1)

    def after_step(self, progress: Progress) -> None:
        if self._embeddings_of_step:
            self.online.region_head.remember(torch.stack(self._embeddings_of_step).mean(0))
            self._embeddings_of_step.clear()
        self.teacher.follow(self.online, momentum=self.teacher_momentum(progress))

    def teacher_encoder(self) -> Encoder:
        return self.teacher.network.encoder

    def projections(self, faces: Float[Tensor, "B RGB S S"]) -> Float[Tensor, "B D"]:
        return self.online.face_projector(self.online.encoder(faces))

    def region_model(self) -> RegionModel:
        return RegionModel(self.online.encoder, self.online.region_head)

    def own_warnings(self, row: dict[str, Any]) -> list[str]:
        return region_warnings(row)

    def teacher_momentum(self, progress: Progress) -> float:
        return rising_momentum(self.config.teacher_momentum, progress.fraction)


def pixel_rows(scores: Float[Tensor, "B K h w"]) -> Float[Tensor, "R K"]:
    """Every pixel of the batch as one row: R = B * h * w."""
    return scores.flatten(2).transpose(1, 2).reshape(-1, scores.shape[1])


def unmirrored(frames: Float[Tensor, "B 4"]) -> Float[Tensor, "B 4"]:
    """Frames of mirrored views (negative width) as they lie in the mirrored image, which is then a face of its own:
    faces are nearly symmetric and cropped about their middle (ours)."""
    left, top, width, height = frames.unbind(1)
    return torch.stack([torch.where(width < 0, 1 - left, left), top, width.abs(), height], 1)


def seen_from(
    rows: Float[Tensor, "R K"], shape: Sequence[int], here: Float[Tensor, "B 4"], there: Float[Tensor, "B 4"]
) -> Float[Tensor, "R K"]:
    """What the other views (in frame `there`) say of the positions of these views (in frame `here`), bilinearly.

    `shape` is (B, K, h, w) of both. Positions that the other view does not show are rows of zeros; the rest weigh the
    more, so that in a mean over all rows each face counts alike.
    """
    batch, regions, height, width = shape
    axes = []
    for axis, length in ((0, width), (1, height)):
        middle = (torch.arange(length, device=rows.device) + 0.5) / length
        place = here[:, axis, None] + middle * here[:, axis + 2, None]
        axes.append(2 * (place - there[:, axis, None]) / there[:, axis + 2, None] - 1)
    x, y = axes
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], -1)
    maps = rows.view(batch, height, width, regions).permute(0, 3, 1, 2)
    seen = F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    shown = (grid.abs() <= 1).all(-1).flatten(1).float()
    weight = shown * (height * width / shown.sum(1, keepdim=True).clamp(min=1))
    return pixel_rows(seen) * weight.reshape(-1, 1)


def region_distance(
    predictions: Float[Tensor, "B K D"], targets: Float[Tensor, "B K D"], *, negative_weight: float
) -> Float[Tensor, ""]:
    """2 - 2 * mean cosine of region q with region q, plus the squared cosines of different regions of one face.

    The negative term is divided by K, not K - 1 (released code; spec fra.md, section 4).
    """
    found = cosines(predictions, targets)
    same = found.diagonal(dim1=1, dim2=2)
    different = (found**2).sum(-1) - same**2
    return 2 - 2 * same.mean() + negative_weight * different.mean() / found.shape[-1]


def assignment_loss(
    scores: Float[Tensor, "B K h w"], assignment: Float[Tensor, "R K"], *, temperature: float
) -> Float[Tensor, ""]:
    """Cross-entropy of the student's pixel assignments against given ones, in nats; log K when uniform."""
    return -(assignment * F.log_softmax(pixel_rows(scores) / temperature, -1)).sum(-1).mean()


def mean_entropy_loss(
    scores: Float[Tensor, "B K h w"], temperature: float, *, gradients: Gradients = "exact"
) -> Float[Tensor, ""]:
    """log K minus the entropy of the mean assignment over all pixels and processes; 0 when regions are used alike."""
    shares = (pixel_rows(scores) / temperature).softmax(-1).mean(0)
    mean = mean_over_processes(shares, gradients=gradients)
    return torch.special.xlogy(mean, mean).sum() + math.log(len(mean))
