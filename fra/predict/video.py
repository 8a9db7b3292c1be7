"""`fra predict CLIP`: the faces in a video clip, followed from frame to frame, and what trained tasks say of them.

First every frame is analysed, and its answers go into a journal; then tables and the annotated clip are made from that.
A run that is killed goes on with the frames that are missing, and ends with the same answers.
"""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fra.crop.detectors import Face
from fra.crop.tiles import Detail
from fra.faces.clip import Clip, ClipWriter, Frame, frames_of
from fra.files import atomic, claim_folder, one_writer, reading, write_cells
from fra.predict.annotate import overlay
from fra.predict.journal import AGAIN, JOURNAL, Entry, answered, entries, recorded, short
from fra.predict.predictor import Predictor, Seen, mark, question_of
from fra.predict.tracks import Smoother, Tracker
from fra.runtime import Runtime
from fra.system.printable import counted, printable
from fra.training.devices import begin
from fra.training.threads import settle_threads

FRAMES_AT_ONCE, BYTES_AT_ONCE = 16, 1 << 28
"""Frames that are analysed together, fewer when they are large."""
SHOWN_TRACKS = 20
TABLE, CLIP = "faces.csv", "annotated.mp4"
ABOUT = ["frame", "seconds", "track", "x1", "y1", "x2", "y2", "score"]
"""Columns that do not depend on the tasks."""


@dataclass(frozen=True)
class Following:
    """How a clip is looked at."""

    every: int = 1
    """Faces are detected in each n-th frame; in between their boxes move on as before."""
    smooth: bool = False
    """Take the jitter out of landmarks, in the tables and the annotated clip."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"--every is {self.every}: give at least 1")


@one_writer
def predict_clip(
    path: Path,
    tasks: list[str | Path],
    out: Path,
    *,
    following: Following = Following(),
    detector: str = "retinaface",
    min_score: float = 0.6,
    detail: Detail = "auto",
    runtime: Runtime = Runtime(),
) -> None:
    """Write `predictions.json`, `faces.csv`, with pyarrow `faces.parquet`, and `annotated.mp4` into `out`.

    Memory does not grow with the clip. Frames that cannot be read are counted. Raises ValueError when the clip or a
    task cannot be used, or `out` was begun with other ones.
    """
    clip = Clip.open(path)
    predictor = Predictor(tasks, detector=detector, min_score=min_score, detail=detail, device=begin(runtime))
    settle_threads(runtime, predictor.device, predictor.warm_up)
    question = question_of(predictor, detector, min_score, [path]) | {"every": following.every}
    analyst, began = Analyst(predictor, following.every), time.monotonic()
    at_once = max(1, min(FRAMES_AT_ONCE, BYTES_AT_ONCE // (3 * clip.height * clip.width)))
    tally = Tally(clip)
    if claim_folder(out, command="predict", resume=runtime.resume):
        for entry in answered(out, question, at_once=at_once):
            with reading(out / JOURNAL, AGAIN):
                analyst.recall(entry)
                tally.add(entry)
    kept = tally.frames
    smoothed = _smoothing() if following.smooth else (lambda entry: entry)
    about = {
        "clip": {**asdict(clip), "path": path.name, "smooth": following.smooth},
        "provenance": {name: model.provenance.sentence() for name, model in predictor.models.items()},
    }
    with recorded(out, question, about, of="frames", change=smoothed) as write:
        missing = islice(frames_of(path), kept, None)
        for group in _groups(_shown(missing, clip, kept, "analysing", quiet=runtime.quiet), at_once):
            found = analyst.look(group)
            write(found)
            for entry in found:
                tally.add(entry)
    seconds = time.monotonic() - began
    written = ["predictions.json", *_write_tables(out, following), CLIP]
    _write_clip(out, clip, following, quiet=runtime.quiet)
    if tally.unreadable:
        print(f"fra: {counted(tally.unreadable, 'frame')} of {printable(path)} cannot be read", file=sys.stderr)
    if not runtime.quiet:
        tally.show((tally.frames - kept) / seconds, list(predictor.models))
        print(f"{', '.join(written)} in {printable(out)}")


class Analyst:
    """Looks at the frames of a clip, in their order."""

    def __init__(self, predictor: Predictor, every: int) -> None:
        self.predictor, self.every, self.tracker = predictor, every, Tracker()
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
        self.predictor.ask(asked)
        seen = iter(asked)
        return [
            _entry(frame, [(number, next(seen)[1]) for number, _ in faces])
            for frame, faces in zip(frames, found, strict=True)
        ]

    def recall(self, entry: Entry) -> None:
        """What a former run saw in the next frame."""
        if entry["frame"] % self.every == 0 and "unreadable" not in entry:
            self._follow([_face_of(face) for face in entry["faces"]], entry["seconds"])

    def _faces(self, frame: Frame) -> list[tuple[int, Face]]:
        """Track and face; a face that is only followed has the score NaN."""
        if frame.image is None:
            return []
        if frame.number % self.every == 0:
            # Rounded as in the journal, so that a resumed run follows the same boxes.
            faces = [_face_of(short(_face(face))) for face in self.predictor.detector.find_faces(frame.image)]
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


def _face_of(entry: Entry) -> Face:
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


def _smoothing() -> Callable[[Entry], Entry]:
    """What takes the jitter out of the landmarks of entries, given in their order."""
    smoother = Smoother()

    def smoothed(entry: Entry) -> Entry:
        for face in entry["faces"]:
            x1, y1, x2, y2 = face["box"]
            for name, answer in face["answers"].items():
                if "landmarks" in answer:
                    points = smoother(
                        torch.tensor(answer["landmarks"]),
                        track=face["track"],
                        of=name,
                        seconds=entry["seconds"],
                        side=max(x2 - x1, y2 - y1),
                    )
                    answer["landmarks"] = short(points.tolist())
        return entry

    return smoothed


def _all(out: Path, following: Following) -> Iterator[Entry]:
    return map(_smoothing(), entries(out)) if following.smooth else entries(out)


def _write_tables(out: Path, following: Following) -> list[str]:
    """A row per frame and face; the columns of a task are those of its first answer. Returns the files' names."""
    first: Entry = next((face["answers"] for entry in entries(out) for face in entry["faces"]), {})
    cells = {f"{task}_{name}": cell for task, answer in first.items() for name, cell in _cells(answer).items()}
    columns = [*ABOUT, *cells]
    with atomic(out / TABLE) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        write_cells(stream, [columns])
        for entry in _all(out, following):
            write_cells(stream, (_row(entry, face) for face in entry["faces"]))
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


def _row(entry: Entry, face: Entry) -> list[Any]:
    answers = [cell for answer in face["answers"].values() for cell in _cells(answer).values()]
    score = "" if face["score"] is None else face["score"]
    return [entry["frame"], entry["seconds"], face["track"], *face["box"], score, *answers]


def _cells(answer: Entry) -> dict[str, Any]:
    """An answer as cells of a table, by the end of the column's name."""
    cells: dict[str, Any] = {}
    for asked, said in answer.items():
        if asked == "landmarks":
            cells |= {f"{axis}{number}": at[place] for number, at in enumerate(said) for place, axis in enumerate("xy")}
        elif asked == "confidence":
            cells |= {f"confidence{number}": value for number, value in enumerate(said)}
        elif isinstance(said, dict):
            kind = {"probabilities": "probability_", "numbers": ""}.get(asked, f"{asked}_")
            cells |= {f"{kind}{name}": value for name, value in said.items()}
        else:
            cells[asked] = "; ".join(said) if isinstance(said, list) else said
    return cells


def _write_clip(out: Path, clip: Clip, following: Following, *, quiet: bool) -> None:
    with atomic(out / CLIP) as temporary, ClipWriter(temporary, like=clip) as target:
        frames = _shown(frames_of(clip.path), clip, 0, "drawing", quiet=quiet)
        for frame, entry in zip(frames, _all(out, following), strict=True):
            if frame.image is not None:
                target.write(frame, _annotated(frame.image, entry["faces"]))


def _annotated(image: Tensor, faces: list[Entry]) -> Tensor:
    seen = [mark(Seen(_face_of(face), face["answers"])) for face in faces]
    return overlay(image, seen, [face["track"] for face in faces]) if faces else image


@dataclass
class Tally:
    """What the screen shows at the end."""

    clip: Clip
    frames: int = 0
    unreadable: int = 0
    faces: int = 0
    without: int = 0
    tracks: dict[int, tuple[float, float]] = field(default_factory=dict)
    """The first and last second of each."""
    said: dict[int, dict[str, Counter[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Counter)))
    """How often each answer was given, by track and task."""

    def add(self, entry: Entry) -> None:
        self.frames += 1
        self.unreadable += "unreadable" in entry
        self.without += not entry["faces"]
        for face in entry["faces"]:
            self.faces += 1
            first, _ = self.tracks.get(face["track"], (entry["seconds"], 0))
            self.tracks[face["track"]] = (first, entry["seconds"])
            for task, answer in face["answers"].items():
                self.said[face["track"]][task][_word(answer)] += 1

    def show(self, rate: float, tasks: list[str]) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table()
        for column in ("track", "seconds", "frames", *tasks):
            table.add_column(escape(column), overflow="fold")
        longest = sorted(self.tracks, key=lambda track: self.tracks[track][0] - self.tracks[track][1])
        for track in sorted(longest[:SHOWN_TRACKS]):
            first, last = self.tracks[track]
            frames = max((sum(said.values()) for said in self.said[track].values()), default=0)
            cells = [_most(self.said[track][task]) for task in tasks]
            table.add_row(str(track), f"{first:.1f} – {last:.1f}", f"{frames:,}", *map(escape, cells))
        console = Console()
        console.print(table)
        if len(self.tracks) > SHOWN_TRACKS:
            console.print(f"{counted(len(self.tracks) - SHOWN_TRACKS, 'shorter track')} not shown")
        console.print(
            f"{counted(self.frames, 'frame')}, {counted(self.faces, 'face')} on {counted(len(self.tracks), 'track')}; "
            f"{counted(self.without, 'frame')} without a face; {rate:.1f} frames a second"
        )


def _word(answer: Entry) -> str:
    """What is counted of an answer over the frames of a track: its class, if it has one."""
    named = next((said for said in answer.values() if isinstance(said, str)), None)
    return named or (f"{counted(len(answer['landmarks']), 'point')}" if "landmarks" in answer else "")


def _most(said: Counter[str]) -> str:
    if not said or not (most := said.most_common(1)[0])[0]:
        return ""
    share = 100 * most[1] / sum(said.values())
    return most[0] if share == 100 else f"{most[0]} in {share:.0f} % of the frames"
