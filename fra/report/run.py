"""fra report: run folders of any kind to one page that needs no network and tells what happened."""

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from fra.faces import pictures
from fra.faces.image import read_image
from fra.files import atomic, claim_file, one_writer, reading
from fra.pretrain.region_health import USAGE
from fra.regions import draw
from fra.regions import heatmaps as measure
from fra.report import charts, words
from fra.report.comparisons import Comparison, comparison
from fra.report.folders import LEFT_OUT, CompareRun, PretrainRun, RegionsRun, Runs, TransferRun, read_runs
from fra.report.scores import scores
from fra.report.tables import TransferTable, transfer_tables
from fra.system.printable import duration
from fra.system.text import command
from fra.transfer.compare import comparison_sentence, is_percent, lower_is_better, metric_name
from fra.transfer.comparison.write import title as comparison_title

ROWS = 6
"""Faces with heatmaps that the page shows; all of them stay in the run's regions.png."""

OF_ALL_METHODS = ("step", "epoch", "loss", "learning_rate", "teacher_momentum", "pairs_per_second", "waiting")
"""Columns of log.csv; the others are terms of the method's loss."""

OURS = (b'<meta name="generator" content="fra">', b"--paper: #fdfdfc; --ink: #1d1d1f;")
"""What a report begins with; older ones have the second alone."""
BEGINNING = 4096


@dataclass(frozen=True)
class Chart:
    title: str
    note: str
    svg: str
    seen: str = ""
    state: str = ""

    @property
    def described(self) -> str:
        """The picture with its text alternative."""
        return described(self.svg, " ".join(filter(None, [f"{self.title}.", self.seen or self.note])))


@dataclass(frozen=True)
class Frame:
    epoch: int
    source: str


@one_writer
def write_report(
    runs: Sequence[Path | str], out: Path | str, *, title: str | None = None, overwrite: bool = True
) -> Path:
    """Write `report.html` from run folders (crop, pretrain, transfer, regions; in any mix) and return its path.

    `out` is a folder, or the .html file itself. The page holds everything it shows: no other file, no address. The same
    folders give the same bytes. Raises ValueError when a folder does not exist or none of them holds a run, or `out` is
    a file that is no report, or one while `overwrite` is False.
    """
    from jinja2 import Environment, StrictUndefined

    target = _target(Path(out))
    if target.exists() and not overwrite:
        raise ValueError(f"{target} is there already: add --overwrite, or choose another --out")
    claim_file(target)
    found = read_runs([Path(run) for run in runs])
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(duration=duration, count=words.count, plural=words.plural, metric=metric_name)
    environment.tests["lower_is_better"] = lower_is_better
    template = environment.from_string((Path(__file__).parent / "page.html.j2").read_text(encoding="utf-8"))
    page = template.render(**_content(found, title))
    with atomic(target) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")  # file names need not be UTF-8
    return target


def _target(out: Path) -> Path:
    """Where the page goes. Raises ValueError when something lies there that is no report."""
    target = out if out.suffix.lower() in {".html", ".htm"} else out / "report.html"
    if out != target and out.is_file():
        raise ValueError(f"{out} is a file: give a folder, or a file that ends in .html, for --out")
    if target.is_dir():
        raise ValueError(f"{target} is a folder: choose another --out")
    if target.exists():
        with open(target, "rb") as stream:
            beginning = stream.read(BEGINNING)
        if not any(mark in beginning for mark in OURS):
            raise ValueError(f"{target} was not written by `fra report`: choose another --out, or remove it")
    return target


def _content(runs: Runs, title: str | None) -> dict[str, Any]:
    tables = transfer_tables(runs.transfer)
    lead = " ".join([*(words.pretrain_verdict(run) for run in runs.pretrain[:1]), words.transfer_verdict(tables) or ""])
    if runs.paper:  # many encoders, so that a verdict on one of them would mislead
        lead = words.paper_lead(runs.pretrain, len(runs.transfer))
    pretrained = [_pretrain(run, with_heatmaps=not _sheets(runs)) for run in runs.pretrain]
    return {
        "title": title or _title(runs),
        "lead": lead.strip(),
        "verdict": _verdict(runs, tables),
        "paper": [{"page": page, "figure": embed_file(page.figure)} for page in runs.paper],
        "comparisons": [_comparison(run) for run in runs.compare],
        "crop": [{"run": run, "sheet": embed_file(run.sheet)} for run in runs.crop],
        "pretrain": pretrained,
        "scores": scores(runs.regions),
        "regions": [
            _regions(run, moving=not any(p["frames"] for p in pretrained))
            for run in runs.regions
            if run.sheet or not run.score
        ],
        "tables": [{"table": table, "chart": _dots(table)} for table in tables],
        "comparison": comparison_sentence,
        "described": described,
        "samples": [
            {"name": run.name, "source": embed_file(file)} for run in runs.transfer for file in run.pictures[:2]
        ],
        "samples_title": _samples_title(runs.transfer),
        "unknown": runs.unknown,
        "missing": _missing(runs),
    }


def _comparison(run: CompareRun) -> Comparison:
    with reading(run.name + "/compare.json", LEFT_OUT):
        return comparison(run.content)


def _verdict(runs: Runs, tables: Sequence[TransferTable]) -> dict[str, str] | None:
    """The answer to whether an encoder is better than random weights; how to measure it where nobody has."""
    if runs.paper or not (runs.pretrain or tables):
        return None
    judged = {comparison.verdict for table in tables for comparison in table.comparisons[:1]}
    if not judged:
        if any(_beside_random(run) for run in runs.compare):
            return {"text": "See the comparison by number of labels.", "command": ""}
        return {"text": "Not measured.", "command": _measuring(runs).strip("`")}
    answers = {"better": "Yes.", "worse": "No.", "even": "Not clearly."}
    answer = answers[judged.pop()] if len(judged) == 1 else "On some tasks."
    return {"text": answer, "command": ""}


def _beside_random(run: CompareRun) -> bool:
    sources = [str(encoder.get("source", "")) for encoder in run.content.get("encoders", [])]
    return len({source.partition(":")[0] == "random" for source in sources}) == 2


def _measuring(runs: Runs) -> str:
    """The command that compares the first run with random weights; it repeats an evaluation where there is one."""
    if runs.pretrain:
        recipe, encoder = "laptop/rafdb.linear", _typed(runs.pretrain[0].folder)
    else:
        run = runs.transfer[0]
        recipe, encoder = _typed(run.folder / "recipe.yaml"), str(run.results.get("encoder", "RUN"))
    return command("fra", "transfer", recipe, "--encoder", encoder, "--data", "DIR")


def _typed(path: Path) -> str:
    """A path from the working directory; outside of it only the last part, because pages are passed on."""
    whole = path.resolve()
    return str(whole.relative_to(Path.cwd())) if whole.is_relative_to(Path.cwd()) else whole.name


def _sheets(runs: Runs) -> bool:
    """Whether faces with heatmaps were drawn, not only scored."""
    return any(run.sheet for run in runs.regions)


def _title(runs: Runs) -> str:
    if runs.paper:
        return "The supplement's tables, made again"
    if runs.pretrain:
        summary = runs.pretrain[0].summary
        method = str(summary.get("method", "")).upper() or runs.pretrain[0].name
        return f"{method} on {words.plural(summary['faces'], 'face')}" if summary.get("faces") else f"{method} on faces"
    if runs.transfer:
        return "Transfer results"
    if runs.compare:
        return comparison_title(runs.compare[0].content)
    return "Facial regions" if runs.regions else "Face crops"


def _samples_title(runs: Sequence[TransferRun]) -> str:
    confusions = [bool(run.results.get("confusion")) for run in runs if run.pictures]
    return "Confusion matrices" if all(confusions) else "Answers in pictures"


def _missing(runs: Runs) -> list[str]:
    """What this report cannot tell, so that its reader does not look for it."""
    sentences: list[str] = []
    if runs.compare and not (runs.pretrain or runs.transfer or runs.regions):
        return sentences
    if not runs.pretrain:
        sentences.append("No pre-training run was given, so there are no training curves and no health check.")
    if not _sheets(runs) and not any(run.snapshots for run in runs.pretrain):
        sentences.append("No heatmaps were given; `fra regions RUN --faces DIR --out DIR` draws them.")
    if not runs.transfer:
        sentences.append("No transfer run was given, so there are no results on a labelled task.")
    return sentences


def _pretrain(run: PretrainRun, *, with_heatmaps: bool) -> dict[str, Any]:
    frames, strip, sheet = [], None, None
    usage = USAGE.values(run.health)
    if run.snapshots is not None:
        strip = embed(draw.timeline_strip(run.snapshots))
        frames = [Frame(epoch, embed(picture)) for epoch, picture in draw.timeline_frames(run.snapshots, frames=16)]
        sheet = _sheet_of_snapshots(run) if with_heatmaps else None
    return {
        "run": run,
        "facts": _facts(run),
        "curves": _curves(run),
        "health": _health(run),
        "warnings": run.warnings,
        "frames": frames,
        "leading": _leading(run),
        "strip": strip,
        "sheet": sheet,
        "shares": _shares([] if usage is None else usage[-1].tolist()),
        "pictures": [embed_file(file) for file in run.pictures[:3]],
    }


def _leading(run: PretrainRun) -> str:
    """The heatmaps that the timeline shows, in words."""
    if run.snapshots is None:
        return ""
    numbers = [str(region + 1) for region in measure.ranking(run.snapshots.heatmaps[-1])[0, : draw.LEADING].tolist()]
    return f"the heatmaps of {'region' if len(numbers) == 1 else 'regions'} {' and '.join(numbers)}"


def _facts(run: PretrainRun) -> list[tuple[str, str]]:
    """What was trained and what it cost, only what the run knows."""
    known = run.summary
    rate = known.get("pairs_per_second")
    entries = [
        ("method", str(known.get("method", "")).upper()),
        ("encoder", str(known.get("encoder", ""))),
        ("faces", words.count(known["faces"]) if known.get("faces") else ""),
        ("epochs", words.count(known["epochs"]) if known.get("epochs") else ""),
        ("steps", words.count(known["steps"]) if known.get("steps") else ""),
        ("time", duration(known["seconds"]) if known.get("seconds") else ""),
        ("speed", f"{words.count(rate) if rate >= 10 else f'{rate:.1f}'} pairs/s" if rate else ""),
        ("parameters", words.count(known["parameters"]) if known.get("parameters") else ""),
        ("per pair", _work(known.get("multiply_adds_per_pair"))),
    ]
    return [(name, value) for name, value in entries if value]


def _work(operations: float | None) -> str:
    return f"{words.count(operations)} multiply-adds" if operations else ""


def _curves(run: PretrainRun) -> list[Chart]:
    log = run.log
    if "step" not in log:
        return []
    x, label = (log["epoch"], "epoch") if _grows(log) else (log["step"], "step")

    def chart(title: str, note: str, column: str, **options: Any) -> None:
        if column in log:
            svg = charts.line_chart([charts.Line(x, log[column])], x_label=label, **options)
            if svg:
                result.append(Chart(title, note, svg))

    result: list[Chart] = []
    chart("Loss", "all terms together; falls, then levels off", "loss")
    notes = words.term_notes(run.method)
    for term in (name for name in log if name not in OF_ALL_METHODS):
        chart(term.replace("_", " ").capitalize(), notes.get(term, ""), term)
    chart("Learning rate", "warm-up, then the schedule", "learning_rate", from_zero=True)
    chart("Speed", "face pairs per second; steady is good", "pairs_per_second", from_zero=True)
    chart("Waiting for data", "share of the time; near 0 % is good", "waiting", percent=True, from_zero=True)
    return result


def _grows(log: dict[str, Any]) -> bool:
    """Whether the epoch column is fine enough to be an axis (a fraction of an epoch per row)."""
    epochs = log.get("epoch")
    return epochs is not None and len(set(epochs.tolist())) == len(epochs) > 1


def _health(run: PretrainRun) -> list[Chart]:
    if "epoch" not in run.health:
        return []
    result = []
    for finding in words.findings(run):
        column, judgement = finding.column, finding.judgement
        values = column.values(run.health)
        assert values is not None
        if column.family:
            svg = charts.area_chart(run.health["epoch"], values)
        else:
            line = charts.Line(run.health["epoch"], values)
            reference = column.reference(run.health)
            svg = charts.line_chart([line], size=charts.HALF, reference=reference, from_zero=column.from_zero)
        if svg:
            note = _sentence(column.meaning) + (f" Expected: {column.good}." if column.good else "")
            result.append(Chart(column.title, note, svg, f"Observed: {judgement.observed}.", judgement.state or ""))
    return result


def _sentence(phrase: str) -> str:
    return phrase[:1].upper() + phrase[1:] + "." if phrase else ""


def _sheet_of_snapshots(run: PretrainRun) -> str:
    """Heatmaps of the fixed faces at the last epoch, when nobody has drawn better ones."""
    assert run.snapshots is not None
    maps = run.snapshots.heatmaps[-1]
    rows = min(ROWS, len(maps))
    order = measure.ranking(maps)[:rows]
    return embed(draw.faces_with_heatmaps(list(run.snapshots.images[:rows]), maps[:rows], order))


def _regions(run: RegionsRun, *, moving: bool) -> dict[str, Any]:
    sheet = None
    if run.sheet is not None:
        drawn = int(run.numbers.get("drawn") or 0)
        with reading(run.sheet, LEFT_OUT):
            whole = read_image(run.sheet)
            sheet = embed(draw.first_rows(whole, drawn, ROWS) if drawn else whole)
    return {
        "run": run,
        "sheet": sheet,
        "timeline": embed_file(run.timeline) if moving else None,
        "shares": _shares(run.numbers.get("shares") or []),
        "undecided": math.log(max(1, int(run.numbers.get("regions") or 1))),
        "skipped": run.numbers.get("skipped") or [],
    }


def _shares(values: Sequence[float]) -> list[tuple[int, float, str]]:
    """(number from 1, share, CSS colour) of each region: the legend of the owner pictures."""
    colours = pictures.region_colours(len(values))
    return [
        (index + 1, value, "#{:02x}{:02x}{:02x}".format(*colour))
        for index, (value, colour) in enumerate(zip(values, colours, strict=True))
    ]


def described(svg: str, text: str) -> str:
    """A chart with what it shows in words, for people who do not see it."""
    return svg.replace('role="img"', f'role="img" aria-label="{html.escape(text)}"', 1)


def _dots(table: TransferTable) -> str | None:
    """A dot per seed, when there is more than one encoder to compare."""
    if len(table.values) < 2:
        return None
    kinds = {row.encoder: row.kind for row in table.rows}
    rows = [charts.Dots(name, values, kinds[name] == "ours") for name, values in table.values.items()]
    metric = table.metrics[0]
    direction = "lower" if lower_is_better(metric) else "higher"
    unit = ", %" if is_percent(metric) else ""
    means = ", ".join(f"{name} {sum(values) / len(values):.2f}" for name, values in table.values.items())
    chart = charts.dot_chart(rows, x_label=f"{metric_name(metric)}{unit} ({direction} is better)")
    return described(chart, f"{table.title}: mean {metric_name(metric)} of {means}")


def embed_file(path: Path | None) -> str | None:
    """An image file as a data address, a GIF as it is; None for none. Raises DamagedFile when it cannot be read."""
    if path is None:
        return None
    with reading(path, LEFT_OUT):
        if path.suffix.lower() == ".gif":
            return "data:image/gif;base64," + base64.b64encode(path.read_bytes()).decode()
        return embed(read_image(path))


def embed(picture: UInt8[Tensor, "3 H W"], *, widest: int = 1400) -> str:
    """A picture as a data address, in WebP, which is small."""
    image = pictures.to_pillow(picture)
    if image.width > widest:
        image = image.resize((widest, round(image.height * widest / image.width)), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=84, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
