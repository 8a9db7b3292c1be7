"""WebDataset shards: images inside plain .tar files, found by index.

S shards, N images. Any image can be read at any time, so shards keep what folders promise: exact resuming, an even
split. That is why they are not read by `webdataset` itself, which streams: its indexed reader (`wids`) is gone from
version 1.0, and that of 0.2 copies local shards to a cache first and holds Python objects for every member.
"""

import io
import os
import stat
import tarfile
import time
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32, Int64, UInt8
from torch import Tensor

from fra.faces.decode import MOST_BYTES
from fra.faces.image import UnreadableImage, endings, image_from_bytes, too_many_bytes
from fra.files import DamagedFile, open_regular, read_arrays, reading, regular_descriptor
from fra.pools.cache import Filling, shown_size
from fra.pools.index import BLOCK, CHANGED, INDEX, Index, scan_stream
from fra.pools.index import write_index as write_index_file
from fra.pools.manifest import RemoteShard
from fra.pools.remote import together
from fra.system.printable import counted, printable

KEPT_OPEN = 32  # shards that a process keeps open (ours: macOS allows 256 files in all)
AGAIN = 5.0
"""Seconds before a process looks again whether a shard from elsewhere is kept here by now."""


class Shards:
    """The images of .tar shards, one after the other. Nothing is unpacked; a shard is opened when it is needed.

    Every member with an image's ending counts, hidden ones and links do not; beside KEY.jpg, further images of the same
    sample (KEY.png, KEY.mask.png) do not count either. ValueError when a shard cannot be read or none has an image.

    Images of shards elsewhere are read by their bytes, or from where the shards are kept (`begin_to_keep`); where their
    checksums are known, they are compared. A store that is away raises Lost: its images are not unreadable.

    Copies in other processes share the index, and may have been made by fork, spawn or forkserver.
    """

    def __init__(self, files: Sequence[Path | RemoteShard]) -> None:
        self.files = [file if isinstance(file, RemoteShard) else Path(file) for file in files]
        elsewhere = [file for file in self.files if isinstance(file, RemoteShard)]
        known = dict(zip(map(id, elsewhere), together(RemoteShard.load_index, elsewhere), strict=True))
        found = [known.get(id(file)) or Index(load_index(file)) for file in self.files]  # type: ignore[arg-type]
        # Tensors, because PyTorch hands them to spawned workers as shared memory.
        self._ends = np.cumsum([len(each.entries) for each in found])
        self._entries = torch.from_numpy(
            np.concatenate([np.empty((0, 3), np.int64), *(each.entries for each in found)])
        )
        self._sums = torch.from_numpy(np.concatenate([_sums(each) for each in found])) if elsewhere else None
        if not len(self):
            raise ValueError(f"no images in {self.files[0] if self.files else 'no shard'}: expected {endings()} inside")
        self._filling: Filling | None = None
        self._open_none()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def index_bytes(self) -> int:
        """Memory that the index takes."""
        return self._entries.nbytes + (0 if self._sums is None else self._sums.nbytes)

    def begin_to_keep(self) -> str:
        """Fetch shards from elsewhere into their cache, beside the work, where they have one; a line about it."""
        elsewhere = [file for file in self.files if isinstance(file, RemoteShard)]
        cache = elsewhere[0].place.cache if elsewhere else None
        if cache is None:
            return ""
        self._filling = filling = Filling(cache, elsewhere)
        wanted = len(filling.wanted)
        rest = (
            f"; faces of the other {len(elsewhere) - wanted:,} are read one by one" if wanted < len(elsewhere) else ""
        )
        bound = f"at most {shown_size(cache.bytes)}"
        return f"{counted(wanted, 'shard')} will be kept in {printable(cache.folder)} ({bound}){rest}"

    def path(self, index: int) -> Path | str:
        """The member with this index, as if its shard were a folder."""
        shard, (start, content, _) = self._place(index)
        file = self.files[shard]
        with suppress(OSError, tarfile.TarError):
            head = self._read(shard, start, content - start)
            with tarfile.open(fileobj=io.BytesIO(head + bytes(2 * BLOCK)), mode="r:") as tar:
                member = tar.next()
                if member is not None:
                    return file / member.name if isinstance(file, Path) else f"{file}/{member.name}"
        return file / f"byte {start}" if isinstance(file, Path) else f"{file}/byte {start}"

    def image(self, index: int, *, least_side: int | None = None) -> UInt8[Tensor, "3 _ _"]:
        """Read and decode one image, `least_side` as for `read_image`. Raises UnreadableImage."""
        shard, (_, offset, size) = self._place(index)
        if size > MOST_BYTES:
            raise UnreadableImage(self.path(index), too_many_bytes(size))
        try:
            content = self._read(shard, offset, size)
            if self._sums is not None and not _fits(content, int(self._sums[index])):
                content = self._read_again(index)
            return image_from_bytes(content, str(self.files[shard]), least_side=least_side)
        except OSError as error:
            raise UnreadableImage(self.path(index), error.strerror or type(error).__name__) from error
        except UnreadableImage as error:
            raise UnreadableImage(self.path(index), error.reason) from error

    def _place(self, index: int) -> tuple[int, list[int]]:
        return int(np.searchsorted(self._ends, index, side="right")), self._entries[index].tolist()

    def _read(self, shard: int, start: int, size: int) -> bytes:
        file, descriptor = self.files[shard], self._descriptor(shard)
        if descriptor is None:
            assert isinstance(file, RemoteShard)
            return file.place.read(start, size)
        content = os.pread(descriptor, size, start)
        if len(content) < size:
            raise UnreadableImage(str(file), "its shard is cut off")
        return content

    def _read_again(self, index: int) -> bytes:
        """Of an image from elsewhere that does not fit its checksum: from where the shard is kept, or on its way, bytes
        may have changed. ValueError when they are so there too."""
        assert self._sums is not None
        shard, (_, offset, size) = self._place(index)
        file = self.files[shard]
        assert isinstance(file, RemoteShard)
        if file.place.cache is not None:
            file.place.cache.forget(file)
            self._missed[shard] = float("inf")
            if (descriptor := self._descriptors.pop(shard, None)) is not None:
                os.close(descriptor)
        content = file.place.read(offset, size)
        if not _fits(content, int(self._sums[index])):
            raise ValueError(f"{self.path(index)} does not have the checksum of the index: {CHANGED}")
        return content

    def _descriptor(self, shard: int) -> int | None:
        """A shard's open file, None where it is elsewhere. A forked copy may use it too: `pread` moves no position."""
        if shard in self._descriptors:
            self._descriptors.move_to_end(shard)
            return self._descriptors[shard]
        file = self.files[shard]
        if isinstance(file, Path):
            descriptor: int | None = regular_descriptor(file)
        else:
            cache = file.place.cache
            if cache is None or time.monotonic() < self._missed.get(shard, 0):
                return None
            descriptor = cache.open(file)
        if descriptor is None:
            self._missed[shard] = time.monotonic() + AGAIN
            return None
        self._descriptors[shard] = descriptor
        if len(self._descriptors) > KEPT_OPEN:
            os.close(self._descriptors.popitem(last=False)[1])
        return descriptor

    def _open_none(self) -> None:
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._missed: dict[int, float] = {}
        weakref.finalize(self, _close, self._descriptors)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_descriptors", "_missed")} | {
            "_filling": None
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_none()


def _sums(index: Index) -> Int32[np.ndarray, "N"]:
    return np.zeros(len(index.entries), np.int32) if index.sums is None else index.sums


def _fits(content: bytes, crc: int) -> bool:
    """Whether these are the bytes of this checksum; 0 stands for one that is not known."""
    return crc == 0 or zlib.crc32(content) == crc & 0xFFFFFFFF


def _close(descriptors: OrderedDict[int, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


def index_file(shard: Path) -> Path:
    """Where the index of a shard is kept: faces-000000.tar has faces-000000.index.npz beside it."""
    return shard.with_suffix(INDEX)


def load_index(shard: Path) -> Int64[np.ndarray, "N 3"]:
    """Of each image in the shard: where its entry starts, where its content starts, and the content's size, in bytes.

    Taken from the index beside the shard when that is still true, else from the shard's headers; then the index is
    written for the next time, where that is possible. ValueError for what is not a .tar.
    """
    found = _kept_index(shard)
    if found is None:
        found = scan(shard)
        if not index_file(shard).is_dir():
            with suppress(OSError):
                write_index(shard, found)
    return found


def write_index(shard: Path, entries: Int64[np.ndarray, "N 3"]) -> None:
    """Keep the result of `scan` beside the shard; equal shards have equal index files."""
    write_index_file(index_file(shard), Index(entries), shard.stat().st_size)


def _kept_index(shard: Path) -> Int64[np.ndarray, "N 3"] | None:
    """The index beside the shard, or None when it is absent, damaged, or older than the shard or of another one."""
    try:
        kept, now = index_file(shard).stat(), shard.stat()
        if not stat.S_ISREG(kept.st_mode):  # a pipe would be waited for
            return None
        with reading(index_file(shard)):
            arrays = read_arrays(index_file(shard))
            size, entries = int(arrays["shard_bytes"]), arrays["entries"]
    except (OSError, DamagedFile):
        return None
    if size != now.st_size or kept.st_mtime_ns < now.st_mtime_ns:
        return None
    return entries if entries.dtype == np.int64 and entries.ndim == 2 and entries.shape[1] == 3 else None


def scan(shard: Path) -> Int64[np.ndarray, "N 3"]:
    """What `load_index` returns, from the headers of all members. ValueError when the shard is damaged."""
    return _scan(shard, sums=False).entries


def scan_with_sums(shard: Path) -> Index:
    """The index of a shard that is to go elsewhere, with the checksums of its images. ValueError as for `scan`."""
    return _scan(shard, sums=True)


def _scan(shard: Path, *, sums: bool) -> Index:
    try:
        with open_regular(shard) as stream:
            return scan_stream(stream, shard, sums=sums)
    except OSError as error:
        raise ValueError(f"cannot read the shard {shard}: {error.strerror or error}") from error
