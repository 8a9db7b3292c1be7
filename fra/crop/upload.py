"""Shards sent to an object store as they become full: each whole or not at all, and manifest.json last.

A folder here holds what a run needs to go on: journal, the shard that grows, what has been sent (`.sent.json`). Shards
that have been sent are removed from it. The same photos and settings make the same bytes, so a run whose folder is lost
cuts them again and sends what is sent already once more: nothing is doubled.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fra.crop.shards import FOLDER, shard_files
from fra.files import read_json, reading, write_json
from fra.pools.index import write_index
from fra.pools.manifest import BEGUN, INDEX, MANIFEST, RemoteShard, manifest_text
from fra.pools.remote import Remote
from fra.pools.shards import scan_with_sums

SENT = ".sent.json"
ALSO = ("crops.csv", "crop.yaml", "contact_sheet.jpg")
"""What is sent at the end, before the manifest."""
MEND = "restore it, or remove the folder and run the same command with --resume: all photos are cut again"


def folder_of(to: Remote) -> Path:
    """The folder here of a run that sends its shards to `to`. ValueError for an address without a name."""
    if not to.url.partition("://")[2].strip("/"):
        raise ValueError(f"{to} has no folder: add a bucket and a name, as in s3://bucket/faces")
    return Path(f"{to.name}.upload")


class Upload:
    """What of a run's `folder` is at `to`."""

    def __init__(self, folder: Path, to: Remote) -> None:
        self.folder, self.to = folder, to
        self.shards: list[dict[str, Any]] = []
        """Those that have been sent, as the manifest lists them."""

    def check(self, record: dict[str, Any], *, resume: bool) -> None:
        """See that the place is free, or this run's: ValueError when it is another's, or holds other things."""
        kept = self.folder / SENT
        if kept.exists():
            with reading(kept, MEND):
                known = read_json(kept)
                before, self.shards = known["to"], list(known["shards"])
            if before != str(self.to):
                raise ValueError(f"{self.folder} belongs to {before}: run the command in another working directory")
        self._mark = {"command": "crop", "settings": record["settings"], "photos": record["photos"]["digest"]}
        found = (self.to / BEGUN).content()
        if found is None and self.to.listed():
            raise ValueError(f"{self.to} is not empty and was not made by fra: choose another --out")
        if found is not None and not _same(found, self._mark):
            raise ValueError(f"{self.to} holds crops of other photos or settings: choose another --out")
        if found is not None and not resume:
            raise ValueError(f"{self.to} already holds a run of `fra crop`: add --resume, or choose another --out")

    def begin(self) -> None:
        """Mark the place, which has been checked, as this run's."""
        self._send_text(self.to / BEGUN, json.dumps(self._mark, indent=1) + "\n")
        self._keep()

    def send_full(self) -> None:
        """Send the shards that are complete and remove them here."""
        for file in shard_files(self.folder):
            if file.name not in {Path(each["name"]).name for each in self.shards}:
                self.shards.append(self._send(file))
                self._keep()
            file.unlink()
            file.with_suffix(INDEX).unlink(missing_ok=True)

    def finish(self, record: dict[str, Any]) -> None:
        """Send the table and the rest, and the manifest when all is there."""
        text = manifest_text(self.shards, record)
        if (self.to / MANIFEST).content() == text.encode():
            return
        for name in ALSO:
            if (self.folder / name).exists():
                (self.to / name).put(self.folder / name)
        self._send_text(self.to / MANIFEST, text)

    def readable(self) -> Sequence[RemoteShard]:
        """The shards that have been sent, to be read again."""
        return [RemoteShard(self.to / each["name"], each["bytes"], version=each["sha256"]) for each in self.shards]

    def _send(self, file: Path) -> dict[str, Any]:
        index = file.with_suffix(INDEX)
        found = scan_with_sums(file)
        write_index(index, found, file.stat().st_size)
        place = self.to / FOLDER
        (place / file.name).put(file)
        (place / index.name).put(index)
        return {
            "name": f"{FOLDER}/{file.name}",
            "faces": len(found.entries),
            "bytes": file.stat().st_size,
            "sha256": _digest(file),
            "index_sha256": _digest(index),
        }

    def _send_text(self, place: Remote, text: str) -> None:
        file = self.folder / f".{place.name}.sending"
        file.write_text(text)
        place.put(file)
        file.unlink()

    def _keep(self) -> None:
        write_json(self.folder / SENT, {"to": str(self.to), "shards": self.shards})


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _same(content: bytes, mark: dict[str, Any]) -> bool:
    try:
        return json.loads(content) == json.loads(json.dumps(mark))
    except ValueError:
        return False
