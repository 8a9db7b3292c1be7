"""Pools: any number of images that are asked for by index, in a folder tree, in a list, or in shards."""

import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import UInt8
from torch import Tensor

from fra.faces.image import EXTENSIONS, UnreadableImage, read_image
from fra.files import read_text, reading
from fra.pools.index import INDEX
from fra.pools.listing import Account, first_readable, image_names, listed_names, named
from fra.pools.manifest import SHARD, RemoteShard, find_shards, looked_up
from fra.pools.remote import Remote, expanded, is_remote
from fra.pools.shards import Shards
from fra.system.printable import counted, without_secrets

UNREADABLE_IN_A_ROW = 100  # ours: more than chance leaves behind, and found within a second


class Pool(ABC):
    """Images by index, from 0 to len - 1, the same at every start. Labels are never seen."""

    crop_settings: dict[str, Any] | None = None
    """The content of `crop.yaml` where `fra crop` made the pool."""
    account: Account
    """What there is in the folder or list besides."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def index_bytes(self) -> int:
        """Memory that the index of images takes, once for all processes of a machine that share it."""

    @abstractmethod
    def path(self, index: int) -> Path | str:
        """Where the image with this index is; in a shard, as if the shard were a folder. Text for one elsewhere."""

    @abstractmethod
    def image(self, index: int, *, least_side: int | None = None) -> UInt8[Tensor, "3 _ _"]:
        """The image with this index, `least_side` as for `read_image`. Raises UnreadableImage."""

    def begin_to_keep(self) -> str:
        """Fetch what is elsewhere to this machine, beside the work, where it has a place here; a line about it."""
        return ""

    def first_readable(
        self, source: Path | str, *, least_side: int | None = None
    ) -> tuple[int, UInt8[Tensor, "3 _ _"]]:
        """The first image, which are from `source`, that can be read, and its place; ValueError when there is none."""
        reads = (partial(self.image, index, least_side=least_side) for index in range(len(self)))
        return first_readable(reads, source=str(source), noun="image")

    def read(self, index: int) -> tuple[UInt8[Tensor, "3 _ _"], list[int]]:
        """The image at `index`, or the next readable one after it, and the indices that could not be read.

        Which image replaces an unreadable one depends on the pool alone. ValueError when very many in a row are
        unreadable.
        """
        unreadable: list[int] = []
        for step in range(min(len(self), UNREADABLE_IN_A_ROW)):
            candidate = (index + step) % len(self)
            try:
                return self.image(candidate), unreadable
            except UnreadableImage as error:
                unreadable.append(candidate)
                reason = error
        raise ValueError(f"cannot read {counted(len(unreadable), 'image')} in a row, the last: {reason}")


class FolderPool(Pool):
    """The images of a folder tree, of a folder made by `fra crop`, or of a .txt list of paths.

    Raises ValueError when there are none.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self.crop_settings = _crop_settings(path)
        self.account = Account()
        self.root, names = image_names(path, account=self.account)
        # All names in one piece of memory: a list of objects would be copied, page by page, into every worker. Tensors,
        # because PyTorch hands them to spawned workers as shared memory.
        text, ends = bytearray(), array("q")
        try:
            for name in names:
                text += os.fsencode(name)
                ends.append(len(text))
        except ValueError as error:
            if not path.is_dir():
                raise
            met = f" ({'; '.join(self.account.parts())})" if self.account.parts() else ""
            hint = f"no faces found in {path}: expected .jpg, .png or .tar in it; did you run `fra crop` first?{met}"
            raise ValueError(hint) from error
        self._text = torch.frombuffer(text, dtype=torch.uint8).clone()
        self._ends = torch.frombuffer(ends, dtype=torch.int64).clone()

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def index_bytes(self) -> int:
        return self._text.nbytes + self._ends.nbytes

    def path(self, index: int) -> Path:
        start = int(self._ends[index - 1]) if index else 0
        name = self._text[start : int(self._ends[index])].numpy().tobytes()
        return named(self.root, os.fsdecode(name))

    def image(self, index: int, *, least_side: int | None = None) -> UInt8[Tensor, "3 _ _"]:
        return read_image(self.path(index), least_side=least_side)


class ShardPool(Pool):
    """The images in .tar shards; `crop_settings` where `fra crop --shards` made them."""

    def __init__(
        self,
        files: Iterable[Path | RemoteShard],
        *,
        crop_settings: dict[str, Any] | None = None,
        account: Account | None = None,
    ) -> None:
        self.shards = Shards(list(files))
        self.crop_settings = crop_settings
        self.account = Account() if account is None else account

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def index_bytes(self) -> int:
        return self.shards.index_bytes

    def path(self, index: int) -> Path | str:
        return self.shards.path(index)

    def begin_to_keep(self) -> str:
        return self.shards.begin_to_keep()

    def image(self, index: int, *, least_side: int | None = None) -> UInt8[Tensor, "3 _ _"]:
        return self.shards.image(index, least_side=least_side)


class FirstImages(Pool):
    """The first `count` images of another pool, or all where it has fewer."""

    def __init__(self, pool: Pool, count: int) -> None:
        self.pool, self.count = pool, count
        self.crop_settings, self.account = pool.crop_settings, pool.account

    def __len__(self) -> int:
        return min(self.count, len(self.pool))

    @property
    def index_bytes(self) -> int:
        return self.pool.index_bytes

    def path(self, index: int) -> Path | str:
        return self.pool.path(index)

    def begin_to_keep(self) -> str:
        return self.pool.begin_to_keep()

    def image(self, index: int, *, least_side: int | None = None) -> UInt8[Tensor, "3 _ _"]:
        return self.pool.image(index, least_side=least_side)


def open_pool(path: Path | str | Remote) -> Pool:
    """The pool at `path`: what `fra crop` made, a folder tree of images, a folder of .tar shards, one shard, one image,
    or a .txt list of images or of shards. Names of shards may have braces: `faces-{000000..000011}.tar`.

    Shards, and lists and folders of them, may also be elsewhere (`Remote`, or text like `s3://bucket/faces`). Raises
    ValueError when there is no image, or when images and shards lie side by side.
    """
    if isinstance(path, Remote) or (isinstance(path, str) and is_remote(path)):
        return _pool_elsewhere(path if isinstance(path, Remote) else Remote(path))
    path = Path(path)
    if path.suffix.lower() == SHARD and not path.exists() and "{" in str(path):
        return ShardPool([Path(name) for name in expanded(str(path))])
    if path.suffix.lower() == SHARD and path.is_file():
        return ShardPool([path])
    if path.suffix.lower() == ".txt" and path.is_file() and any(map(_is_shard, islice(listed_names(path), 1))):
        return ShardPool(_listed_shards(path))
    if not path.is_dir():
        return FolderPool(path)
    settings = _crop_settings(path)
    packed = settings is not None and (path / "shards").is_dir()
    account = Account()
    files = _shards_in(path / "shards" if packed else path, account)
    if packed and not files:
        raise ValueError(
            f"no faces found in {path}: `fra crop` found none, or was interrupted (continue it with --resume)"
        )
    return ShardPool(files, crop_settings=settings, account=account) if files else FolderPool(path)


def _pool_elsewhere(place: Remote) -> ShardPool:
    found = find_shards(place)
    account = Account()
    for name in found.ignored:
        account.ignored[os.path.splitext(name)[1].lower() or "without ending"] += 1
    return ShardPool(found.shards, crop_settings=found.crop, account=account)


def _listed_shards(path: Path) -> list[Path | RemoteShard]:
    """The shards in a list here, in its order; each may be here or elsewhere."""
    names = [name for line in listed_names(path) for name in expanded(line)]
    if other := next((name for name in names if not _is_shard(name)), None):
        raise ValueError(f"{path} lists shards, but also {without_secrets(other)}: list either images or .tar files")
    places = [Remote(name) for name in names if is_remote(name)]
    found = iter(looked_up(places))
    return [next(found) if is_remote(name) else named(str(path.parent), name) for name in names]


def _shards_in(folder: Path, account: Account) -> list[Path]:
    """The shards in a folder (not below it), in sorted order; what lies beside them goes into `account`."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    shards = sorted(name for name in names if _is_shard(name))
    image = next((name for name in names if os.path.splitext(name)[1].lower() in EXTENSIONS), None)
    if shards and image is not None:
        raise ValueError(
            f"{folder} holds shards ({shards[0]}) and images ({image}): separate them, or list one kind in a .txt file"
        )
    for name in names:
        if (folder / name).is_dir():
            account.ignored["folder"] += 1
        elif not _is_shard(name) and not name.endswith(INDEX):
            account.ignored[os.path.splitext(name)[1].lower() or "without ending"] += 1
    return [folder / name for name in shards]


def _is_shard(name: str) -> bool:
    name = name.partition("?")[0] if is_remote(name) else name
    return os.path.splitext(name)[1].lower() == SHARD


def _crop_settings(path: Path) -> dict[str, Any] | None:
    settings = path / "crop.yaml"
    if not settings.is_file():
        return None
    with reading(settings):
        found = yaml.safe_load(read_text(settings))
        if not isinstance(found, dict):
            raise ValueError("it holds no settings")
        return found
