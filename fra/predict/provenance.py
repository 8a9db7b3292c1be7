"""Where a trained task's answers come from, in one line: whoever reads them knows neither its labels nor its errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fra.system.printable import counted, printable
from fra.transfer.compare import is_percent, metric_name


@dataclass(frozen=True)
class Provenance:
    """What is known of a trained task; of one from before this was written down less."""

    source: str
    """The labelled faces: a name in DATASETS, or the title of people's own."""
    encoder: str
    licence: str = ""
    """Of the weights when they come with fra, else the terms of the labelled faces; empty when not known."""
    images: int | None = None
    """Labelled faces that it learned from."""
    metric: str = ""
    score: float | None = None
    """The metric on `test_images` faces that it has not learned from."""
    test_images: int | None = None
    calibrated: bool | None = None
    """Whether its probabilities were; None for a task without."""
    not_for: str = ""
    """What it must not be used for, when it comes with fra."""

    @classmethod
    def of(cls, learned: Mapping[str, Any], *, source: str, encoder: str, calibrated: bool | None) -> "Provenance":
        """From `learned` of task.safetensors, which may be empty."""
        kept: dict[str, Any] = {n: learned[n] for n in ("images", "metric", "score", "test_images") if n in learned}
        terms = learned.get("terms")
        return cls(
            learned.get("from", source),
            learned.get("encoder", encoder),
            licence=f"{source}'s ({terms})" if terms else "",
            calibrated=calibrated,
            **kept,
        )

    def sentence(self) -> str:
        """`trained on 20,000 faces of fairface, encoder laptop; accuracy 47.4 % on 3,000 test faces; licence ...`."""
        count = f"{counted(self.images, 'face')} of " if self.images is not None else ""
        parts = [f"trained on {count}{self.source}, encoder {self.encoder}"]
        if self.score is not None and self.test_images is not None:
            measured = f"{metric_name(self.metric)} {self.score:.3g}{' %' if is_percent(self.metric) else ''}"
            parts.append(f"{measured} on {counted(self.test_images, 'test face')}")
        if self.calibrated is not None:
            parts.append("probabilities are calibrated" if self.calibrated else "probabilities are not calibrated")
        parts.append(f"licence: {self.licence}" if self.licence else "licence: that of its training faces")
        return printable("; ".join(parts))
