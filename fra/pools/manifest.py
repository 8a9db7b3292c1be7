"""Which shards there are elsewhere, and their indexes: from a manifest, a folder, a list, or names with braces."""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fra.files import SUM, DamagedFile, checksum, reading
from fra.pools.index import CHANGED, INDEX, Index, read_index, scan_stream, write_index
from fra.pools.remote import BLOCK, Remote, RemoteStream, expanded, together

MANIFEST = "manifest.json"
"""Written last, so with it everything is there."""
BEGUN = ".fra-run"
"""Written first."""
FORMAT = 1
SHARD = ".tar"


@dataclass(frozen=True)
class RemoteShard:
    """A shard elsewhere, and what is known of it."""

    place: Remote
    bytes: int
    version: str = ""
    """Changes when the shard does: its checksum, or what the store says."""
    sha256: str = ""
    """Of the whole shard and of its index, where a manifest says."""
    index_sha256: str = ""
    block: int = BLOCK

    def __str__(self) -> str:
        return str(self.place)

    def load_index(self) -> Index:
        """From here, from beside the shard, or from the shard's headers (and kept here for the next time)."""
        kept = _indexes() / f"{hashlib.blake2b(f'{self}|{self.bytes}|{self.version}'.encode()).hexdigest()[:32]}.npz"
        if self.version and kept.is_file():
            try:
                return self._checked(read_index(kept))
            except DamagedFile:
                kept.unlink(missing_ok=True)
        index = self._beside() or self._scanned()
        if self.version:
            write_index(kept, index, self.bytes)
        return index

    def _beside(self) -> Index | None:
        place = self.place.parent / (os.path.splitext(self.place.name)[0] + INDEX)
        content = place.content()
        if content is None:
            if self.index_sha256:
                raise ValueError(f"{place} is missing, but its manifest names it: {CHANGED}")
            return None
        if self.index_sha256 and hashlib.sha256(content).hexdigest() != self.index_sha256:
            raise ValueError(f"{place} does not have the checksum that its manifest says: {CHANGED}")
        try:
            return self._checked(read_index(io.BytesIO(content), name=str(place), size=self.bytes))
        except DamagedFile:
            if self.index_sha256:
                raise
            return None  # of another shard of that name; the headers tell

    def _checked(self, index: Index) -> Index:
        if len(index.entries) and int((index.entries[:, 1] + index.entries[:, 2]).max()) > self.bytes:
            raise DamagedFile(f"the index of {self} reaches beyond its end", CHANGED)
        return index

    def _scanned(self) -> Index:
        return scan_stream(io.BufferedReader(RemoteStream(self.place, self.bytes), 1 << 16), self, sums=True)


def _indexes() -> Path:
    """Where indexes of shards from elsewhere are kept (28 bytes for each face)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fra" / "indexes"


# --- which shards


@dataclass(frozen=True)
class Found:
    """The shards of a place, and the content of `crop.yaml` where `fra crop` made them."""

    shards: Sequence[RemoteShard]
    crop: dict[str, Any] | None = None
    ignored: Sequence[str] = ()
    """Names of other files there."""


def find_shards(place: Remote) -> Found:
    """At `place`: a .tar (or many, with braces), a manifest, a .txt list, or a folder of one of these.

    Raises ValueError when there is none, or what is there is not finished.
    """
    name = place.name
    if name.endswith(SHARD):
        return Found(looked_up([Remote(url, place.cache) for url in expanded(place.url)]))
    if name.endswith(".txt"):
        content = place.content()
        if content is None:
            raise ValueError(f"no such file: {place}")
        lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines()]
        return Found(looked_up(resolved([line for line in lines if line and line[0] != "#"], place)))
    if name == MANIFEST:
        content = place.content()
        if content is None:
            raise ValueError(f"no such file: {place}")
        return _from_manifest(place.parent, content)
    content = (place / MANIFEST).content()
    if content is not None:
        return _from_manifest(place, content)
    if (place / BEGUN).content() is not None:
        raise ValueError(f"{place} is not finished: {MANIFEST} comes last (continue `fra crop` with --resume)")
    for folder in (place / "shards", place):  # a folder of `fra crop --shards` that was copied there, or shards alone
        listed = folder.listed()
        names = [name for name in listed if name.endswith(SHARD)]
        if names:
            others = [name for name in listed if not name.endswith((SHARD, INDEX))]
            return Found(_of_listing(folder, {name: listed[name] for name in names}), ignored=others)
    raise ValueError(
        f"no shards are listed at {place}: give a folder of .tar files, its {MANIFEST}, a .txt list, or names as in "
        f"{place / 'faces-{000000..000011}.tar'}"
    )


def resolved(lines: Iterable[str], listing: Remote) -> list[Remote]:
    """The shards that a list elsewhere names: addresses, or names relative to it."""
    found = []
    for line in lines:
        place = Remote(line, listing.cache) if "://" in line else listing.parent / line
        found += [Remote(url, listing.cache) for url in expanded(place.url)]
    if other := next((place for place in found if not place.name.endswith(SHARD)), None):
        raise ValueError(f"{listing} lists {other}: expected .tar files")
    return found


def looked_up(places: Sequence[Remote]) -> list[RemoteShard]:
    """Shards by their addresses; what a folder's manifest says of them is not looked for. ValueError for a missing."""

    def look(place: Remote) -> RemoteShard:
        about = place.about()
        if about is None:
            raise ValueError(f"no such file: {place}")
        return _shard(place, about)

    return together(look, places)


def _of_listing(folder: Remote, listed: dict[str, dict[str, Any]]) -> list[RemoteShard]:
    if any(about.get("size") is None for about in listed.values()):  # a page of links
        return looked_up([folder / name for name in listed])
    return [_shard(folder / name, about) for name, about in listed.items()]


def _shard(place: Remote, about: dict[str, Any]) -> RemoteShard:
    size = about.get("size")
    if not isinstance(size, int):
        raise ValueError(f"the server does not say how large {place} is: copy the shards to a disk")
    known = (
        about.get(name) for name in ("ETag", "etag", "md5Hash", "LastModified", "Last-Modified", "mtime", "created")
    )
    return RemoteShard(place, size, version=str(next(filter(None, known), "")))


def _from_manifest(folder: Remote, content: bytes) -> Found:
    with reading(str(folder / MANIFEST), CHANGED):
        said = json.loads(content)
        if said["format"] != FORMAT:
            raise ValueError(f"its format is {said['format']}, not {FORMAT}: a later version of fra wrote it")
        written = said.pop(SUM)
        if written != checksum(json.dumps(said, sort_keys=True).encode()):
            raise ValueError("its checksum does not match")
        make = partial(_listed_shard, folder)
        shards = [make(**shard) for shard in said["shards"]]
        crop = said.get("crop")
    if not shards:
        raise ValueError(f"no faces found in {folder}: `fra crop` found none")
    return Found(shards, crop=crop)


def _listed_shard(folder: Remote, *, name: str, bytes: int, sha256: str, index_sha256: str, faces: int) -> RemoteShard:
    del faces
    return RemoteShard(folder / name, bytes, version=sha256, sha256=sha256, index_sha256=index_sha256)


def manifest_text(shards: Sequence[dict[str, Any]], crop: dict[str, Any]) -> str:
    """manifest.json: of each shard name, faces, bytes, sha256 and index_sha256; what `crop.yaml` holds."""
    said = {"format": FORMAT, "faces": sum(shard["faces"] for shard in shards), "shards": list(shards), "crop": crop}
    said = json.loads(json.dumps(said))
    return json.dumps({**said, SUM: checksum(json.dumps(said, sort_keys=True).encode())}, indent=1) + "\n"
