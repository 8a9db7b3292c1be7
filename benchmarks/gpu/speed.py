"""Rates on one device: steps of ours, of the bare network and of lightly's BYOL; views by cores and by the device."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.checks import compile_in
from benchmarks.gpu.shot import Target
from benchmarks.paired import Work
from benchmarks.steps import HEAD, METHODS, bare_network, encoder_for, own_step, peer_step, random_views
from fra.drawing.drawn_face import draw_face
from fra.faces.image import image_from_bytes, jpeg_bytes
from fra.pretrain.views import ViewMaker, ViewsConfig, crop_only
from fra.pretrain.views_on_device import finish


@dataclass(frozen=True)
class Cell:
    """One number of the table."""

    network: str
    size: int
    batch: int
    precision: str
    """fp32 (as torch has it: TF32 in convolutions), bf16, or compiled, which is bf16 too."""
    candidate: str

    @property
    def name(self) -> str:
        return f"{self.network}, {self.size} px, batch {self.batch}, {self.precision}: {self.candidate}"


CANDIDATES = ("fra", "byol", "bare network", "lightly byol")
SETTINGS = (("resnet50", 128, 256), ("resnet50", 112, 256), ("resnet50", 224, 128), ("vit_small_patch16_224", 224, 128))
SMALL_SETTINGS = (("resnet10_quarter", 32, 8),)


def cells(target: Target) -> Iterator[Cell]:
    """What is most worth knowing comes first: bf16 before fp32, compiled last, because compiling takes a minute."""
    for precision in ("bf16", "fp32", "compiled"):
        for setting in SMALL_SETTINGS if target.miniature else SETTINGS:
            for candidate in CANDIDATES[: 2 if precision == "compiled" else None]:
                yield Cell(*setting, precision, candidate)


def needs(cell: Cell) -> float:
    """Seconds for a cell on a large GPU (assumed; one that takes longer is broken off at the end of the stage)."""
    return 40.0 if cell.precision == "compiled" else 4.0


def work_of(cell: Cell, target: Target) -> Work:
    """A step of this cell. ModuleNotFoundError where lightly is missing, ValueError for a network that it has not."""
    torch.manual_seed(0)
    bf16, device = cell.precision != "fp32", target.device
    if cell.candidate == "bare network":
        return bare_network(cell.network, cell.size, cell.batch, bf16=bf16, channels_last=True, device=device)
    views = random_views(cell.batch, cell.size, device)
    if cell.candidate == "lightly byol":
        return peer_step(_lightly(cell).to(device), views, bf16=bf16, channels_last=True)
    method = METHODS[cell.candidate](encoder_for(cell.network, cell.size)).to(device)
    if cell.precision == "compiled":
        compile_in(target, method)
    return own_step(method, views, bf16=bf16)


def _lightly(cell: Cell) -> Any:
    from benchmarks.lightly_methods import LightlyBYOL

    if not cell.network.startswith("resnet"):
        raise ValueError("only ResNets are compared with lightly's")
    name = "resnet18" if cell.network == "resnet10_quarter" else cell.network  # torchvision has no smaller one
    return LightlyBYOL(name, hidden=HEAD.hidden, out=HEAD.out)


def measure(cell: Cell, target: Target) -> Mapping[str, Any]:
    """Pairs per second, and the most memory that tensors took (GPUs only), in MiB."""
    cuda = target.device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        rate = units_per_second(work_of(cell, target), target)
    finally:
        if cell.precision == "compiled":
            torch._dynamo.reset()
    memory = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
    return dict(pairs_per_second=rate, memory_mib=memory, **vars(cell))


def units_per_second(work: Work, target: Target) -> float:
    """After two runs that are not counted, for a second (in miniature once)."""
    for _ in range(1 if target.miniature else 2):
        work()
    wait(target.device)
    started, units = time.perf_counter(), 0.0
    while not units or time.perf_counter() - started < (0.0 if target.miniature else 1.0):
        for _ in range(1 if target.miniature else 4):
            units += work()
        wait(target.device)
    return units / (time.perf_counter() - started)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def views_per_second(target: Target) -> Mapping[str, Any]:
    """Whole views and crops on one core, from JPEGs; what the device adds to crops."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        count, size = (8, target.size) if target.miniature else (64, 128)
        files = [jpeg_bytes(draw_face(seed, size=size).image) for seed in range(count)]
        maker, indices = ViewMaker(ViewsConfig(size=size), seed=0), torch.arange(count)

        def images() -> list[Tensor]:
            return [image_from_bytes(content, "face.jpg") for content in files]

        def whole() -> float:
            return sum(len(view) for view in maker.make(images(), indices, epoch=0))

        def crops() -> float:
            faces = images()
            drawn = maker.draw(faces, indices, epoch=0)
            return sum(len(crop_only(config, faces, parameters)) for config, parameters in drawn)

        return dict(
            size=size,
            whole_per_core=units_per_second(whole, target),
            crops_per_core=units_per_second(crops, target),
            device=units_per_second(_finishing(images(), maker, target), target),
        )
    finally:
        torch.set_num_threads(threads)


def _finishing(faces: list[Tensor], maker: ViewMaker, target: Target) -> Callable[[], float]:
    """A batch of the size that is trained with, on the device."""
    many = faces * (1 if target.miniature else 4)
    drawn = maker.draw(many, torch.arange(len(many)), epoch=0)[0]
    crops = crop_only(drawn.config, many, drawn.parameters).to(target.device)
    return lambda: len(finish(crops, drawn))
