"""Region scores side by side: one row per scored model."""

from collections.abc import Sequence
from dataclasses import dataclass

from fra.report.folders import RegionsRun

COLUMNS = {
    "landmark_nme": ("68 landmarks from regions, NME ↓", "{:.2f} %"),
    "landmark_nme_moments": ("from moments of their halves ↓", "{:.2f} %"),
    "mean_face_nme": ("the mean face", "{:.2f} %"),
    "part_iou": ("IoU with parts of the face ↑", "{:.1f} %"),
    "flip_consistency": ("flip consistency ↑", "{:.2f}"),
    "mask_cosine": ("mask cosine ↓", "{:.2f}"),
    "entropy": ("assignment entropy, nats ↓", "{:.2f}"),
    "iou": ("IoU with true regions ↑", "{:.1f} %"),
}


@dataclass(frozen=True)
class ScoreTable:
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    """Name of the run, and what its cells say."""
    verdicts: list[str]


def scores(runs: Sequence[RegionsRun]) -> ScoreTable | None:
    """None when no run was scored. Columns that no run has are left out."""
    scored = [run for run in runs if run.score]
    if not scored:
        return None
    fields = [field for field in COLUMNS if any(field in run.score for run in scored)]
    rows = []
    for run in scored:
        cells = [COLUMNS[field][1].format(run.score[field]) if field in run.score else "–" for field in fields]
        usage = run.score.get("usage") or []
        cells.append(f"{100 * min(usage):.0f} to {100 * max(usage):.0f} %" if usage else "–")
        rows.append((run.name, cells))
    titles = [COLUMNS[field][0] for field in fields]
    return ScoreTable(
        [*titles, "smallest and largest share"], rows, [text for run in scored if (text := _verdict(run))]
    )


def _verdict(run: RegionsRun) -> str | None:
    """Do its regions say where landmarks are?"""
    found, mean_face = run.score.get("landmark_nme"), run.score.get("mean_face_nme")
    if found is None or not mean_face:
        return None
    gain = 100 * (1 - found / mean_face)
    nearer = f"{gain:.0f} % closer" if gain >= 1 else "no closer"
    return f"{run.name}: landmarks predicted from its regions are {nearer} to the truth than the mean face."
