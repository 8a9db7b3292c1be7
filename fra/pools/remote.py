"""Files elsewhere: in object stores and on web servers, through fsspec, read by ranges of bytes.

Whoever asks waits and asks again while a store is away, slow or cuts answers off. An address is shown without user,
password and query (where signatures stand), and no library's message is, which could hold them. Credentials are those
that fsspec finds: in the environment, in files, in the address.
"""

import io
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fra.files import temporary_prefix
from fra.system.printable import counted, printable, without_secrets
from fra.system.processes import Lost
from fra.system.text import command, install

if TYPE_CHECKING:
    from fra.pools.cache import Cache

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds before another try (ours: a minute in all, which most disturbances and rate limits do not last)."""
BLOCK = 8 << 20
"""Bytes of a large file that are asked for at a time: what is cut off costs no more (ours)."""
AT_ONCE = 16
"""Small requests under way together (ours)."""
MOST_NAMES = 1_000_000
"""That braces may stand for."""
Answer = TypeVar("Answer")
Item = TypeVar("Item")


def is_remote(text: object) -> bool:
    """Whether a text is an address (`s3://bucket/faces`) and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(text)) is not None


def expanded(text: str) -> list[str]:
    """What braces stand for, as in a shell: `shards-{000..011}.tar`, `{a,b}/faces.tar`. ValueError for too much."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", text)
    if found is None:
        return [text]
    if found[3] is not None:
        inside: Sequence[str] = found[3].split(",")
    else:
        first, last = int(found[1]), int(found[2])
        if abs(last - first) >= MOST_NAMES:
            raise ValueError(f"{found[0]} stands for more than {counted(MOST_NAMES, 'name')}")
        padded = any(len(end) > 1 and end[0] == "0" for end in found.group(1, 2))
        width = max(map(len, found.group(1, 2))) if padded else 0
        step = 1 if last >= first else -1
        inside = [f"{number:0{width}}" for number in range(first, last + step, step)]
    names: list[str] = []
    for middle in inside:
        names += expanded(text[: found.start()] + middle + text[found.end() :])
        if len(names) > MOST_NAMES:
            raise ValueError(f"the braces stand for more than {counted(MOST_NAMES, 'name')}")
    return names


@dataclass(frozen=True)
class Remote:
    """A file or folder elsewhere, and where shards from there are kept here.

    What cannot be had for good (nothing there, no permission) is a ValueError, what could not be had in a minute of
    trying is Lost, each in one line.
    """

    url: str = field(repr=False)
    """With user, password or signature, if it has any."""
    cache: "Cache | None" = None

    def __str__(self) -> str:
        return printable(without_secrets(self.url))

    def __truediv__(self, name: str) -> "Remote":
        address, mark, query = self.url.partition("?")
        return Remote(f"{address.rstrip('/')}/{name}{mark}{query}", self.cache)

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.partition("?")[0].rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "Remote":
        """The folder that it is in."""
        address, mark, query = self.url.partition("?")
        return Remote(address.rstrip("/").rpartition("/")[0] + mark + query, self.cache)

    def read(self, start: int, size: int) -> bytes:
        """So many bytes from there on."""
        return self.retried(partial(self._range, start, size)) if size else b""

    def blocks(self, size: int) -> Iterator[bytes]:
        """A file of `size` bytes in pieces."""
        return (self.read(start, min(BLOCK, size - start)) for start in range(0, size, BLOCK))

    def content(self) -> bytes | None:
        """A small file, None when it is not there."""
        return self.retried(partial(self._call, "cat_file"), absent=None)

    def about(self) -> dict[str, Any] | None:
        """Size (`size`) and what else the store knows of a file, None when it is not there."""
        return self.retried(self._info, absent=None)

    def listed(self) -> dict[str, dict[str, Any]]:
        """The files in this folder (not below it) by name, with what the store tells of each; empty when there are
        none, or the server lists nothing."""
        found: list[dict[str, Any]] = self.retried(partial(self._call, "ls", detail=True), absent=[])
        names = {str(entry["name"]).rstrip("/").rpartition("/")[2].partition("?")[0]: entry for entry in found}
        return {name: entry for name, entry in sorted(names.items()) if entry.get("type") == "file"}

    def put(self, file: Path) -> None:
        """Copy a file of this machine there: readers see all of it or nothing."""
        self.retried(partial(self._put, file), doing="written")

    def retried(self, ask: Callable[[], Answer], *, absent: Any = FileNotFoundError, doing: str = "read") -> Answer:
        """What `ask` answers, tried again while the reason may pass; `absent` when nothing is there, if given."""
        for wait in (*WAITS, None):
            try:
                return ask()
            except FileNotFoundError:
                if absent is not FileNotFoundError:
                    return absent
                refusal: str | None = "no such file: {place}"
                if doing == "written":
                    refusal = "{place} cannot be written: make its bucket, or its folder, first"
                cause = ""
            except Exception as error:  # of as many kinds as there are libraries
                refusal, cause = _refusal(error), _kind(error)
            # Outside the handlers: the library's error, which may show the address, is no part of ours.
            if refusal:
                raise ValueError(refusal.format(place=self, doing=doing))
            if wait is None:
                tries = counted(len(WAITS) + 1, "try", "tries")
                raise Lost(
                    f"{self} cannot be {doing} ({cause} after {tries}): run the same command with --resume later"
                )
            time.sleep(wait * random.uniform(0.5, 1))  # not all processes at once
        raise AssertionError

    def _info(self) -> dict[str, Any]:
        try:
            return self._call("info")
        except FileNotFoundError:  # which fsspec says of a web server that fails too
            self._call("cat_file", start=0, end=1)
        raise ConnectionError("there after all")

    def _range(self, start: int, size: int) -> bytes:
        content: bytes = self._call("cat_file", start=start, end=start + size)
        if len(content) > size:
            raise _Refused("{place} is on a server that sends whole files only: copy the shards to a disk")
        if len(content) < size:
            raise ConnectionError("cut off")
        return content

    def _put(self, file: Path) -> None:
        fs, path = self._system()
        into = path
        if {"http", "https"} & set(_protocols(fs)):
            raise NotImplementedError
        if "file" in _protocols(fs):  # which has no uploads that end all at once
            folder, _, name = path.rpartition("/")
            into = f"{folder}/{temporary_prefix()}{name}"
        fs.put_file(str(file), into)
        if fs.info(into)["size"] != file.stat().st_size:
            raise ConnectionError("cut off")
        if into != path:
            fs.mv(into, path)

    def _call(self, name: str, **named: Any) -> Any:
        fs, path = self._system()
        return getattr(fs, name)(path, **named)

    def _system(self) -> tuple[Any, str]:
        """The file system, of which fsspec keeps one for each process, and our path in it."""
        from fsspec.core import url_to_fs

        options: dict[str, Any] = {"use_listings_cache": False}
        if self.url.startswith(("file:", "local:")):
            options["auto_mkdir"] = True
        return url_to_fs(self.url, **options)


class _Refused(Exception):
    """Text for people, with {place} in it."""


def _refusal(error: Exception) -> str | None:
    """Why trying again does not help; None when it may."""
    status = getattr(error, "status", None)
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, ImportError):
        return f"{{place}} needs another library: {install('cloud')}"
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__ or status in (401, 403):
        return (
            "{place} may not be {doing}: put the credentials into the environment, as the library for it reads them "
            "(for s3:// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
    if type(error).__name__ in ("ParamValidationError", "InvalidURL", "InvalidUrlClientError"):
        return "{place} is no valid address"
    if isinstance(error, NotImplementedError):
        return "{place} cannot be {doing}: give s3://, gs:// or a folder"
    if isinstance(error, ValueError) and "rotocol" in str(error):
        return "{place} is not known to fsspec: give s3://, gs://, https:// or a folder"
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
        return f"{{place}} cannot be {{doing}} (HTTP {status})"
    return None


def _kind(error: Exception) -> str:
    """A word for an error without what it says."""
    status = getattr(error, "status", None)
    return f"{type(error).__name__} {status}" if isinstance(status, int) else type(error).__name__


def _protocols(fs: Any) -> Sequence[str]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol


class RemoteStream(io.RawIOBase):
    """A remote file of known size to be read forwards, for `tarfile`; seeking is free."""

    def __init__(self, place: Remote, size: int) -> None:
        self._place, self._size, self._at = place, size, 0
        self._block, self._begin = b"", 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, into: Any) -> int:
        left = min(len(into), self._size - self._at)
        if left <= 0:
            return 0
        if not self._begin <= self._at < self._begin + len(self._block):
            self._begin = self._at
            self._block = self._place.read(self._at, min(BLOCK, self._size - self._at))
        piece = self._block[self._at - self._begin :][:left]
        into[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def together(do: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """What `do` makes of each, in order; some at the same time, because requests mostly wait."""
    if len(items) < 2:
        return [do(item) for item in items]
    with ThreadPoolExecutor(min(AT_ONCE, len(items))) as pool:
        return list(pool.map(do, items))


def only_shards(path: object) -> str:
    """The line for an address where a file system is expected."""
    address = without_secrets(re.sub(r":/(?!/)", "://", str(path)))  # a Path of one has lost a stroke
    users = " and ".join(command("fra", *words) for words in (("pretrain",), ("regions",), ("crop", "--shards")))
    return f"{address} is elsewhere, and only shards of faces may be, for {users}: give a folder of this machine"
