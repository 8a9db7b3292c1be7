"""`fra embed`: the features of every face in photos, and which faces are alike.

C features, S pixels a side of what the encoder sees.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

import fra
from fra.crop.cluster import joined, on_cluster
from fra.crop.cut import UNREADABLE, CropSettings, Photo
from fra.crop.detectors import NO_FACE, Detector, reduced_photos
from fra.crop.photos import PhotoList
from fra.crop.tiles import Detail, close_detector, why_no_face
from fra.crop.whole import sized_like_a_crop
from fra.embed import alike, show
from fra.embed.store import POSITION, Faces, Journal, Line, read_faces, write_npz, write_parquet
from fra.faces.image import UnreadableImage, read_image
from fra.files import claim_folder, one_writer, read_json, reading, write_json
from fra.models.encoder import Encoder
from fra.pools.listing import Account, closing_line
from fra.recipe import Count, Range, Settings
from fra.runtime import Runtime
from fra.system.printable import counted, printable
from fra.system.text import install
from fra.training.devices import begin, choose_device
from fra.training.threads import settle_threads
from fra.weights.load import encoder_fingerprint, load_encoder
from fra.weights.source import EncoderSource

PHOTOS_AT_ONCE, FACES_AT_ONCE = 32, 64
"""A group of photos is finished together, and its faces go through the encoder so many at once: always the same ones
together, because the last digits of features depend on it."""
SHOWN = 10
RECORD = "embed.json"
NO_TABLE = f"features.parquet needs pyarrow: {install('tables')}, then repeat with --resume"
NOT_FOR = (
    "features say which faces look alike in a picture (expression, pose, light, age); they are not made to identify "
    "people: do not use them to decide who somebody is"
)


@dataclass(frozen=True)
class EmbedSettings(Settings):
    """Which faces, and what to look for among them. Raises ValueError for numbers out of their range."""

    detector: str = "retinaface"
    """A name in DETECTORS, or name:model; `none` where photos are face crops already."""
    min_score: Annotated[float, Range(0, 1, above=True)] = 0.6
    """Detections below it do not count (as for `fra crop`)."""
    detail: Detail = "auto"
    """How closely large photos are looked at (as for `fra crop`)."""
    neighbours: Path | None = None
    """A photo whose faces are asked for: the nearest faces to each are listed."""
    nearest: Count = 12
    """How many (ours: a row on a sheet)."""
    clusters: bool = False
    """Look for clusters, which takes scikit-learn."""
    min_faces: Annotated[int, Range(2)] = 5
    """The smallest cluster (scikit-learn's default)."""
    duplicates_above: Annotated[float, Range(0, 1, above=True)] = 0.998
    """Cosine from which a face is a near-duplicate of an earlier one (ours: with `laptop`, nine of ten faces of
    FairFace that were halved or compressed again at quality 40 reach it; of 1,000 different ones no pair exceeds
    .993)."""


@dataclass
class EmbedSummary:
    """What a run of `fra embed` found."""

    out: Path
    account: Account
    photos: int = 0
    faces: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Photos without features, by reason."""
    reduced: int = 0
    """Photos without a face that were searched at a smaller size."""
    like_crops: int = 0
    """Photos without a face that look like face crops."""
    unreadable: list[UnreadableImage] = field(default_factory=list)
    """The first SHOWN of them."""
    duplicates: int | None = None
    """Faces that look like an earlier one; None when there were too many faces to compare."""
    clusters: int | None = None
    """None when they were not asked for."""

    def __str__(self) -> str:
        used = self.photos - sum(self.skipped.values())
        lines = [closing_line(self.account, used=used, skipped=self.skipped)]
        if self.reduced:
            lines.append(f"{reduced_photos(self.reduced)} (skipped.csv says how small)")
        if self.like_crops:
            verb = "looks like a face crop" if self.like_crops == 1 else "look like face crops"
            lines.append(f"{counted(self.like_crops, 'photo')} without a face {verb}: for those add --detector none")
        if self.duplicates is None:
            lines.append(f"near-duplicates were not looked for among more than {alike.MOST_COMPARED:,} faces")
        elif self.duplicates:
            lines.append(f"{counted(self.duplicates, 'near-duplicate')}: duplicates.csv")
        if self.clusters is not None:
            sheets = "; clusters.csv, and a contact sheet of each in clusters/" if self.clusters else ""
            lines.append(f"{counted(self.clusters, 'cluster')}{sheets}")
        return "\n".join([*lines, f"features are in {printable(self.out / 'features.npz')}", NOT_FOR])


Embedded = tuple[Float32[np.ndarray, "B C"], list[Line]]
"""The features of the faces in some photos, and a line for each photo."""


@dataclass(frozen=True)
class Look:
    """A detector and an encoder, ready for photos."""

    detector: Detector
    encoder: Encoder
    device: str
    settings: CropSettings

    @classmethod
    def of(cls, encoder: Encoder, settings: EmbedSettings, device: str) -> "Look":
        cut = CropSettings(
            detector=settings.detector,
            min_score=settings.min_score,
            detail=settings.detail,
            size=encoder.image_size,
        )
        detector = close_detector(cut.detector, min_score=cut.min_score, detail=cut.detail)
        return cls(detector, encoder.to(device).eval(), device, cut)

    def faces(self, image: UInt8[Tensor, "3 H W"]) -> tuple[list[UInt8[Tensor, "3 S S"]], Line]:
        """The faces as the encoder sees them, the surest first, and what the journal says of the photo."""
        found = self.detector.find_faces(image)
        line: Line = {"boxes": [face.box.tolist() for face in found], "scores": [face.score for face in found]}
        if not found:
            line["size"] = list(image.shape[1:])
        return [show.face_crop(image, face, self.settings) for face in found], line

    def photos(self, photos: Sequence[Photo]) -> Embedded:
        """The features of all faces in these photos, and a line for each photo; one is in memory at a time."""
        lines: list[Line] = []
        crops: list[Tensor] = []
        for photo in photos:
            try:
                cut, line = self.faces(photo.read())
            except UnreadableImage as error:
                cut, line = [], {"boxes": [], "scores": [], "unreadable": error.reason}
            crops += cut
            lines.append(line)
        return self.features(crops), lines

    def warm_up(self) -> None:
        """The work of a few faces."""
        size = self.encoder.image_size
        self.features([torch.zeros(3, size, size, dtype=torch.uint8)] * 8)

    @torch.inference_mode()
    def features(self, crops: Sequence[UInt8[Tensor, "3 S S"]]) -> Float32[np.ndarray, "B C"]:
        parts = [
            self.encoder(torch.stack(list(crops[start : start + FACES_AT_ONCE])).to(self.device) / 255).float()
            for start in range(0, len(crops), FACES_AT_ONCE)
        ]
        return torch.cat(parts).cpu().numpy() if parts else np.empty((0, self.encoder.channels), np.float32)


@one_writer
def embed(
    photos: Path | str,
    out: Path | str,
    encoder: str | Path | EncoderSource = "laptop",
    settings: EmbedSettings = EmbedSettings(),
    *,
    cluster: str | None = None,
    runtime: Runtime = Runtime(),
) -> EmbedSummary:
    """Write the features of all faces in `photos` (a folder tree, a .txt list or one image) to `out/features.npz`.

    It holds `features` (N, C) float32, `files` (the photo of each face, relative to the input folder), `faces` (its
    number in the photo, from 0, the surest first), `boxes` (N, 4) in pixels of the photo and `scores`; with pyarrow
    also `features.parquet`. Faces are cut as `fra crop` cuts them, at the encoder's size; with the detector `none` a
    photo is seen as it is, by its middle square. Memory does not grow with features, and however a run was ended,
    resumed it writes the same bytes (on the same machine). `encoder` is what `fra.load_encoder` takes. ValueError in
    one line when no photo can be read, none has a face, or `out` was begun with other photos, encoder or settings.
    """
    photos, out = Path(photos), Path(out)
    if settings.clusters:
        alike.clustering()
    found = PhotoList(photos)
    found.require_readable()
    if photos.is_dir() and out.resolve().is_relative_to(photos.resolve()):
        raise ValueError(f"--out {out} is inside the photo folder {photos}: choose another")
    look = Look.of(load_encoder(encoder, quiet=runtime.quiet), settings, begin(runtime))
    settle_threads(runtime, look.device, look.warm_up)
    asked = _asked(look, settings.neighbours) if settings.neighbours is not None else []
    there = partial(_embed_chunk, str(EncoderSource.parse(encoder)), settings, runtime.device)
    with joined(cluster) if cluster else nullcontext() as ray:  # says what is wrong before anything is written
        record = _begin(found, out, encoder, look, resume=runtime.resume)
        began = time.monotonic()
        kept = _embed_missing(found, out, look, there, ray, quiet=runtime.quiet)
    seconds = time.monotonic() - began
    summary = EmbedSummary(out, found.account)
    faces = _finish(found, out, look, summary)
    for error in summary.unreadable:
        print(f"fra: {error}", file=sys.stderr)
    if not len(faces):
        none = f"no face was found in {counted(summary.photos, 'photo')} of {printable(photos)}"
        raise ValueError(f"{none}: use --detector none if they are face crops, or a lower --min-score")
    write_npz(out / "features.npz", faces)
    if not write_parquet(out / "features.parquet", faces) and not runtime.quiet:
        print(f"fra: {NO_TABLE}", file=sys.stderr)
    counts = {"photos": summary.photos, "faces": summary.faces, "skipped": dict(sorted(summary.skipped.items()))}
    write_json(out / RECORD, {**record, "counts": counts, "not_for": NOT_FOR}, indent=2)
    if not runtime.quiet:
        rate = f", {(summary.photos - kept) / seconds:.1f} photos a second" if kept < summary.photos else ""
        already = f"; {counted(kept, 'photo')} done before" if kept else ""
        print(f"{counted(len(faces), 'face')} in {counted(summary.photos, 'photo')}{rate}{already}")
    _compare(faces, found, summary, settings, look, asked, runtime.quiet)
    if not runtime.quiet:
        print(summary)
    return summary


def _asked(look: Look, photo: Path) -> list[UInt8[Tensor, "3 S S"]]:
    """The faces in the photo that is asked for."""
    image = read_image(photo)
    crops, _ = look.faces(image)
    if not crops:
        raise ValueError(f"no face was found in {printable(photo)}: give --neighbours another photo")
    return crops


def _begin(
    found: PhotoList, out: Path, encoder: str | Path | EncoderSource, look: Look, *, resume: bool
) -> dict[str, Any]:
    """Claim the folder and write embed.json, or check that an earlier run had the same photos and settings."""
    record: dict[str, Any] = {
        "fra": fra.__version__,
        "encoder": printable(encoder),
        "encoder_fingerprint": encoder_fingerprint(look.encoder),
        "features": look.encoder.channels,
        "image_size": look.encoder.image_size,
        "detector": look.settings.detector,
        "min_score": look.settings.min_score,
        "detail": look.settings.detail,
        "photos": len(found),
        "photos_digest": found.digest(),
        "not_photos": found.account.record(),
    }
    path = out / RECORD
    if claim_folder(out, command="embed", resume=resume) and any(map(os.path.lexists, (path, out / POSITION))):
        before = read_json(path)
        with reading(path):
            same = {name: before.get(name) == record[name] for name in record}
        again = "resume with the same, or choose another --out"
        if not same["encoder_fingerprint"]:
            what = "other weights" if same["encoder"] else f"the encoder {before['encoder']}, not {record['encoder']}"
            raise ValueError(f"{out} was started with {what}: {again}")
        for name in ("detector", "min_score", "detail"):
            if not same[name]:
                flag = name.replace("_", "-")
                raise ValueError(f"{out} was started with {flag} {before.get(name)}, not {record[name]}: {again}")
        if not same["photos_digest"]:
            raise ValueError(
                f"the photos have changed since {out} was started ({before['photos']} then, {len(found)} now): "
                "restore them, or choose another --out"
            )
    write_json(path, record, indent=2)
    return record


def _embed_missing(
    found: PhotoList, out: Path, look: Look, there: Callable[[list[Photo]], Embedded], ray: Any, *, quiet: bool
) -> int:
    """Look at the photos that the journal has not, group by group; how many it had.

    With `ray` the cores of its cluster do what `there` says.
    """
    from rich.progress import track

    with Journal(out, look.encoder.channels) as journal:
        kept = journal.photos
        groups = found.chunks(kept, PHOTOS_AT_ONCE)
        total = -(-(len(found) - kept) // PHOTOS_AT_ONCE)
        by_cluster = on_cluster(groups, there, out, ray, quiet=quiet)
        results = map(look.photos, groups) if ray is None else (it for _, it in by_cluster)
        bar = track(results, description="embedding photos", total=total, disable=quiet, transient=True)
        for features, lines in bar:
            journal.append(features, lines)
    return kept


def _embed_chunk(encoder: str, settings: EmbedSettings, device: str, photos: list[Photo]) -> Embedded:
    """What one core of a cluster does; encoder and detector stay loaded for the next chunk."""
    return _looker(encoder, settings, device).photos(photos)


@lru_cache(maxsize=1)
def _looker(encoder: str, settings: EmbedSettings, device: str) -> Look:
    return Look.of(load_encoder(encoder, quiet=True), settings, choose_device(device))


def _finish(found: PhotoList, out: Path, look: Look, summary: EmbedSummary) -> Faces:
    """All faces; the summary counts the photos, and skipped.csv says why some have no features."""
    skipped: list[tuple[str, str]] = []

    def count(place: int, line: Line) -> None:
        summary.photos += 1
        summary.faces += len(line["boxes"])
        if "unreadable" in line:
            summary.skipped[UNREADABLE] += 1
            skipped.append((found.name(place), f"{UNREADABLE}: {line['unreadable']}"))
            if len(summary.unreadable) < SHOWN:
                summary.unreadable.append(UnreadableImage(found.files[place], line["unreadable"]))
        elif not line["boxes"]:
            reason = why_no_face(*line["size"], detail=look.settings.detail)
            summary.skipped[NO_FACE] += 1
            summary.reduced += reason != NO_FACE
            summary.like_crops += sized_like_a_crop(*line["size"])
            skipped.append((found.name(place), reason))

    faces = read_faces(out, look.encoder.channels, found.name, look=count)
    show.write_table(out / "skipped.csv", ("photo", "reason"), skipped)
    return faces


def _compare(
    faces: Faces,
    found: PhotoList,
    summary: EmbedSummary,
    settings: EmbedSettings,
    look: Look,
    asked: Sequence[UInt8[Tensor, "3 S S"]],
    quiet: bool,
) -> None:
    """Near-duplicates, and what was asked for: neighbours, clusters."""
    out, tiles = summary.out, show.Tiles(faces, found, settings.detector)
    if len(faces) <= alike.MOST_COMPARED:
        pairs = list(alike.near_duplicates(faces, settings.duplicates_above))
        show.write_duplicates(out, faces, pairs)
        summary.duplicates = len(pairs)
    if settings.neighbours is not None:
        same = next(_same_photo(found, settings.neighbours), None)
        places, cosines = alike.nearest(faces, look.features(asked), count=settings.nearest, without_photo=same)
        show.write_neighbours(out, tiles, asked, places, cosines)
        if not quiet:
            print(show.describe_neighbours(settings.neighbours, faces, places, cosines))
    if settings.clusters:
        labels, sure = alike.clusters(faces, least=settings.min_faces)
        show.write_clusters(out, tiles, labels, sure)
        summary.clusters = int(labels.max(initial=-1)) + 1


def _same_photo(found: PhotoList, photo: Path) -> Iterator[int]:
    """The number of a photo among those that were embedded, if it is one."""
    real = os.path.realpath(photo)
    for number, file in enumerate(found.files):
        if file.name == photo.name and os.path.realpath(file) == real:
            yield number
