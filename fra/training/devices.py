"""Where to compute and how precisely: Lightning Fabric for one device, several, or several machines."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


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


def choose_precision(device: str, precision: str = "auto") -> str:
    """For auto bf16 where the processor or GPU computes in it, else 32. ValueError for what the device cannot do."""
    if precision == "auto":
        return "bf16" if _computes_in_bf16(device) else "32"
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision '{precision}': use auto, 32, bf16 or 16")
    if precision == "16" and device != "cuda":
        raise ValueError(f"precision 16 needs a CUDA GPU and this is {device}: use bf16 or 32")
    return precision


def _computes_in_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu" and Path("/proc/cpuinfo").exists():
        flags = Path("/proc/cpuinfo").read_text()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def make_fabric(device: str = "auto", precision: str = "auto", *, devices: int = 1, nodes: int = 1) -> "Fabric":
    """A Fabric on the chosen device; several devices or nodes train together with DDP (also under torchrun, SLURM)."""
    from lightning_fabric import Fabric

    chosen = choose_device(device)
    together = devices * nodes > 1
    return Fabric(
        accelerator=chosen,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if together else "auto",
        precision=PRECISIONS[choose_precision(chosen, precision)],  # type: ignore[arg-type]
    )
