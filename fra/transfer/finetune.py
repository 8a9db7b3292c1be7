"""Fine-tuning: encoder and head learn together (paper, FRA (FT))."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fra.models.encoder import Encoder
from fra.recipe import Share
from fra.tasks.attributes import Attributes
from fra.tasks.task import Task
from fra.training.trainable import Loss
from fra.transfer.augment import erase, vary
from fra.transfer.protocol import BalancedRecipe, LabelledBatch, Learner, NetworkRecipe

ERASED = (0.02, 0.33)
"""Share of the image that random erasing covers (spec expression.md, section 2)."""


@dataclass(frozen=True)
class FineTuneRecipe(BalancedRecipe, NetworkRecipe):
    """Settings of the finetune protocol."""

    protocol: Literal["finetune"] = "finetune"
    mirror: bool = True
    """Horizontal flip with probability one half (released code)."""
    erasing: Share = 0.5
    """Probability of random erasing (released code; 0 for attributes)."""
    neck: bool = False
    """Two more layers in the head (released code for attributes; supplement 5.3.2: one linear layer)."""
    fewest_steps: ClassVar[int] = 8

    def prepare(self, task: Task, targets: Tensor) -> Task:
        if self.neck:
            if not isinstance(task, Attributes):
                raise ValueError(f"neck is for attributes, not for {self.task}: leave it out")
            task = replace(task, neck=True)
        return super().prepare(task, targets)


class FineTune(Learner):
    """The task's criterion on augmented faces."""

    recipe: FineTuneRecipe

    def __init__(self, recipe: FineTuneRecipe, task: Task, encoder: Encoder, head: nn.Module) -> None:
        """Raises ValueError for landmarks: they would have to move with the face when it is shifted and turned."""
        if task.moves:
            raise ValueError(
                f"protocol finetune augments faces in ways that {task.name} cannot follow: use linear or star"
            )
        super().__init__(recipe, task, encoder, head)

    def judge(self, batch: LabelledBatch) -> Loss:
        with torch.autocast(batch.images.device.type, enabled=False):
            faces, mirrored = vary(batch.images, mirror=self.recipe.mirror)
            faces = erase(faces, self.encoder.mean, chance=self.recipe.erasing, share=ERASED)
        targets = batch.targets.clone()
        targets[mirrored] = self.task.mirror(targets[mirrored])
        return Loss(self.task.criterion(self(faces).float(), targets), {})
