"""The recipes that come with fra: a file each in `recipes/SCALE/KIND/`; those of `smoke` are made of laptop's."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(str(resources.files("fra"))) / "recipes"
SCALES = ("paper", "one_gpu", "laptop", "smoke")
SMALL, LARGE = SCALES[-1], SCALES[-2]
KINDS = ("pretrain", "transfer")


@dataclass(frozen=True)
class Shipped:
    """A recipe that comes with fra."""

    name: str
    """SCALE/FILE."""
    kind: str
    """One of KINDS: the command that takes it."""
    file: Path
    """For the scale `smoke` that of the recipe which it makes small."""

    @property
    def made_of(self) -> str:
        """The recipe in `file`: itself, or the one that it makes small."""
        return f"{self.file.parents[1].name}/{self.file.stem}"

    @property
    def headline(self) -> str:
        """What it is, in a line."""
        says = self.file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").split("   fra ")[0].rstrip()
        return says if self.made_of == self.name else f"{self.made_of} in seconds or a minute: does everything run?"

    def settings(self) -> dict[str, Any]:
        """As plain data."""
        found = yaml.safe_load(self.file.read_text(encoding="utf-8"))
        if self.made_of == self.name:
            return found
        tag = found.get("protocol", "linear") if self.kind == "transfer" else found["method"]["name"]
        for whom, change in _small(self.kind).items():
            if whom == tag or fnmatchcase(self.file.stem, whom):
                found = merged(found, {key: value for key, value in change.items() if key != "from"})
        return found

    def text(self) -> str:
        """As a YAML file that can be used and changed."""
        written = self.file.read_text(encoding="utf-8")
        if self.made_of == self.name:
            return written
        command = re.search(rf"fra {self.kind} {re.escape(self.made_of)}( .*)?", written)
        head = [self.headline, command[0].replace(self.made_of, self.name) if command else ""]
        head += [f"As {self.made_of}, with what recipes/{SMALL}.yaml changes; its numbers mean nothing."]
        settings = yaml.safe_dump(self.settings(), sort_keys=False, default_flow_style=None, width=110)
        return "".join(f"# {line}\n" for line in head if line) + settings


def shipped_recipes(kind: str) -> dict[str, Shipped]:
    """All recipes of one of KINDS by their names."""
    return {recipe.name: recipe for scale in SCALES for recipe in _of_scale(scale, kind)}


def _of_scale(scale: str, kind: str) -> Iterator[Shipped]:
    if scale != SMALL:
        for file in sorted((FOLDER / scale / kind).glob("*.yaml")):
            yield Shipped(f"{scale}/{file.stem}", kind, file)
        return
    extra = {name: change["from"] for name, change in _small(kind).items() if "from" in change}
    files = [*(FOLDER / LARGE / kind).glob("*.yaml")]
    files += [FOLDER / where / kind / f"{name}.yaml" for name, where in extra.items()]
    for file in sorted(files, key=lambda file: file.name):
        yield Shipped(f"{scale}/{file.stem}", kind, file)


@cache
def _small(kind: str) -> Mapping[str, dict[str, Any]]:
    return yaml.safe_load((FOLDER / f"{SMALL}.yaml").read_text(encoding="utf-8"))[kind]


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `changes`, sections within sections; lists are replaced."""
    both = dict(settings)
    for key, value in changes.items():
        below = both.get(key)
        both[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return both
