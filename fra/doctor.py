"""`fra doctor`: what this machine has, and what would stop a run on it."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import fra
from fra.system.printable import counted, printable
from fra.system.processes import available_cores
from fra.weights.bundled import read_manifest, shipped_file, shipped_names

PACKAGES = ("torch", "torchvision", "timm", "numpy", "onnxruntime", "pillow")
EXTRAS = {
    "app": ("starlette", "uvicorn"),
    "cloud": ("aiohttp", "fsspec", "gcsfs", "s3fs"),
    "cluster": ("ray",),
    "clusters": ("scikit-learn",),
    "export": ("onnx", "onnxscript"),
    "photos": ("pillow-heif",),
    "tables": ("pyarrow",),
    "video": ("av",),
}
"""The optional dependencies of pyproject.toml, without dev."""
LEAST_ROOM, LEAST_SHARED = 2e9, 256e6
"""Bytes free on disk for a run with its checkpoints, and in /dev/shm for loading workers (ours)."""


@dataclass(frozen=True)
class Finding:
    """A line of the answer."""

    what: str
    says: str
    advice: str = ""
    """What to do about it, empty when all is well."""
    stops: bool = False
    """Whether a run would fail on it."""


def examine() -> list[Finding]:
    """Everything that can be found out in seconds, offline and without writing but for a file that is gone again."""
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (_versions, _devices, _extras, _writing, _shared, _weights)
    return [finding for look in looks for finding in look()]


def show(findings: list[Finding]) -> int:
    """Print them and one line of advice; 1 when a run would fail."""
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        print(f"{finding.what:<{width}}  {printable(finding.says)}")
    worst = sorted((finding for finding in findings if finding.advice), key=lambda finding: not finding.stops)
    print(f"{'advice':<{width}}  {worst[0].advice if worst else 'nothing to do: try `fra demo`'}")
    return int(any(finding.stops for finding in findings))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[Finding]:
    yield Finding("fra", f"{fra.__version__} in {Path(fra.__file__).parent}")
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        found = _version(package)
        advice = "" if found else f"{package} is missing: reinstall fra (pip install --force-reinstall)"
        yield Finding(package, found or "missing", advice, stops=not found)


def _devices() -> Iterator[Finding]:
    import torch

    from fra.training.devices import choose_device

    cores = available_cores()
    yield Finding(
        "processor", f"{counted(cores, 'core')}, torch uses {counted(torch.get_num_threads(), 'thread')}, {_vectors()}"
    )
    chosen = choose_device()
    name = torch.cuda.get_device_name() if chosen == "cuda" else chosen
    count = f"{torch.cuda.device_count()} x " if chosen == "cuda" else ""
    yield Finding("device", f"{count}{name} (--device auto)")


def _vectors() -> str:
    import torch

    return torch.backends.cpu.get_cpu_capability()


def _extras() -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if _version(package) is None]
        if missing:
            says = f"not installed: pip install {' '.join(missing)}"
        else:
            says = ", ".join(f"{package} {_version(package)}" for package in packages)
        yield Finding(f"extra {extra}", says)


def _writing() -> Iterator[Finding]:
    for what, folder in (("here", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        try:
            with tempfile.TemporaryFile(dir=folder):
                free = shutil.disk_usage(folder).free
        except OSError as error:
            yield Finding(
                what, f"{folder}: {error.strerror}", f"change to a folder you may write to, not {folder}", True
            )
            continue
        advice = f"free some space: {folder} has {free / 1e9:.1f} GB left" if free < LEAST_ROOM else ""
        yield Finding(what, f"{folder}: writable, {free / 1e9:,.0f} GB free", advice)


def _shared() -> Iterator[Finding]:
    """Loading workers hand images over in shared memory, of which containers have little."""
    shared = Path("/dev/shm")
    if sys.platform != "linux" or not shared.is_dir():
        return
    free = shutil.disk_usage(shared).free
    low = free < LEAST_SHARED or not os.access(shared, os.W_OK)
    advice = "shared memory is small: start the container with --shm-size=1g, or use --workers 0" if low else ""
    yield Finding("shared memory", f"{free / 1e9:.1f} GB free", advice)


def _weights() -> Iterator[Finding]:
    names = shipped_names()
    try:
        for name in names:
            for file in read_manifest(name).files:
                shipped_file(name, file)
    except ValueError as error:
        yield Finding("weights", "damaged", str(error), stops=True)
        return
    yield Finding("weights", f"{', '.join(names)} (all intact)")
