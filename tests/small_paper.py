"""The scale smoke of `fra reproduce`, made so small that a run takes about a second."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

from fra.reproduce.runs import Drawing
from fra.reproduce.supplement.scales import SCALES, Scale
from fra.reproduce.supplement.tables import TABLES, Table

TINY = ("method.head={hidden: 32, out: 16}", "encoder.image_size=32", "views.size=32", "schedule.epochs=4")
TINY += ("schedule.warmup_epochs=0.5", "batch_size=8", "health_faces=8", "max_faces=16")
"""What makes a smoke recipe one of seconds."""


def make_small() -> Scale:
    """The scale smoke, made so small that a run takes about a second; it takes the place of the real one."""
    decoder = ("method.decoder.width=16", "method.decoder.heads=2")
    methods = {
        method: (words[0], *TINY, *(decoder if method == "fra" else ()))
        for method, words in SCALES["smoke"].methods.items()
    }
    methods["fabrec"] = (methods["fabrec"][0], *TINY[1:], "method.decoder_width=16", "method.discriminator_width=4")
    SCALES["smoke"] = replace(SCALES["smoke"], methods=methods, drawing=Drawing(40))
    return SCALES["smoke"]


def make_table2_short() -> None:
    """Leave Table 2 its first part: three encoders, and four transfers with random weights."""
    whole = TABLES["table2"]

    def first_part(scale: Scale, seeds: int | None) -> Table:
        table = whole(scale, seeds)
        return replace(table, parts=table.parts[:1])

    TABLES["table2"] = first_part


SMALL_PROCESS = """
import sys
from pathlib import Path
tests, out, drawn, *names = sys.argv[1:]
sys.path.insert(0, tests)
from fra.reproduce.run import reproduce
from fra.runtime import Runtime
from small_paper import make_small, make_table2_short
make_small()
make_table2_short()
faces, data, runtime = Path(drawn, "images"), Path(drawn), Runtime(workers=0)
reproduce(names, scale="smoke", out=Path(out), faces=faces, data=data, runtime=runtime)
"""


def small_process(out: Path, drawn: Path, *names: str) -> list[str]:
    """The words that start `reproduce` in a process of its own, with `make_small` and `make_table2_short`."""
    return [sys.executable, "-c", SMALL_PROCESS, str(Path(__file__).parent), str(out), str(drawn), *names]


def records(out: Path, name: str) -> list[dict[str, str]]:
    """The rows of a table's .csv."""
    with open(out / f"{name}.csv", newline="") as stream:
        return list(csv.DictReader(stream))
