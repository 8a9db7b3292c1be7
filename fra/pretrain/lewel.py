"""LEWEL (Huang et al., CVPR 2022): BYOL plus embeddings aligned by maps that the projector itself predicts.

B images, C encoder channels, D embedding channels, P positions of the last map, S view size, M = D / heads aligned
embeddings. "Released" means the published scripts (spec); the form with `follow_buffers` is the published EMAN form.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fra.models.encoder import Encoder, in_batches
from fra.models.heads import MLPHead
from fra.models.momentum_teacher import MomentumTeacher, rising_momentum
from fra.models.similarity import cosine_distance, mean_entropy, unit
from fra.pretrain.columns import HealthColumn, Judgement, Table, from_to
from fra.pretrain.method import HeadConfig, Method
from fra.recipe import Count, NotNegative, Positive, Settings, Share
from fra.training.trainable import Loss, Part, Progress


@dataclass(frozen=True)
class LEWELConfig(Settings):
    """Settings of LEWEL; the defaults are the released scripts'."""

    name: Literal["lewel"] = "lewel"
    head: HeadConfig = field(default_factory=HeadConfig)
    heads: Count = 4
    """Groups of channels, each pooled with its own maps; D and C must be multiples of it (released scripts)."""
    scale: Positive = 1.0
    """Temperature of the softmax over positions; at 1 the maps are nearly uniform (released scripts)."""
    teacher_momentum: Share = 0.996
    """Momentum of the momentum encoder (teacher) at step 0; rises to 1 along a cosine (released scripts; .98 in the
    EMAN form)."""
    follow_buffers: bool = False
    """The momentum encoder also averages batch-norm statistics and runs in eval mode (the EMAN form)."""
    face_weight: NotNegative = 0.5
    """Weight of the same-face term in each direction (released scripts)."""
    aligned_weight: NotNegative = 0.5
    """Weight of the aligned term in each direction (released scripts)."""


class FaceAndAligned(NamedTuple):
    """What one network says of one view."""

    face: Tensor  # (B, D) projector of the pooled map
    aligned: Tensor  # (B, M, D) second projector of the aligned vectors
    attention: Tensor  # (B, heads, M, P) the maps; each sums to 1 over the positions


class AligningNetwork(nn.Module):
    """Encoder, one projector for the pooled vector and all pixels together, and a second for aligned vectors."""

    def __init__(self, config: LEWELConfig, encoder: Encoder) -> None:
        super().__init__()
        out = config.head.out
        if out % config.heads or encoder.channels % config.heads:
            raise ValueError(
                f"lewel: head.out {out} and the encoder's {encoder.channels} channels must be multiples of"
                f" heads ({config.heads})"
            )
        self.config = config
        self.encoder = encoder
        self.projector = config.head.projector(encoder.channels)
        self.aligned_projector = config.head.projector(encoder.channels)

    def forward(self, images: Float[Tensor, "B RGB S S"]) -> FaceAndAligned:
        pixels = self.encoder.maps(images).flatten(2).transpose(1, 2)
        # One pass, so that batch norm's statistics run over the pooled vectors and the pixels together.
        projected = self.projector(torch.cat([pixels.mean(1, keepdim=True), pixels], 1))
        attention = attention_maps(projected[:, 1:], heads=self.config.heads, scale=self.config.scale)
        return FaceAndAligned(projected[:, 0], self.aligned_projector(align(pixels, attention)), attention)


def _judge_uniformity(values: np.ndarray, table: Table) -> Judgement:
    """At the published scale maps are nearly uniform by design, so this is no fault."""
    return Judgement(from_to(values, ".2f"), "good" if values[-1] < 0.9 else "watch")


MAP_COLUMNS = (
    HealthColumn(
        "map_entropy",
        title="Entropy of the maps",
        meaning="mean entropy of a map over its P positions, in nats; log P is uniform",
        good="below log P",
    ),
    HealthColumn(
        "map_uniformity",
        title="Uniformity of the maps",
        meaning="the same as a share of log P",
        good="below 1, where every map takes the plain mean of the face",
        judge=_judge_uniformity,
    ),
)


class LEWEL(Method):
    """Online network with two predictors, and a teacher that follows."""

    online: AligningNetwork
    loss_terms: ClassVar = {
        "same_face": "two views of a face agree",
        "same_aligned": "aligned vectors agree over two views",
    }
    health_columns = MAP_COLUMNS

    def __init__(self, config: LEWELConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        hidden, out = config.head.hidden, config.head.out
        self.online = AligningNetwork(config, encoder)
        self.face_predictor = MLPHead(out, hidden=hidden, out=out)
        self.aligned_predictor = MLPHead(out, hidden=hidden, out=out)
        self.teacher = MomentumTeacher(self.online, follow_buffers=config.follow_buffers)

    @property
    def encoder(self) -> Encoder:
        return self.online.encoder

    def parts(self, views: Sequence[Float[Tensor, "B RGB S S"]], progress: Progress) -> Sequence[Part]:
        targets = [self.teacher(view) for view in views]
        pairs = zip(views, targets[::-1], strict=True)
        return [partial(self._distances, view, target) for view, target in pairs]

    def _distances(self, view: Float[Tensor, "B RGB S S"], target: FaceAndAligned) -> Loss:
        found = self.online(view)
        same_face = cosine_distance(self.face_predictor(found.face), target.face)
        same_aligned = cosine_distance(self.aligned_predictor(found.aligned), target.aligned)
        total = self.config.face_weight * same_face + self.config.aligned_weight * same_aligned
        return Loss(total, dict(same_face=same_face, same_aligned=same_aligned))

    def after_step(self, progress: Progress) -> None:
        self.teacher.follow(self.online, momentum=self.teacher_momentum(progress))

    def teacher_encoder(self) -> Encoder:
        return self.teacher.network.encoder

    def projections(self, faces: Float[Tensor, "B RGB S S"]) -> Float[Tensor, "B D"]:
        return self.online(faces).face

    def teacher_momentum(self, progress: Progress) -> float:
        return rising_momentum(self.config.teacher_momentum, progress.fraction)

    def own_health(self, faces: Float[Tensor, "B RGB S S"]) -> dict[str, float]:
        attention = in_batches(lambda some: self.online(some).attention, faces, batch=64)
        entropy = mean_entropy(attention, dim=-1)
        return dict(map_entropy=entropy, map_uniformity=entropy / math.log(attention.shape[-1]))


def attention_maps(projected: Float[Tensor, "B P D"], *, heads: int, scale: float) -> Float[Tensor, "B heads M P"]:
    """Maps from unit pixel embeddings by a softmax over positions, one for each of the D channels, in float32."""
    maps = (unit(projected) / scale).softmax(1)
    return maps.transpose(1, 2).unflatten(1, (heads, -1))


def align(pixels: Float[Tensor, "B P C"], attention: Float[Tensor, "B heads M P"]) -> Float[Tensor, "B M C"]:
    """Aligned vectors: vector m holds, for each head, that head's channels pooled under the head's m-th map."""
    grouped = pixels.unflatten(2, (attention.shape[1], -1)).transpose(1, 2)  # (B, heads, P, C / heads)
    return (attention.to(grouped.dtype) @ grouped).transpose(1, 2).flatten(2)
