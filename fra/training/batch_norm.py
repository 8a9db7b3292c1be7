"""What batch norm asks of a batch."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fra.system.printable import counted


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
