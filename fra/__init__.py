"""Self-supervised facial representations with facial region awareness.

Importing it switches off what packages below it would report to their makers (`fra.system.telemetry`).

The public door: `load_encoder`, `load_region_model`, `load_task_model`, and
`Runtime`, which says where and how to compute. Everything else may move between versions.
"""

from typing import TYPE_CHECKING, Any

from fra.system.telemetry import switch_off

switch_off()  # before torch, onnxruntime and the rest

__version__ = "0.1.0"
__all__ = ["Runtime", "__version__", "load_encoder", "load_region_model", "load_task_model"]

if TYPE_CHECKING:
    from fra.predict.task_model import load_task_model
    from fra.runtime import Runtime
    from fra.weights.load import load_encoder, load_region_model

_HOMES = {
    "Runtime": "fra.runtime",
    "load_encoder": "fra.weights.load",
    "load_region_model": "fra.weights.load",
    "load_task_model": "fra.predict.task_model",
}


def __getattr__(name: str) -> Any:
    """Import torch and the rest only when something is really used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fra' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
