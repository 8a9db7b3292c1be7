"""The datasets that `fra transfer` reads: one file each, one row here."""

from fra.data.datasets import (
    affectnet,
    aflw,
    celeba,
    cofw,
    fairface,
    ferplus,
    folder,
    lfwa,
    points,
    rafdb,
    synthetic,
    table,
    w300,
    wflw,
)
from fra.data.labelled import Dataset
from fra.system.printable import did_you_mean

DATASETS: dict[str, Dataset] = {
    "synthetic": synthetic.DATASET,
    "rafdb": rafdb.DATASET,
    "ferplus": ferplus.DATASET,
    "affectnet7": affectnet.DATASET7,
    "affectnet8": affectnet.DATASET8,
    "celeba": celeba.DATASET,
    "lfwa": lfwa.DATASET,
    "300w": w300.DATASET,
    "wflw": wflw.DATASET,
    "cofw": cofw.DATASET,
    "aflw": aflw.DATASET,
    "fairface": fairface.DATASET,
    "folder": folder.DATASET,
    "table": table.DATASET,
    "points": points.DATASET,
}
"""Name in a recipe → reader of the folder given as --data, and what is known of the download."""


ALIASES = {"affectnet": "affectnet8"}
"""Names that people try first; both readers of AffectNet read the same folder."""
PAIRS = """LFW: pairs of photos, of one person or of two (http://vis-www.cs.umass.edu/lfw), for --pairs of pre-training.

pairsDevTest.txt       or another pairs*.txt: a line with counts, then "Name 1 2" or "Name 1 Other_Name 2"
Name/Name_0001.jpg     the photos, anywhere below DIR

Its attributes are the dataset lfwa.
"""


def find_dataset(name: str) -> Dataset:
    """A row of DATASETS. Raises ValueError when there is none."""
    name = ALIASES.get(name, name)
    if name == "lfw":
        raise ValueError(
            "lfw has pairs of photos and no labels: use lfwa for its attributes, and --pairs of `fra pretrain`"
        )
    if name not in DATASETS:
        raise ValueError(f"no dataset named '{name}'{did_you_mean(name, DATASETS)} (known: {', '.join(DATASETS)})")
    return DATASETS[name]


def layout_of(name: str) -> str:
    """The folder tree in which a dataset is read, in words. Raises ValueError as `find_dataset`."""
    return PAIRS if name == "lfw" else find_dataset(name).layout
