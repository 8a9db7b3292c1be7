"""`fra predict CLIP`: what trained tasks say of the faces in a video clip."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from fra.crop.tiles import Detail
from fra.faces.clip import Clip
from fra.files import one_writer
from fra.predict.annotate import overlay
from fra.predict.following import Inquiry, Pass, face_of, facts_of, follow_clip
from fra.predict.journal import Entry, short
from fra.predict.predictor import Predictor, Seen, mark, question_of
from fra.predict.tracks import Smoother
from fra.runtime import Runtime
from fra.system.printable import counted
from fra.training.devices import begin


@dataclass(frozen=True)
class Following:
    """How a clip is looked at."""

    every: int = 1
    """Faces are detected in each n-th frame; in between their boxes move on as before."""
    smooth: bool = False
    """Take the jitter out of landmarks, in the tables and the annotated clip."""


@one_writer
def predict_clip(
    path: Path,
    tasks: list[str | Path],
    out: Path,
    *,
    following: Following = Following(),
    detector: str = "retinaface",
    min_score: float = 0.6,
    detail: Detail = "auto",
    runtime: Runtime = Runtime(),
) -> None:
    """Write `predictions.json`, `faces.csv`, with pyarrow `faces.parquet`, and `annotated.mp4` into `out`.

    Memory does not grow with the clip. Frames that cannot be read are counted. Raises ValueError when the clip or a
    task cannot be used, or `out` was begun with other ones.
    """
    clip = Clip.open(path)
    predictor = Predictor(tasks, detector=detector, min_score=min_score, detail=detail, device=begin(runtime))
    about = question_of(predictor, detector, min_score, [])
    follow_clip(
        clip, TaskInquiry(clip, predictor, about, following.smooth), out, every=following.every, runtime=runtime
    )


class TaskInquiry(Inquiry):
    """Asks trained tasks."""

    command, document = "predict", "predictions.json"

    def __init__(self, clip: Clip, predictor: Predictor, question: Mapping[str, Any], smooth: bool) -> None:
        self.clip, self.predictor, self.smooth = clip, predictor, smooth
        self.detector, self.device = predictor.detector, predictor.device
        self._question = dict(question)
        self.said: dict[int, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        """How often each answer was given, by track and task."""

    def ask(self, faces: Sequence[tuple[UInt8[Tensor, "3 H W"], Seen]]) -> None:
        self.predictor.ask(faces)

    def warm_up(self) -> None:
        self.predictor.warm_up()

    def question(self) -> dict[str, Any]:
        return self._question

    def about(self) -> dict[str, Any]:
        return {
            "clip": {**facts_of(self.clip), "smooth": self.smooth},
            "provenance": {name: model.provenance.sentence() for name, model in self.predictor.models.items()},
        }

    def add(self, entry: Entry) -> None:
        for face in entry["faces"]:
            for task, answer in face["answers"].items():
                self.said[face["track"]][task][_word(answer)] += 1

    def reading(self) -> Pass:
        return _smoothing() if self.smooth else super().reading()

    def cells(self, answers: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{task}_{name}": cell for task, answer in answers.items() for name, cell in _cells(answer).items()}

    def draw(self, image: UInt8[Tensor, "3 H W"], faces: Sequence[Entry]) -> UInt8[Tensor, "3 H W"]:
        seen = [mark(Seen(face_of(face), face["answers"])) for face in faces]
        return overlay(image, seen, [face["track"] for face in faces])

    def of_tracks(self) -> dict[str, Callable[[int], str]]:
        return {task: partial(self._usual, task) for task in self.predictor.models}

    def _usual(self, task: str, track: int) -> str:
        return _most(self.said[track][task])


def _smoothing() -> Pass:
    """What takes the jitter out of the landmarks of entries, given in their order."""
    smoother = Smoother()

    def smoothed(entry: Entry) -> Entry:
        for face in entry["faces"]:
            x1, y1, x2, y2 = face["box"]
            for name, answer in face["answers"].items():
                if "landmarks" in answer:
                    points = smoother(
                        torch.tensor(answer["landmarks"]),
                        track=face["track"],
                        of=name,
                        seconds=entry["seconds"],
                        side=max(x2 - x1, y2 - y1),
                    )
                    answer["landmarks"] = short(points.tolist())
        return entry

    return smoothed


def _cells(answer: Entry) -> dict[str, Any]:
    """An answer as cells of a table, by the end of the column's name."""
    cells: dict[str, Any] = {}
    for asked, said in answer.items():
        if asked == "landmarks":
            cells |= {f"{axis}{number}": at[place] for number, at in enumerate(said) for place, axis in enumerate("xy")}
        elif asked == "confidence":
            cells |= {f"confidence{number}": value for number, value in enumerate(said)}
        elif isinstance(said, dict):
            kind = {"probabilities": "probability_", "numbers": ""}.get(asked, f"{asked}_")
            cells |= {f"{kind}{name}": value for name, value in said.items()}
        else:
            cells[asked] = "; ".join(said) if isinstance(said, list) else said
    return cells


def _word(answer: Entry) -> str:
    """What is counted of an answer over the frames of a track: its class, if it has one."""
    named = next((said for said in answer.values() if isinstance(said, str)), None)
    return named or (f"{counted(len(answer['landmarks']), 'point')}" if "landmarks" in answer else "")


def _most(said: Counter[str]) -> str:
    if not said or not (most := said.most_common(1)[0])[0]:
        return ""
    share = 100 * most[1] / sum(said.values())
    return most[0] if share == 100 else f"{most[0]} in {share:.0f} % of the frames"
