"""Fine-tuning: encoder and head learn together (paper, FRA (FT))."""

import torch
from torch import nn

from fra.models.encoder import Encoder
from fra.tasks.task import Task
from fra.training.trainable import Loss
from fra.transfer.augment import erase, vary
from fra.transfer.protocol import LabelledBatch, Learner, TransferRecipe

ERASED = (0.02, 0.33)
"""Share of the image that random erasing covers (spec expression.md, section 2)."""


class FineTune(Learner):
    """The task's criterion on augmented faces."""

    def __init__(self, recipe: TransferRecipe, task: Task, encoder: Encoder, head: nn.Module) -> None:
        """Raises ValueError for landmarks: they would have to move with the face when it is shifted and turned."""
        if task.least_squares:
            raise ValueError(
                f"finetune moves the faces it learns from, which {task.name} cannot follow: use linear or star"
            )
        super().__init__(recipe, task, encoder, head)

    def judge(self, batch: LabelledBatch) -> Loss:
        with torch.autocast(batch.images.device.type, enabled=False):
            faces, mirrored = vary(batch.images, mirror=self.recipe.mirror)
            faces = erase(faces, self.encoder.mean, chance=self.recipe.erasing, share=ERASED)
        targets = batch.targets.clone()
        targets[mirrored] = self.task.mirror(targets[mirrored])
        return Loss(self.task.criterion(self(faces).float(), targets), {})
