"""One process with the whole batch equals two gloo processes with half of it each: gradients to 1e-5 of the largest."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from fra.models.distributed import mean_over_processes
from fra.models.encoder import Encoder, EncoderConfig
from fra.pretrain.byol import BYOL, BYOLConfig
from fra.pretrain.fabrec import ChangeConfig, FabRec, FabRecConfig
from fra.pretrain.fra import FRA, DecoderConfig, FRAConfig
from fra.pretrain.lewel import LEWEL, LEWELConfig
from fra.pretrain.method import FramedViews, HeadConfig, Method
from fra.pretrain.swav import SwAV, SwAVConfig
from fra.training.batch_norm import synchronise
from fra.training.loop import PartByPart
from fra.training.trainable import Progress

SMALL = HeadConfig(hidden=32, out=16)
TWO_LAYERS = DecoderConfig(layers=2, dropout=0.0)
ALIVE = DecoderConfig(content="queries", mask_mlp="orthogonal", dropout=0.0)
METHODS = {
    "byol": (BYOL, BYOLConfig(head=SMALL)),
    "byol following buffers": (BYOL, BYOLConfig(head=SMALL, follow_buffers=True)),
    "swav": (SwAV, SwAVConfig(head=SMALL, prototypes=6, freeze_steps=0, queue=16, queue_from_epoch=0)),
    "lewel": (LEWEL, LEWELConfig(head=SMALL)),
    "fra": (FRA, FRAConfig(head=SMALL, decoder=TWO_LAYERS, teacher_dropout=True)),
    "fra alive": (FRA, FRAConfig(head=SMALL, decoder=ALIVE, assignment="exponentials")),
    "fra matched": (
        FRA,
        FRAConfig(head=SMALL, decoder=ALIVE, cluster_views="matched", balance="face", cluster_weight=2.0),
    ),
    "fabrec": (
        FabRec,
        FabRecConfig(
            code=6,
            decoder_width=16,
            critic_width=20,
            discriminator_width=4,
            structure_window=11,
            structure_from=0,
            image_from=0,
            change=ChangeConfig(0.0, 0.0, (1.0, 1.0), 0.0),
        ),
    ),
    "fra aligned": (FRA, FRAConfig(head=SMALL, decoder=ALIVE, cluster_views="aligned", cluster_weight=2.0)),
}
"""3FabRec without what is random: its critic and its encoder have no adversarial turn in the first step."""
MODES = ("eval", "train")
START = Progress(step=0, steps=10, epoch=0, epochs=1)


def build(name: str, mode: str) -> Method:
    """A method with batch-norm statistics that are not trivial, and a teacher that is not its student."""
    torch.manual_seed(0)
    kind, config = METHODS[name]
    method = kind(config, Encoder(EncoderConfig(name="resnet10_half", last_stride=1, image_size=32)))
    synchronise(method, device="cpu")
    for module in method.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for weight in method.parameters():
        if not weight.requires_grad:
            weight.mul_(1 + 0.1 * torch.randn(weight.shape))
    return method.train(mode == "train")


def views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(8, 3, 32, 32, generator=generator) for _ in range(2)]


def frames() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    corners = [torch.rand(8, 2, generator=generator) / 2 for _ in range(2)]
    return [torch.cat([corner, torch.full((8, 2), 0.5)], 1) for corner in corners]


def batch_for(method: Method, views: Sequence[Tensor], frames: Sequence[Tensor]) -> Any:
    return FramedViews(views, frames) if method.wants_frames else views


def found_by(method: Method) -> dict[str, Any]:
    """After a backward pass: gradients, and buffers as they are once the step is over."""
    trained = {key: weight for key, weight in method.named_parameters() if weight.requires_grad}
    # One process leaves out whose turn it is not; of several all are given zeros.
    gradients = {
        key: torch.zeros_like(weight) if weight.grad is None else weight.grad for key, weight in trained.items()
    }
    method.after_step(START)
    return dict(gradients=gradients, buffers=dict(method.named_buffers()))


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    half = [part[4 * rank : 4 * rank + 4] for part in (*views(), *frames())]
    for name, mode in product(METHODS, MODES):
        method = build(name, mode)
        # A name, or its hooks go before the backward pass. Buffers must stay equal by themselves.
        together = DistributedDataParallel(PartByPart(method), broadcast_buffers=False)
        parts = method.parts(batch_for(method, half[:2], half[2:]), START)
        for number, part in enumerate(parts, start=1):
            with together.no_sync() if number < len(parts) else nullcontext():
                together(part).total.backward()
        torch.save(found_by(method), f"{folder}/{name} {mode} {rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(one_of_two, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", list(METHODS))
def test_one_process_equals_two(name: str, mode: str, found_by_two: Path) -> None:
    method = build(name, mode)
    method.loss(batch_for(method, views(), frames()), START).total.backward()
    mine = found_by(method)
    largest = max(gradient.abs().max().item() for gradient in mine["gradients"].values())
    assert largest > 0.1
    for rank, kind in product((0, 1), ("gradients", "buffers")):
        theirs = torch.load(found_by_two / f"{name} {mode} {rank}.pt", weights_only=True)[kind]
        assert theirs.keys() == mine[kind].keys()
        for key, value in mine[kind].items():
            assert_close(
                theirs[key], value, atol=1e-5 * max(1, largest), rtol=1e-5, msg=lambda t, key=key: f"{key}: {t}"
            )


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 3, 3)])
def test_alone_the_synchronised_batch_norm_is_torchs(shape: tuple[int, ...]) -> None:
    norms = [nn.BatchNorm1d(5) if len(shape) == 2 else nn.BatchNorm2d(5) for _ in range(2)]
    synchronise(nn.ModuleList(norms[1:]), device="cpu")
    x, direction = torch.randn(shape) + 2, torch.randn(shape)
    found = []
    for norm in norms:
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 1.5, 5))
        own = x.clone().requires_grad_()
        out = norm(own)
        (out * direction).sum().backward()
        found.append([out.detach(), own.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()])
    for theirs, mine in zip(*found, strict=True):
        assert_close(mine, theirs)


def test_alone_the_mean_over_processes_is_the_tensor_itself() -> None:
    x = torch.ones(3)
    assert mean_over_processes(x) is x


def test_norms_with_an_activation_keep_it() -> None:
    x = torch.randn(4, 5, 3, 3)
    plain, ours = BatchNormAct2d(5).train(), BatchNormAct2d(5).train()
    assert_close(synchronise(ours, device="cpu")(x), plain(x))
    assert (plain(x) == 0).any()
    without = nn.BatchNorm2d(5, affine=False)
    expected = without(x)
    assert_close(synchronise(nn.BatchNorm2d(5, affine=False), device="cpu")(x), expected)
