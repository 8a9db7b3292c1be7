"""WebDataset shards: images inside plain .tar files, found by index.

S shards, N images. Any image can be read at any time, so shards keep what folders promise: exact resuming, an even
split. That is why they are not read by `webdataset` itself, which streams: its indexed reader (`wids`) is gone from
version 1.0, and that of 0.2 copies local shards to a cache first and holds Python objects for every member.
"""

import os
import stat
import tarfile
import weakref
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fra.faces.decode import MOST_BYTES
from fra.faces.image import EXTENSIONS, UnreadableImage, endings, image_from_bytes, too_many_bytes
from fra.files import DamagedFile, atomic, open_regular, read_arrays, reading, regular_descriptor

BLOCK = tarfile.BLOCKSIZE  # 512 bytes: a header takes one, contents are filled up to a multiple
INDEX = ".index.npz"
KEPT_OPEN = 32  # shards that a process keeps open (ours: macOS allows 256 files in all)


class Shards:
    """The images of .tar shards, one after the other. Nothing is unpacked; a shard is opened when it is needed.

    Every member with an image's ending counts, hidden ones and links do not; beside KEY.jpg, further images of the same
    sample (KEY.png, KEY.mask.png) do not count either. ValueError when a shard cannot be read or none has an image.

    Copies in other processes share the index, and may have been made by fork, spawn or forkserver.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = [Path(file) for file in files]
        entries = [load_index(file) for file in self.files]
        # Tensors, because PyTorch hands them to spawned workers as shared memory.
        self._ends = np.cumsum([len(each) for each in entries])
        self._entries = torch.from_numpy(np.concatenate([np.empty((0, 3), np.int64), *entries]))
        if not len(self):
            raise ValueError(f"no images in {self.files[0] if self.files else 'no shard'}: expected {endings()} inside")
        self._open_none()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def index_bytes(self) -> int:
        """Memory that the index takes."""
        return self._entries.nbytes

    def path(self, index: int) -> Path:
        """The member with this index, as if its shard were a folder."""
        shard, (start, _, _) = self._place(index)
        with suppress(OSError, tarfile.TarError), open_regular(self.files[shard]) as stream:
            stream.seek(start)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                member = tar.next()
                if member is not None:
                    return self.files[shard] / member.name
        return self.files[shard] / f"byte {start}"

    def image(self, index: int, *, least_side: int | None = None) -> UInt8[Tensor, "3 _ _"]:
        """Read and decode one image, `least_side` as for `read_image`. Raises UnreadableImage."""
        shard, (_, offset, size) = self._place(index)
        if size > MOST_BYTES:
            raise UnreadableImage(self.path(index), too_many_bytes(size))
        try:
            content = os.pread(self._descriptor(shard), size, offset)
            if len(content) < size:
                raise UnreadableImage(self.files[shard], "its shard is cut off")
            return image_from_bytes(content, self.files[shard], least_side=least_side)
        except OSError as error:
            raise UnreadableImage(self.path(index), error.strerror or type(error).__name__) from error
        except UnreadableImage as error:
            raise UnreadableImage(self.path(index), error.reason) from error

    def _place(self, index: int) -> tuple[int, list[int]]:
        return int(np.searchsorted(self._ends, index, side="right")), self._entries[index].tolist()

    def _descriptor(self, shard: int) -> int:
        """A shard's open file. A forked copy may use it too: `pread` moves no position."""
        if shard in self._descriptors:
            self._descriptors.move_to_end(shard)
        else:
            self._descriptors[shard] = regular_descriptor(self.files[shard])
            if len(self._descriptors) > KEPT_OPEN:
                os.close(self._descriptors.popitem(last=False)[1])
        return self._descriptors[shard]

    def _open_none(self) -> None:
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        weakref.finalize(self, _close, self._descriptors)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_descriptors"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_none()


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
    with atomic(index_file(shard)) as temporary:
        np.savez(temporary, shard_bytes=np.int64(shard.stat().st_size), entries=entries)


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
    entries = array("q")
    key_of_plain = None  # the sample that has had its KEY.jpg
    try:
        with open_regular(shard) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # they would all be kept otherwise
                folder, name = os.path.split(member.name)
                key, _, ending = name.partition(".")
                image = os.path.splitext(name)[1].lower() in EXTENSIONS and key != ""
                if image and member.isreg() and not member.issparse() and (folder, key) != key_of_plain:
                    entries.extend((member.offset, member.offset_data, member.size))
                    if f".{ending.lower()}" in EXTENSIONS:
                        key_of_plain = folder, key
            stream.seek(tar.offset)  # tarfile ends without a word at a header it cannot read
            if any(stream.read(BLOCK)):
                raise tarfile.ReadError(f"no member begins at byte {tar.offset}")
    except OSError as error:
        raise ValueError(f"cannot read the shard {shard}: {error.strerror or error}") from error
    except tarfile.TarError as error:
        raise ValueError(
            f"{shard} is not a complete .tar ({error}): copy it again, or decompress it if it is compressed"
        ) from error
    return np.frombuffer(entries, dtype=np.int64).reshape(-1, 3).copy()
