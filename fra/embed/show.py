"""Tables and contact sheets of faces that are alike."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor, from_numpy, uint8, zeros

from fra.crop.cut import CropSettings, cut_face
from fra.crop.detectors import Face
from fra.crop.photos import PhotoList
from fra.embed.alike import Pair
from fra.embed.store import Faces
from fra.faces.image import UnreadableImage, read_image, to_input, write_image
from fra.faces.pictures import contact_sheet
from fra.files import atomic
from fra.system.cells import write_cells
from fra.system.printable import printable

TILE = 96
"""Side of a face on a sheet, in pixels."""
SHEET_FACES, SHEET_COLUMNS = 40, 8
SHEETS = 200
"""Clusters that get a sheet, the largest first."""
SHEET_ROWS = 24
"""Asked faces on the sheet of neighbours."""

Crop = UInt8[Tensor, "3 S S"]


def face_crop(image: UInt8[Tensor, "3 H W"], face: Face, settings: CropSettings) -> Crop:
    """A face as the encoder sees it: cut as `fra crop` does; the middle square of a photo that is a crop already."""
    if settings.detector == "none":
        return to_input(image, settings.size)
    return cut_face(image, face, settings)


class Tiles:
    """Faces on sheets, cut out of their photos again."""

    def __init__(self, faces: Faces, photos: PhotoList, detector: str) -> None:
        self.faces, self.photos = faces, photos
        self.settings = CropSettings(detector=detector, size=TILE)

    def __call__(self, face: int) -> Crop:
        """Grey where the photo has gone since."""
        box = from_numpy(self.faces.boxes[face].copy())
        try:
            image = read_image(self.photos.files[self.faces.photo[face]])
        except UnreadableImage:
            return zeros((3, TILE, TILE), dtype=uint8) + 200
        return face_crop(image, Face(box, None, 1.0), self.settings)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV table, also of no rows."""
    with (
        atomic(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        write_cells(stream, [columns])
        write_cells(stream, rows)


def _cosine(value: float | np.floating) -> str:
    return f"{value:.4f}"


def write_neighbours(
    out: Path,
    tiles: Tiles,
    asked: Sequence[Crop],
    places: Int[np.ndarray, "Q k"],
    cosines: Float[np.ndarray, "Q k"],
) -> None:
    """neighbours.csv, and neighbours.jpg with a row for each asked face: the face, then the nearest."""
    faces = tiles.faces
    columns = ("asked_face", "rank", "photo", "face", "cosine", "x1", "y1", "x2", "y2")
    rows = (
        (
            *(number, rank, faces.name(face), int(faces.number[face]), _cosine(cosines[number, rank - 1])),
            *(f"{side:.2f}" for side in faces.boxes[face].tolist()),
        )
        for number in range(len(places))
        for rank, face in enumerate(places[number].tolist(), 1)
    )
    write_table(out / "neighbours.csv", columns, rows)
    images: list[Tensor] = []
    captions: list[str] = []
    for number in range(min(len(places), SHEET_ROWS)):
        images += [asked[number], *(tiles(face) for face in places[number].tolist())]
        captions += ["asked for", *(_cosine(cosine) for cosine in cosines[number])]
    write_image(out / "neighbours.jpg", contact_sheet(images, 1 + places.shape[1], captions, size=TILE))


def write_duplicates(out: Path, faces: Faces, pairs: Sequence[Pair]) -> None:
    """duplicates.csv: each face that looks like an earlier one; only its heading when there is none."""
    columns = ("photo", "face", "earlier_photo", "earlier_face", "cosine")
    rows = [
        (
            faces.name(pair.face),
            int(faces.number[pair.face]),
            faces.name(pair.earlier),
            int(faces.number[pair.earlier]),
            _cosine(pair.cosine),
        )
        for pair in pairs
    ]
    write_table(out / "duplicates.csv", columns, rows)


def write_clusters(out: Path, tiles: Tiles, labels: Int[np.ndarray, "N"], sure: Float[np.ndarray, "N"]) -> None:
    """clusters.csv with a row per face, and clusters/0.jpg, 1.jpg ... with the surest faces of each cluster."""
    faces = tiles.faces
    rows = [
        (
            faces.name(face),
            int(faces.number[face]),
            "" if labels[face] < 0 else int(labels[face]),
            f"{sure[face]:.3f}",
        )
        for face in range(len(faces))
    ]
    write_table(out / "clusters.csv", ("photo", "face", "cluster", "probability"), rows)
    for old in (out / "clusters").glob("*.jpg"):
        old.unlink()
    for cluster in range(min(int(labels.max(initial=-1)) + 1, SHEETS)):
        members = np.flatnonzero(labels == cluster)
        members = members[np.argsort(-sure[members], kind="stable")][:SHEET_FACES].tolist()
        captions = [printable(Path(faces.name(face)).name) for face in members]
        sheet = contact_sheet([tiles(face) for face in members], SHEET_COLUMNS, captions, size=TILE)
        write_image(out / "clusters" / f"{cluster}.jpg", sheet)


def describe_neighbours(
    photo: Path, faces: Faces, places: Int[np.ndarray, "Q k"], cosines: Float[np.ndarray, "Q k"]
) -> str:
    """The nearest faces to each face in a photo, for the screen."""
    lines = []
    for number in range(min(len(places), SHEET_ROWS)):
        lines.append(f"nearest to face {number} of {printable(photo)} (cosine, photo, face):")
        lines += [
            f"  {cosine:.4f}  {printable(faces.name(face))}  {faces.number[face]}"
            for face, cosine in zip(places[number].tolist(), cosines[number].tolist(), strict=True)
        ]
    return "\n".join([*lines, "neighbours.jpg shows them, neighbours.csv lists them"])
