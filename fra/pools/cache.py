"""Shards from elsewhere, kept on a disk of this machine within a bound.

Faces come in random order over all shards, so a pool that is larger than the bound cannot turn its shards over: each
face would fetch a shard. Its first shards are kept, as many as have room, and faces of the others are read one by one.
The bound counts all files of the folder, also those on their way and those of other pools, of which the least recently
used go first. Files appear whole and with the checksum of the manifest. Processes (of one machine) share a folder.
"""

import hashlib
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fra.files import TEMPORARY, remove_leftovers, temporary_prefix
from fra.system.printable import counted, printable
from fra.system.processes import Lost

if TYPE_CHECKING:
    from fra.pools.manifest import RemoteShard

try:
    import fcntl
except ImportError:  # no Unix: there processes should not share a cache
    fcntl = None  # type: ignore[assignment]

USUAL = 50 * 10**9
"""Bytes (ours: VGGFace2 at 128 px is 31 GB)."""
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
KEPT = re.compile(r"[0-9a-f]{16}-.*")
"""Names of the files that are ours to remove."""
TOUCHED = 60.0
"""Seconds after which a file that is in use is touched again."""


def size_of(text: str) -> int:
    """Bytes in a text like 50G, 800M or 20000000 (K, M, G, T: powers of 1,000). ValueError for any other."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"{printable(text)}: give bytes, or a number with K, M, G or T (50G)")
    return int(float(found[1]) * UNITS[found[2].upper()])


def shown_size(count: int) -> str:
    """Bytes for people: 31.4 GB."""
    unit = next((unit for unit in ("T", "G", "M", "K") if count >= UNITS[unit]), "")
    return f"{count / UNITS[unit]:.3g} {unit.replace('K', 'k')}B"


@dataclass(frozen=True)
class Cache:
    """A folder for shards, and how many bytes may lie in it."""

    folder: Path
    bytes: int = USUAL

    def path(self, shard: "RemoteShard") -> Path:
        """Where a shard lies while it is kept."""
        known = f"{shard.place}\0{shard.bytes}\0{shard.version}"
        return self.folder / f"{hashlib.blake2b(known.encode(), digest_size=8).hexdigest()}-{shard.place.name}"

    def open(self, shard: "RemoteShard") -> int | None:
        """A descriptor of the shard's file; None when it is not there."""
        path = self.path(shard)
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError:
            return None
        with suppress(OSError):
            if time.time() - os.fstat(descriptor).st_mtime > TOUCHED:
                os.utime(path)
        return descriptor

    def having_room(self, shards: Sequence["RemoteShard"]) -> list["RemoteShard"]:
        """The first shards, as many as fit in the bound."""
        fitting, total = [], 0
        for shard in shards:
            total += shard.bytes
            if total > self.bytes:
                break
            fitting.append(shard)
        return fitting

    def keep(self, shard: "RemoteShard", *, among: Sequence["RemoteShard"], stop: threading.Event) -> bool:
        """Fetch a shard whole; whether it is there now.

        It is not when another process is fetching it, or files of other pools that are being fetched need the room.
        Those `among` which it is do not make room for it. Raises Lost, and ValueError for a checksum that is not the
        manifest's.
        """
        final = self.path(shard)
        own = {self.path(each).name for each in among}
        with self._alone():
            if final.exists():
                os.utime(final)
                return True
            names = os.listdir(self.folder)
            if any(name.startswith(TEMPORARY) and name.endswith(final.name) for name in names):
                return False
            if not self._make_room(names, shard.bytes, own):
                return False
            temporary = self.folder / f"{temporary_prefix()}{final.name}"
            with open(temporary, "wb") as stream:
                stream.truncate(shard.bytes)  # reserved: others see its size
        try:
            digest = hashlib.sha256()
            with open(temporary, "r+b") as stream:
                for start in range(0, shard.bytes, shard.block):
                    if stop.is_set():
                        return False
                    with _no_fork:
                        block = shard.place.read(start, min(shard.block, shard.bytes - start))
                    digest.update(block)
                    stream.write(block)
                stream.flush()
                os.fsync(stream.fileno())
            if shard.sha256 not in ("", digest.hexdigest()):
                raise ValueError(f"{shard.place} does not have the checksum that its manifest says: it is not kept")
            os.replace(temporary, final)
            return True
        finally:
            temporary.unlink(missing_ok=True)

    def forget(self, shard: "RemoteShard") -> None:
        """Remove a file that is not as it was written."""
        self.path(shard).unlink(missing_ok=True)

    def _make_room(self, names: Sequence[str], size: int, own: set[str]) -> bool:
        files: list[tuple[float, int, str]] = []
        total = size
        for name in names:
            if KEPT.fullmatch(name) or name.startswith(TEMPORARY):
                with suppress(FileNotFoundError):
                    known = os.stat(self.folder / name)
                    total += known.st_size
                    if KEPT.fullmatch(name) and name not in own:
                        files.append((known.st_mtime, known.st_size, name))
        for _, freed, name in sorted(files):
            if total <= self.bytes:
                break
            (self.folder / name).unlink(missing_ok=True)
            total -= freed
        return total <= self.bytes

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process changes which files there are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder, alone=False)
        with open(self.folder / ".lock", "w") as stream:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX)
            try:
                yield
            finally:
                if fcntl is not None:
                    fcntl.flock(stream, fcntl.LOCK_UN)  # by word: a process forked meanwhile holds it too


class Filling:
    """Fetches those of a pool's shards that have room, one after the other, beside the work, until they are there or
    the pool is gone. Faces of shards that are not there yet are read one by one."""

    def __init__(self, cache: Cache, shards: Sequence["RemoteShard"]) -> None:
        self.wanted = cache.having_room(shards)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=_fill, args=(cache, self.wanted, self.stop), daemon=True)
        weakref.finalize(self, self.stop.set)
        self.thread.start()


def _fill(cache: Cache, wanted: Sequence["RemoteShard"], stop: threading.Event) -> None:
    for shard in wanted:
        if stop.is_set():
            return
        try:
            cache.keep(shard, among=wanted, stop=stop)
        except ValueError as error:
            print(f"fra: {error}", file=sys.stderr)
        except Lost:  # whoever needs a face from there waits too, and says so
            return
        except OSError as error:
            what = f"{counted(len(wanted), 'shard')} in {printable(cache.folder)}: {error.strerror or error}"
            print(f"fra: cannot keep {what}; faces are read one by one", file=sys.stderr)
            return


_no_fork = threading.Lock()
"""Held while a block is on its way: a process that is forked then would copy a store's library in mid-sentence."""


def _let_go() -> None:
    global _no_fork
    _no_fork = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lambda: _no_fork.acquire(), after_in_parent=lambda: _no_fork.release())
    os.register_at_fork(after_in_child=_let_go)
