"""Face alignment by heatmaps with the STAR loss (Zhou et al., CVPR 2023) on any encoder (supplement 5.3.3)."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fra.models.distributed import processes
from fra.models.encoder import Encoder
from fra.models.momentum_teacher import MomentumTeacher
from fra.tasks.landmarks import Landmarks
from fra.tasks.task import Task
from fra.training.trainable import Loss, Progress
from fra.transfer.alignment.augment import REACH, vary_landmarks
from fra.transfer.alignment.maps import adaptive_wing, edge_maps, point_maps
from fra.transfer.alignment.network import AlignmentConfig, AlignmentHead, alignment_head
from fra.transfer.alignment.star_loss import star_loss
from fra.transfer.protocol import LabelledBatch, Learner, NetworkRecipe


@dataclass(frozen=True)
class StarRecipe(NetworkRecipe):
    """Settings of the star protocol."""

    protocol: Literal["star"] = "star"
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """Network and loss."""
    fewest_steps: ClassVar[int] = 1


class Network(nn.Module):
    """Encoder and head, for the average."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P2"]:
        return self.head(self.encoder.maps(images))


class Star(Learner):
    """STAR loss of the landmarks, Adaptive Wing of point and edge maps; beside it a running average of the network."""

    reach: ClassVar[float] = REACH
    task: Landmarks
    head: AlignmentHead

    def __init__(self, recipe: StarRecipe, task: Task, encoder: Encoder, head: nn.Module) -> None:
        super().__init__(recipe, task, encoder, head)
        assert isinstance(task, Landmarks)
        self.table, self.config = task.table, recipe.alignment
        self.average: MomentumTeacher[Network] = MomentumTeacher(Network(encoder, head), follow_buffers=True)
        self.images_per_step = 0

    @staticmethod
    def new_head(recipe: StarRecipe, task: Task, encoder: Encoder) -> nn.Module:
        return alignment_head(recipe.alignment, task, encoder)

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B P2"]:
        return self.head(self.encoder.maps(images))

    def judge(self, batch: LabelledBatch) -> Loss:
        self.images_per_step = len(batch.images) * processes()
        with torch.autocast(batch.images.device.type, enabled=False):
            points = self.task.places(batch.targets)
            faces, points = vary_landmarks(batch.images, points, self.table, margin=batch.margin)
        return self.terms(faces, points)

    def terms(self, faces: Float[Tensor, "B 3 S S"], points: Float[Tensor, "B P 2"]) -> Loss:
        """The loss on faces as they are; each of several stages weighs half of the next one (STAR, released code).

        Landmarks outside the image count as on its border, as in STAR; in the maps they are not drawn there (ours).
        """
        stages = self.head.stages(self.encoder.maps(faces))
        size = stages[0].points.shape[-1]
        near, along = point_maps(points, size), edge_maps(points, self.table, size)
        total, terms = torch.zeros((), device=points.device), {}
        for number, maps in enumerate(stages, 1):
            terms = {
                "star": star_loss(
                    maps.fused,
                    points.clamp(-1, 1),
                    form=self.config.form,
                    distance=self.config.distance,
                    weight=self.config.spread_weight,
                    consistent=self.config.consistent_grid,
                ),
                "points": adaptive_wing(maps.points, near),
                **({"edges": adaptive_wing(maps.edges, along)} if self.table.edges else {}),
            }
            stage = terms["star"] + self.config.map_weight * (terms["points"] + terms.get("edges", 0))
            total = total + stage / 2 ** (len(stages) - number)
        return Loss(total, terms)

    def after_step(self, progress: Progress) -> None:
        """The average follows. Early on it is the mean of what there was, not of the first weights (ours: few labels
        give so few steps that STAR's average would still hold most of them at the end)."""
        momentum = 0.5 ** (self.images_per_step / self.config.half_life)
        momentum = min(momentum, (1 + progress.step) / (10 + progress.step))
        self.average.follow(Network(self.encoder, self.head), momentum=momentum)
