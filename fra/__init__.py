"""Self-supervised facial representations with facial region awareness.

Importing it switches off what packages below it would report to their makers (`fra.system.telemetry`), lets
OpenMP's threads wait asleep, and lets freed memory be used again (`fra.system.memory`).

The public API (docs/reference/api.md): `load_encoder`, `load_region_model`, `load_task_model`, `detect`, `crop_faces`,
and `Runtime`, which says where and how to compute. Everything else may move between versions.
"""

import os
from typing import TYPE_CHECKING, Any

from fra.system.memory import keep_freed_memory
from fra.system.telemetry import switch_off

switch_off()  # before torch, onnxruntime and the rest
# Threads that wait for others sleep: spinning, they would take the core from the thread that they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
keep_freed_memory()

__version__ = "0.1.0"
__all__ = [
    "Runtime",
    "__version__",
    "crop_faces",
    "detect",
    "load_encoder",
    "load_region_model",
    "load_task_model",
]

if TYPE_CHECKING:
    from fra.api import crop_faces, detect, load_encoder, load_region_model, load_task_model
    from fra.runtime import Runtime


def __getattr__(name: str) -> Any:
    """Import torch and the rest only when something is really used."""
    if name not in __all__:
        raise AttributeError(f"module 'fra' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module("fra.runtime" if name == "Runtime" else "fra.api"), name)


def __dir__() -> list[str]:
    return __all__
