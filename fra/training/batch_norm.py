"""What batch norm asks of a batch, and one whose statistics are those of all processes.

N images, C channels.
"""

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fra.models.distributed import mean_over_processes, processes
from fra.system.printable import counted

Network = TypeVar("Network", bound=nn.Module)


class SynchronisedBatchNorm(_BatchNorm):
    """In train mode the statistics are those of all processes together, gradients included; else torch's batch norm.

    For processors: torch's own takes tensors of GPUs alone. All processes hold equally many images.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        """Any shape (N, C, ...)."""

    def forward(self, x: Float[Tensor, "N C *places"]) -> Float[Tensor, "N C *places"]:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        mean = mean_over_processes(x.mean(axes))
        centred = x - mean.view(shape)
        variance = mean_over_processes((centred**2).mean(axes))
        with torch.no_grad():
            count = x.numel() / x.shape[1] * processes()
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = (variance + self.eps).rsqrt()
        if not self.affine:
            return centred * scale.view(shape)
        return centred * (self.weight * scale).view(shape) + self.bias.view(shape)


class _WithActivation(SynchronisedBatchNorm):
    """timm's batch norm with what follows it (EfficientNet, MobileNetV3)."""

    def forward(self, x: Float[Tensor, "N C *places"]) -> Float[Tensor, "N C *places"]:
        return self.act(self.drop(super().forward(x)))  # type: ignore[operator]


def synchronise(network: Network, *, device: str) -> Network:
    """The network with batch norms whose statistics are those of all processes; names and values stay.

    On a GPU they are new modules (torch's), elsewhere the same ones of another class.
    """
    from timm.layers import BatchNormAct2d, convert_sync_batchnorm

    if device == "cuda":
        return convert_sync_batchnorm(network)  # timm's: torch's would lose the activations in timm's norms
    for norm in network.modules():
        if isinstance(norm, BatchNormAct2d):
            norm.__class__ = _WithActivation  # type: ignore[assignment]
        elif isinstance(norm, _BatchNorm):
            norm.__class__ = SynchronisedBatchNorm
    return network


def require_enough_images(
    network: nn.Module, *, batch_size: int, processes: int = 1, passes: int = 1, synchronised: bool = False
) -> None:
    """ValueError in a recipe's words when `network` has batch norms and each would see a single image at a time.

    A step of `batch_size` images is divided over `processes` and `passes` (accumulate); where norms are `synchronised`,
    those of all processes see their images together.
    """
    parts = passes if synchronised else processes * passes
    if batch_size >= 2 * parts or not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return
    over = (
        f" (divided over {counted(processes, 'process', 'processes')} x {counted(passes, 'pass', 'passes')})"
        if parts > 1
        else ""
    )
    fewer = " or fewer passes (accumulate)" if passes > 1 else ""
    raise ValueError(
        f"batch_size {batch_size} shows the network one image at a time{over}, but batch norm needs"
        f" two or more: give a batch_size of at least {2 * parts}{fewer}"
    )
