"""Typed recipes: one YAML file is one row of a table."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from fra.shipped import KINDS, LARGE, shipped_recipes
from fra.system.printable import did_you_mean
from fra.system.text import shown, text_of

MOST_BYTES, MOST_NESTED = 1_000_000, 32
"""Of a recipe; the shipped ones have 2,000 bytes and three levels."""
Recipe = TypeVar("Recipe")


@dataclass(frozen=True)
class Range:
    """The finite numbers that a setting may have: from `low` to `high`, or `above` low."""

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, number: float) -> bool:
        reached = number > self.low if self.above else number >= self.low
        return reached and number <= self.high and not math.isinf(number)

    def advice(self, number: float) -> str:
        """What to give instead of a number that it does not hold, for a message."""
        low, high = (str(end) if isinstance(end, int) else f"{end:.6g}" for end in (self.low, self.high))
        if self.high == math.inf:
            least = f"above {low}" if self.above else f"at least {low}"
            return f"give {'' if math.isfinite(number) else 'a finite number, '}{least}"
        return f"give a number above {low} and at most {high}" if self.above else f"give a number from {low} to {high}"


Share = Annotated[float, Range(0, 1)]
"""A probability, a momentum, a part of a whole."""
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Pixels = Annotated[int, Range(1, 4096)]
"""The side of an image (ours: far beyond any use, and before the memory ends)."""
Seed = Annotated[int, Range(0, 2**63 - 1)]


@dataclass(frozen=True)
class Settings:
    """Base of every dataclass of settings: numbers outside of the Range they are annotated with raise ValueError."""

    def __post_init__(self) -> None:
        refuse_out_of_range(hints_of(type(self)), vars(self))


def refuse_out_of_range(hints: Mapping[str, Any], values: Mapping[str, Any], *, below: str = "") -> None:
    """Raises ValueError with name, value and range for the first number that its type in `hints` does not allow.

    `values` may hold sections as mappings; the names in them are shown after `below`.
    """
    for name, hint in hints.items():
        value, allowed = values.get(name), range_of(hint)
        if isinstance(value, Mapping) and dataclasses.is_dataclass(hint):
            refuse_out_of_range(hints_of(hint), value, below=f"{below}{name}.")
        for number in _items(value):
            if allowed and isinstance(number, int | float) and number not in allowed:
                raise ValueError(f"{below}{name} is {number}: {allowed.advice(number)}")


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple | list) else (value,)


def hints_of(schema: Any) -> dict[str, Any]:
    """The types of the fields of a dataclass, with their ranges."""
    return _hints_of(schema)


@cache
def _hints_of(schema: Any) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(schema)}
    return {name: hint for name, hint in get_type_hints(schema, include_extras=True).items() if name in fields}


def range_of(hint: Any) -> Range | None:
    """The range in a field's type: of the number itself, of one that may be None, or of a tuple's numbers."""
    if get_origin(hint) is Annotated:
        return next((note for note in hint.__metadata__ if isinstance(note, Range)), None)
    return next(filter(None, map(range_of, get_args(hint))), None)


def load_recipe(
    name: str,
    kind: str,
    schema: type[Recipe],
    overrides: Sequence[str] = (),
    *,
    variants: Mapping[str, Mapping[str, type]] | None = None,
) -> Recipe:
    """Read a recipe into the dataclass `schema`; `overrides` are "dotted.key=value".

    `variants` chooses the class of a section by its `name`, for example {"method": {"fra": FRAConfig}}. Raises
    ValueError with one line for an unknown key (its neighbours are listed), a wrong type, a number out of its range, or
    a broken file.
    """
    return build(read_recipe(name, kind, overrides), schema, where=str(name), variants=variants or {})


def read_recipe(name: str, kind: str, overrides: Sequence[str] = ()) -> dict[Any, Any]:
    """The plain data of a recipe with "dotted.key=value" overrides; ValueError as `load_recipe`, for a broken file."""
    shipped = shipped_recipes(kind)
    raw = shipped[name].settings() if name in shipped else _file_of(name, kind)
    for override in overrides:
        _apply(raw, override)
    return raw


def _file_of(name: str, kind: str) -> dict[Any, Any]:
    """The plain data of somebody's own recipe."""
    path = Path(name)
    if not path.is_file():
        if path.suffix in (".yaml", ".yml"):
            raise ValueError(f"no such recipe file: {name} (`fra recipes` lists the bundled recipes)")
        for other in KINDS:
            if name in shipped_recipes(other):
                raise ValueError(f"{name} is a recipe of `fra {other}`, not of `fra {kind}` (`fra recipes` lists both)")
        raise no_recipe(name, shipped_recipes(kind))
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} is not a recipe: it has {path.stat().st_size:,} bytes")
    try:
        raw = parse_yaml(text_of(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {_reason(error)}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} is not a recipe: expected `key: value` lines")
    return raw


def no_recipe(name: str, shipped: Collection[str]) -> ValueError:
    """The error for a name that no shipped recipe has; those of the scale that most people start with come first."""
    meant = did_you_mean(name, sorted(shipped, key=lambda other: not other.startswith(f"{LARGE}/")))
    return ValueError(f"no recipe named '{shown(name)}'{meant or ':'} `fra recipes` lists them (or give a .yaml file)")


def build(
    raw: dict[Any, Any], schema: type[Recipe], *, where: str, variants: Mapping[str, Mapping[str, type]]
) -> Recipe:
    """The dataclass `schema` from plain data, typed by jsonargparse."""
    from jsonargparse import ArgumentParser

    classes = {key: _variant(raw, key, choices, where) for key, choices in variants.items()}
    hints = hints_of(schema) | classes
    _refuse_other_keys(raw, hints, where, every=list(_dotted(hints)))
    required = [field.name for field in dataclasses.fields(schema) if _is_required(field)]  # type: ignore[arg-type]
    missing = [name for name in required if name not in raw]
    if missing:
        raise ValueError(f"recipe {where}: {', '.join(missing)} is missing")
    parser = ArgumentParser(exit_on_error=False)
    for name, hint in hints.items():
        parser.add_argument(f"--{name}", type=hint)
    try:
        typed = parser.parse_object(raw)
        refuse_out_of_range(hints, typed.as_dict())
        parsed = parser.instantiate(typed)
    except Exception as error:  # jsonargparse raises several types; each message names the key and what it expects
        message = (
            " ".join(str(error).replace("Parser key", "setting").split()).replace("<class '", "").replace("'>", "")
        )
        raise ValueError(f"recipe {where}: {_plainly(message, hints)}") from error
    return schema(**{field.name: parsed[field.name] for field in dataclasses.fields(schema) if field.name in raw})  # type: ignore[arg-type]


_OTHER_TYPE = re.compile(
    r'setting "([^"]+)": (?:Does not validate against any of the Union subtypes.* Given|Expected a.* Got) value: (.*)'
)


def _plainly(message: str, hints: Mapping[str, Any]) -> str:
    """What jsonargparse says of a value of another type, in words; other messages as they are."""
    found = _OTHER_TYPE.fullmatch(message)
    if found is None:
        return message
    *sections, last = found[1].split(".")
    for section in sections:
        hints = hints_of(hints[section])
    return f"{found[1]} is '{shown(found[2])}': expected {in_words(hints[last])}"


def in_words(hint: Any) -> str:
    """What a setting of this type may be. None is not said: to leave a setting out says it too."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return in_words(parts[0])
    if kind is Literal:
        return _or(list(map(str, parts)))
    if kind in (Union, UnionType):
        return _or([in_words(part) for part in parts if part is not type(None)])
    if kind is tuple:
        many = len(parts) == 2 and parts[1] is ...
        return f"[{in_words(parts[0])}, ...]" if many else f"[{', '.join(map(in_words, parts))}]"
    if kind is dict:
        return f"{{NAME: {in_words(parts[1])}, ...}}"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(hint, hint.__name__)


def _or(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


class _Loader(yaml.SafeLoader):
    """Plain YAML without what recipes do not need and attacks do: aliases, deep nesting, keys that are set twice."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias (*) is used: write the value out", problem_mark=mark)
        if self.depth >= MOST_NESTED:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_NESTED} levels are nested", problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key, yaml.ScalarNode) else False:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is set twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Plain data from YAML of others. Raises yaml.YAMLError for whatever is wrong in it."""
    try:
        return yaml.load(text, _Loader)
    except ValueError as error:  # numbers and dates that look like some and are none
        raise yaml.YAMLError(str(error)) from error


def _reason(error: yaml.YAMLError) -> str:
    """In one line, with the place where it is known."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    text = shown(" ".join((problem or str(error)).split()))
    return f"line {mark.line + 1}: {text}" if mark else text


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _apply(raw: dict[Any, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"--set takes key=value, got '{override}'; for example --set optimizer.learning_rate=0.5")
    *sections, last = key.split(".")
    target = raw
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ValueError(f"--set {override}: '{section}' is a value, not a section")
    try:
        target[last] = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(
            f"--set {shown(override)}: the value is not valid YAML ({_reason(error)}): put it in quotes"
        ) from error


def _variant(raw: dict[Any, Any], key: str, choices: Mapping[str, type], where: str) -> type:
    section = raw.get(key)
    name = section.get("name") if isinstance(section, dict) else None
    if not isinstance(name, str) or name not in choices:
        raise ValueError(f"recipe {where}: {key}.name is '{name}': choose one of {', '.join(choices)}")
    return choices[name]


def _dotted(hints: Mapping[str, Any], *, below: str = "") -> Iterator[str]:
    """The settings of a schema and of its sections as `--set` takes them."""
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint):
            yield from _dotted(hints_of(hint), below=f"{below}{name}.")
        else:
            yield below + name


def _refuse_other_keys(
    raw: Mapping[Any, Any], hints: Mapping[str, Any], where: str, *, every: Sequence[str], below: str = ""
) -> None:
    """Unknown settings, and what jsonargparse would let pass or not name: missing values, values for sections.

    `every` are the names of all settings of the recipe, for advice.
    """
    for key, value in raw.items():
        name = f"{below}{key}"
        if key not in hints:
            advice = did_you_mean(name, every) or did_you_mean(str(key), every) or f"; there are {', '.join(hints)}"
            raise ValueError(f"recipe {where}: no setting named '{shown(name)}'{advice}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                has = "nothing" if value is None else f"'{shown(str(value))}'"
                raise ValueError(
                    f"recipe {where}: {name} is a section, but its value is {has}: leave it out, or give settings"
                )
            _refuse_other_keys(value, hints_of(hints[key]), where, every=every, below=f"{name}.")
        elif value is None and type(None) not in get_args(hints[key]):
            raise ValueError(f"recipe {where}: {name} has no value: give one, or leave it out")
        elif any(isinstance(number, int) and abs(number) >= 2**64 for number in _items(value)):
            raise ValueError(f"recipe {where}: {name} is too large: give a smaller number")


LATER = {"later": True}
"""Metadata of a setting that came after runs and results were kept: with its default it is in no hash of theirs."""


def plain(recipe: Any, *, every: bool = False) -> dict[str, Any]:
    """A recipe as nested dicts and lists, as YAML and JSON write it; LATER settings only where they were changed.

    `every`: all settings.
    """
    return json.loads(json.dumps(_plain(recipe, every)))


def _plain(settings: Any, every: bool) -> Any:
    if not dataclasses.is_dataclass(settings):
        return settings
    return {
        field.name: _plain(getattr(settings, field.name), every)
        for field in dataclasses.fields(settings)
        if every or "later" not in field.metadata or getattr(settings, field.name) != _default(field)
    }


def _default(field: "dataclasses.Field[Any]") -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def recipe_text(recipe: Any) -> str:
    """The resolved recipe as YAML."""
    return yaml.safe_dump(plain(recipe, every=True), sort_keys=False, width=110)


def recipe_hash(recipe: Any) -> str:
    """Twelve hexadecimal digits that change with any setting."""
    return hash_of(plain(recipe))


def hash_of(settings: Mapping[str, Any]) -> str:
    """`recipe_hash` of a recipe as plain data."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
