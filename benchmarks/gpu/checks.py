"""What must hold on a GPU: each check is a function of a Target that returns its numbers and whether it `passed`.

tests/gpu runs them too, under the marker `gpu` where there is one, and in miniature on every processor.
"""

import os
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins import Precision
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.shot import Target
from benchmarks.steps import START, encoder_for
from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image
from fra.models.mask_decoder import DecoderConfig
from fra.pools.unlabelled import FolderPool
from fra.pretrain.byol import BYOL, BYOLConfig
from fra.pretrain.fra import FRA, FRAConfig
from fra.pretrain.lewel import LEWEL, LEWELConfig
from fra.pretrain.loader import EpochBatches, FaceLoader
from fra.pretrain.method import FramedViews, HeadConfig, Method
from fra.pretrain.run import compile_encoders, load_pretrain_recipe, pretrain
from fra.pretrain.swav import SwAV, SwAVConfig
from fra.pretrain.views import ViewMaker, ViewsConfig, crop_only
from fra.pretrain.views_on_device import finish
from fra.runtime import Runtime
from fra.training import loop
from fra.training.batch_norm import synchronise
from fra.training.devices import make_fabric
from fra.training.loop import BetweenSteps, PartByPart, forward_and_backward
from fra.training.optimizers import OptimizerConfig, build_optimizer

Found = Mapping[str, Any]
CLOSE, CLOSE_GRADIENTS, CLOSE_IN_BF16 = 1e-4, 1e-3, 1e-2
"""Relative, of losses and weights, of gradients (sums of many terms that nearly cancel), and of losses in bf16."""
ALIVE = DecoderConfig(content="queries", mask_mlp="orthogonal", dropout=0.0)
NAMES = ("byol", "fra", "lewel", "swav")


def build(name: str, target: Target) -> Method:
    """The same weights every time, and nothing random in a step: dropout draws differently on every device."""
    torch.manual_seed(0)
    head = HeadConfig(64, 32) if target.miniature else HeadConfig()
    encoder = encoder_for(target.network, target.size)
    if name == "byol":
        return BYOL(BYOLConfig(head=head), encoder)
    if name == "fra":
        return FRA(FRAConfig(head=head, decoder=ALIVE, cluster_views="aligned"), encoder)
    if name == "lewel":
        return LEWEL(LEWELConfig(head=head), encoder)
    return SwAV(SwAVConfig(head=head, prototypes=16 if target.miniature else 300, queue=0, freeze_steps=0), encoder)


def views_for(target: Target) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return list(torch.rand(2, target.batch, 3, target.size, target.size, generator=draw))


@dataclass(frozen=True)
class Step:
    """What one optimiser step has made, on the CPU."""

    loss: float
    gradients: Tensor
    weights: Tensor


def one_step(method: Method, views: list[Tensor], fabric: Fabric) -> Step:
    """Loss, gradients, LARS, teacher, as the loop has them; in full fp32 where the precision is 32."""
    with _full_precision():
        optimizer = build_optimizer(OptimizerConfig(), method)
        wrapped, stepper = fabric.setup(PartByPart(method.train()), optimizer)
        there = [view.to(fabric.device) for view in views]
        loss = forward_and_backward(fabric, wrapped, there, START)
        trained = [weight for weight in method.parameters() if weight.requires_grad]
        gradients = torch.cat([_flat(weight.grad) for weight in trained if weight.grad is not None])
        stepper.step()
        method.after_step(START)
        weights = torch.cat([_flat(weight) for weight in method.parameters()])
        return Step(float(loss.total), gradients, weights)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().double().cpu().flatten()


@contextmanager
def _full_precision() -> Iterator[None]:
    """Without TF32, which cuDNN takes for convolutions by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def apart(one: Step, other: Step) -> Found:
    """How far two steps are apart, relatively, and whether that is only rounding."""
    loss = abs(one.loss - other.loss) / abs(other.loss)
    gradients = _relative(one.gradients, other.gradients)
    weights = _relative(one.weights, other.weights)
    close = loss <= CLOSE and weights <= CLOSE and gradients <= CLOSE_GRADIENTS
    return dict(loss=loss, gradients=gradients, weights=weights, passed=close)


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def fabric_on(device: str, precision: str = "32") -> Fabric:
    return make_fabric(Runtime(device, precision))


def step_equals_the_processors(name: str, target: Target) -> Found:
    views = views_for(target)
    there = one_step(build(name, target), views, fabric_on(target.device))
    return apart(there, one_step(build(name, target), views, fabric_on("cpu")))


def bf16_loss(name: str, target: Target) -> Found:
    views = views_for(target)
    exact, rounded = (one_step(build(name, target), views, fabric_on(target.device, p)).loss for p in ("32", "bf16"))
    off = abs(rounded - exact) / abs(exact)
    return dict(fp32=exact, bf16=rounded, apart=off, passed=off <= CLOSE_IN_BF16)


def alone_in_a_group(target: Target) -> Found:
    """Synchronised batch norm and DDP with one process change nothing."""
    views, environment = views_for(target), dict(os.environ)
    plain = one_step(build("fra", target), views, fabric_on(target.device))
    strategy = DDPStrategy(gradient_as_bucket_view=True)
    fabric = Fabric(accelerator=target.device, devices=1, strategy=strategy, plugins=[Precision()])
    try:
        fabric.launch()
        method = synchronise(build("fra", target), device=fabric.device.type)
        found = apart(one_step(method, views, fabric), plain)
        return dict(found, backend=dist.get_backend())
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        os.environ.clear()
        os.environ.update(environment)


def compile_in(target: Target, method: Method) -> None:
    """As `--compile`; in miniature everything but the making of kernels, which takes minutes on a small processor."""
    compiler = partial(torch.compile, backend="aot_eager") if target.miniature else torch.compile
    with mock.patch.object(torch, "compile", compiler):
        compile_encoders(method)


def compiled_equals(target: Target) -> Found:
    views = views_for(target)
    plain = one_step(build("fra", target), views, fabric_on(target.device))
    method = build("fra", target)
    compile_in(target, method)
    try:
        return apart(one_step(method, views, fabric_on(target.device)), plain)
    finally:
        torch._dynamo.reset()


def resumes_bit_for_bit(target: Target) -> Found:
    """A run of two epochs that is interrupted in the second, against one that is not; kernels are deterministic."""
    with tempfile.TemporaryDirectory() as made, _deterministic() as warned:
        folder = Path(made)
        drawn_faces(folder / "faces", 24)
        whole = _tiny_run(folder, "whole", target)
        with mock.patch.object(loop, "step_seed", _interrupting(loop.step_seed, step=4)), suppress(KeyboardInterrupt):
            _tiny_run(folder, "parts", target)
        stopped = _state(folder / "parts")["step"]
        parts = _tiny_run(folder, "parts", target, resume=True)
        different = [name for name in whole if not torch.equal(whole[name], parts[name])]
    return dict(
        stopped_at_step=stopped,
        different_tensors=len(different),
        not_deterministic=sorted({str(each.message).split(" ")[0] for each in warned})[:5],
        passed=not different and whole.keys() == parts.keys() and 0 < stopped < 6,
    )


def _tiny_run(folder: Path, name: str, target: Target, *, resume: bool = False) -> Mapping[str, Tensor]:
    settings = ["method.head={hidden: 32, out: 16}", "encoder.image_size=32", "views.size=32", "batch_size=8"]
    settings += ["health_faces=8", "method.decoder.width=16", "schedule.epochs=2", "schedule.warmup_epochs=0"]
    recipe = load_pretrain_recipe("smoke/resnet10_half.fra", [*settings, "method.regions=4"])
    runtime = Runtime(target.device, "32", workers=0, threads=1, resume=resume, quiet=True)
    threads = torch.get_num_threads()
    try:
        pretrain(recipe, folder / "faces", folder / name, runtime=runtime)
    finally:
        torch.set_num_threads(threads)
    return _state(folder / name)["model"]


def _state(run: Path) -> dict[str, Any]:
    return torch.load(run / "last.ckpt", map_location="cpu", weights_only=True)


def _interrupting(seed_of: Callable[[int, int, int], int], *, step: int) -> Callable[[int, int, int], int]:
    def interrupted(seed: int, number: int, rank: int) -> int:
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return seed_of(seed, number, rank)

    return interrupted


@contextmanager
def _deterministic() -> Iterator[list[warnings.WarningMessage]]:
    """Deterministic kernels, and torch's words about those that it does not have."""
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # in force if CUDA has not begun; scripts/gpu_check sets it
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            kept: list[warnings.WarningMessage] = []
            yield kept
            kept += [each for each in warned if "deterministic" in str(each.message)]
        finally:
            torch.use_deterministic_algorithms(False)


def drawn_faces(folder: Path, count: int) -> None:
    for seed in range(count):
        write_image(folder / f"{seed:03d}.png", draw_face(seed, size=48).image)


WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero", "bincount"}
"""Operations after which a processor needs a number that a GPU has not computed yet."""


class Waiting(TorchDispatchMode):
    """Collects them on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put_") and any(
            each is not None and each.dtype is torch.bool for each in args[1]
        )
        if name in WAITING or masks:
            where = [each for each in traceback.extract_stack() if "/fra/" in each.filename]
            self.met.append(name + "".join(f" at {Path(each.filename).name}:{each.lineno}" for each in where[-1:]))
        return func(*args, **(kwargs or {}))


def steps_wait_for_nothing(target: Target, *, steps: int = 3) -> Found:
    """FRA's steps from loaded crops to the teacher: no synchronisation, by torch's debug mode and by `Waiting`.

    Between rows of log.csv the loop does nothing else on a GPU.
    """
    waiting = Waiting()
    with tempfile.TemporaryDirectory() as made:
        drawn_faces(Path(made), 2 * target.batch)
        fabric, method = fabric_on(target.device, "bf16"), build("fra", target)
        optimizer = build_optimizer(OptimizerConfig(), method)
        wrapped, stepper = fabric.setup(PartByPart(method.train()), optimizer)
        between = BetweenSteps(method)
        maker, order = (
            ViewMaker(ViewsConfig(size=target.size), seed=0),
            EpochBatches(2 * target.batch, batch_size=target.batch),
        )
        loader = FaceLoader(FolderPool(Path(made)), maker, order, workers=0, with_frames=True, crops_only=True)
        for number in range(1 + steps):
            batch = next(loader)
            # The first step allocates, and lets libraries choose their kernels.
            with _no_synchronisation(fabric.device, waiting) if number else nullcontext():
                views = batch.views_on(fabric.device)
                frames = [frame.to(fabric.device, non_blocking=True) for frame in batch.frames]
                forward_and_backward(fabric, wrapped, FramedViews(views, frames), START)
                stepper.step()
                stepper.zero_grad(set_to_none=True)
                method.after_step(START)
                between.remember()
    return dict(steps=steps, waited=sorted(set(waiting.met)), passed=not waiting.met)


@contextmanager
def _no_synchronisation(device: torch.device, waiting: Waiting) -> Iterator[None]:
    """`waiting` looks at what is done, and every synchronisation with a GPU is an error."""
    with waiting:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def views_are_the_workers(target: Target) -> Found:
    """Views that the device finishes are those that workers make: to one of 255 levels but for 1 pixel in 1,000."""
    images = [draw_face(seed, size=2 * target.size).image for seed in range(target.batch)]
    maker, indices = ViewMaker(ViewsConfig(size=target.size), seed=0), torch.arange(len(images))
    theirs = maker.make(images, indices, epoch=0)
    off = []
    for view, drawn in zip(theirs, maker.draw(images, indices, epoch=0), strict=True):
        crops = crop_only(drawn.config, images, drawn.parameters).to(target.device)
        off.append((finish(crops, drawn).cpu() * 255 - view).abs().flatten())
    beyond = float((torch.cat(off) > 1.5).float().mean())
    return dict(largest_levels=float(torch.cat(off).max()), beyond_one_level=beyond, passed=beyond <= 1e-3)


CHECKS: dict[str, Callable[[Target], Found]] = {
    "views on the device": views_are_the_workers,
    **{f"{name}: a step as on the processor, fp32": partial(step_equals_the_processors, name) for name in NAMES},
    **{f"{name}: loss in bf16": partial(bf16_loss, name) for name in NAMES},
    "synchronised batch norm and DDP, one process": alone_in_a_group,
    "no step waits for the device": steps_wait_for_nothing,
    "resume, bit for bit": resumes_bit_for_bit,
    "compiled as not compiled": compiled_equals,
}
"""In the order in which they are worth their seconds."""
SECONDS: dict[str, float] = {"compiled as not compiled": 60, "resume, bit for bit": 15}
"""What some need at least, of the minutes on a GPU."""
