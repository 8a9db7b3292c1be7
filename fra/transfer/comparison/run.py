"""`fra compare`: does pre-training pay, and with how many labels?"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fra.data.labelled import WARNING
from fra.engine import do_runs
from fra.files import claim_folder, one_writer, read_json, reading, write_json
from fra.runtime import Runtime
from fra.system.printable import counted, printable
from fra.system.text import command
from fra.training.devices import begin
from fra.transfer.comparison.asked import Asked, Contestant, Question, contestants, question
from fra.transfer.comparison.plan import print_plan
from fra.transfer.comparison.runs import Place, all_runs, in_order
from fra.transfer.comparison.write import files, write_comparison

DATA = "data.json"
"""Which faces a folder compares encoders on."""


@one_writer
def compare(data: Path, asked: Asked, out: Path, *, wait: bool = True, runtime: Runtime = Runtime()) -> dict[str, Any]:
    """Do the runs that are missing in `out`, then write its files; the content of `compare.json`.

    Called again, after any interruption, with more encoders, labels or seeds, in several processes or on several
    machines with the same `out`, it goes on where runs are missing. Without `wait` it returns, with nothing, when what
    is left is done by others. Raises ValueError for anything that is wrong with what was asked.
    """
    runtime = replace(runtime, device=begin(runtime))
    read, encoders = _read(data, asked, runtime)
    runs = all_runs(read, encoders)
    place = Place(out, read, runtime=runtime)
    claim_folder(out, command="compare", resume=True, shared=True)
    _check_data(place)
    if not do_runs(in_order(runs, place), place, wait=wait):
        return {}
    content = write_comparison(runs, encoders, place)
    if not runtime.quiet:
        print()
        for entry in content["sentences"]:
            head = f"{entry['protocol']}: " if len(content["protocols"]) > 1 else ""
            print(*(f"{head}{sentence}" for sentence in entry["said"]), sep="\n")
        told = ", ".join(str(file) for file in files(out))
        print(f"wrote {printable(told)}; {command('fra', 'report', out)} makes a page of it")
    return content


def plan(data: Path, asked: Asked, out: Path, *, runtime: Runtime = Runtime()) -> None:
    """Print the runs that `compare` would do, and how long they would take; nothing is trained or written."""
    runtime = replace(runtime, device=begin(runtime))
    read, encoders = _read(data, asked, runtime)
    place = Place(out, read, runtime=runtime)
    print_plan(all_runs(read, encoders), place)


def _read(data: Path, asked: Asked, runtime: Runtime) -> tuple[Question, list[Contestant]]:
    read = question(asked, data)
    for note in [*read.notes, *read.faces.notes]:
        if note.startswith(WARNING):
            print(f"fra: {printable(note)}", file=sys.stderr)
        elif not runtime.quiet:
            print(printable(note))
    encoders = contestants(asked, runtime)
    if not runtime.quiet:
        _say(read, encoders)
    return read, encoders


def _say(read: Question, encoders: Sequence[Contestant]) -> None:
    labels = ", ".join(f"{number:,}" for number in read.labels)
    print(
        f"{read.word} on {printable(read.faces.title or read.faces.name)}: "
        f"{counted(read.train_images, 'training image')}, {counted(len(read.faces.splits['test']), 'test image')}; "
        f"{', '.join(encoder.name for encoder in encoders)} with {labels} labels, {', '.join(read.recipes)}, "
        f"{counted(read.seeds, 'seed')}"
    )


def _check_data(place: Place) -> None:
    """All who share a folder must be given the same faces."""
    read, file = place.question, place.out / DATA
    given = {"dataset": read.faces.name, "task": read.word, "faces": read.faces.fingerprint(read.word)}
    with reading(file, "remove it: the same command makes it again"):
        before = read_json(file) if file.exists() else given
    if before != given:
        was = f"{before.get('task')} on {before.get('dataset')}"
        raise ValueError(
            f"{place.out} compares encoders on other faces ({was}), or these have changed: choose another --out"
        )
    if not file.exists():
        write_json(file, given)
