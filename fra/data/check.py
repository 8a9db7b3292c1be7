"""`fra data check`: is a downloaded dataset what its authors gave out? N images.

Counts, labels, split sizes, missing and damaged pictures, and faces that are in the training and the test images.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

from fra.data.datasets import DATASETS, find_dataset
from fra.data.labelled import WARNING, LabelledFaces, Published
from fra.data.own import SAME_BYTES
from fra.data.read import reading_threads
from fra.faces.image import UnreadableImage
from fra.faces.points import place_out_of
from fra.runtime import Runtime
from fra.system.printable import counted, printable
from fra.tasks.expression import Expression
from fra.tasks.landmarks import Landmarks

SIDE = 32  # of the small grey pictures that are compared
# Two pictures show the same when both of these are exceeded. Looked at: of all pairs within and between 13,805 aligned
# faces of RAF-DB (95 million), 7,000 of CelebA (24) and 24,000 of FairFace (288), those above are the same photo
# (recoloured, cut or compressed again) or the next of a series. The first pair of different people has 0.827 for
# the slopes; brightness alone takes dark profiles before bright walls for the same up to 0.975.
ALIKE_BRIGHTNESS = 0.92
"""Correlation of brightness at 16 x 16 pixels; quick, so it goes first."""
ALIKE_SLOPES = 0.85
"""Cosine of the brightness differences between neighbours at 32 x 32 pixels."""
CALLED = {"train": "training", "val": "validation", "test": "test"}
SHOWN = 5
SAME_PIXELS = "(identical pixels)"
READ_AT_ONCE = 1024
DAMAGED = (ValueError, LookupError, EOFError, csv.Error, BadZipFile)
"""What readers raise at lists that are not as they should be."""


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a dataset on disk."""

    what: str
    fix: str
    """One line: what to do about it."""
    where: tuple[str, ...] = ()
    """The files or pairs of files, where it is about some."""
    kind: Literal["problem", "incomplete"] = "problem"


@dataclass(frozen=True)
class Survey:
    """What reading every picture once has shown."""

    small: UInt8[Tensor, "N 32 32"]
    """The images in grey; black where one could not be read."""
    digests: Sequence[bytes | None]
    """A hash of an image's pixels, None where it could not be read."""
    sizes: Int[Tensor, "N 2"]
    """Width and height of the pictures, 0 where one could not be read."""
    unreadable: dict[int, str]
    """Position → reason."""


def check(name: str, folder: Path, *, runtime: Runtime = Runtime()) -> tuple[LabelledFaces | None, list[Fault]]:
    """What was found in a folder (None when it cannot be understood), and what is wrong with it, in reading order.

    Raises ValueError for an unknown dataset or a folder that is not there.
    """
    dataset = find_dataset(name)
    if not folder.is_dir():
        which = f"`fra data layout {name}` shows" if dataset.own else "the dataset was unpacked into"
        raise ValueError(f"{folder} is not a folder: give the folder that {which}")
    try:
        faces = dataset.read(folder)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return None, [Fault(what, f"complete the download; `fra data layout {name}` shows the tree")]
    except DAMAGED as error:
        clear = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
        what = str(error) if clear else f"a list cannot be parsed ({type(error).__name__}: {error})"
        fix = f"`fra data layout {name}` shows the tree"
        return None, [Fault(what, fix if dataset.own else f"use the original file; {fix}")]
    missing = set(faces.missing())
    faults = [
        *count_faults(faces, dataset.published),
        *group_faults(faces, dataset.published),
        *label_faults(faces),
        *list_faults(faces),
        *mirror_faults(faces),
        *missing_faults(faces, missing),
    ]
    there = torch.tensor([place for place, file in enumerate(faces.files) if file not in missing], dtype=torch.long)
    survey = look_at_pictures(faces, there, runtime)
    faults += [*picture_faults(faces, survey, dataset.published), *place_faults(faces, survey)]
    return faces, [*faults, *leak_faults(faces, survey)]


def print_verdict(name: str, folder: Path, faces: LabelledFaces | None, faults: Sequence[Fault], *, all: bool) -> None:
    """What is there, two lines for each fault with the first few files (or `all`), and how it ended."""
    if faces:
        parts = ", ".join(f"{split} {len(faces.splits[split]):,}" for split in CALLED)
        print(f"{name} in {printable(folder)}: {counted(len(faces.files), 'image')} ({parts})")
        repeated = any(SAME_PIXELS in fault.what for fault in faults)
        for note in faces.notes:
            if not (repeated and SAME_BYTES in note):
                print(printable(note))
    for fault in faults:
        print(f"{fault.kind}: {printable(' '.join(fault.what.split()))}")
        shown = fault.where if all else fault.where[:SHOWN]
        for line in shown:
            print(f"       {printable(line)}")
        if len(shown) < len(fault.where):
            print(f"       and {len(fault.where) - len(shown):,} more (--all lists them)")
        print(f"  fix: {printable(fault.fix)}")
    if not faults:
        known = "counts as published, " if DATASETS[name].published.images else ""
        other = "other " if faces and any(note.startswith(WARNING) for note in faces.notes) else ""
        print(f"no {other}problems: {known}labels in range, every image readable, no test image in the other splits")


def count_faults(faces: LabelledFaces, published: Published) -> Iterator[Fault]:
    """Splits, and where these are complete the classes in them, that are smaller or larger than published."""
    for split, expected in published.images.items():
        images = faces.splits[split]
        total, count, called = published.total(split), len(images), CALLED[split]
        if count < total:
            yield Fault(
                f"{count:,} of {total:,} {called} images",
                "download the rest; scores on a part cannot be compared with published ones",
                kind="incomplete",
            )
        elif count > total:
            yield Fault(
                f"{count:,} {called} images instead of the published {total:,}",
                "use the original lists: lines were added to these",
            )
        elif not isinstance(expected, int):
            task = faces.tasks["expression"]
            assert isinstance(task, Expression)  # only such are published by class
            found = torch.bincount(faces.targets["expression"][images], minlength=len(task.labels)).tolist()
            wrong = [
                f"{label} {have:,}, published {want:,}"
                for label, have, want in zip(task.labels, found, expected, strict=True)
                if have != want
            ]
            if wrong:
                yield Fault(
                    f"the {called} images per class differ from the published numbers",
                    "use the original labels: some of these were changed",
                    tuple(wrong),
                )


def group_faults(faces: LabelledFaces, published: Published) -> Iterator[Fault]:
    """Groups of a complete test split that are smaller or larger than published."""
    test = faces.splits["test"]
    if not published.groups or len(test) != published.total("test"):
        return
    wrong = []
    for kind, expected in published.groups.items():
        if kind not in faces.groups:
            yield Fault(
                f"no list says which test images belong to which {kind}",
                f"add the lists of subsets, or do without scores per {kind}",
            )
            continue
        groups = faces.groups[kind]
        for group, want in expected.items():
            have = int((groups.of[test] == groups.names.index(group)).sum())
            if have != want:
                wrong.append(f"{kind} {group} {have:,}, published {want:,}")
    if wrong:
        yield Fault(
            "the test images per group differ from the published numbers",
            "use the original lists: some of these were changed",
            tuple(wrong),
        )


def label_faults(faces: LabelledFaces) -> Iterator[Fault]:
    """Classes without an image, faces without a size. That labels are in range has been seen by the reader."""
    for split in ("train", "test"):
        if not len(faces.splits[split]):
            yield Fault(
                f"there are no {CALLED[split]} images", "complete the download: nothing can be evaluated without them"
            )
            continue
        for word, task in faces.tasks.items():
            if isinstance(task, Expression):
                found = faces.targets[word][faces.splits[split]]
                count = torch.bincount(found[task.known(found)], minlength=len(task.labels)).tolist()
                never = [label for label, images in zip(task.labels, count, strict=True) if not images]
                if never:
                    yield Fault(
                        f"no {CALLED[split]} image has the {word} {' or '.join(never)}",
                        "complete the download; scores say nothing about a label without images",
                    )
    for word, task in faces.tasks.items():
        if isinstance(task, Landmarks):
            for normaliser in task.of_thresholds:
                flat = (~(task.length(faces.targets[word], normaliser) > 0)).nonzero().flatten().tolist()
                if flat:
                    yield Fault(
                        f"the {normaliser} distance of {counted(len(flat), 'face')} is 0, so errors cannot "
                        "be divided by it",
                        "use the original annotation (these lines were changed), or remove the lines from the list",
                        tuple(faces.files[face] for face in flat),
                    )


def list_faults(faces: LabelledFaces) -> Iterator[Fault]:
    """Pictures that are listed twice, and images of two splits."""
    # Several faces may be cut from one photo, but not the same twice.
    boxes = [()] * len(faces.files) if faces.boxes is None else [tuple(box) for box in faces.boxes.tolist()]
    twice = [file for (file, _), count in Counter(zip(faces.files, boxes, strict=True)).items() if count > 1]
    if twice:
        yield Fault(
            f"{len(twice):,} of {len(faces.files):,} {'images' if faces.boxes is None else 'faces'} listed "
            "more than once",
            "use the original list",
            tuple(sorted(twice)),
        )
    places = torch.cat(list(faces.splits.values()))
    shared = [faces.files[place] for place, count in Counter(places.tolist()).items() if count > 1]
    if shared:
        yield Fault(
            f"{counted(len(shared), 'image')} in more than one split", "use the original list of splits", tuple(shared)
        )


def mirror_faults(faces: LabelledFaces) -> Iterator[Fault]:
    """Mirrored copies that lie beside the originals."""
    for split, called in CALLED.items():
        mirrored = faces.mirrored(split)
        if mirrored:
            yield Fault(
                f"{len(mirrored):,} of {len(faces.splits[split]):,} {called} images listed as mirrored "
                "copies of others",
                "remove the files that end in _mirror: training mirrors faces itself, and published scores "
                "do not count copies",
                tuple(mirrored),
            )


def missing_faults(faces: LabelledFaces, missing: set[str]) -> Iterator[Fault]:
    if missing:
        yield Fault(
            f"{len(missing):,} of {len(faces.files):,} listed images missing from {faces.root}",
            "correct the paths, or remove these images from the list"
            if _own(faces)
            else "unpack all parts of the download there, or remove their lines from the list",
            tuple(sorted(missing)),
        )


def look_at_pictures(faces: LabelledFaces, images: Int[Tensor, "n"], runtime: Runtime = Runtime()) -> Survey:
    """Read these pictures, with threads."""
    from rich.progress import track

    count = len(faces.files)
    small = torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)
    sizes = torch.zeros(count, 2, dtype=torch.long)
    digests: list[bytes | None] = [None] * count
    unreadable = {}

    def read(place: int) -> tuple[Tensor, Tensor, bytes] | str:
        try:
            picture = faces.picture(place)
        except (UnreadableImage, OSError) as error:
            return error.reason if isinstance(error, UnreadableImage) else str(error)
        digest = hashlib.blake2b(picture.numpy().tobytes(), digest_size=16)
        if faces.boxes is not None:
            digest.update(faces.boxes[place].numpy().tobytes())
        grey = rgb_to_grayscale(faces.cut(place, picture, size=SIDE))[0]
        return grey, torch.tensor([picture.shape[2], picture.shape[1]]), digest.digest()

    parts = images.split(READ_AT_ONCE) if len(images) else ()
    with reading_threads(runtime.workers) as pool:
        for part in track(
            parts, description=f"reading {counted(len(images), 'image')}", disable=runtime.quiet or not len(images)
        ):
            for place, found in zip(part.tolist(), pool.map(read, part.tolist()), strict=True):
                if isinstance(found, str):
                    unreadable[place] = found
                else:
                    small[place], sizes[place], digests[place] = found
    return Survey(small, digests, sizes, unreadable)


def picture_faults(faces: LabelledFaces, survey: Survey, published: Published) -> Iterator[Fault]:
    """Pictures that cannot be decoded, and of another size than published."""
    if survey.unreadable:
        yield Fault(
            f"cannot read {len(survey.unreadable):,} of {len(faces.files):,} images",
            f"{'replace or remove them' if _own(faces) else 'unpack them from the download again'}; `fra transfer` "
            "skips unreadable training images and stops at a test image",
            tuple(f"{faces.files[place]}: {reason}" for place, reason in survey.unreadable.items()),
        )
    if published.size:
        width, height = published.size
        read = survey.sizes.any(1)
        other = (read & (survey.sizes != torch.tensor(published.size)).any(1)).nonzero().flatten().tolist()
        if other:
            yield Fault(
                f"{len(other):,} of {len(faces.files):,} images not {width} x {height} pixels as published",
                "use the images of the download as they are: others may be cropped differently",
                tuple(f"{faces.files[place]}: {' x '.join(map(str, survey.sizes[place].tolist()))}" for place in other),
            )


def place_faults(faces: LabelledFaces, survey: Survey) -> Iterator[Fault]:
    """Faces whose landmarks are for the most part not in their picture. A few beyond its border are usual."""
    for word, task in faces.tasks.items():
        if not isinstance(task, Landmarks) or faces.boxes is None:
            continue
        points = place_out_of(faces.boxes, task.places(faces.targets[word]))
        beyond = ((points < -0.5) | (points > survey.sizes[:, None] - 0.5)).any(2) & survey.sizes.any(1)[:, None]
        lost = (beyond.sum(1) > task.points / 2).nonzero().flatten().tolist()
        if lost:
            yield Fault(
                f"{counted(len(lost), 'face')} with most landmarks outside of the image "
                f"({counted(int(beyond.sum()), 'landmark')} outside in all)",
                "use images and landmarks of the same download: these images may have been resized or swapped",
                tuple(faces.files[face] for face in lost),
            )


def _own(faces: LabelledFaces) -> bool:
    """Whether the labels are somebody's own, so that there is no download to use again."""
    return faces.name in DATASETS and DATASETS[faces.name].own


def _listed(faces: LabelledFaces) -> str:
    return "" if _own(faces) else " from the list"


def leak_faults(faces: LabelledFaces, survey: Survey) -> Iterator[Fault]:
    """Test images that are training or validation images too, pixel by pixel or to the eye."""
    test = faces.splits["test"]
    others = torch.cat([faces.splits["train"], faces.splits["val"]])
    exact = same_pixels(survey.digests, test.tolist(), others.tolist())
    if exact:
        leaked = len({a for a, _ in exact})
        yield Fault(
            f"{leaked:,} of {len(test):,} test images also used for training or validation {SAME_PIXELS}",
            f"remove these training images{_listed(faces)}, or say so beside the score",
            tuple(f"{faces.files[a]} = {faces.files[b]}" for a, b in exact),
        )
    known = set(exact)
    near = [pair for pair in look_alikes(survey.small, test, others) if (pair[0], pair[1]) not in known]
    if near:
        yield Fault(
            f"{len({pair[0] for pair in near}):,} of {len(test):,} test images similar to training or validation "
            f"images ({counted(len(near), 'pair')}: the same photo edited, or the next of a series)",
            f"look at the pairs; remove these training images{_listed(faces)}, or say so beside the score",
            tuple(f"{faces.files[a]} ~ {faces.files[b]} ({alike:.3f})" for a, b, alike in near),
        )


def same_pixels(digests: Sequence[bytes | None], test: Sequence[int], others: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (test, other) of equal digests."""
    places: dict[bytes | None, list[int]] = {}
    for place in others:
        places.setdefault(digests[place], []).append(place)
    return [(a, b) for a in test if digests[a] is not None for b in places.get(digests[a], [])]


def look_alikes(
    small: UInt8[Tensor, "N 32 32"], test: Int[Tensor, "n"], others: Int[Tensor, "m"]
) -> list[tuple[int, int, float]]:
    """Pairs (test, other) that look the same with the cosine of their slopes, most alike first."""
    wanted, found = brightness(small[test]), []
    for part in others.split(READ_AT_ONCE):
        rows, columns = (wanted @ brightness(small[part]).T > ALIKE_BRIGHTNESS).nonzero(as_tuple=True)
        for pairs in torch.stack((test[rows], part[columns]), 1).split(READ_AT_ONCE):
            alike = (slopes(small[pairs[:, 0]]) * slopes(small[pairs[:, 1]])).sum(1)
            found += [(a, b, value) for (a, b), value in zip(pairs.tolist(), alike.tolist(), strict=True)]
    return sorted((pair for pair in found if pair[2] > ALIKE_SLOPES), key=lambda pair: -pair[2])


def brightness(small: UInt8[Tensor, "N 32 32"]) -> Float[Tensor, "N 256"]:
    """Unit vectors whose products are correlations; zero for a picture of one colour."""
    values = F.avg_pool2d(small[:, None].float(), 2).flatten(1)
    return F.normalize(values - values.mean(1, keepdim=True), eps=1e-3)


def slopes(small: UInt8[Tensor, "N 32 32"]) -> Float[Tensor, "N 1800"]:
    """Unit vectors of the differences across each inner pixel, from left to right and from top to bottom."""
    values = small.float()
    across, down = values[:, 1:-1, 2:] - values[:, 1:-1, :-2], values[:, 2:, 1:-1] - values[:, :-2, 1:-1]
    return F.normalize(torch.cat((across.flatten(1), down.flatten(1)), 1), eps=1e-3)
