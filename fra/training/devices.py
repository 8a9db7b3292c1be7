"""Where to compute and how precisely: Lightning Fabric for one device, several, or several machines."""

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fra.runtime import Runtime
from fra.training.threads import most_threads

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = ("32", "bf16", "16")


def begin(runtime: Runtime) -> str:
    """Give torch the threads that were asked for; the device that a command computes on, as `choose_device`."""
    most_threads()  # which it remembers, before another number is set
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    return choose_device(runtime.device)


def choose_device(device: str = "auto") -> str:
    """For auto CUDA where there is one, else Apple's MPS, else the CPU. ValueError for a device that is not there."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if present[name])
    if device not in present:
        raise ValueError(f"unknown device '{device}': use auto, cpu, cuda or mps")
    if not present[device]:
        raise ValueError(f"this machine has no {device}: use --device auto")
    return device


def choose_precision(device: str, precision: str = "auto", *, processes: int = 1) -> str:
    """For auto bf16 where it pays, else 32. ValueError for what the device cannot do.

    A GPU that computes in bf16 gains by it; a processor may announce bf16 and be slower with it, so it is measured
    (in a tenth of a second). Several processes on processors take 32: each would measure for itself.
    """
    if precision == "auto":
        if device == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
        return "bf16" if device == "cpu" and processes == 1 and _bf16_pays_on_the_processor() else "32"
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision '{precision}': use auto, 32, bf16 or 16")
    if precision == "16" and device != "cuda":
        raise ValueError(f"precision 16 needs a CUDA GPU and this is {device}: use bf16 or 32")
    return precision


@functools.cache
def _bf16_pays_on_the_processor() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or not {"avx512_bf16", "amx_bf16"} & set(cpuinfo.read_text().split()):
        return False
    return bf16_speedup() > 1.25


def bf16_speedup(size: int = 512) -> float:
    """How much faster one core multiplies matrices in bfloat16 than in float32, from the best of tries in turn."""
    matrices = [torch.ones(size, size, dtype=kind) for kind in (torch.float32, torch.bfloat16)]
    best = [float("inf"), float("inf")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # other work on the machine disturbs one thread least
    for _ in range(12):
        for kind, matrix in enumerate(matrices):
            before = time.perf_counter()
            matrix @ matrix
            best[kind] = min(best[kind], time.perf_counter() - before)
    torch.set_num_threads(threads)
    return best[0] / best[1]


def make_fabric(runtime: Runtime = Runtime()) -> "Fabric":
    """A Fabric on the chosen device; several devices or nodes train together with DDP (also under torchrun, SLURM).

    Mixed precision holds inside of `with fabric.autocast()`: on a single device Fabric has none for marked methods.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision, Precision
    from lightning_fabric.strategies import DDPStrategy

    class Autocast(MixedPrecision):
        """Rounds what a network computes, not what it is given: Fabric would round frames and landmarks for DDP."""

        def convert_input(self, data: Any) -> Any:
            return data

    chosen = choose_device(runtime.device)
    precision = choose_precision(chosen, runtime.precision, processes=runtime.processes)
    plugin = Precision() if precision == "32" else Autocast(f"{precision}-mixed", chosen)  # type: ignore[arg-type]
    return Fabric(
        accelerator=chosen,
        devices=runtime.devices,
        num_nodes=runtime.nodes,
        # Gradients live in the buckets that are sent, so none is copied (torch's default keeps both).
        strategy=DDPStrategy(gradient_as_bucket_view=True) if runtime.processes > 1 else "auto",
        plugins=[plugin],
    )
