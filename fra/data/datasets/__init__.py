"""The datasets that `fra transfer` reads: one file each, one row here."""

from fra.data.datasets import affectnet, aflw, celeba, cofw, fairface, ferplus, lfwa, rafdb, synthetic, w300, wflw
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
}
"""Name in a recipe → reader of the folder given as --data, and what is known of the download."""


def find_dataset(name: str) -> Dataset:
    """A row of DATASETS. Raises ValueError when there is none."""
    if name not in DATASETS:
        raise ValueError(f"no dataset named '{name}'{did_you_mean(name, DATASETS)} (known: {', '.join(DATASETS)})")
    return DATASETS[name]
