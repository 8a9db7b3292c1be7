"""`fra predict`: the faces in photos, and what learned tasks say about them."""

import glob
import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

import fra
from fra.crop.cluster import joined, on_cluster
from fra.crop.cut import UNREADABLE, Photo
from fra.crop.detectors import NO_FACE, Face, reduced_photos
from fra.crop.photos import PhotoList
from fra.crop.tiles import Detail, close_detector, why_no_face
from fra.crop.whole import sized_like_a_crop
from fra.data.framing import Framing, Whole, framing_of
from fra.faces.geometry import invert_matrix, transform_points
from fra.faces.image import UnreadableImage, write_image
from fra.files import claim_folder, one_writer, reading
from fra.pools.listing import Account, closing_line, image_names
from fra.predict.annotate import Mark, annotate
from fra.predict.journal import AGAIN, JOURNAL, Entry, answered, recorded, short
from fra.predict.task_model import TaskModel, load_task_model
from fra.runtime import Runtime
from fra.system.printable import counted, first_of, printable
from fra.training.devices import begin, choose_device
from fra.training.threads import settle_threads
from fra.weights.bundled import TASK, shipped_names
from fra.weights.load import encoder_fingerprint

PHOTOS_AT_ONCE, BYTES_AT_ONCE = 32, 1 << 28  # held in memory, with the crops of all their faces
FACES_AT_ONCE = 64
SHOWN_ROWS, SHOWN_ATTRIBUTES = 40, 6

Answer = dict[str, Any]
"""What `Task.answer` gives, with its points in pixels of the photo."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A face in a photo, and by each task's name its answer."""

    face: Face
    answers: dict[str, Answer]


@dataclass(frozen=True)
class Group:
    """Tasks that see the same pixels through the same encoder, which therefore runs once for all of them."""

    framing: Framing
    size: int
    models: dict[str, TaskModel]


class Predictor:
    """A detector and tasks, ready for photos."""

    def __init__(
        self,
        tasks: Sequence[str | Path] | Mapping[str, TaskModel],
        *,
        detector: str = "retinaface",
        min_score: float = 0.6,
        detail: Detail = "auto",
        device: str = "auto",
    ) -> None:
        """`tasks` are run folders of `fra transfer`, or task models by name; `detector` is a name in DETECTORS.

        With the detector `none` a photo is one face, cropped as the tasks' training images were. Otherwise faces are
        cropped as `fra.data.framing` says for the dataset of each task. Raises ValueError for unusable tasks.
        """
        if not 0 < min_score <= 1:
            raise ValueError(f"min-score is {min_score}: it must be above 0 and at most 1")
        self.detector = close_detector(detector, min_score=min_score, detail=detail)
        self.detail = detail
        self.device = choose_device(device)
        self.models = (
            dict(tasks)
            if isinstance(tasks, Mapping)
            else {name: load_task_model(path) for name, path in name_tasks(tasks).items()}
        )
        groups: dict[Any, Group] = {}
        for name, model in self.models.items():
            framing = Whole() if detector == "none" else framing_of(model.dataset, model.crop)
            key = (encoder_fingerprint(model.encoder), framing, model.image_size, model.reads_maps)
            group = groups.setdefault(key, Group(framing, model.image_size, {}))
            model.encoder = next(iter(group.models.values()), model).encoder
            group.models[name] = model.to(self.device)
        self.groups = list(groups.values())

    @torch.inference_mode()
    def __call__(self, photos: Sequence[UInt8[Tensor, "3 _ _"]]) -> list[list[Seen]]:
        """For each photo its faces, the surest first; photos and faces may have any sizes."""
        faces = [self.detector.find_faces(photo) for photo in photos]
        seen = [[Seen(face, {}) for face in found] for found in faces]
        self.ask([(photo, one) for photo, ones in zip(photos, seen, strict=True) for one in ones])
        return seen

    @torch.inference_mode()
    def ask(self, faces: Sequence[tuple[UInt8[Tensor, "3 _ _"], Seen]]) -> None:
        """Fills in the answers of faces that were found in these photos."""
        for start in range(0, len(faces), FACES_AT_ONCE):
            for group in self.groups:
                self._answer(group, faces[start : start + FACES_AT_ONCE])

    @torch.inference_mode()
    def warm_up(self) -> None:
        """The encoders' work for a few faces."""
        for group in self.groups:
            next(iter(group.models.values())).features(torch.zeros(8, 3, group.size, group.size, device=self.device))

    def _answer(self, group: Group, faces: Sequence[tuple[Tensor, Seen]]) -> None:
        cuts = [group.framing.cut(photo, one.face.box, one.face.five_points, group.size) for photo, one in faces]
        crops = torch.stack([crop for crop, _ in cuts]).to(self.device) / 255
        features = next(iter(group.models.values())).features(crops).float()
        for name, model in group.models.items():
            for output, (_, matrix), (_, one) in zip(model.from_features(features).cpu(), cuts, faces, strict=True):
                answer = model.answer(output, width=group.size, height=group.size)
                if "landmarks" in answer:
                    points = torch.tensor(answer["landmarks"])
                    answer["landmarks"] = transform_points(points, invert_matrix(matrix)).tolist()
                one.answers[name] = answer


def name_tasks(tasks: Sequence[str | Path]) -> dict[str, Path]:
    """Each run under a name: its own or its folder's, or the whole path where two folders are called alike."""
    paths = list({Path(task).resolve(): Path(task) for task in tasks}.values())
    names = [(path.resolve().parent if path.is_file() else path.resolve()).name for path in paths]
    return {name if names.count(name) == 1 else str(path): path for name, path in zip(names, paths, strict=True)}


@one_writer
def predict(
    photos: Sequence[str | Path],
    tasks: Sequence[str | Path],
    out: Path | None = None,
    *,
    detector: str = "retinaface",
    min_score: float = 0.6,
    detail: Detail = "auto",
    cluster: str | None = None,
    runtime: Runtime = Runtime(),
) -> None:
    """Find all faces in photos, ask the tasks about each, print a table, and write into `out` if it is given.

    `photos` are images, folders, .txt lists or patterns such as `*.jpg`. `out` then holds `predictions.json` and an
    annotated picture of every photo with a face. A photo that cannot be read is one line on stderr. A resumed run keeps
    the answers that `out` has and looks at the other photos. Raises ValueError when no photo can be read, a
    task or detector cannot be used, or `out` was begun with other photos, tasks, detector or min-score.
    """
    began = time.monotonic()
    sources, complaints = usable(photos)
    if not sources and len(complaints) == 1:
        raise ValueError(complaints[0])
    for complaint in first_of(complaints, "more path that cannot be used", "more paths that cannot be used"):
        print(f"fra: {printable(complaint)}", file=sys.stderr)
    if not sources:
        raise ValueError("no photos: give photos, folders of them, or .txt lists")
    for source in sources:
        if out is not None and source.is_dir() and out.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"--out {out} is inside the photo folder {source}: choose another")
    found = PhotoList(*sources)
    found.require_readable()
    found.account.refused += len(complaints)
    predictor = Predictor(tasks, detector=detector, min_score=min_score, detail=detail, device=begin(runtime))
    settle_threads(runtime, predictor.device, predictor.warm_up)
    places = tuple((name, _everywhere(task)) for name, task in name_tasks(tasks).items())
    there = partial(_answer_chunk, Asked(places, detector, min_score, detail, runtime.device), out and out.absolute())
    question = question_of(predictor, detector, min_score, found.files)
    summary = Summary({name: model.provenance.sentence() for name, model in predictor.models.items()})
    with joined(cluster) if cluster else nullcontext() as ray:  # says what is wrong before anything is written
        if out is not None and claim_folder(out, command="predict", resume=runtime.resume):
            for entry in answered(out, question):
                with reading(out / JOURNAL, AGAIN):
                    summary.add(entry)
        kept = summary.photos
        about = {"provenance": dict(summary.tasks), "not_photos": found.account.record()}
        chunks = found.chunks(kept, PHOTOS_AT_ONCE)
        with recorded(out, question, lambda: about, of="photos") as write:
            here = (answer_photos(predictor, out, chunk) for chunk in chunks)
            by_chunk = (
                here if ray is None else (it for _, it in on_cluster(chunks, there, out, ray, quiet=runtime.quiet))
            )
            for entry in _shown(chain.from_iterable(by_chunk), len(found) - kept, quiet=runtime.quiet):
                summary.add(entry)
                write([entry])
    unreadable = [str(UnreadableImage(found.root / name, reason)) for name, reason in summary.unreadable]
    for line in first_of(unreadable, "more unreadable photo"):
        print(f"fra: {line}", file=sys.stderr)
    if not runtime.quiet:
        summary.show(time.monotonic() - began, out, kept, found.account)


def usable(photos: Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """What `image_files` can read, with patterns resolved; and a line for each of the others."""
    sources: list[Path] = []
    complaints = []
    for given in photos:
        matches = [Path(given)] if Path(given).exists() else [Path(name) for name in sorted(glob.glob(str(given)))]
        for path in matches or [Path(given)]:
            try:
                next(image_names(path)[1])
                sources.append(path)
            except ValueError as error:
                complaints.append(str(error))
    return sources, complaints


@dataclass(frozen=True)
class Asked:
    """A predictor as it travels to another machine."""

    tasks: tuple[tuple[str, str], ...]
    """Name and place of each."""
    detector: str
    min_score: float
    detail: Detail
    device: str

    def predictor(self) -> Predictor:
        models = {name: load_task_model(place) for name, place in self.tasks}
        return Predictor(
            models, detector=self.detector, min_score=self.min_score, detail=self.detail, device=self.device
        )


def _everywhere(task: Path) -> str:
    """The task's place whatever the working directory."""
    return str(task) if str(task) in shipped_names(TASK) else str(task.absolute())


def _answer_chunk(asked: Asked, out: Path | None, photos: list[Photo]) -> list[Entry]:
    """What one core of a cluster does; the predictor stays loaded for the next chunk."""
    return list(answer_photos(_predictor(asked), out, photos))


_predictor = lru_cache(maxsize=1)(Asked.predictor)


def answer_photos(predictor: Predictor, out: Path | None, photos: Sequence[Photo]) -> Iterator[Entry]:
    """What `predictions.json` holds of each photo, whose annotated picture is written below `out`."""
    for photo, image, seen in _look(photos, predictor):
        if out is not None and isinstance(image, Tensor) and seen:
            write_image(out / _picture(photo), annotate(image, [mark(one) for one in seen]))
        yield short(_entry(photo, image, seen, pictures=out is not None, detail=predictor.detail))


Looked = tuple[Photo, UInt8[Tensor, "3 H W"] | UnreadableImage, list[Seen]]


def _look(photos: Sequence[Photo], predictor: Predictor) -> Iterator[Looked]:
    """The photos in order, with their faces; as many at once as fit."""
    waiting: list[tuple[Photo, UInt8[Tensor, "3 H W"]]] = []

    def ready() -> Iterator[Looked]:
        for (photo, image), seen in zip(waiting, predictor([image for _, image in waiting]), strict=True):
            yield photo, image, seen
        waiting.clear()

    for photo in photos:
        try:
            waiting.append((photo, photo.read()))
        except UnreadableImage as error:
            yield from ready()
            yield photo, error, []
        if sum(image.numel() for _, image in waiting) > BYTES_AT_ONCE:
            yield from ready()
    yield from ready()


def _shown(entries: Iterable[Entry], total: int, *, quiet: bool) -> Iterable[Entry]:
    from rich.progress import track

    return track(entries, description="analysing photos", total=total, disable=quiet, transient=True)


# --- words and files


def words(answer: Answer) -> tuple[str, list[str]]:
    """An answer for people: the class with its confidence, or numbers, or nothing; and what else there is to list."""
    title, details = "", []
    for asked, said in answer.items():
        if isinstance(said, str):
            about = "" if asked == "expression" else f"{asked} "
            title = f"{about}{said} {100 * answer['probabilities'][said]:.0f} %"
    if "years" in answer:
        title = "{median:.0f} years ({low:.0f} to {high:.0f})".format(**answer["years"])
    if "numbers" in answer:
        title = ", ".join(f"{name} {value:.3g}" for name, value in answer["numbers"].items())
    if "attributes" in answer:
        surest = sorted(answer["attributes"], key=lambda name: -answer["probabilities"][name])
        details = [name.replace("_", " ") for name in surest] or ["no attribute"]
    return title, details


def mark(one: Seen) -> Mark:
    """A face as `annotate` draws it: the first class at its box, everything else beside the photo."""
    titles, details, points, confidence = [], [], [], []
    for answer in one.answers.values():
        title, more = words(answer)
        titles += [title] if title else []
        details += [", ".join(more)] if more else []
        points += answer.get("landmarks", [])
        confidence += answer.get("confidence", [1.0] * len(answer.get("landmarks", [])))
    return Mark(
        box=one.face.box,
        title=titles[0] if titles else "",
        details=(*titles[1:], *details),
        points=torch.tensor(points) if points else None,
        confidence=torch.tensor(confidence) if points else None,
    )


def _picture(photo: Photo) -> str:
    return f"pictures/{photo.stem}.jpg"


def _entry(
    photo: Photo, image: Tensor | UnreadableImage, seen: Sequence[Seen], *, pictures: bool, detail: Detail
) -> Entry:
    if isinstance(image, UnreadableImage):
        return {"photo": photo.name, "unreadable": image.reason, "faces": []}
    entry: Entry = {"photo": photo.name, "width": image.shape[2], "height": image.shape[1]}
    if pictures and seen:
        entry["picture"] = _picture(photo)
    if not seen and (reason := why_no_face(*image.shape[1:], detail=detail)) != NO_FACE:
        entry["no_face"] = reason.removeprefix(f"{NO_FACE}: ")
    entry["faces"] = [face_entry(one) for one in seen]
    return entry


def face_entry(one: Seen) -> dict[str, Any]:
    """A face as `predictions.json` holds it."""
    return {
        "box": one.face.box.tolist(),
        "score": one.face.score,
        "five_points": None if one.face.five_points is None else one.face.five_points.tolist(),
        "answers": one.answers,
    }


def question_of(predictor: Predictor, detector: str, min_score: float, files: Iterable[str | Path]) -> dict[str, Any]:
    """What the answers depend on; of the files a hash of where they are."""
    places = b"\0".join(os.fsencode(os.path.abspath(file)) for file in files)
    return {
        "fra": fra.__version__,
        "detector": detector,
        "min_score": min_score,
        "detail": predictor.detail,
        "tasks": {
            name: {
                "task": model.task.name,
                "dataset": model.dataset,
                "image_size": model.image_size,
                "framing": str(group.framing),
                "weights": encoder_fingerprint(model),  # with those of the head
                "temperature": model.temperature,
                **({"certainty": asdict(model.certainty)} if model.certainty else {}),
            }
            for group in predictor.groups
            for name, model in group.models.items()
        },
        "photos": hashlib.blake2b(places, digest_size=8).hexdigest(),
    }


class Summary:
    """What the screen shows at the end: the first faces, and counts of all."""

    def __init__(self, tasks: Mapping[str, str]) -> None:
        """`tasks` by name, each with its provenance."""
        self.tasks = tasks
        self.photos = self.faces = self.without = self.reduced = 0
        self.cropped: list[str] = []
        self.unreadable: list[tuple[str, str]] = []
        self.rows: list[tuple[str, ...]] = []

    def add(self, entry: Entry) -> None:
        name, faces = entry["photo"], entry["faces"]
        shown = printable(name)
        self.photos += 1
        self.faces += len(faces)
        if "unreadable" in entry:
            self.unreadable.append((name, entry["unreadable"]))
            return
        if not faces:
            self.without += 1
            self.reduced += "no_face" in entry
            self.rows.append((shown, "", NO_FACE, *[""] * len(self.tasks)))
            if sized_like_a_crop(entry["height"], entry["width"]):
                self.cropped.append(shown)
        for number, face in enumerate(faces, 1):
            cells = [in_short(face["answers"][task]) for task in self.tasks]
            self.rows.append((shown if number == 1 else "", str(number), f"{face['score']:.2f}", *cells))
        del self.rows[SHOWN_ROWS:]

    def show(self, seconds: float, out: Path | None, kept: int, account: Account) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table()
        for column in ("photo", "face", "score", *self.tasks):
            table.add_column(escape(column), overflow="fold")
        for row in self.rows:
            table.add_row(*map(escape, row))
        console = Console()
        console.print(table)
        for name, provenance in self.tasks.items():
            console.print(escape(f"{printable(name)}: {provenance}"), soft_wrap=True)
        hidden = self.faces + self.without - len(self.rows)
        if hidden > 0:
            console.print(f"{counted(hidden, 'more row')} not shown")
        found = f"{counted(self.faces, 'face')} in {counted(self.photos, 'photo')}"
        parts = [f"{found}, {(self.photos - kept) / seconds:.1f} photos a second"]
        parts += [f"{kept:,} already answered"] if kept else []
        console.print("; ".join(parts))
        skipped = {NO_FACE: self.without, UNREADABLE: len(self.unreadable)}
        used = self.photos - sum(skipped.values())
        console.print(escape(closing_line(account, used=used, skipped=skipped)), soft_wrap=True)
        if self.reduced:
            console.print(f"{reduced_photos(self.reduced)} (predictions.json says how small)", soft_wrap=True)
        if self.cropped:
            first, others = escape(self.cropped[0]), len(self.cropped) - 1
            who = f"{first} and {others:,} more look like face crops" if others else f"{first} looks like a face crop"
            console.print(f"{who}: for face crops add --detector none")
        where = (
            f"results are in {printable(out)}"
            if out
            else "add --out DIR to keep predictions.json and annotated pictures"
        )
        console.print(escape(where))


def in_short(answer: Answer) -> str:
    """An answer as one line: the class, the surest attributes, or the number of points."""
    title, details = words(answer)
    if "landmarks" in answer:
        sure = f", confidence {100 * fmean(answer['confidence']):.0f} %" if "confidence" in answer else ""
        return f"{counted(len(answer['landmarks']), 'point')}{sure}"
    more = [f"+{len(details) - SHOWN_ATTRIBUTES}"] if len(details) > SHOWN_ATTRIBUTES else []
    return title or ", ".join(details[:SHOWN_ATTRIBUTES] + more)
