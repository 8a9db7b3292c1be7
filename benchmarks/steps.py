"""Training steps that are timed, of ours and of others. B faces per batch, S view size."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.paired import Work
from fra.models.encoder import Encoder, EncoderConfig
from fra.models.mask_decoder import DecoderConfig
from fra.pretrain.byol import BYOL, BYOLConfig
from fra.pretrain.fra import FRA, FRAConfig
from fra.pretrain.lewel import LEWEL, LEWELConfig
from fra.pretrain.method import HeadConfig, Method
from fra.pretrain.swav import SwAV, SwAVConfig
from fra.training.optimizers import OptimizerConfig, build_optimizer
from fra.training.trainable import Progress

START = Progress(0, 1000, 0, 1)
HEAD = HeadConfig()
SWAV = SwAVConfig(queue=0)
METHODS: dict[str, Callable[[Encoder], Method]] = {
    "byol": lambda encoder: BYOL(BYOLConfig(head=HEAD), encoder),
    "fra": lambda encoder: FRA(FRAConfig(head=HEAD, decoder=DecoderConfig(layers=2)), encoder),
    "swav": lambda encoder: SwAV(SWAV, encoder),
    "lewel": lambda encoder: LEWEL(LEWELConfig(head=HEAD), encoder),
}
UNITS = 8  # a pair: two forward and backward passes of three units each, two teacher passes of one


def encoder_for(name: str, size: int) -> Encoder:
    return Encoder(EncoderConfig(name=name, image_size=size))


def random_views(batch: int, size: int, device: str = "cpu") -> list[Tensor]:
    return list(torch.rand(2, batch, 3, size, size, device=device))


def precise(bf16: bool, device: str = "cpu") -> torch.autocast:
    return torch.autocast(device, dtype=torch.bfloat16, enabled=bf16)


def bare_network(name: str, size: int, batch: int, *, bf16: bool, channels_last: bool, device: str = "cpu") -> Work:
    """Forward and backward of one batch through the network alone; three of a pair's eight units per face."""
    network: nn.Module = encoder_for(name, size).backbone.train()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device, memory_format=layout)
    images = random_views(batch, size, device)[0].contiguous(memory_format=layout)

    def work() -> float:
        with precise(bf16, device):
            loss = network(images).float().mean()
        loss.backward()
        network.zero_grad()
        return batch * 3 / UNITS

    return work


def own_step(method: Method, views: list[Tensor] | Callable[[], list[Tensor]], *, bf16: bool = False) -> Work:
    """A whole training step, where the views are: loss, gradients, LARS, teacher."""
    device = next(method.parameters()).device.type
    optimizer = build_optimizer(OptimizerConfig(), method)
    method.train()

    def work() -> float:
        batch = views() if callable(views) else views
        with precise(bf16, device):
            parts = method.parts(batch, START)
        for part in parts:
            with precise(bf16, device):
                loss = part()
            loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(START)
        return len(batch[0])

    return work


def peer_step(peer: Any, views: list[Tensor], *, bf16: bool, channels_last: bool = False) -> Work:
    """The same of `benchmarks.lightly_methods`."""
    device = views[0].device.type
    if channels_last:
        peer = peer.to(memory_format=torch.channels_last)
        views = [view.contiguous(memory_format=torch.channels_last) for view in views]

    def work() -> float:
        with precise(bf16, device):
            loss = peer.loss(views)
        loss.backward()
        peer.optimizer.step()
        peer.optimizer.zero_grad()
        return len(views[0])

    return work


def multiply_adds(encoder: Encoder, size: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.eval()(torch.rand(1, 3, size, size))
    return counter.get_total_flops() / 2
