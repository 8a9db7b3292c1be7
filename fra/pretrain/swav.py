"""SwAV (Caron et al., NeurIPS 2020), the method behind Bulat et al. (ECCV 2022): predict the other view's cluster.

B images, V views of which the first two are assigned to clusters, K prototypes, C encoder channels, D embedding
channels, S view size. Sections are those of the SwAV paper; "script" is its published command line.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fra.models.distributed import gather_from_processes, share_of_process
from fra.models.encoder import Encoder, in_batches
from fra.models.similarity import mean_entropy, unit
from fra.models.sinkhorn import sinkhorn
from fra.pretrain.columns import HealthColumn, should_rise
from fra.pretrain.method import HeadConfig, Method
from fra.recipe import Count, Positive, Range, Settings, Whole
from fra.training.trainable import Loss, Part, Progress

ASSIGNED = 2  # the two large views, whose clusters all other views predict


@dataclass(frozen=True)
class SwAVConfig(Settings):
    """Settings of SwAV; the defaults are the published script's."""

    name: Literal["swav"] = "swav"
    head: HeadConfig = field(default_factory=lambda: HeadConfig(hidden=2048, out=128))
    """Projector, with biases (script)."""
    prototypes: Annotated[int, Range(2)] = 3000
    """Number of prototypes K (script)."""
    temperature: Positive = 0.1
    """Softmax temperature of the predictions (Sec. 3.1)."""
    sinkhorn_epsilon: Positive = 0.05
    """Entropy regularisation of Sinkhorn: smoothness of the assignment (script)."""
    sinkhorn_rounds: Count = 3
    """Sinkhorn iterations (script)."""
    freeze_steps: Whole = 313
    """Number of first steps in which the prototypes are frozen (script: one epoch of ImageNet at batch 4096)."""
    queue: Whole = 0
    """Length of the queue of earlier embeddings, over all processes, that are balanced together with a small batch; 0
    for none."""
    queue_from_epoch: Whole = 15
    """Epoch at which the queue starts to fill; it is used once full (script for batch 256)."""


class PrototypeNetwork(nn.Module):
    """Encoder, projector, and the prototypes that unit embeddings are compared with."""

    def __init__(self, config: SwAVConfig, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = config.head.projector(encoder.channels, bias=True)
        self.prototypes = nn.Linear(config.head.out, config.prototypes, bias=False)

    def embeddings(self, views: Sequence[Float[Tensor, "B RGB _ _"]]) -> Float[Tensor, "N D"]:
        """Unit embeddings of all N = V * B images, one view after the other.

        Neighbouring views of one size go through the encoder together, all views through the projector together, so
        batch norm sees what it sees in the published code.
        """
        by_size = [list(group) for _, group in groupby(views, key=lambda view: view.shape[-1])]
        features = [self.encoder(torch.cat(group)) for group in by_size]
        return unit(self.projector(torch.cat(features)))

    def forward(self, images: Float[Tensor, "B RGB S S"]) -> Float[Tensor, "B D"]:
        return self.embeddings([images])


class SwAV(Method):
    """One network without a teacher: clusters of one view are the targets of the others."""

    online: PrototypeNetwork
    multi_crop = True
    loss_terms: ClassVar = {"swapped": "each view predicts the clusters of the others; log K is no better than chance"}
    health_columns = (
        HealthColumn(
            "prototype_usage",
            title="Prototypes in use",
            meaning="prototypes that are the nearest of some face, as a share of what is possible",
            good="rises",
            judge=should_rise,
        ),
        HealthColumn(
            "prototype_entropy",
            title="Prototype entropy",
            meaning="mean entropy of a face's assignment to the K prototypes, in nats; log K is undecided",
            good="falls below log K",
        ),
    )

    def __init__(self, config: SwAVConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.online = PrototypeNetwork(config, encoder)
        # Every process holds the whole queue, equal everywhere, so that one checkpoint has all of it.
        self.register_buffer("queue", torch.zeros(ASSIGNED, config.queue, config.head.out))
        self.queue: Tensor
        self._queue_is_full = False
        self._embeddings_of_step: list[Tensor] = []
        self._normalise_prototypes()

    @property
    def encoder(self) -> Encoder:
        return self.online.encoder

    def parts(self, views: Sequence[Float[Tensor, "B RGB _ _"]], progress: Progress) -> Sequence[Part]:
        return [partial(self._swapped, views, progress)]

    def _swapped(self, views: Sequence[Float[Tensor, "B RGB _ _"]], progress: Progress) -> Loss:
        count = len(views[0])
        embeddings = self.online.embeddings(views)
        prototypes = self.online.prototypes.weight
        if progress.step < self.config.freeze_steps:
            prototypes = prototypes.detach() + 0.0 * prototypes  # a gradient of zero: DDP waits for every weight
        scores = prototype_scores(embeddings, prototypes).split(count)
        if self.training and self.config.queue and progress.epoch >= self.config.queue_from_epoch:
            self._embeddings_of_step.append(embeddings[: ASSIGNED * count].detach().view(ASSIGNED, count, -1))
        swapped = swapped_prediction(scores, self._assignments(scores), temperature=self.config.temperature)
        return Loss(swapped, {"swapped": swapped})

    @torch.no_grad()
    def _assignments(self, scores: Sequence[Float[Tensor, "B K"]]) -> list[Float[Tensor, "B K"]]:
        """Balanced clusters of the first two views; a full queue takes part in the balancing."""
        found = []
        for view, own in enumerate(scores[:ASSIGNED]):
            rows = own.detach()
            if self._has_full_queue():
                earlier = share_of_process(self.queue[view])
                rows = torch.cat([prototype_scores(earlier, self.online.prototypes.weight), rows])
            weights = (rows / self.config.sinkhorn_epsilon).exp()
            found.append(sinkhorn(weights, rounds=self.config.sinkhorn_rounds)[-len(own) :])
        return found

    def _has_full_queue(self) -> bool:
        if self.config.queue and not self._queue_is_full:
            self._queue_is_full = bool(self.queue[0, -1].any())  # rows fill from the front
        return self._queue_is_full

    def after_step(self, progress: Progress) -> None:
        for embeddings in self._embeddings_of_step:
            newest = torch.stack([gather_from_processes(of_view) for of_view in embeddings])
            self.queue.copy_(torch.cat([newest, self.queue], 1)[:, : self.config.queue])
        self._embeddings_of_step.clear()
        self._normalise_prototypes()

    @torch.no_grad()
    def _normalise_prototypes(self) -> None:
        """Rows of length one at every forward pass; the gradient does not pass through (published code)."""
        weight = self.online.prototypes.weight
        weight.copy_(F.normalize(weight, dim=1))

    def projections(self, faces: Float[Tensor, "B RGB S S"]) -> Float[Tensor, "B D"]:
        return self.online(faces)

    def own_health(self, faces: Float[Tensor, "B RGB S S"]) -> dict[str, float]:
        embeddings = in_batches(self.online, faces, batch=64)
        scores = prototype_scores(embeddings, self.online.prototypes.weight)
        nearest = scores.argmax(1).unique()
        return dict(
            prototype_usage=len(nearest) / min(scores.shape),
            prototype_entropy=mean_entropy((scores / self.config.temperature).softmax(1), dim=1),
        )

    def own_warnings(self, row: dict[str, Any]) -> list[str]:
        if row["prototype_usage"] < 0.02:
            return ["Nearly all faces share one prototype: lower the learning rate or raise freeze_steps."]
        return []


def prototype_scores(embeddings: Float[Tensor, "N D"], prototypes: Float[Tensor, "K D"]) -> Float[Tensor, "N K"]:
    """Cosines of unit embeddings and unit prototypes, in float32: half precision is too coarse for exp(s / 0.05)."""
    with torch.autocast(embeddings.device.type, enabled=False):
        return embeddings.float() @ prototypes.float().T


def swapped_prediction(
    scores: Sequence[Float[Tensor, "B K"]], assignments: Sequence[Float[Tensor, "B K"]], *, temperature: float
) -> Float[Tensor, ""]:
    """Cross-entropy of every view's prediction against the clusters of the other assigned views (Sec. 3.1, 3.2).

    Mean over faces, over the V - 1 other views, and over the assigned views; log K when nothing is learned.
    """
    predictions = [F.log_softmax(of_view / temperature, 1) for of_view in scores]
    terms = [
        -(wanted * predicted).sum(1).mean()
        for view, wanted in enumerate(assignments)
        for other, predicted in enumerate(predictions)
        if other != view
    ]
    return torch.stack(terms).mean()
