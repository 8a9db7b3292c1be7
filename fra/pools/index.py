"""Where the images of a shard are: found in the headers of a .tar, kept in an .npz file."""

import io
import os
import tarfile
import zlib
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

from fra.faces.image import EXTENSIONS
from fra.files import atomic, read_arrays, reading

BLOCK = tarfile.BLOCKSIZE  # 512 bytes: a header takes one, contents are filled up to a multiple
INDEX = ".index.npz"
CHANGED = "it was changed since, or damaged: restore it, or pack the faces again"


@dataclass(frozen=True)
class Index:
    """Where the images of a shard are."""

    entries: Int64[np.ndarray, "N 3"]
    """Where the entry starts, where the content starts, and the content's size, in bytes."""
    sums: Int32[np.ndarray, "N"] | None = None
    """CRC-32 of the contents, where they are known."""


def read_index(file: Path | io.BytesIO, *, name: str = "", size: int | None = None) -> Index:
    """What `write_index` wrote, for a shard of `size` bytes. Raises DamagedFile."""
    with reading(name or str(file), CHANGED):
        if isinstance(file, Path):
            arrays = read_arrays(file)
        else:
            with np.load(file, allow_pickle=False) as found:  # .zip: each array's checksum is compared
                arrays = {key: found[key] for key in found.files}
        entries, sums = arrays["entries"], arrays.get("crc32")
        if entries.dtype != np.int64 or entries.ndim != 2 or entries.shape[1] != 3:
            raise ValueError("it holds no index")
        if size is not None and int(arrays["shard_bytes"]) != size:
            raise ValueError("it belongs to a shard of another size")
        if sums is not None and (sums.dtype != np.int32 or sums.shape != entries.shape[:1]):
            raise ValueError("it holds other checksums")
        return Index(entries, sums)


def write_index(file: Path, index: Index, size: int) -> None:
    """Keep an index of a shard of `size` bytes; equal ones have equal files."""
    arrays: dict[str, Any] = {"shard_bytes": np.int64(size), "entries": index.entries}
    if index.sums is not None:
        arrays["crc32"] = index.sums
    with atomic(file) as temporary:
        np.savez(temporary, **arrays)


def scan_stream(stream: Any, name: object, *, sums: bool = False) -> Index:
    """The index of a shard that is open, with the checksums of the images if wanted. ValueError when it is damaged."""
    entries, crcs = array("q"), array("I")
    key_of_plain = None  # the sample that has had its KEY.jpg
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # they would all be kept otherwise
                folder, file = os.path.split(member.name)
                key, _, ending = file.partition(".")
                image = os.path.splitext(file)[1].lower() in EXTENSIONS and key != ""
                if image and member.isreg() and not member.issparse() and (folder, key) != key_of_plain:
                    entries.extend((member.offset, member.offset_data, member.size))
                    if sums:
                        stream.seek(member.offset_data)
                        crcs.append(zlib.crc32(stream.read(member.size)))
                    if f".{ending.lower()}" in EXTENSIONS:
                        key_of_plain = folder, key
            stream.seek(tar.offset)  # tarfile ends without a word at a header it cannot read
            if any(stream.read(BLOCK)):
                raise tarfile.ReadError(f"no member begins at byte {tar.offset}")
    except tarfile.TarError as error:
        raise ValueError(
            f"{name} is not a complete .tar ({error}): copy it again, or decompress it if it is compressed"
        ) from error
    found = np.frombuffer(entries, dtype=np.int64).reshape(-1, 3).copy()
    return Index(found, np.frombuffer(crcs, dtype=np.uint32).view(np.int32).copy() if sums else None)
