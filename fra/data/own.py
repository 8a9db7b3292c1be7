"""What the readers of people's own labels share: what is said beside them, drawn splits, doubts. N images."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
import yaml

from fra.data.labelled import NAMED, WARNING, LabelledFaces
from fra.faces.image import UnreadableImage, read_header
from fra.files import read_rows
from fra.recipe import build, parse_yaml
from fra.system.printable import counted
from fra.system.text import shown, text_of

DESCRIPTION = "labels.yaml"
"""The file beside the labels that says what they do not say themselves; every setting may be left out."""
SPLITS = ("train", "val", "test")
TEST_SHARE = 0.2
"""Of the images where no split is given (ours)."""
MOST_CLASSES = 1000
"""More are taken for a mistake (ours)."""
LOOKED_AT, LARGEST_CROP, FLATTEST_CROP = 32, 640, 0.7
"""Pictures that are looked at, and how long and how narrow a face crop may be (ours)."""
TAIL = 4096
NO_CROPS, SAME_BYTES = "are not face crops", "(identical bytes)"
"""By which warnings are known again where something else says the same."""

Schema = TypeVar("Schema")


def read_description(folder: Path, schema: type[Schema]) -> Schema:
    """The settings in `folder`/labels.yaml, the usual ones without it. Raises ValueError naming what is wrong."""
    path = folder / DESCRIPTION
    if not path.exists():
        return schema()
    try:
        raw = parse_yaml(text_of(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if raw is None:
        return schema()
    if not isinstance(raw, dict):
        raise ValueError(f"{path} has no settings: expected `key: value` lines")
    try:
        return build(raw, schema, where=str(path), variants={})
    except ValueError as error:
        raise ValueError(str(error).removeprefix("recipe ")) from error


# --- splits


def draw_split(groups: Sequence[str], strata: Sequence[Hashable], *, seed: int) -> list[str]:
    """`train` or, for about a fifth of each stratum, `test`; images of one group stay together.

    The order comes from SHA-256 of seed and group, so that every machine draws the same. A stratum that has two groups
    or more is in both splits where that is possible.
    """
    members: dict[str, Counter[Hashable]] = {}
    for group, stratum in zip(groups, strata, strict=True):
        members.setdefault(group, Counter())[stratum] += 1
    left = Counter({stratum: max(1, round(TEST_SHARE * count)) for stratum, count in Counter(strata).items()})
    order = sorted(
        members, key=lambda group: hashlib.sha256(f"split/{seed}/{group}".encode("utf-8", "replace")).digest()
    )
    having: dict[Hashable, list[str]] = {}
    for group in order:
        for stratum in members[group]:
            having.setdefault(stratum, []).append(group)
    test: set[str] = set()
    training = {stratum: len(some) for stratum, some in having.items()}  # groups of it that are not in the test split

    def move(group: str) -> None:
        test.add(group)
        left.subtract(members[group])
        for stratum in members[group]:
            training[stratum] -= 1

    for group in order:
        fits = sum(min(max(left[stratum], 0), count) for stratum, count in members[group].items())
        if 2 * fits > members[group].total() and all(training[stratum] > 1 for stratum in members[group]):
            move(group)
    for stratum, some in having.items():  # whose groups are all larger than its share
        if len(some) > 1 and training[stratum] == len(some):
            move(min(some, key=lambda group: members[group].total()))
    return ["test" if group in test else "train" for group in groups]


def drawn_note(words: Sequence[str], *, seed: int, by: str) -> str:
    """What to say of a split that was drawn, `by` groups of a kind or none."""
    count = Counter(words)
    how = f", {by} kept together" if by else ""
    return f"no split is given: {count['train']:,} train and {count['test']:,} test images drawn with seed {seed}{how}"


def groups_by_pattern(files: Sequence[str], pattern: str, *, where: str) -> list[str]:
    """Of each file what the pattern finds in its name: its first parenthesis, or all of it.

    Raises ValueError for a pattern that is none, or that some files do not match.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{where}: group '{shown(pattern)}' is not a regular expression ({error})") from error
    found = [compiled.search(file) for file in files]
    strange = [file for file, match in zip(files, found, strict=True) if match is None]
    if strange:
        raise ValueError(
            f"{where}: the pattern of group, '{shown(pattern)}', is not in {len(strange):,} of {len(files):,} names, "
            f"the first is {shown(strange[0])}"
        )
    return [match[1] if compiled.groups else match[0] for match in found if match]


def shared_groups_note(groups: Sequence[str], words: Sequence[str], what: str) -> list[str]:
    """A warning when some groups are in the test split and in another."""
    test = {group for group, word in zip(groups, words, strict=True) if word == "test" and group}
    others = {group for group, word in zip(groups, words, strict=True) if word != "test"}
    both = sorted(test & others)
    if not both:
        return []
    return [
        f"{WARNING}{len(both):,} of {counted(len(test), f'test {what}')} also in training or validation, the first is "
        f"{shown(both[0])}: scores will look too good"
    ]


# --- faults


def refuse_empty(words: Sequence[str], *, where: str, omitted: str = "") -> None:
    """ValueError unless there are training and test images; `omitted` tells why some are not among them."""
    for split in ("train", "test"):
        if split not in words:
            why = f" ({omitted})" if omitted else ""
            raise ValueError(f"{where} has no {split} images{why}: both train and test are needed")


def refuse_no_classes(labels: Sequence[str], *, where: str) -> None:
    """ValueError for a single class, and for so many that they can be none. An empty label is not known."""
    count = Counter(filter(None, labels))
    if len(count) == 1:
        raise ValueError(f"{where} has only one class, '{shown(next(iter(count)))}': at least two are needed")
    if len(count) > MOST_CLASSES or count.total() < 2 * len(count):
        raise ValueError(
            f"{where} has {counted(len(count), 'different label', 'different labels')} for "
            f"{counted(count.total(), 'image')}, the first is '{shown(next(iter(count), ''))}': are these names or "
            "paths instead of classes?"
        )


def refuse_absent_classes(labels: Sequence[str], words: Sequence[str], *, where: str) -> None:
    """ValueError for a class without training or test images."""
    classes = sorted(set(labels) - {""})
    there = {split: {label for label, word in zip(labels, words, strict=True) if word == split} for split in SPLITS}
    for split in ("train", "test"):
        never = [label for label in classes if label not in there[split]]
        if never:
            named = ", ".join(f"'{shown(label)}'" for label in never[:NAMED]) + (", ..." if len(never) > NAMED else "")
            raise ValueError(
                f"{where}: no {split} image of {counted(len(never), 'class', 'classes')} of {len(classes):,} "
                f"({named}): add some, or remove the class"
            )


def doubts(root: Path, files: Sequence[str], words: Sequence[str], *, crops: bool = True) -> list[str]:
    """Warnings about the pictures: test images that train too, and with `crops` pictures that are not face crops."""
    return [*_repeated(root, files, words), *(_not_crops(root, files) if crops else ())]


def _repeated(root: Path, files: Sequence[str], words: Sequence[str]) -> Iterator[str]:
    """Of test images that have the bytes of a training or validation image. Sizes are compared first, then ends."""
    keys: dict[int, Hashable] = {}
    for measure in (_size, _end, _whole):
        places: dict[Hashable, list[int]] = {}
        for place in keys or range(len(files)):
            with suppress(OSError):
                places.setdefault((keys.get(place), measure(root / files[place])), []).append(place)
        keys = {
            place: key
            for key, same in places.items()
            if len({words[place] == "test" for place in same}) == 2
            for place in same
        }
        if not keys:
            return
    twin = {key: files[place] for place, key in keys.items() if words[place] != "test"}
    test = [place for place in sorted(keys) if words[place] == "test"]
    yield (
        f"{WARNING}{len(test):,} of {counted(words.count('test'), 'test image')} also used for training or validation "
        f"{SAME_BYTES}, the first is {shown(files[test[0]])} = {shown(twin[keys[test[0]]])}: remove these "
        "training images, or say so beside the score"
    )


def _size(path: Path) -> int:
    return os.stat(path).st_size


def _end(path: Path) -> bytes:
    with open(path, "rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL))
        return stream.read(TAIL)


def _whole(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "blake2b").digest()


def _not_crops(root: Path, files: Sequence[str]) -> Iterator[str]:
    """When more than half of some pictures are larger or narrower than face crops."""
    step = max(1, len(files) // LOOKED_AT)
    sizes = []
    for file in files[::step]:
        with suppress(UnreadableImage):
            header = read_header(root / file)
            sizes.append((header.width, header.height))
    photos = [size for size in sizes if max(size) > LARGEST_CROP or min(size) < FLATTEST_CROP * max(size)]
    if 2 * len(photos) > len(sizes):
        width, height = photos[0]
        yield (
            f"{WARNING}{len(photos):,} of {counted(len(sizes), 'picture')} looked at {NO_CROPS} (the first has "
            f"{width:,} x {height:,} pixels): cut the faces out first, as `fra crop` or --crop-with does"
        )


def refuse_repeated(places: Sequence[Hashable], named: Callable[[int], str], *, where: str) -> None:
    """ValueError when some of N entries are there again; `named` says which one a position is."""
    first: dict[Hashable, int] = {}
    again = []
    for number, place in enumerate(places):
        if first.setdefault(place, number) != number:
            again.append(number)
    if again:
        raise ValueError(
            f"{where} has {counted(len(again), 'duplicate row')}, the first is {named(again[0])}, which repeats "
            f"{named(first[places[again[0]]])}: remove one of them"
        )


# --- photos that are no crops


@dataclass(frozen=True)
class CutPhotos:
    """Labelled photos, and what `fra crop` has cut out of them."""

    folder: Path
    """As for --data."""
    crops: Path
    """The output folder of `fra crop` for the same folder."""


def of_crops(faces: LabelledFaces, crops: Path) -> LabelledFaces:
    """The crops in the place of the photos; those without one are left out of their splits, and said.

    Raises ValueError for a dataset that cuts faces itself, or a photo that `fra crop` did not look at.
    """
    if faces.boxes is not None:
        raise ValueError(f"{faces.name} cuts faces out of photos itself: leave --crop-with out")
    rows = {row["photo"]: row for row in read_rows(crops / "crops.csv")}
    strange = next((file for file in faces.files if file not in rows), None)
    if strange is not None:
        raise ValueError(f"{shown(strange)} does not lie below {faces.root}, where --crop-with looks for photos")
    lost = [place for place, file in enumerate(faces.files) if not rows[file]["crop"]]
    cut = torch.ones(len(faces.files), dtype=torch.bool)
    cut[lost] = False
    splits = {split: images[cut[images]] for split, images in faces.splits.items()}
    notes = [note for note in faces.notes if NO_CROPS not in note]
    reasons = Counter(rows[faces.files[place]]["reason"].partition(":")[0] for place in lost)
    skipped = "".join(f", {count:,} skipped ({reason})" for reason, count in sorted(reasons.items()))
    notes.append(f"{counted(len(faces.files), 'photo')} cut: {len(faces.files) - len(lost):,} used{skipped}")
    untested = len(faces.splits["test"]) - len(splits["test"])
    if untested:
        notes.append(f"{WARNING}not in the score: {counted(untested, 'test photo')} without a face")
    files = [rows[file]["crop"] or file for file in faces.files]
    return replace(faces, root=crops, files=files, splits=splits, notes=tuple(notes))
