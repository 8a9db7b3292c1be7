"""Which photos there are, and how their crops are called."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fra.crop.cut import Photo
from fra.faces.image import read_image
from fra.pools.listing import Account, first_readable, image_files, image_folder

LONGEST_NAME = 200  # bytes; file systems allow 255, and a temporary name is longer than the final one


class PhotoList:
    """The photos of a folder tree or list (or of several, one after the other), in a fixed order.

    Crops mirror the tree: `a/b.png` becomes `a/b.jpg`. Photos that would share a crop (`b.jpg` and `b.png`, or `B.jpg`
    on a file system that ignores case) are called after all of their name, as is a photo with a very long one.
    Only paths are held in memory: names are made when they are asked for.
    """

    def __init__(self, *sources: Path) -> None:
        self.account = Account()
        """What there is in the folders and lists besides."""
        self.files, self.root = _files_and_root(sources, self.account)
        self._sources = sources
        self._read: dict[Path, UInt8[np.ndarray, "3 _ _"]] = {}
        marks = np.array([_mark(self._stem(file).casefold()) for file in self.files], dtype=np.uint64)
        values, counts = np.unique(marks, return_counts=True)
        self._shared = frozenset(values[counts > 1].tolist())

    def __len__(self) -> int:
        return len(self.files)

    def require_readable(self) -> None:
        """ValueError when not one of the photos can be read. The first that can is handed on as it was read."""
        reads = (partial(read_image, file) for file in self.files)
        place, image = first_readable(reads, source=" and ".join(map(str, self._sources)))
        self._read[self.files[place]] = image.numpy()

    def digest(self) -> str:
        """Changes when a photo is added, removed or renamed."""
        digest = hashlib.blake2b(digest_size=8)
        for file in self.files:
            digest.update(os.fsencode(self._name(file)) + b"\0")
        return digest.hexdigest()

    def chunks(self, start: int, length: int) -> Iterator[list[Photo]]:
        """The photos from number `start` on, `length` at a time."""
        for first in range(start, len(self.files), length):
            yield [self._photo(file) for file in self.files[first : first + length]]

    def name(self, number: int) -> str:
        """What the photo of this number is called in tables: its path below the folder."""
        return self._name(self.files[number])

    def _photo(self, file: Path) -> Photo:
        name, stem = self._name(file), self._stem(file)
        long = len(os.fsencode(os.path.basename(stem))) > LONGEST_NAME
        if long or _mark(stem.casefold()) in self._shared:
            short = os.path.join(os.path.dirname(stem), os.path.basename(stem)[:40])
            stem = f"{short}-{file.suffix[1:].lower()}-{_mark(name):016x}"
        return Photo(path=file, name=name, stem=stem, known=self._read.pop(file, None))

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def _stem(self, file: Path) -> str:
        return os.path.splitext(self._name(file))[0]


def _files_and_root(sources: Sequence[Path], account: Account) -> tuple[list[Path], Path]:
    """The photos, and the folder they are named from: the input folder, or one that holds everything listed."""
    files = [file for source in sources for file in image_files(source, account=account)]
    if len(sources) == 1:
        if sources[0].is_dir():
            return files, image_folder(sources[0])
        below = Path(os.path.normpath(sources[0].parent))
        if all(file.is_relative_to(below) for file in files):
            return files, below
    given = len(files)
    files = [Path(name) for name in dict.fromkeys(os.path.abspath(file) for file in files)]
    account.repeated += given - len(files)
    return files, Path(os.path.commonpath([file.parent for file in files]))


def _mark(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
