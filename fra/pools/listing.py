"""The door for photos and faces: what there is in folder trees, lists and single files, and an account of all the rest.

Every command that reads photos lists them here and closes with `closing_line`, so that nothing that was given is
passed over without a word.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fra.faces.decode import KINDS, kind_of
from fra.faces.image import EXTENSIONS, UnreadableImage, endings
from fra.files import open_regular
from fra.pools.remote import is_remote, only_shards
from fra.system.printable import counted, printable
from fra.system.text import command, install, lines_of

ENDINGS_SHOWN, FOLDERS_SHOWN = 8, 3
HEIF = {".heic", ".heif"} - EXTENSIONS
"""Photos of phones, where the extra that reads them is not installed."""
Image = TypeVar("Image")
FOLDERS_KEPT = 1000  # ours: how many folders that may not be entered are remembered by name


@dataclass
class Account:
    """What was met while photos were listed and is not among them."""

    ignored: Counter[str] = field(default_factory=Counter)
    """Files by their ending, in lower case."""
    hidden: int = 0
    """Folders and files with an image's ending whose name begins with a dot."""
    repeated: int = 0
    """Lines of a list that name a photo again, and links to folders that are listed anyway."""
    refused: int = 0
    """What was named on the command line and holds no photo; a line of its own says why."""
    closed: int = 0
    """Folders that could not be entered."""
    closed_folders: list[tuple[str, str]] = field(default_factory=list)
    """The first FOLDERS_KEPT of them, each with the reason."""

    def close(self, folder: str, error: OSError) -> None:
        """Count a folder that could not be entered, or read to its end."""
        self.closed += 1
        if len(self.closed_folders) < FOLDERS_KEPT:
            self.closed_folders.append((folder, error.strerror or type(error).__name__))

    def parts(self) -> list[str]:
        """What there is to say, for people; nothing where every file was a photo."""
        parts = []
        if self.closed:
            shown = [f"{printable(folder)}: {reason}" for folder, reason in self.closed_folders[:FOLDERS_SHOWN]]
            more = ["..."] if self.closed > FOLDERS_SHOWN else []
            parts.append(f"{counted(self.closed, 'folder')} could not be entered ({', '.join(shown + more)})")
        if self.ignored:
            common = sorted(self.ignored.items(), key=lambda item: (-item[1], item[0]))
            kinds = [f"{count:,} {printable(ending)}" for ending, count in common[:ENDINGS_SHOWN]]
            others = sum(count for _, count in common[ENDINGS_SHOWN:])
            kinds += [counted(others, "other")] if others else []
            hint = f"; for .heic {install('photos')}" if HEIF & self.ignored.keys() else ""
            parts.append(f"ignored: {', '.join(kinds)} (only files that end in {endings()} are read{hint})")
        if self.refused:
            parts.append(f"{self.refused:,} of the given paths cannot be used")
        if self.hidden:
            parts.append(f"{self.hidden:,} hidden")
        if self.repeated:
            parts.append(f"{self.repeated:,} listed twice")
        return parts

    def record(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "ignored": {printable(ending): count for ending, count in sorted(self.ignored.items())},
            "hidden": self.hidden,
            "repeated": self.repeated,
            "refused": self.refused,
            "closed_folders": [
                {"folder": printable(folder), "reason": reason} for folder, reason in self.closed_folders
            ],
        }


def closing_line(account: Account, *, used: int, skipped: Mapping[str, int], noun: str = "photo") -> str:
    """Everything that was given, in one line: used, skipped by reason, ignored by ending, not entered.

    `skipped` counts by reason, without the files' own details.
    """
    total = used + sum(skipped.values())
    parts = [f"{used:,} used", *(f"{count:,} skipped ({reason})" for reason, count in skipped.items() if count)]
    return "; ".join([f"{counted(total, noun)}: {', '.join(parts)}", *account.parts()])


# --- what there is


def image_files(path: Path | str, *, account: Account | None = None) -> list[Path]:
    """The images of a folder tree in sorted order, of a .txt list in its own order, or one single image.

    A folder made by `fra crop` stands for the `crops` inside it. Hidden files and folders are left out, links are
    followed, a folder that is reached again is not listed again. Lines of a list are relative to the list's folder;
    blank lines and lines that begin with # do not count, and a path that appears twice counts once. Whether a file can
    be read is found out by reading it. What is not among the images goes into `account`. ValueError when there is
    nothing at `path`, or no image in it.
    """
    root, names = image_names(path, account=account)
    return [named(root, name) for name in names]


def image_names(path: Path | str, *, account: Account | None = None) -> tuple[str, Iterator[str]]:
    """What `image_files` finds, one after the other: a folder, and names that are relative to it (or absolute).

    For pools that are too large for a list of paths. The errors of `image_files` come when the first name is asked for.
    """
    path, account = Path(path), Account() if account is None else account
    if path.is_dir():
        folder = image_folder(path)
        return str(folder), _names_below(folder, account)
    if not os.path.lexists(path):
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(path)):  # a Path of an address has one stroke
            raise ValueError(only_shards(path))
        raise ValueError(f"no such file or folder: {printable(path)} (give a folder of images, or a .txt list of them)")
    if path.suffix.lower() == ".txt":
        return os.path.normpath(path.parent), listed_names(path, account=account)
    if path.suffix.lower() not in EXTENSIONS and not _holds_an_image(path):
        if path.suffix.lower() in HEIF:
            raise ValueError(f"{printable(path)} is a HEIF image: to read it, {install('photos')}")
        raise ValueError(f"{printable(path)} is neither an image nor a folder nor a .txt list: expected {endings()}")
    return str(path.parent), iter([path.name])


def _holds_an_image(path: Path) -> bool:
    """Whether a file that was given by itself is an image by its content, whatever its name."""
    try:
        with open_regular(path) as stream:
            return kind_of(stream.read(200)) in KINDS
    except OSError as error:
        raise ValueError(f"cannot read {printable(path)}: {error.strerror or error}") from error


def named(root: str, name: str) -> Path:
    """The path of a name that `image_names` gave."""
    path = os.path.join(root, name)
    return Path(os.path.normpath(path) if name.startswith("..") else path)


def image_folder(path: Path | str) -> Path:
    """The folder itself, or the `crops` inside a folder made by `fra crop`, beside which its contact sheet lies.

    Or the `images` inside one made by `fra data synthetic`, beside which the same faces lie in other layouts.
    ValueError when `fra crop` packed the crops in shards.
    """
    path = Path(path)
    made_by_crop = os.path.isfile(path / "crop.yaml")  # False too where the folder may not be entered
    if made_by_crop and (path / "shards").is_dir():
        shards = sorted((path / "shards").glob("*.tar"))
        first = command("tar", "-xf", shards[0] if shards else path / "shards" / "faces-000000.tar", "-C", "FOLDER")
        others = f" and so on, {counted(len(shards), 'file')}" if len(shards) > 1 else ""
        raise ValueError(
            f"the crops in {printable(path)} are packed in shards, which `fra pretrain` and `fra regions` read; "
            f"for other commands unpack them into a folder: {first}{others}"
        )
    if made_by_crop and (path / "crops").is_dir():
        return path / "crops"
    if os.path.isfile(path / "landmarks.npz") and (path / "images").is_dir():  # drawn, beside the same in other layouts
        return path / "images"
    return path


def listed_names(path: Path, *, account: Account | None = None) -> Iterator[str]:
    """The lines of a .txt list as `image_files` understands them, relative to the list's folder or absolute."""
    seen: set[bytes] = set()  # short digests: a million paths would take several times as much
    for line in map(str.strip, lines_of(path)):
        if not line or line.startswith("#"):
            continue
        name = line if is_remote(line) else os.path.normpath(line)
        where = name if is_remote(line) else os.path.normpath(os.path.join(path.parent, name))
        digest = hashlib.blake2b(os.fsencode(where), digest_size=8).digest()
        if digest not in seen:
            seen.add(digest)
            yield name
        elif account is not None:
            account.repeated += 1
    if not seen:
        raise ValueError(f"the list {printable(path)} is empty: expected one image path per line")


def _names_below(folder: Path, account: Account) -> Iterator[str]:
    """The images below a folder, relative to it, in the order of their paths."""
    found = False
    for name in _walk(str(folder), account):
        found = True
        yield name
    if not found:
        met = f" ({'; '.join(account.parts())})" if account.parts() else ""
        raise ValueError(f"no images below {printable(folder)}: expected files that end in {endings()}{met}")


def _walk(root: str, account: Account) -> Iterator[str]:
    seen: set[str] = set()  # a linked folder is followed, a circle of links is not
    waiting = [_Found("", os.path.realpath(root))]  # the next one last
    while waiting:
        found = waiting.pop()
        if found.real is None:
            yield found.name
            continue
        if found.real in seen:
            account.repeated += 1
            continue
        seen.add(found.real)
        here = os.path.join(root, found.name) if found.name else root
        try:
            with os.scandir(here) as entries:
                inside = [kept for entry in entries if (kept := _kept(entry, found, account)) is not None]
        except OSError as error:
            account.close(here, error)
            continue
        waiting += sorted(inside, key=attrgetter("name"), reverse=True)


class _Found(NamedTuple):
    """An image, or a folder with its real path, by its name below the root."""

    name: str
    real: str | None = None


def _kept(entry: "os.DirEntry[str]", parent: _Found, account: Account) -> _Found | None:
    """An image or a folder; None for what is counted instead."""
    folder, ending = _is_folder(entry), os.path.splitext(entry.name)[1].lower()
    if entry.name.startswith("."):  # .DS_Store and the like are no loss
        account.hidden += folder or ending in EXTENSIONS
        return None
    name = os.path.join(parent.name, entry.name)
    if folder:
        assert parent.real is not None
        return _Found(
            name, os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(parent.real, entry.name)
        )
    if ending not in EXTENSIONS:
        account.ignored[ending or "without ending"] += 1
        return None
    return _Found(name)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


# --- whether anything can be read


def first_readable(reads: Iterable[Callable[[], Image]], *, source: str, noun: str = "photo") -> tuple[int, Image]:
    """The first image that can be read, and its place, so that nobody reads it again; ValueError when there is none.

    Each of `reads` reads one, or raises UnreadableImage. The message names the first file as it was looked for, and
    what may be wrong with the list that names it.
    """
    first, count = None, 0
    for count, read in enumerate(reads, 1):
        try:
            return count - 1, read()
        except UnreadableImage as error:
            first = first or error
    if first is None:
        raise ValueError(f"no {noun} in {printable(source)}")
    where = str(first.path) if is_remote(first.path) else os.path.abspath(first.path)
    if source == str(first.path):
        raise first
    none = "nothing" if count == 1 else f"none of the {counted(count, noun)}"
    which = "" if count == 1 else "the first is "
    raise ValueError(
        f"{none} in {printable(source)} can be read: {which}{printable(where)} ({first.reason}){_hint(where)}"
    )


def _hint(where: str) -> str:
    """What may be wrong with the name of a file that is not there."""
    folder, name = os.path.split(where)
    if os.path.lexists(where) or is_remote(where):
        return ""
    if "\\" in name:
        return "; this is a Windows path: replace \\ by /, and the drive by a folder"
    if "://" in where or ":/" in where:
        return "; URLs are not read: download it first"
    for sign, what in (("\t", "a tab"), (",", "a comma"), (";", "a semicolon"), ("|", "a bar"), (" ", "a space")):
        before, found, behind = name.partition(sign)
        if found and behind and os.path.splitext(before)[1].lower() in EXTENSIONS:
            return f"; something follows the name after {what}: give one path per line and nothing else"
    if set("\"'") & {name[-1:], where.removeprefix(os.getcwd() + os.sep)[:1]}:
        return "; remove the quotation marks"
    if f"{os.sep}~" in folder:
        return "; write out the full path instead of ~"
    parts = where.split(os.sep)
    for start in range(1, len(parts)):
        if os.path.lexists(there := os.path.join(*parts[start:])):
            return f"; {printable(there)} exists, but paths in a list are relative to the list's own folder"
    return ""
