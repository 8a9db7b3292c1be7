"""The faces in a video clip, followed from frame to frame, whatever is asked of them.

First every frame is analysed, and its answers go into a journal; then tables and the annotated clip are made from that.
A run that is killed goes on with the frames that are missing, and ends with the same answers.
"""

import hashlib
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from fra.crop.detectors import Detector, Face
from fra.faces.clip import Clip, ClipWriter, Frame, frames_of
from fra.files import atomic, claim_folder, reading, write_cells
from fra.predict.journal import AGAIN, JOURNAL, Entry, answered, entries, recorded, short
from fra.predict.predictor import Seen
from fra.predict.tracks import Tracker
from fra.runtime import Runtime
from fra.system.printable import counted, printable
from fra.training.threads import settle_threads

FRAMES_AT_ONCE, BYTES_AT_ONCE = 16, 1 << 28
"""Frames that are analysed together, fewer when they are large."""
SHOWN_TRACKS = 20
TABLE, CLIP = "faces.csv", "annotated.mp4"
ABOUT = ["frame", "seconds", "track", "x1", "y1", "x2", "y2", "score"]
"""Columns that do not depend on what is asked."""

Pass = Callable[[Entry], Entry]
"""What reading the journal once does to its entries, in their order."""


class Inquiry(ABC):
    """What is asked of every face of a clip, and what is made of the answers."""

    command: str
    """Whose folder it is."""
    document: str
    """The JSON file of all answers."""
    detector: Detector
    device: str

    @abstractmethod
    def ask(self, faces: Sequence[tuple[UInt8[Tensor, "3 H W"], Seen]]) -> None:
        """Fills in the answers of faces in these frames."""

    @abstractmethod
    def warm_up(self) -> None:
        """Its networks' work for a few faces."""

    @abstractmethod
    def question(self) -> dict[str, Any]:
        """What the answers depend on, beside the clip."""

    @abstractmethod
    def add(self, entry: Entry) -> None:
        """Counts a frame, whether it was analysed now or by a former run."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What stands in the document before the frames, once all of them are counted."""

    def reading(self) -> Pass:
        """What every reading of the journal does to its entries; for each one a new function."""
        return lambda entry: entry

    def public(self, entry: Entry) -> Entry:
        """What the document holds of an entry."""
        return entry

    @abstractmethod
    def cells(self, answers: Mapping[str, Any]) -> dict[str, Any]:
        """A face's answers as cells of the table, by column."""

    @abstractmethod
    def draw(self, image: UInt8[Tensor, "3 H W"], faces: Sequence[Entry]) -> UInt8[Tensor, "3 H W"]:
        """The frame of the annotated clip."""

    def write_more(self, out: Path) -> list[str]:
        """Writes further files into `out`, whose journal is complete; returns their names."""
        return []

    @abstractmethod
    def of_tracks(self) -> dict[str, Callable[[int], str]]:
        """Columns of the table on the screen, and what stands there by track."""

    def closing(self) -> list[str]:
        """Lines at the end of what the screen shows."""
        return []


def follow_clip(clip: Clip, inquiry: Inquiry, out: Path, *, every: int, runtime: Runtime) -> None:
    """Write the inquiry's document, `faces.csv`, with pyarrow `faces.parquet`, and `annotated.mp4` into `out`.

    Faces are detected in each n-th frame (`every`); in between their boxes move on as before. Memory does not grow with
    the clip. Frames that cannot be read are counted. For functions with `one_writer`. Raises ValueError when `every` is
    below 1, or `out` was begun with another question.
    """
    if every < 1:
        raise ValueError(f"--every is {every}: give at least 1")
    settle_threads(runtime, inquiry.device, inquiry.warm_up)
    place = hashlib.blake2b(os.fsencode(os.path.abspath(clip.path)), digest_size=8).hexdigest()
    question = inquiry.question() | {"photos": place, "every": every}
    analyst, began = Analyst(inquiry, every), time.monotonic()
    at_once = max(1, min(FRAMES_AT_ONCE, BYTES_AT_ONCE // (3 * clip.height * clip.width)))
    tally = Tally()
    if claim_folder(out, command=inquiry.command, resume=runtime.resume):
        for entry in answered(out, question, at_once=at_once):
            with reading(out / JOURNAL, AGAIN):
                analyst.recall(entry)
                tally.add(entry)
                inquiry.add(entry)
    kept, read = tally.frames, inquiry.reading()
    with recorded(
        out,
        question,
        inquiry.about,
        of="frames",
        change=lambda entry: inquiry.public(read(entry)),
        document=inquiry.document,
    ) as write:
        missing = islice(frames_of(clip.path), kept, None)
        for group in _groups(_shown(missing, clip, kept, "analysing", quiet=runtime.quiet), at_once):
            found = analyst.look(group)
            write(found)
            for entry in found:
                tally.add(entry)
                inquiry.add(entry)
    seconds = time.monotonic() - began
    written = [inquiry.document, *_write_tables(out, inquiry), *inquiry.write_more(out), CLIP]
    _write_clip(out, clip, inquiry, quiet=runtime.quiet)
    if tally.unreadable:
        print(f"fra: {counted(tally.unreadable, 'frame')} of {printable(clip.path)} cannot be read", file=sys.stderr)
    if not runtime.quiet:
        tally.show((tally.frames - kept) / seconds, inquiry)
        print(f"{', '.join(written)} in {printable(out)}")


def facts_of(clip: Clip) -> dict[str, Any]:
    """The clip in a document."""
    return {**asdict(clip), "path": clip.path.name}


class Analyst:
    """Looks at the frames of a clip, in their order."""

    def __init__(self, inquiry: Inquiry, every: int) -> None:
        self.inquiry, self.every, self.tracker = inquiry, every, Tracker()
        self.last: dict[int, Face] = {}
        """The face of each track at the last detection."""

    def look(self, frames: list[Frame]) -> list[Entry]:
        """The entry of each frame."""
        found = [self._faces(frame) for frame in frames]
        asked = [
            (frame.image, Seen(face, {}))
            for frame, faces in zip(frames, found, strict=True)
            if frame.image is not None
            for _, face in faces
        ]
        self.inquiry.ask(asked)
        seen = iter(asked)
        return [
            _entry(frame, [(number, next(seen)[1]) for number, _ in faces])
            for frame, faces in zip(frames, found, strict=True)
        ]

    def recall(self, entry: Entry) -> None:
        """What a former run saw in the next frame."""
        if entry["frame"] % self.every == 0 and "unreadable" not in entry:
            self._follow([face_of(face) for face in entry["faces"]], entry["seconds"])

    def _faces(self, frame: Frame) -> list[tuple[int, Face]]:
        """Track and face; a face that is only followed has the score NaN."""
        if frame.image is None:
            return []
        if frame.number % self.every == 0:
            # Rounded as in the journal, so that a resumed run follows the same boxes.
            faces = [face_of(short(_face(face))) for face in self.inquiry.detector.find_faces(frame.image)]
            return self._follow(faces, short(frame.seconds))
        moved = []
        for track in self.tracker.tracks:
            if track.number in self.last:
                face, shift = self.last[track.number], track.shift(frame.seconds)
                five = None if face.five_points is None else face.five_points + shift
                moved.append((track.number, Face(face.box + shift.repeat(2), five, float("nan"))))
        return moved

    def _follow(self, faces: list[Face], seconds: float) -> list[tuple[int, Face]]:
        numbers = self.tracker.follow([face.box for face in faces], seconds)
        self.last = dict(zip(numbers, faces, strict=True))
        return list(zip(numbers, faces, strict=True))


def _face(face: Face) -> Entry:
    five = None if face.five_points is None else face.five_points.tolist()
    # NaN, of a face that is only followed, is no JSON.
    return {"box": face.box.tolist(), "score": face.score if face.score == face.score else None, "five_points": five}


def face_of(entry: Entry) -> Face:
    """The face of an entry's `faces`."""
    score = float("nan") if entry["score"] is None else entry["score"]
    five = None if entry["five_points"] is None else torch.tensor(entry["five_points"])
    return Face(torch.tensor(entry["box"]), five, score)


def _entry(frame: Frame, seen: list[tuple[int, Seen]]) -> Entry:
    entry: Entry = {"frame": frame.number, "seconds": frame.seconds}
    if frame.image is None:
        entry["unreadable"] = True
    entry["faces"] = [{"track": number, **_face(one.face), "answers": one.answers} for number, one in seen]
    return dict(short(entry))


def _groups(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    frames = iter(frames)
    while group := list(islice(frames, size)):
        yield group


def _shown(frames: Iterable[Any], clip: Clip, done: int, what: str, *, quiet: bool) -> Iterator[Any]:
    """The frames, with a bar that tells frames a second and the time that is left."""
    from fra.crop.progress import progress_bar

    with progress_bar(clip.frames, done=done, quiet=quiet, doing=what, of="frames") as step:
        for frame in frames:
            yield frame
            step(1)


# --- what is made of the journal


def _write_tables(out: Path, inquiry: Inquiry) -> list[str]:
    """A row per frame and face; the columns of the answers are those of the first. Returns the files' names."""
    first: Entry = next((face["answers"] for entry in entries(out) for face in entry["faces"]), {})
    cells = inquiry.cells(first) if first else {}
    columns = [*ABOUT, *cells]
    with atomic(out / TABLE) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        write_cells(stream, [columns])
        for entry in map(inquiry.reading(), entries(out)):
            write_cells(stream, (_row(entry, face, inquiry) for face in entry["faces"]))
    try:
        from pyarrow import csv as reader
        from pyarrow import float64, int64, parquet, string
    except ImportError:  # the extra `tables`
        return [TABLE]
    kinds = {name: string() if isinstance(cells.get(name), str) else float64() for name in columns}
    kinds |= {"frame": int64(), "track": int64()}
    target = (out / TABLE).with_suffix(".parquet")
    table = reader.open_csv(out / TABLE, convert_options=reader.ConvertOptions(column_types=kinds))
    with atomic(target) as temporary, parquet.ParquetWriter(temporary, table.schema) as writer:
        for batch in table:
            writer.write_batch(batch)
    return [TABLE, target.name]


def _row(entry: Entry, face: Entry, inquiry: Inquiry) -> list[Any]:
    score = "" if face["score"] is None else face["score"]
    about = [entry["frame"], entry["seconds"], face["track"], *face["box"], score]
    return [*about, *inquiry.cells(face["answers"]).values()]


def _write_clip(out: Path, clip: Clip, inquiry: Inquiry, *, quiet: bool) -> None:
    with atomic(out / CLIP) as temporary, ClipWriter(temporary, like=clip) as target:
        frames = _shown(frames_of(clip.path), clip, 0, "drawing", quiet=quiet)
        for frame, entry in zip(frames, map(inquiry.reading(), entries(out)), strict=True):
            if frame.image is not None:
                target.write(frame, inquiry.draw(frame.image, entry["faces"]) if entry["faces"] else frame.image)


@dataclass
class Tally:
    """What the screen shows at the end, whatever was asked."""

    frames: int = 0
    unreadable: int = 0
    faces: int = 0
    without: int = 0
    tracks: dict[int, tuple[float, float, int]] = field(default_factory=dict)
    """The first and last second of each, and its frames."""

    def add(self, entry: Entry) -> None:
        self.frames += 1
        self.unreadable += "unreadable" in entry
        self.without += not entry["faces"]
        for face in entry["faces"]:
            self.faces += 1
            first, _, frames = self.tracks.get(face["track"], (entry["seconds"], 0, 0))
            self.tracks[face["track"]] = (first, entry["seconds"], frames + 1)

    def show(self, rate: float, inquiry: Inquiry) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table, more = Table(), inquiry.of_tracks()
        for column in ("track", "seconds", "frames", *more):
            table.add_column(escape(column), overflow="fold")
        longest = sorted(self.tracks, key=lambda track: self.tracks[track][0] - self.tracks[track][1])
        for track in sorted(longest[:SHOWN_TRACKS]):
            first, last, frames = self.tracks[track]
            cells = [said(track) for said in more.values()]
            table.add_row(str(track), f"{first:.1f} – {last:.1f}", f"{frames:,}", *map(escape, cells))
        console = Console()
        console.print(table)
        if len(self.tracks) > SHOWN_TRACKS:
            console.print(f"{counted(len(self.tracks) - SHOWN_TRACKS, 'shorter track')} not shown")
        console.print(
            f"{counted(self.frames, 'frame')}, {counted(self.faces, 'face')} on {counted(len(self.tracks), 'track')}; "
            f"{counted(self.without, 'frame')} without a face; {rate:.1f} frames a second"
        )
        for line in inquiry.closing():
            console.print(escape(line), soft_wrap=True)
