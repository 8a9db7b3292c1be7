"""Files that are given for weights and are something else: told by how they begin, with the way to the weights."""

import json
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from fra.system.printable import counted
from fra.system.text import python_command, require_regular, shown

WEIGHT_ENDINGS = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".safetensors")
MEMBERS = 200
"""How many names of an archive are looked at: of a compressed one everything before them is unpacked for it."""
_HEAD = 512
_BEGINNINGS = {
    b"BZh": ("a bzip2 archive", "unpack it with bunzip2, or tar -xjf"),
    b"\xfd7zXZ\0": ("an xz archive", "unpack it with unxz, or tar -xJf"),
    b"\x28\xb5\x2f\xfd": ("a Zstandard archive", "unpack it with unzstd, or tar --zstd -xf"),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "unpack it"),
    b"Rar!": ("a RAR archive", "unpack it"),
    b"\x89HDF\r\n\x1a\n": (
        "an HDF5 file, as Keras writes",
        "save the network's tensors with torch.save or as safetensors",
    ),
    b"\x93NUMPY": ("a NumPy array", "save the network's tensors with torch.save or as safetensors"),
    b"\xff\xd8\xff": ("a JPEG image", "give a file of weights"),
    b"\x89PNG": ("a PNG image", "give a file of weights"),
    b"%PDF": ("a PDF document", "give a file of weights"),
}


def is_safetensors(path: Path) -> bool:
    """Whether it begins as a safetensors file does, whatever it is called: the length of a header, then the header."""
    with open(path, "rb") as stream:
        head = stream.read(9)
    return head[8:] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 2**40


def require_weights(path: Path) -> None:
    """Raises ValueError for a file that is certainly no weights, saying what it is and the way out."""
    require_regular(path)
    size = path.stat().st_size
    with open(path, "rb") as stream:
        head = stream.read(_HEAD)
    found = None
    if not head:
        found = "empty", "the download or copy failed, download it again"
    elif head.startswith(b"PK\x03\x04"):
        found = _zip(path, size)
    elif head.startswith(b"\x1f\x8b"):
        found = _gzip(path)
    elif head[257:262] == b"ustar":
        found = _tar(path)
    elif _is_onnx(path, head):
        found = "an ONNX network", "fra reads PyTorch checkpoints: give the file that it was exported from"
    elif not is_safetensors(path):
        found = next((what for begin, what in _BEGINNINGS.items() if head.startswith(begin)), None) or _text(path, head)
    if found:
        raise ValueError(f"{path} is {found[0]}, not a file of weights: {found[1]}")


def _zip(path: Path, size: int) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return f"the beginning of a checkpoint or zip archive ({size:,} bytes)", "its end is missing, download it again"
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        return (
            "a TorchScript archive",
            _by_torch("save its tensors", "torch.jit.load({}).state_dict()", path),
        )
    if any(name.endswith(("serialized_exported_program.json", "archive_format")) for name in names):
        return (
            "an exported PyTorch program (.pt2)",
            _by_torch("save its tensors", "torch.export.load({}).state_dict", path),
        )
    if any(name.endswith("data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays (.npz)", "save the network's tensors with torch.save or as safetensors"
    return f"a zip archive{_holding(names)}", "unpack it (unzip) and give the file of weights in it"


def _by_torch(what: str, loaded: str, path: Path) -> str:
    """The command that saves what the Python expression `loaded` gives beside the file."""
    saved = path.with_name(f"{path.name}.weights.pth")
    line = python_command(f"import torch; torch.save({loaded}, {{}})", path, saved)
    return f"{what} by {line} and give {shown(saved.name)}"


def _gzip(path: Path) -> tuple[str, str]:
    with suppress(tarfile.TarError, OSError, EOFError), tarfile.open(path, "r:gz") as archive:
        names = [member.name for member in islice(archive, MEMBERS)]
        return f"a compressed tar archive{_holding(names)}", "unpack it (tar -xzf) and give the file of weights in it"
    return "a gzip file", "unpack it (gunzip) and give the result"


def _tar(path: Path) -> tuple[str, str]:
    with suppress(tarfile.TarError, OSError), tarfile.open(path, "r:") as archive:
        names = [member.name for member in islice(archive, MEMBERS)]
        if {"pickle", "storages", "tensors"} <= set(names):
            return (
                "a checkpoint from before PyTorch 0.1.10",
                _by_torch("if you trust it, save it again", "torch.load({}, weights_only=False)", path),
            )
        return f"a tar archive{_holding(names)}", "unpack it (tar -xf) and give the file of weights in it"
    return "a damaged tar archive", "download it again"


def _holding(names: Iterable[str]) -> str:
    """What an archive holds, weights before other files."""
    files = [name for name in names if not name.endswith("/")]
    weights = [name for name in files if name.endswith(WEIGHT_ENDINGS)]
    first = ", ".join(shown(name) for name in (weights or files)[:3])
    return f" with {first}{', ...' * (len(weights or files) > 3)} inside" if first else " without files"


def _is_onnx(path: Path, head: bytes) -> bool:
    """A protobuf that begins with a small version number and one of a model's other fields."""
    fields = {0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42}
    return path.suffix == ".onnx" or (len(head) > 2 and head[0] == 0x08 and head[1] < 0x20 and head[2] in fields)


def _text(path: Path, head: bytes) -> tuple[str, str] | None:
    text = head.decode("utf-8-sig", "ignore").lstrip()
    if text.startswith("version https://git-lfs"):
        return "a Git LFS pointer", "run `git lfs pull` in its repository, or download the file itself"
    if re.match(r"<(!doctype|html|head|body|\?xml|!--)", text, re.IGNORECASE):
        return (
            "a web page",
            "the link led to a page instead of the file: open it in a browser, sign in if asked, and download the file",
        )
    if text.startswith("{") and (parts := _parts_of_index(path)):
        return (
            f"an index of weights in {counted(len(parts), 'part')} "
            f"({', '.join(parts[:2])}{', ...' * (len(parts) > 2)})",
            "load the parts in the program that wrote them and save the state_dict as one file",
        )
    if text and all(sign.isprintable() or sign in "\n\r\t" for sign in text) and b"\0" not in head:
        return f"text that begins '{shown(next(iter(text.splitlines())))}'", "give a file of weights"
    return None


def _parts_of_index(path: Path) -> list[str]:
    """The files that an index (model.safetensors.index.json) names, or nothing when it is none."""
    if path.stat().st_size > 50_000_000:
        return []
    with suppress(ValueError, RecursionError, AttributeError):
        return sorted(set(_strings(json.loads(path.read_text(encoding="utf-8")).get("weight_map", {}).values())))
    return []


def _strings(values: Iterable[object]) -> Iterator[str]:
    return (value for value in values if isinstance(value, str))
