"""Typed recipes: one YAML file is one row of a table."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

SCALES = ("paper", "one_gpu", "laptop", "smoke")
Recipe = TypeVar("Recipe")


def shipped_recipes(kind: str) -> dict[str, Path]:
    """Names and files of all recipes of a kind, "pretrain" or "transfer"; a name is SCALE/FILE."""
    folder = Path(str(resources.files("fra"))) / "recipes"
    return {f"{scale}/{path.stem}": path for scale in SCALES for path in sorted((folder / scale / kind).glob("*.yaml"))}


def find_recipe(name: str, kind: str) -> Path:
    """The file of a shipped recipe, or the path itself. ValueError lists what there is."""
    shipped = shipped_recipes(kind)
    if name in shipped:
        return shipped[name]
    if Path(name).is_file():
        return Path(name)
    if name.endswith((".yaml", ".yml")):
        raise ValueError(f"there is no recipe file {name}: see `fra recipes` for the shipped ones")
    raise ValueError(f"no recipe is called '{name}'; there are {', '.join(shipped)} (or give a .yaml file)")


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
    ValueError with one line for an unknown key (its neighbours are listed), a wrong type, or a broken file.
    """
    path = find_recipe(name, kind)
    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} holds no recipe: expected `key: value` lines")
    for override in overrides:
        _apply(raw, override)
    return build(raw, schema, where=str(name), variants=variants or {})


def build(
    raw: dict[str, Any], schema: type[Recipe], *, where: str, variants: Mapping[str, Mapping[str, type]]
) -> Recipe:
    """The dataclass `schema` from plain data, typed by jsonargparse."""
    from jsonargparse import ArgumentParser

    classes = {key: _variant(raw, key, choices, where) for key, choices in variants.items()}
    _refuse_unknown_keys(raw, schema, classes, where)
    required = [field.name for field in dataclasses.fields(schema) if _is_required(field)]  # type: ignore[arg-type]
    missing = [name for name in required if name not in raw]
    if missing:
        raise ValueError(f"recipe {where}: {', '.join(missing)} is missing")
    parser = ArgumentParser(exit_on_error=False)
    for name, hint in (get_type_hints(schema) | classes).items():
        parser.add_argument(f"--{name}", type=hint)
    try:
        parsed = parser.instantiate(parser.parse_object(raw))
    except Exception as error:  # jsonargparse raises several types; each message names the key and what it expects
        message = (
            " ".join(str(error).replace("Parser key", "setting").split()).replace("<class '", "").replace("'>", "")
        )
        raise ValueError(f"recipe {where}: {message}") from error
    return schema(**{field.name: parsed[field.name] for field in dataclasses.fields(schema) if field.name in raw})  # type: ignore[arg-type]


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _apply(raw: dict[str, Any], override: str) -> None:
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
        target[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {override}: the value is no YAML: put it in quotes, or close its brackets") from error


def _variant(raw: dict[str, Any], key: str, choices: Mapping[str, type], where: str) -> type:
    section = raw.get(key)
    name = section.get("name") if isinstance(section, dict) else None
    if not isinstance(name, str) or name not in choices:
        raise ValueError(f"recipe {where}: {key}.name is '{name}'; it may be {', '.join(choices)}")
    return choices[name]


def _refuse_unknown_keys(raw: dict[str, Any], schema: Any, classes: Mapping[str, type], where: str) -> None:
    hints = get_type_hints(schema)
    for key, value in raw.items():
        if key not in hints:
            raise ValueError(f"recipe {where}: {schema.__name__} has no setting '{key}'; it has {', '.join(hints)}")
        inner = classes.get(key, hints[key])
        if dataclasses.is_dataclass(inner) and isinstance(value, dict):
            _refuse_unknown_keys(value, inner, {}, where)


def plain(recipe: Any) -> dict[str, Any]:
    """A recipe as nested dicts and lists, as YAML and JSON write it."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def require_positive(settings: Any, *names: str) -> None:
    """Raises ValueError for the first of these settings that is below 1; None is no number."""
    for name in names:
        number = getattr(settings, name)
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}: give at least 1")


def recipe_text(recipe: Any) -> str:
    """The resolved recipe as YAML."""
    return yaml.safe_dump(plain(recipe), sort_keys=False, width=110)


def recipe_hash(recipe: Any) -> str:
    """Twelve hexadecimal digits that change with any setting."""
    return hashlib.sha256(json.dumps(plain(recipe), sort_keys=True).encode()).hexdigest()[:12]
