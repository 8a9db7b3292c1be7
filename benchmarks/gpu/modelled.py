"""`python -m benchmarks.gpu.modelled`: what `--plan` models for GPUs, as a table; none of it is measured on one."""

from collections.abc import Iterable

from benchmarks.gpu.speed import SETTINGS
from benchmarks.steps import METHODS, encoder_for
from fra.pretrain.plan import make_plan

MODELLED = ("A100", "H100", "H200")


def modelled(settings: Iterable[tuple[str, int]], *, batch: int = 2) -> str:
    """Pairs per second in 16 bits, from multiply-adds and the bytes kept for the backward pass, counted here on a few
    faces; the last column is FRA's time over BYOL's on an H100."""
    head = ["setting", *(f"{name}, {gpu}" for gpu in MODELLED for name in ("fra", "byol")), "fra's time over byol's"]
    lines = [head, ["---"] * len(head)]
    for network, size in settings:
        plans = {}
        for name in ("fra", "byol"):
            method = METHODS[name](encoder_for(network, size))
            plans[name] = make_plan(method, sizes=[size, size], batch=batch, steps=1, pairs=batch, seconds=0)
        rates = {(gpu, name): plan.gpu_pairs_per_second(gpu) for gpu in MODELLED for name, plan in plans.items()}
        numbers = [f"{rates[gpu, name]:,.0f}" for gpu in MODELLED for name in ("fra", "byol")]
        lines.append([f"{network}, {size} px", *numbers, f"{rates['H100', 'byol'] / rates['H100', 'fra']:.2f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(modelled((network, size) for network, size, _ in SETTINGS))
