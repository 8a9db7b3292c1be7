"""One process with the whole batch equals two gloo processes with half of it each: gradients to 1e-5."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from fra.parts.distributed import mean_over_processes
from fra.parts.encoder import Encoder, EncoderConfig
from fra.pretrain.byol import BYOL, BYOLConfig
from fra.pretrain.fra import FRA, DecoderConfig, FRAConfig
from fra.pretrain.method import HeadConfig, Method
from fra.training.trainable import Progress

SMALL = HeadConfig(hidden=32, out=16)
ALIVE = DecoderConfig(content="queries", mask_mlp="orthogonal", dropout=0.0)
METHODS = {
    "byol": lambda: (BYOL, BYOLConfig(head=SMALL)),
    "fra": lambda: (FRA, FRAConfig(head=SMALL, decoder=DecoderConfig(layers=2, dropout=0.0))),
    "fra alive": lambda: (FRA, FRAConfig(head=SMALL, decoder=ALIVE, assignment="exponentials")),
}
START = Progress(step=0, steps=10, epoch=0, epochs=1)


def build(name: str) -> Method:
    """Batch norm in eval mode (torch's synchronised form refuses CPU tensors), with statistics that are not trivial."""
    torch.manual_seed(0)
    kind, config = METHODS[name]()
    method = kind(config, Encoder(EncoderConfig(name="resnet10_half", last_stride=1, image_size=32)))
    for module in method.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return method.eval()


def views() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(8, 3, 32, 32, generator=generator) for _ in range(2)]


class Forwarding(nn.Module):
    """DDP averages gradients of what goes through forward."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.method.loss(inputs, START).total


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    half = [view[4 * rank : 4 * rank + 4] for view in views()]
    for name in METHODS:
        method = build(name)
        together = DistributedDataParallel(Forwarding(method))  # a name, or its hooks go before the backward pass
        together(*half).backward()
        if rank == 0:
            gradients = {key: weight.grad for key, weight in method.named_parameters() if weight.requires_grad}
            torch.save(gradients, f"{folder}/{name}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def gradients_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(one_of_two, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("name", list(METHODS))
def test_one_process_equals_two(name: str, gradients_of_two: Path) -> None:
    method = build(name)
    method.loss(views(), START).total.backward()
    theirs = torch.load(gradients_of_two / f"{name}.pt", weights_only=True)
    scale = max(gradient.abs().max().item() for gradient in theirs.values())
    assert scale > 1e-3
    for key, weight in method.named_parameters():
        if weight.requires_grad:
            assert_close(weight.grad, theirs[key], atol=1e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_alone_the_mean_over_processes_is_the_tensor_itself() -> None:
    x = torch.ones(3)
    assert mean_over_processes(x) is x
