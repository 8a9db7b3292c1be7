"""What `fra predict` keeps while it runs: a line for what was asked, then one per photo or frame once it is known.

No number of them fills the memory, and whatever ends the run, those before are answered.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fra.files import DamagedFile, atomic, reading, sealed, unsealed
from fra.system.printable import printable

JOURNAL = ".answers.jsonl"
AGAIN = "remove it and analyse everything again with --resume"

Entry = dict[str, Any]
"""A photo, or a frame, in `predictions.json`."""


def answered(out: Path, question: Mapping[str, Any], *, at_once: int = 1) -> Iterator[Entry]:
    """The entries of an earlier run in `out`, up to the first that is not whole or whose picture is gone.

    Of entries that were computed `at_once` only whole groups count. The journal is cut off there, so that what follows
    is looked at again. Raises ValueError for another question, and DamagedFile when the journal does not say which it
    was.
    """
    path, size = out / JOURNAL, 0
    if not os.path.lexists(path):
        return
    with reading(path, AGAIN):
        os.close(os.open(path, os.O_RDWR))
    group: list[Entry] = []
    with open(path, "rb") as stream:
        end = 0
        for number, line in enumerate(stream, 1):
            end += len(line)
            if not line.endswith(b"\n"):
                break
            try:
                with reading(path, AGAIN):
                    content = _content(line.decode())
            except DamagedFile as error:
                if not size:
                    raise
                what = printable(f"{error.what}, line {number}: everything from there on is analysed again")
                print(f"fra: {what}", file=sys.stderr)
                break
            if not size:
                changed = [name for name in question if name != "fra" and question[name] != content.get(name)]
                if changed:
                    different = " and ".join(changed).replace("_", "-")
                    raise ValueError(f"{out} was started with other {different}: use the same, or choose another --out")
                size = end
                continue
            if "picture" in content and not (out / content["picture"]).is_file():
                break
            group.append(content)
            if len(group) == at_once:
                yield from group
                group, size = [], end
    os.truncate(path, size)


def entries(out: Path) -> Iterator[Entry]:
    """All entries of a journal that is complete."""
    with open(out / JOURNAL, encoding="utf-8") as journal:
        next(journal)
        for line in journal:
            yield _content(line)


def _content(line: str) -> dict[str, Any]:
    """What a line of the journal says. ValueError when it is damaged."""
    content = json.loads(unsealed(line.rstrip("\n")))
    if not isinstance(content, dict):
        raise ValueError("it has no JSON objects")
    return content


@contextmanager
def recorded(
    out: Path | None,
    question: Mapping[str, Any],
    about: Callable[[], Mapping[str, Any]],
    *,
    of: str,
    change: Callable[[Entry], Entry] = lambda entry: entry,
    document: str = "predictions.json",
) -> Iterator[Callable[[list[Entry]], None]]:
    """Yields what adds entries to the journal; in the end writes `document`, in which they stand below `of`.

    `about` is asked then for what stands before them, and `change` is made to each on the way there. Of `question` the
    hash of the photos is left out.
    """
    if out is None:
        yield lambda entries: None
        return
    with open(out / JOURNAL, "a", encoding="utf-8") as stream:

        def write(lines: list[Entry]) -> None:
            stream.write("".join(sealed(json.dumps(line)) + "\n" for line in lines))
            stream.flush()

        if stream.tell() == 0:
            write([dict(question)])
        yield write
    kept = {name: value for name, value in question.items() if name != "photos"}
    head = json.dumps({**kept, **about()})
    with atomic(out / document) as temporary, open(temporary, "w", encoding="utf-8") as whole:
        whole.write(f'{head[:-1]}, "{of}": [')
        for number, entry in enumerate(entries(out)):
            whole.write((",\n" if number else "\n") + json.dumps(change(entry)))
        whole.write("\n]}\n")


def short(value: Any) -> Any:
    """Floats with six digits: a hundredth of a pixel in the largest photo."""
    if isinstance(value, dict):
        return {name: short(item) for name, item in value.items()}
    if isinstance(value, list):
        return [short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
