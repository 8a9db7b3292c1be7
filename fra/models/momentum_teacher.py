"""The slowly moving copy of a network that gives the targets."""

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class MomentumTeacher(nn.Module, Generic[Network]):
    """A copy of `student` that follows it: teacher <- m * teacher + (1 - m) * student (BYOL, Sec. 3.1).

    By default only parameters follow; batch-norm statistics are the teacher's own, gathered in train mode. With
    `follow_buffers` the whole state follows and the teacher always runs in eval mode (EMAN).
    """

    def __init__(self, student: Network, *, follow_buffers: bool = False) -> None:
        super().__init__()
        self.network: Network = copy.deepcopy(student).requires_grad_(False)
        self.follow_buffers = follow_buffers

    def train(self, mode: bool = True) -> "MomentumTeacher[Network]":
        super().train(mode and not self.follow_buffers)
        return self

    @torch.no_grad()
    def forward(self, *inputs: Tensor, **options: object) -> object:
        return self.network(*inputs, **options)

    @torch.no_grad()
    def follow(self, student: Network, *, momentum: float) -> None:
        """One step of the running average; `momentum` in [0, 1], 1 leaves the teacher as it is."""
        mine: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(student.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - momentum)
        if self.follow_buffers:
            for own, other in zip(self.network.buffers(), student.buffers(), strict=True):
                if own.is_floating_point():
                    own.lerp_(other, 1 - momentum)
                else:
                    own.copy_(other)


def rising_momentum(start: float, fraction: float) -> float:
    """Teacher momentum after `fraction` of all steps: cosine from `start` to 1 (BYOL, Sec. 3.3)."""
    return 1 - (1 - start) * (math.cos(math.pi * fraction) + 1) / 2
