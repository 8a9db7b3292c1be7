"""From finished runs to `compare.json`, and from its content alone to `compare.md` and `compare.png`."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from fra.engine import about, cost_of
from fra.files import atomic, write_json, write_text
from fra.system.printable import counted, duration
from fra.transfer.compare import is_percent, lower_is_better, metric_name
from fra.transfer.comparison.asked import Contestant
from fra.transfer.comparison.chart import Line, figure
from fra.transfer.comparison.differences import LEVEL, Difference, difference
from fra.transfer.comparison.runs import Judged, Place
from fra.transfer.comparison.words import Curve, Pair, curve_sentence, pair_sentence
from fra.transfer.results import spread

JSON, PAGE, CHART = "compare.json", "compare.md", "compare.png"
BASELINE = "trivial baseline"

Key = tuple[str, str, int]
"""Protocol, encoder, number of labels."""


def write_comparison(runs: Sequence[Judged], encoders: Sequence[Contestant], place: Place) -> dict[str, Any]:
    """Write all three files into `place.out`; give the content of the first."""
    content = summarise(runs, encoders, place)
    with atomic(place.out / CHART) as temporary:
        figure([_panel(content, protocol) for protocol in content["protocols"]]).savefig(temporary)
    write_text(place.out / PAGE, page(content))
    write_json(place.out / JSON, content, indent=1)
    return content


def summarise(runs: Sequence[Judged], encoders: Sequence[Contestant], place: Place) -> dict[str, Any]:
    """Everything that was found, as plain data."""
    asked = place.question
    names = [encoder.name for encoder in encoders]
    found: dict[Key, dict[str, Any]] = {}
    images: dict[Key, np.ndarray] = {}
    targets = asked.faces.targets[asked.word][asked.faces.splits["test"]]
    for run in runs:
        key = (run.recipe.protocol, run.encoder.name, run.labels)
        found[key] = _score(run, place)
        images[key] = np.stack([asked.task.image_scores(out, targets).double().numpy() for out in run.outputs(place)])
    metric = asked.task.selects
    pairs, sentences = [], []
    for protocol in asked.recipes:
        means = {name: [found[protocol, name, n]["metrics"][metric]["mean"] for n in asked.labels] for name in names}
        curves = {name: Curve(name, tuple(scores)) for name, scores in means.items()}
        said = [_curve_sentence(curves[names[0]], asked.labels, metric, found[protocol, names[0], asked.labels[-1]])]
        for first, second in combinations(names, 2):
            pair = _pair(images, protocol, (curves[first], curves[second]), place)
            pairs.append({"protocol": protocol, **_plain(pair)})
            if first == names[0]:
                said.append(pair_sentence(pair))
        sentences.append({"protocol": protocol, "said": said})
    return {
        "dataset": asked.faces.name,
        "title": asked.faces.title,
        "task": asked.word,
        "metric": metric,
        "lower_is_better": lower_is_better(metric),
        "train_images": asked.train_images,
        "test_images": len(targets),
        "labels": list(asked.labels),
        "seeds": list(range(asked.seeds)),
        "protocols": list(asked.recipes),
        "recipes": {protocol: recipe.name for protocol, recipe in asked.recipes.items()},
        "encoders": [_about(encoder, place) for encoder in encoders],
        "sentences": sentences,
        "scores": [{"protocol": p, "encoder": e, "labels": n, **values} for (p, e, n), values in found.items()],
        "pairs": pairs,
        "features": _features(runs, place),
        "notes": [*asked.notes, *asked.faces.notes],
        **about(place),
    }


def _about(encoder: Contestant, place: Place) -> dict[str, Any]:
    return {
        "name": encoder.name,
        "source": str(encoder.source),
        "hash": encoder.fingerprint,
        "network": encoder.like.name,
        "image_size": {p: recipe.image_size or encoder.like.image_size for p, recipe in place.question.recipes.items()},
    }


def _score(run: Judged, place: Place) -> dict[str, Any]:
    """Of a run what its first seeds say, because a comparison with more of them may share its folder."""
    results = run.results(place)
    cost = cost_of(run, place) or {}
    return {
        "metrics": {name: spread(values["values"][: run.seeds]) for name, values in results["metrics"].items()},
        "baseline": results["baseline"],
        "train_images": results["train_images"],
        "seconds": cost.get("seconds"),
        "memory": cost.get("memory"),
        "gpu_memory": cost.get("gpu_memory"),
        "run": f"runs/{run.name}",
    }


def _features(runs: Sequence[Judged], place: Place) -> list[dict[str, Any]]:
    """What it cost to compute the features of each encoder, once for all of its runs."""
    frozen = dict.fromkeys(run.frozen for run in runs if run.frozen)
    costs = [(one, cost_of(one, place) or {}) for one in frozen]
    return [
        {"encoder": one.encoder.name, "seconds": cost.get("seconds"), "memory": cost.get("memory"),
         "gpu_memory": cost.get("gpu_memory"), "run": f"runs/{one.name}"}
        for one, cost in costs
    ]  # fmt: skip


def _pair(images: Mapping[Key, np.ndarray], protocol: str, curves: tuple[Curve, Curve], place: Place) -> Pair:
    asked = place.question
    lower = lower_is_better(asked.task.selects)
    first, second = (curve.name for curve in curves)
    most = asked.labels[-1]

    def compare(one: str, its: int, other: str, others: int) -> Difference:
        return difference(images[protocol, one, its], images[protocol, other, others], lower_is_better=lower)

    return Pair(
        curves[0],
        curves[1],
        asked.labels,
        tuple(compare(first, labels, second, labels) for labels in asked.labels),
        tuple(compare(first, labels, second, most) for labels in asked.labels),
        tuple(compare(second, labels, first, most) for labels in asked.labels),
        asked.train_images,
        is_percent(asked.task.selects),
        lower,
    )


def _plain(pair: Pair) -> dict[str, Any]:
    return {
        "first": pair.first.name,
        "second": pair.second.name,
        "differences": [
            {"labels": labels, "difference": one.value, "plus_minus": one.half, "low": one.low, "high": one.high,
             "level": LEVEL, "error_images": one.images, "error_seeds": one.seeds, "verdict": one.verdict}
            for labels, one in zip(pair.labels, pair.differences, strict=True)
        ],
        "times_the_labels": {
            pair.second.name: {str(labels): value for labels, value in pair.times().items()},
            pair.first.name: {str(labels): value for labels, value in pair.turned().times().items()},
        },
    }  # fmt: skip


def _curve_sentence(curve: Curve, labels: Sequence[int], metric: str, last: Mapping[str, Any]) -> str:
    baseline = last["baseline"]
    unit = " %" if is_percent(metric) else ""
    ignoring = (baseline["name"], baseline["metrics"][metric])
    return curve_sentence(curve, labels, metric=metric_name(metric), unit=unit, baseline=ignoring)


# --- from the content of compare.json


def title(content: Mapping[str, Any]) -> str:
    """`Expression on rafdb: 4 encoders, 20 to 12,271 labels`."""
    labels = [f"{number:,}" for number in content["labels"]]
    spread_of = f"{labels[0]} to {labels[-1]} labels" if len(labels) > 1 else f"{labels[0]} labels"
    where = content["title"] or content["dataset"]
    word = content["task"].replace("_", " ").capitalize()
    return f"{word} on {where}: {counted(len(content['encoders']), 'encoder')}, {spread_of}"


def score_name(content: Mapping[str, Any], protocol: str) -> str:
    """`accuracy, %, linear`."""
    unit = ", %" if is_percent(content["metric"]) else ""
    better = " (lower is better)" if content["lower_is_better"] else ""
    return f"{metric_name(content['metric'])}{unit}{better}, {protocol}"


def lines_of(content: Mapping[str, Any], protocol: str) -> list[Line]:
    """A line per encoder, in the order in which they were given."""
    found = []
    for encoder in content["encoders"]:
        rows = [row for row in content["scores"] if row["protocol"] == protocol and row["encoder"] == encoder["name"]]
        values = [row["metrics"][content["metric"]] for row in rows]
        found.append(
            Line(
                encoder["name"],
                [row["labels"] for row in rows],
                [value["mean"] for value in values],
                [value["std"] for value in values],
            )
        )
    return found


def baseline_of(content: Mapping[str, Any], protocol: str) -> tuple[str, float]:
    """The score of who never looks at the face, learned from the most labels."""
    most = content["labels"][-1]
    row = next(row for row in content["scores"] if (row["protocol"], row["labels"]) == (protocol, most))
    return row["baseline"]["name"], row["baseline"]["metrics"][content["metric"]]


def _panel(content: Mapping[str, Any], protocol: str) -> tuple[str, list[Line], tuple[str, float]]:
    return (
        score_name(content, protocol),
        lines_of(content, protocol),
        (BASELINE, baseline_of(content, protocol)[1]),
    )


def score_table(content: Mapping[str, Any], protocol: str) -> list[list[str]]:
    """A heading and a row per encoder, and the trivial baseline: means and deviations by number of labels."""
    digits = 1 if is_percent(content["metric"]) else 2
    several = len(content["seeds"]) > 1
    rows = [["encoder", *(f"{labels:,} labels" for labels in content["labels"])]]
    for line in lines_of(content, protocol):
        cells = [
            f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if several else "")
            for mean, deviation in zip(line.means, line.deviations, strict=True)
        ]
        rows.append([line.name, *cells])
    every = [
        next(
            row["baseline"]["metrics"][content["metric"]]
            for row in content["scores"]
            if row["protocol"] == protocol and row["labels"] == labels
        )
        for labels in content["labels"]
    ]
    rows.append([BASELINE, *(f"{value:.{digits}f}" for value in every)])
    return rows


def difference_table(content: Mapping[str, Any], protocol: str) -> list[list[str]]:
    """A heading and a row per pair: differences with their intervals, `level` where those hold 0."""
    digits = 1 if is_percent(content["metric"]) else 2
    rows = [["better by", *(f"{labels:,} labels" for labels in content["labels"])]]
    for pair in content["pairs"]:
        if pair["protocol"] != protocol:
            continue
        cells = []
        for one in pair["differences"]:
            number = f"{one['difference']:+.{digits}f} ± {one['plus_minus']:.{digits}f}".replace("-", "−")
            cells.append(f"{number} (level)" if one["verdict"] == "level" else number)
        rows.append([f"{pair['first']} over {pair['second']}", *cells])
    return rows


def cost_table(content: Mapping[str, Any]) -> list[list[str]]:
    """A heading and a row per encoder: time of features, time of the runs of each protocol, the most memory."""
    protocols = content["protocols"]
    rows = [["encoder", *(["features, once"] if content["features"] else []), *protocols, "most memory"]]
    for encoder in content["encoders"]:
        name = encoder["name"]
        features = [one for one in content["features"] if one["encoder"] == name]
        scores = [row for row in content["scores"] if row["encoder"] == name]
        by_protocol = [_time([row for row in scores if row["protocol"] == protocol]) for protocol in protocols]
        memory = max(((one["gpu_memory"] or one["memory"] or 0) for one in [*features, *scores]), default=0)
        shown = f"{memory / 2**30:.2f} GiB" if memory else "–"
        rows.append([name, *([_time(features)] if content["features"] else []), *by_protocol, shown])
    return rows


def _time(rows: Sequence[Mapping[str, Any]]) -> str:
    known = [row["seconds"] for row in rows if row["seconds"] is not None]
    return duration(sum(known)) if known else "–"


def explained(content: Mapping[str, Any]) -> list[str]:
    """What the numbers are, for the foot of the page."""
    seeds = len(content["seeds"])
    drawn = "one draw of labels" if seeds == 1 else f"{seeds} draws of labels; ± beside a score is their deviation"
    return [
        f"{counted(content['test_images'], 'test face')}; {drawn}. All encoders get the same labels, and fewer labels "
        "are a part of more.",
        "± beside a difference is half of its 95 % interval, over test faces (paired bootstrap) and draws of labels. "
        "Level: the interval holds 0.",
        *content["notes"],
        f"Made by {content['version']}, on {content['machine']}.",
    ]


def page(content: Mapping[str, Any]) -> str:
    """The content as Markdown."""
    lines = [f"# {title(content)}", ""]
    for entry in content["sentences"]:
        lines += [f"## {entry['protocol'].capitalize()}", ""] if len(content["protocols"]) > 1 else []
        lines += [*(f"- {sentence}" for sentence in entry["said"]), ""]
        lines += [*_markdown(score_table(content, entry["protocol"])), ""]
        if len(content["encoders"]) > 1:
            lines += [*_markdown(difference_table(content, entry["protocol"])), ""]
    lines += [f"![Score against number of labels]({CHART})", "", *_markdown(cost_table(content)), ""]
    lines += [f"- {line}" for line in explained(content)]
    return "\n".join(lines) + "\n"


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [
        f"| {' | '.join(cells[0])} |",
        "|---|" + "---:|" * (len(cells[0]) - 1),
        *(f"| {' | '.join(row)} |" for row in cells[1:]),
    ]


def files(out: Path) -> list[Path]:
    """What `write_comparison` leaves in a folder."""
    return [out / name for name in (JSON, PAGE, CHART)]
