"""What a run will take, before anything starts: parameters, multiply-adds, memory, time."""

import time
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from fra.pretrain.method import Method
from fra.system.printable import counted, duration
from fra.training.trainable import Progress, backward

# What one GPU does per second: multiply-adds in bf16 tensor cores (half the maker's FLOP/s), bytes of memory traffic.
GPUS = {
    "V100 (fp16)": (62.5e12, 0.9e12),
    "A100": (156e12, 2.0e12),
    "H100": (495e12, 3.35e12),
    "H200": (495e12, 4.8e12),
}
REACHED = 0.4  # of both; assumed, as the usual share for ResNets under autocast; not measured
NETWORKS = {1: None, 8: 200e9, 64: 12.5e9}
"""By number of GPUs, bytes a second that each of eight partners sends and receives (assumed): GPUs of one machine by
NVLink, eight such machines by 100 Gbit/s."""
PARTNERS = 8
PASSES = 3  # over what is kept for the backward pass: written, read again, and its gradient written and read (halves)

AT_THE_END = Progress(1, 1, 0, 1)
"""The step that is measured: terms of a loss that come later take part."""
WEIGHT_COPIES = 4  # the online network's weights, their gradients, their momentum, and the teacher


@dataclass(frozen=True)
class Plan:
    """Estimates for one run; times are measured on this machine with a few small steps and scaled."""

    parameters: int
    """Trained weights (online network and predictors)."""
    encoder_parameters: int
    multiply_adds_per_pair: float
    """Of the forward and backward passes on all views, and of the teacher's."""
    memory_bytes: float
    """Weights in their four copies and the activations of one batch of one process."""
    kept_bytes_per_pair: float
    """Of activations, in float32, that all views of a face keep for the backward pass."""
    pairs_per_second: float
    steps: int
    pairs: int

    @property
    def seconds(self) -> float:
        return self.pairs / self.pairs_per_second

    def gpu_pairs_per_second(self, name: str) -> float:
        """A model, not a measurement: one of GPUS does arithmetic and memory traffic one after the other."""
        multiply_adds, traffic = GPUS[name]
        seconds = self.multiply_adds_per_pair / multiply_adds + PASSES * self.kept_bytes_per_pair / 2 / traffic
        return REACHED / seconds

    def step_on(self, gpus: int, name: str = "A100") -> tuple[float, float]:
        """Seconds of arithmetic and of averaging gradients (in 32 bits, around a ring, not overlapped) in a step."""
        arithmetic = self.pairs / self.steps / gpus / self.gpu_pairs_per_second(name)
        bandwidth = NETWORKS[gpus]
        sent = 2 * (PARTNERS - 1) / PARTNERS * 4 * self.parameters
        return arithmetic, sent / bandwidth if bandwidth else 0.0

    def at_scale(self) -> str:
        """The run on more and more A100s, as far as each gets two pairs of a step."""
        found = []
        for gpus in NETWORKS:
            if self.pairs / self.steps < 2 * gpus:
                break
            arithmetic, network = self.step_on(gpus)
            share = f" ({network / (arithmetic + network):.0%} network)" if network else ""
            found.append(f"{gpus}: {duration(self.steps * (arithmetic + network))}{share}")
        return ", ".join(found)

    def lines(self) -> list[str]:
        gpus = {name: self.pairs / self.gpu_pairs_per_second(name) for name in GPUS}
        trained, encoder = self.parameters / 1e6, self.encoder_parameters / 1e6
        return [
            f"weights        {trained:.2f} M trained, of which encoder {encoder:.2f} M",
            f"multiply-adds  {self.multiply_adds_per_pair / 1e9:.2f} G per pair (forward, backward, teacher)",
            f"memory         about {self.memory_bytes / 2**30:.1f} GiB per process (weights in four copies, "
            "activations)",
            f"steps          {self.steps:,} ({counted(self.pairs, 'pair')})",
            f"time           about {duration(self.seconds)} at {self.pairs_per_second:.1f} pairs per second, measured",
            "               here just now on small batches, without loading; several devices divide it",
            "on one GPU     " + ", ".join(f"{name}: {duration(seconds)}" for name, seconds in gpus.items()),
            f"               modelled, not measured: {REACHED:.0%} of peak arithmetic and memory bandwidth,",
            f"               activations moved {PASSES} times in 16 bits, loading never the limit",
            *([f"on many A100s  {scaled}; 8 in one machine at 200 GB/s,"] if (scaled := self.at_scale()) else []),
            *(["               64 in eight at 100 Gbit/s, without batch norm's small messages"] if scaled else []),
        ]


def make_plan(
    method: Method,
    *,
    sizes: Sequence[int],
    batch: int,
    steps: int,
    pairs: int,
    seconds: float = 6.0,
    small: int | None = None,
) -> Plan:
    """Measure a few small steps of `method` on views of the given `sizes` on its device and scale them up.

    `batch`: pairs per process and pass; `steps`, `pairs`: of the whole run; `small`: pairs of a measured step (at least
    8, more of small views). `method` is thrown away afterwards: its batch statistics and gradients are no longer
    those of a fresh one.
    """
    device = next(method.parameters()).device
    small = min(batch, small or max(8, 64 * 64 * 64 // sizes[0] ** 2))
    views = [torch.rand(small, 3, size, size, device=device) for size in sizes]
    progress = AT_THE_END
    trained = [weight for weight in method.parameters() if weight.requires_grad]
    method.train()
    started, passes = time.perf_counter(), 1
    peak, total = _saved_bytes(method, views, progress)
    activations = peak / small
    if time.perf_counter() - started < seconds:  # a quick one only warms up
        started, passes = time.perf_counter(), 0
        while not passes or (time.perf_counter() - started < seconds and passes < 20):
            backward(method.parts(views, progress))
            passes += 1
    rate = passes * small / (time.perf_counter() - started)
    weight_bytes = sum(weight.numel() * weight.element_size() for weight in trained)
    return Plan(
        parameters=sum(weight.numel() for weight in trained),
        encoder_parameters=sum(weight.numel() for weight in method.encoder.parameters()),
        multiply_adds_per_pair=multiply_adds_per_pair(method, sizes=sizes),
        memory_bytes=WEIGHT_COPIES * weight_bytes + activations * batch,
        kept_bytes_per_pair=total / small,
        pairs_per_second=rate,
        steps=steps,
        pairs=pairs,
    )


def multiply_adds_per_pair(method: Method, *, sizes: Sequence[int]) -> float:
    """Multiply-adds of the forward and backward passes on all views of one face, the teacher's included.

    Counted in eval mode on two faces, so that batch statistics stay as they are; gradients are cleared.
    """
    was_training = method.training
    device = next(method.parameters()).device
    views = [torch.rand(2, 3, size, size, device=device) for size in sizes]
    with FlopCounterMode(display=False) as counter:
        backward(method.eval().parts(views, AT_THE_END))
    method.zero_grad(set_to_none=True)
    method.train(was_training)
    return counter.get_total_flops() / 2 / 2


def _saved_bytes(method: Method, views: list[torch.Tensor], progress: Progress) -> tuple[int, int]:
    """Bytes kept for backward passes: the most at any time during a step, and all. Weights not counted."""
    known = {weight.untyped_storage().data_ptr() for weight in method.parameters()}
    kept: Counter[tuple[int, int]] = Counter()  # by address and size, because a tensor may be saved more than once
    now = peak = total = 0

    def drop(storage: tuple[int, int]) -> None:
        nonlocal now
        kept[storage] -= 1
        now -= storage[1] if not kept[storage] else 0

    def keep(tensor: torch.Tensor) -> _Saved:
        nonlocal now, peak, total
        storage = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
        saved = _Saved(tensor)
        if storage[0] not in known:
            now += storage[1] if not kept[storage] else 0
            total += storage[1] if not kept[storage] else 0
            peak = max(peak, now)
            kept[storage] += 1
            weakref.finalize(saved, drop, storage)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved.tensor):
        backward(method.parts(views, progress))
    return peak, total


@dataclass(frozen=True, eq=False)
class _Saved:
    """What the graph holds in place of a tensor: when it goes, the tensor is no longer needed."""

    tensor: torch.Tensor
