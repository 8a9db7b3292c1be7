"""Where a dataset lies below the folder that somebody gives."""

from collections.abc import Sequence
from pathlib import Path


def find_layout(folder: Path, *, holds: str | Sequence[str], below: str, name: str) -> Path:
    """`folder`, or its subfolder `below`, whichever has the file or folder `holds`, or one of several.

    Raises ValueError saying what was expected where: the first two, as the commonest.
    """
    marks = (holds,) if isinstance(holds, str) else holds
    for root in (folder, folder / below):
        if any((root / mark).exists() for mark in marks):
            return root
    expected = ", ".join(str(root / mark) for mark in marks[:2] for root in (folder, folder / below))
    raise ValueError(
        f"{folder} does not hold {name}: expected {' or '.join(expected.rsplit(', ', 1))}"
        f" (`fra data layout {name}` shows the whole tree)"
    )
