"""The datasets that `fra transfer` reads: one file each, one row here."""

from collections.abc import Callable
from pathlib import Path

from fra.transfer.dataset import LabelledFaces
from fra.transfer.datasets import celeba, fairface, rafdb, synthetic, w300

DATASETS: dict[str, Callable[[Path], LabelledFaces]] = {
    "synthetic": synthetic.read,
    "rafdb": rafdb.read,
    "celeba": celeba.read,
    "300w": w300.read,
    "fairface": fairface.read,
}
"""Name in a recipe → reader of the folder given as --data."""
