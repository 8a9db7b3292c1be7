"""Which faces have similar features: the nearest of a face, near-duplicates, clusters.

N faces, Q asked faces, C features. Similarity is the cosine of two features. Features are read a block at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from fra.embed.store import Faces
from fra.system.printable import counted
from fra.system.text import install

MOST_COMPARED, MOST_CLUSTERED = 200_000, 50_000
"""Faces that are compared all with all (ours: the time grows with the square; minutes on one core)."""
DIRECTIONS = 32
"""Principal components that faces are clustered in (ours: distances in hundreds of directions are nearly equal)."""
NEEDS = f"--clusters needs scikit-learn: {install('clusters')}"


def unit(features: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """Vectors of length 1, in float32; one of zeros stays."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), np.float32)


def _blocks(faces: Faces) -> Iterator[tuple[int, Float[np.ndarray, "B C"]]]:
    for first, end in faces.blocks():
        yield first, unit(faces.features[first:end])


def nearest(
    faces: Faces, asked: Float[np.ndarray, "Q C"], *, count: int, without_photo: int | None = None
) -> tuple[Int[np.ndarray, "Q k"], Float[np.ndarray, "Q k"]]:
    """The `count` faces with the highest cosine to each that is asked for, and the cosines; fewer if there are fewer.

    `without_photo`: the number of a photo whose faces are left out. Of equal ones the first comes first.
    """
    queries = unit(asked)
    places, cosines = np.empty((len(asked), 0), np.int64), np.empty((len(asked), 0), np.float32)
    for first, block in _blocks(faces):
        here = np.arange(first, first + len(block))
        kept = here if without_photo is None else here[faces.photo[here] != without_photo]
        places = np.concatenate([places, np.broadcast_to(kept, (len(asked), len(kept)))], axis=1)
        cosines = np.concatenate([cosines, queries @ block[kept - first].T], axis=1)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        places, cosines = np.take_along_axis(places, best, 1), np.take_along_axis(cosines, best, 1)
    return places, cosines


@dataclass(frozen=True)
class Pair:
    """A face, and the earlier one that it resembles most."""

    face: int
    earlier: int
    cosine: float


def near_duplicates(faces: Faces, least: float) -> Iterator[Pair]:
    """Every face whose cosine to an earlier one is at least `least`, with the most similar of those."""
    for first, block in _blocks(faces):
        best, cosine = np.zeros(len(block), np.int64), np.full(len(block), -1, np.float32)
        for start, others in _blocks(faces):
            if start > first:
                break
            cosines = block @ others.T
            if start == first:
                cosines[~np.tri(len(block), k=-1, dtype=bool)] = -1  # itself, and later ones
            most = cosines.argmax(1)
            value = cosines[np.arange(len(block)), most]
            better = value > cosine
            best[better], cosine[better] = start + most[better], value[better]
        for place in np.flatnonzero(cosine >= least):
            yield Pair(first + int(place), int(best[place]), float(cosine[place]))


# --- clusters


def clustering() -> ModuleType:
    """scikit-learn's clustering, or ValueError with the way to have it."""
    try:
        from sklearn import cluster
    except ImportError as error:
        raise ValueError(NEEDS) from error
    return cluster


def clusters(faces: Faces, *, least: int) -> tuple[Int[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """The cluster of each face, the largest called 0 and -1 for none, and how sure it is (0 to 1).

    HDBSCAN of scikit-learn on the first DIRECTIONS principal components of features of length 1; no cluster has fewer
    than `least` faces, and the number of clusters follows from the faces. ValueError for too many faces.
    """
    if len(faces) > MOST_CLUSTERED:
        raise ValueError(
            f"{counted(len(faces), 'face')} are too many to cluster (at most {MOST_CLUSTERED:,}; the features are "
            "written): give a list of fewer photos"
        )
    none = np.full(len(faces), -1), np.zeros(len(faces))
    if len(faces) < max(least, 2):
        return none
    # Faces have no gaps between them: by "eom", the default, half of them were one cluster (1,000 of FairFace).
    settings = dict(min_cluster_size=least, min_samples=2, cluster_selection_method="leaf")
    found: Any = clustering().HDBSCAN(**settings, copy=True).fit(_components(faces))
    labels = np.asarray(found.labels_, np.int64)
    if labels.max() < 0:
        return none
    sizes = np.bincount(labels[labels >= 0])
    renamed = np.empty(len(sizes), np.int64)
    renamed[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return np.where(labels >= 0, renamed[labels], -1), np.nan_to_num(found.probabilities_)


def _components(faces: Faces) -> Float[np.ndarray, "N d"]:
    """The first principal components of the features, from sums over blocks."""
    total, products = np.zeros(faces.channels), np.zeros((faces.channels, faces.channels))
    for _, block in _blocks(faces):
        total += block.sum(0, dtype=np.float64)
        products += block.T.astype(np.float64) @ block
    mean = total / len(faces)
    _, directions = np.linalg.eigh(products / len(faces) - np.outer(mean, mean))
    axes = directions[:, ::-1][:, :DIRECTIONS]
    return np.concatenate([(block - mean) @ axes for _, block in _blocks(faces)])
