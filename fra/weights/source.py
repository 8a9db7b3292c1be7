"""What `--encoder` names, read once: random weights, a timm network, bundled weights, or a path."""

from dataclasses import dataclass
from pathlib import Path

from fra.weights.bundled import read_manifest, shipped_names

RANDOM, TIMM = "random", "timm:"
WRITTEN = ("encoder.safetensors", "model.safetensors")
FOREIGN_SUFFIXES = (".tar", ".pth", ".pt", ".ckpt", ".bin", ".safetensors")


@dataclass(frozen=True)
class EncoderSource:
    """Where an encoder comes from. Exactly one of `network` alone, `bundled` and `path` is set, or none (`random`)."""

    random: bool = False
    """Weights are random: only the network is taken from the rest, else the default one."""
    network: str | None = None
    """A network by its name: timm's, or `hourglass`. With `path`, whose weights the file holds."""
    bundled: str | None = None
    """The name of bundled weights."""
    path: Path | None = None
    """A run folder, or a file of weights."""

    @classmethod
    def parse(cls, text: "str | Path | EncoderSource") -> "EncoderSource":
        """One of

        - `random`, `random:WHAT` (WHAT is a network's name or anything below);
        - `timm:NAME` (timm's own pre-trained weights), `timm:NAME=FILE`;
        - the name of bundled weights, which comes before a path of the same name;
        - a path, whether or not something is there.

        ValueError for the empty string.
        """
        if isinstance(text, EncoderSource):
            return text
        text = str(text)
        if not text:
            raise ValueError("no encoder is named: give bundled weights, a run folder, a file, `random` or timm:NAME")
        kind, colon, like = text.partition(":")
        if kind == RANDOM and (colon or not like):
            if not like:
                return cls(random=True)
            named = cls.parse(like)
            if named.path is not None and named.network is None and not named.path.exists():
                return cls(random=True, network=like)
            return cls(True, named.network, named.bundled, named.path)
        if text.startswith(TIMM):
            network, equals, file = text.removeprefix(TIMM).partition("=")
            return cls(network=network, path=Path(file) if equals else None)
        if text in shipped_names():
            return cls(bundled=text)
        return cls(path=Path(text))

    @property
    def label(self) -> str:
        """A short name for tables: `random`, `timm:NAME`, the folder of the run, or the file without its ending."""
        if self.random:
            return RANDOM
        if self.bundled:
            return self.bundled
        if self.path is None:
            return f"{TIMM}{self.network}"
        path = self.path.resolve()
        if path.name in WRITTEN and not path.is_dir():
            path = path.parent
        name = path.name
        if not path.is_dir():
            for suffix in FOREIGN_SUFFIXES:
                name = name.removesuffix(suffix)
        return name

    def __str__(self) -> str:
        """What `parse` reads as this, from any working directory: paths are absolute, names stay as they are."""
        rest = self.bundled or (str(self.path.resolve()) if self.path else "")
        if self.network:
            rest = f"{TIMM}{self.network}={rest}" if rest else self.network if self.random else f"{TIMM}{self.network}"
        return ":".join([RANDOM, rest] if rest else [RANDOM]) if self.random else rest


def licence_of(source: EncoderSource) -> str | None:
    """The licence of bundled weights and whom it asks to name; None of others, which fra does not know."""
    if source.bundled is None:
        return None
    manifest = read_manifest(source.bundled)
    return f"{manifest.licence}. {manifest.attribution}"
