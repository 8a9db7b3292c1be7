"""`fra reproduce`: from the wanted tables to runs, from finished runs to tables."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fra import engine
from fra.files import claim_folder, one_writer, read_json, reading, write_json
from fra.pools.unlabelled import open_pool
from fra.reproduce import NAMES
from fra.reproduce.plan import print_plan
from fra.reproduce.runs import Place, Pretraining, Run, Transfer
from fra.reproduce.supplement.figure import write_figure
from fra.reproduce.supplement.scales import SCALES, Scale
from fra.reproduce.supplement.tables import TABLES, Table, in_order
from fra.reproduce.write import write_table
from fra.runtime import Runtime
from fra.system.printable import counted
from fra.system.text import command
from fra.training.devices import begin
from fra.transfer.run import read_dataset

FIGURE = "figure1"


@one_writer
def reproduce(
    names: Sequence[str],
    *,
    scale: str,
    out: Path,
    faces: Path | None = None,
    data: Path | None = None,
    seeds: int | None = None,
    wait: bool = True,
    runtime: Runtime = Runtime(),
) -> list[Path]:
    """Make the wanted of NAMES in `out`: do the runs that are missing, then write tables and figure; their paths.

    Called again, after any interruption, in several processes or on several machines with the same `out`, it goes on
    where runs are missing, whatever `runtime.resume` says. `seeds` replaces the scale's numbers of seeds. Without
    `wait` it returns when what is left is done by others; then tables may be missing. Raises ValueError for anything
    that is wrong with faces, data or a run.
    """
    used = _scale(scale, faces, data)
    wanted = _wanted(names, used, seeds)
    place = _place(used, out, faces, data, needed=bool(wanted.runs))
    place = dataclasses.replace(place, runtime=runtime)
    claim_folder(out, command="reproduce", resume=True, shared=True)
    if not do_runs(wanted.runs, used, place, wait=wait):
        return []
    written = [write_table(table, used, place) for table in wanted.tables]
    if wanted.figure:
        written.append(out / f"{FIGURE}.png")
        pool = open_pool(place.faces)
        write_figure(written[-1], wanted.figure.folder(place), pool, device=begin(runtime))
    if not runtime.quiet:
        print(f"{', '.join(map(str, written))}: done; {command('fra', 'report', out)} puts everything in one report")
    return written


def plan(
    names: Sequence[str],
    *,
    scale: str,
    out: Path,
    faces: Path | None = None,
    data: Path | None = None,
    seeds: int | None = None,
    runtime: Runtime = Runtime(),
) -> None:
    """Print the runs that `reproduce` would do, and what they would take; nothing is trained or written."""
    used = _scale(scale, faces, data)
    place = dataclasses.replace(_place(used, out, faces, data, needed=False), runtime=runtime)
    print_plan(_wanted(names, used, seeds).runs, used, place)


@dataclass(frozen=True)
class Wanted:
    """What NAMES stand for."""

    tables: list[Table]
    figure: Pretraining | None
    """The run whose regions the figure shows."""
    runs: list[Run]
    """In an order in which they can be done."""


def _wanted(names: Sequence[str], scale: Scale, seeds: int | None) -> Wanted:
    tables = [TABLES[name](scale, seeds) for name in NAMES if name in names and name != FIGURE]
    figure = scale.encoder("fra") if FIGURE in names else None
    runs = [run for table in tables for run in table.runs()]
    return Wanted(tables, figure, in_order([*runs, figure] if figure else runs))


def _scale(name: str, faces: Path | None, data: Path | None) -> Scale:
    """Nothing is drawn where everything is given."""
    given = faces is not None and data is not None
    return dataclasses.replace(SCALES[name], drawing=None) if given else SCALES[name]


def _place(scale: Scale, out: Path, faces: Path | None, data: Path | None, *, needed: bool) -> Place:
    """Drawn faces where none are given and the scale allows it. ValueError where it does not."""
    if scale.drawing:
        drawn = scale.drawing.folder(Place(out, out, out))
        return Place(out, faces or drawn / "images", data or drawn)
    if needed and (faces is None or data is None):
        missing = "--faces (a folder of face crops)" if faces is None else "--data (a folder of datasets)"
        raise ValueError(
            f"{missing} is missing: only --scale smoke draws its own; docs/guides/reproduce.md says what to download"
        )
    return Place(out, faces or Path("FACES"), data or Path("DATA"))


def do_runs(runs: Sequence[Run], scale: Scale, place: Place, *, wait: bool = True) -> bool:
    """`fra.engine.do_runs` in a folder claimed for `reproduce`; what is given is looked at once, before all but the
    drawing of it."""
    checked = False

    def check(run: engine.Run[Place]) -> None:
        nonlocal checked
        if not checked and run is not scale.drawing:
            _check(runs, scale, place)
            checked = True

    return engine.do_runs(runs, place, before=check, wait=wait)


def _check(runs: Sequence[Run], scale: Scale, place: Place) -> None:
    """What is given, before hours are spent on it; all who share a folder must be given the same."""
    given: dict[str, Any] = {"scale": scale.name, "faces": len(open_pool(place.faces))}
    file = place.out / "reproduce.json"
    with reading(file):
        before = read_json(file) if file.exists() else given
        was, now = (f"{counted(found['faces'], 'face')} at scale {found['scale']}" for found in (before, given))
    if before != given:
        raise ValueError(f"{place.out} was started with {was}, not {now}: choose another --out")
    if not file.exists():
        write_json(file, given)
    recipes = {run.recipe.dataset: run.recipe for run in runs if isinstance(run, Transfer) and not run.finished(place)}
    for name, recipe in recipes.items():
        read_dataset(recipe, place.dataset(name))
