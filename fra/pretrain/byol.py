"""BYOL (Grill et al., 2020): predict the teacher's embedding of another view of the same face.

B images, C encoder channels, D embedding channels, S view size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from fra.models.encoder import Encoder
from fra.models.heads import MLPHead
from fra.models.momentum_teacher import MomentumTeacher, rising_momentum
from fra.models.similarity import cosine_distance
from fra.pretrain.method import HeadConfig, Method
from fra.recipe import Settings, Share
from fra.training.trainable import Loss, Part, Progress


@dataclass(frozen=True)
class BYOLConfig(Settings):
    """Settings of BYOL; the defaults are those of FRA's baseline, so that the two differ only in the regions."""

    name: Literal["byol"] = "byol"
    head: HeadConfig = field(default_factory=HeadConfig)
    teacher_momentum: Share = 0.996
    """Momentum of the momentum encoder (teacher) at step 0; rises to 1 along a cosine (BYOL, Sec. 3.3)."""
    follow_buffers: bool = False
    """The momentum encoder also averages batch-norm statistics and runs in eval mode (EMAN); off as in FRA."""


class FaceNetwork(nn.Module):
    """Encoder and projector: one embedding per image."""

    def __init__(self, encoder: Encoder, head: HeadConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = head.projector(encoder.channels)

    def forward(self, images: Float[Tensor, "B RGB S S"]) -> Float[Tensor, "B D"]:
        return self.projector(self.encoder(images))


class BYOL(Method):
    """Online network, predictor, and a teacher that follows."""

    online: FaceNetwork
    loss_terms: ClassVar = {"same_face": "two views of a face agree"}

    def __init__(self, config: BYOLConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.online = FaceNetwork(encoder, config.head)
        self.predictor = MLPHead(config.head.out, hidden=config.head.hidden, out=config.head.out)
        self.teacher = MomentumTeacher(self.online, follow_buffers=config.follow_buffers)

    @property
    def encoder(self) -> Encoder:
        return self.online.encoder

    def parts(self, views: Sequence[Float[Tensor, "B RGB S S"]], progress: Progress) -> Sequence[Part]:
        targets = [self.teacher(view) for view in views]
        pairs = zip(views, targets[::-1], strict=True)
        return [partial(self._distance, view, target) for view, target in pairs]

    def _distance(self, view: Float[Tensor, "B RGB S S"], target: Float[Tensor, "B D"]) -> Loss:
        same_face = cosine_distance(self.predictor(self.online(view)), target)
        return Loss(same_face, {"same_face": same_face})

    def after_step(self, progress: Progress) -> None:
        self.teacher.follow(self.online, momentum=self.teacher_momentum(progress))

    def teacher_encoder(self) -> Encoder:
        return self.teacher.network.encoder

    def projections(self, faces: Float[Tensor, "B RGB S S"]) -> Float[Tensor, "B D"]:
        return self.online(faces)

    def teacher_momentum(self, progress: Progress) -> float:
        return rising_momentum(self.config.teacher_momentum, progress.fraction)
