"""A comparison of encoders by number of labels, as `fra compare` left it, for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fra.report import charts
from fra.transfer.comparison import write


@dataclass(frozen=True)
class Panel:
    """What was found under one protocol."""

    title: str
    sentences: list[str]
    chart: str
    description: str
    """The chart in words."""
    tables: list[list[list[str]]]
    """Each a heading and rows."""


@dataclass(frozen=True)
class Comparison:
    title: str
    panels: list[Panel]
    costs: list[list[str]]
    notes: list[str]


def comparison(content: Mapping[str, Any]) -> Comparison:
    """From the content of `compare.json`."""
    panels = [_panel(content, entry["protocol"], entry["said"]) for entry in content["sentences"]]
    return Comparison(write.title(content), panels, write.cost_table(content), write.explained(content))


def _panel(content: Mapping[str, Any], protocol: str, said: Sequence[str]) -> Panel:
    score = write.score_name(content, protocol)
    lines = write.lines_of(content, protocol)
    baseline = (write.BASELINE, write.baseline_of(content, protocol)[1])
    ends = ", ".join(f"{line.name} {line.means[0]:.1f} to {line.means[-1]:.1f}" for line in lines)
    tables = [write.score_table(content, protocol)]
    if len(lines) > 1:
        tables.append(write.difference_table(content, protocol))
    return Panel(
        score[0].upper() + score[1:],
        [sentence.replace("`", "") for sentence in said],
        charts.label_chart(lines, score=score, baseline=baseline),
        f"{score} from {content['labels'][0]:,} to {content['labels'][-1]:,} labels: {ends}",
        tables,
    )
