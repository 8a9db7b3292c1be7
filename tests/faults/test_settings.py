"""Settings that nobody can mean are refused with their range, and no recipe file can crash or exhaust the reader."""

import argparse
import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from fra import cli
from fra.crop.cut import CropSettings
from fra.models.encoder import EncoderConfig
from fra.models.region_head import RegionHeadConfig
from fra.pretrain.fra import FRAConfig
from fra.pretrain.method import HeadConfig
from fra.pretrain.run import CONFIGS, PretrainRecipe, build_method, load_pretrain_recipe
from fra.pretrain.views import ViewConfig
from fra.recipe import Range, Settings, build, hints_of, parse_yaml, range_of, refuse_out_of_range
from fra.transfer.recipes import RECIPES, build_transfer_recipe, load_transfer_recipe

NAME = "smoke/resnet10_half.{}"


def is_number(hint: Any) -> bool:
    """Whether a field of this type may hold one; a choice of a few (Literal) may not."""
    if get_origin(hint) is Literal:
        return False
    return hint in (int, float) or any(is_number(part) for part in get_args(hint))


def sections_of(schema: Any, below: str = "") -> Iterator[tuple[str, Any]]:
    """Every dataclass of a recipe with its dotted name, the recipe itself first."""
    yield below, schema
    for name, hint in hints_of(schema).items():
        if dataclasses.is_dataclass(hint):
            yield from sections_of(hint, f"{below}{name}.")


NAMED = [
    *(("fra", name, schema) for name, schema in sections_of(PretrainRecipe)),
    *((method, name, schema) for method in CONFIGS for name, schema in sections_of(CONFIGS[method], "method.")),
    *((protocol, name, schema) for protocol in RECIPES for name, schema in sections_of(RECIPES[protocol])),
]
"""Method or protocol, dotted name and class of every section of every recipe."""
SCHEMAS = list(dict.fromkeys([*(schema for _, _, schema in NAMED), RegionHeadConfig, ViewConfig]))
NUMBERS = [(schema, name, hint) for schema in SCHEMAS for name, hint in hints_of(schema).items() if is_number(hint)]
REQUIRED: dict[Any, dict[str, Any]] = {
    PretrainRecipe: {"encoder": EncoderConfig(), "method": FRAConfig()},
    **{schema: {"name": "x", "task": "expression", "dataset": "rafdb"} for schema in RECIPES.values()},
}


def is_whole(hint: Any) -> bool:
    return hint is int or any(is_whole(part) for part in get_args(hint))


def bad_numbers(hint: Any) -> list[float]:
    """Not a number, infinite, and just beyond each end of the range."""
    allowed = range_of(hint)
    assert allowed is not None
    below = allowed.low if allowed.above else allowed.low - 1
    beyond = [] if allowed.high in (math.inf, 2**63 - 1) else [allowed.high + 1]
    numbers = [math.nan, math.inf, -math.inf, below, *beyond]
    return numbers if is_whole(hint) else [float(number) for number in numbers]


def several(hint: Any, number: float) -> Any:
    """The number as the field takes it: where it takes several, the last of them."""
    pair = next((part for part in (hint, *get_args(hint)) if get_origin(part) is tuple), None)
    if pair is None:
        return number
    usual = 1 if is_whole(hint) else 0.5
    return (usual,) * (0 if get_args(pair)[-1] is Ellipsis else len(get_args(pair)) - 1) + (number,)


def test_every_number_of_every_recipe_has_a_range() -> None:
    assert not [f"{schema.__name__}.{name}" for schema, name, hint in NUMBERS if range_of(hint) is None]
    assert len(NUMBERS) > 70


def test_every_section_of_every_recipe_checks_its_numbers() -> None:
    assert not [schema.__name__ for schema in SCHEMAS if not issubclass(schema, Settings)]
    assert len(SCHEMAS) >= 15


@pytest.mark.parametrize(
    ("schema", "name", "hint"), NUMBERS, ids=[f"{schema.__name__}.{name}" for schema, name, _ in NUMBERS]
)
def test_a_number_out_of_its_range_is_refused(schema: Any, name: str, hint: Any) -> None:
    for number in bad_numbers(hint):
        settings = {name: several(hint, number)}
        make: Callable[[], object] = partial(schema, **REQUIRED.get(schema, {}) | settings)
        if is_whole(hint) and not math.isfinite(number):  # which types refuse before
            make = partial(refuse_out_of_range, hints_of(schema), settings)
        with pytest.raises(ValueError, match=rf"^{name} is {number}: give "):
            make()


@pytest.mark.parametrize(("method", "below", "schema"), NAMED, ids=[f"{m}:{name}" for m, name, _ in NAMED])
def test_in_a_recipe_its_dotted_name_is_given(method: str, below: str, schema: Any) -> None:
    name, hint = next((name, hint) for name, hint in hints_of(schema).items() if is_number(hint))
    value, raw = several(hint, bad_numbers(hint)[3]), raw_recipe(method, below)
    place: Any = raw
    for section in filter(None, below.split(".")):
        place = place.setdefault(section, {})
    place[name] = list(value) if isinstance(value, tuple) else value
    with pytest.raises(ValueError, match=rf"^recipe mine: {below}{name} is -?[\d.]+: give "):
        built(raw)


def raw_recipe(method: str, below: str = "") -> dict[str, Any]:
    if method in RECIPES and not below.startswith("method."):
        return REQUIRED[RECIPES[method]] | {"protocol": method}
    return {"encoder": {"name": "resnet10_half"}, "method": {"name": method}}


def built(raw: dict[str, Any]) -> object:
    if "method" in raw:
        return build(raw, PretrainRecipe, where="mine", variants={"method": CONFIGS})
    return build_transfer_recipe(raw, where="mine")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rate=-0.1", "optimizer.learning_rate is -0.1: give at least 0"),
        ("optimizer.momentum=1.5", "optimizer.momentum is 1.5: give a number from 0 to 1"),
        ("optimizer.momentum=.nan", "optimizer.momentum is nan: give a number from 0 to 1"),
        ("optimizer.weight_decay=.inf", "optimizer.weight_decay is inf: give a finite number, at least 0"),
        ("views.blur=[0.5, 1.2]", "views.blur is 1.2: give a number from 0 to 1"),
        ("method.teacher_momentum=-0.1", "method.teacher_momentum is -0.1: give a number from 0 to 1"),
        ("method.regions=1", "method.regions is 1: give at least 2"),
        ("method.balance_strength=0", "method.balance_strength is 0.0: give a number above 0 and at most 1"),
        ("method.decoder.heads=7", "head.out is 256: give an even multiple of decoder.heads (7)"),
        ("method.head.out=28", "head.out is 28: give an even multiple of decoder.heads (8)"),
        ("encoder.image_size=0", "encoder.image_size is 0: give a number from 1 to 4096"),
        ("encoder.std=[0.1, 0.1, 0]", "encoder.std is 0.0: give above 0"),
        ("max_faces=0", "max_faces is 0: give at least 1"),
        ("max_faces=many", "max_faces is 'many': expected a whole number"),
        ("schedule.epochs=2.5", "schedule.epochs is '2.5': expected a whole number"),
        ("views.scale=abc", "views.scale is 'abc': expected [a number, a number]"),
        ("seed=-1", "seed is -1: give a number from 0 to 9223372036854775807"),
        ("seed=" + "9" * 100, "seed is too large: give"),
        ("optimizer.trust=" + "9" * 400, "optimizer.trust is too large: give"),
        ("views.scale=[0x" + "f" * 999 + ", 1]", "views.scale is too large: give"),
    ],
)
def test_the_message_names_setting_value_and_range(override: str, message: str) -> None:
    with pytest.raises(ValueError, match="^recipe [^\n]*$") as caught:
        load_pretrain_recipe(NAME.format("fra"), [override])
    assert message in str(caught.value)


def test_heads_of_lewel_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match=r"must be multiples of heads \(5\)"):
        build_method(load_pretrain_recipe(NAME.format("lewel"), ["method.heads=5"]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: RegionHeadConfig(out=12),
        lambda: FRAConfig(head=HeadConfig(out=9)),
        lambda: dataclasses.replace(load_transfer_recipe("smoke/rafdb.linear"), fraction=0.0),
        lambda: CropSettings(margin=math.nan),
        lambda: CropSettings(min_score=math.inf),
    ],
)
def test_settings_that_python_builds_are_checked_too(make: Any) -> None:
    with pytest.raises(ValueError, match="is .*: (give|it must)"):
        make()


def test_the_ends_of_a_range_are_allowed_unless_they_are_said_not_to_be() -> None:
    assert [number in Range(0, 1) for number in (0, 0.5, 1, -1e-9, 1.1, math.nan)] == [True] * 3 + [False] * 3
    assert [number in Range(0, 1, above=True) for number in (0, 1e-9, 1)] == [False, True, True]
    assert [number in Range(2) for number in (1, 2, 1e300, math.inf)] == [False, True, True, False]


@pytest.mark.parametrize("value", [None, 3, "text", [1, 2], False], ids=str)
@pytest.mark.parametrize("section", ["encoder", "method", "views", "optimizer", "schedule", "alignment"])
def test_a_section_that_is_no_section_is_named(section: str, value: Any) -> None:
    raw = raw_recipe("star" if section == "alignment" else "fra") | {section: value}
    with pytest.raises(ValueError, match=rf"^recipe mine: {section}(\.name)? is ") as caught:
        built(raw)
    assert "functools" not in str(caught.value)


@pytest.mark.parametrize("name", ["batch_size", "views.blur", "optimizer.name", "method.head.hidden", "encoder.mean"])
def test_a_setting_without_a_value_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has no value"):
        load_pretrain_recipe(NAME.format("fra"), [f"{name}=null"])
    assert load_pretrain_recipe(NAME.format("fra"), ["max_faces=null"]).max_faces is None


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)
FILES = {
    "deep brackets": (b"batch_size: " + b"[" * 5000, "more than 32 levels"),
    "deep braces": (b"batch_size: " + b"{a: " * 5000, "more than 32 levels"),
    "deep lines": ("".join(" " * n + "a:\n" for n in range(200)).encode(), "more than 32 levels"),
    "billion laughs": (LAUGHS.encode(), "an alias"),
    "a circle": (b"views: &v\n  blur: *v\n", "an alias"),
    "merged": (b"x: &x {size: 3}\nviews:\n  <<: *x\n", "an alias"),
    "set twice": (b"batch_size: 8\nbatch_size: 16\n", "line 2: batch_size is set twice"),
    "python": (b"method: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
    "no date": (b"seed: 2024-13-45\n", "month must be"),
    "too many digits": (b"seed: " + b"9" * 5000, "digits"),
    "unclosed": (b"views: {size: 3\n", "expected"),
    "a tab": (b"views:\n\tsize: 3\n", r"\t"),
    "nul": (b"batch_size: 8\0\n", "NUL bytes"),
    "utf-16": ("batch_size: 8\n".encode("utf-16"), "it is UTF-16"),
    "utf-16 without a mark": ("batch_size: 8\n".encode("utf-16-le"), "NUL bytes"),
    "latin-1": ("# Größe\n".encode("latin-1"), "byte 0xf6"),
    "huge": (b"# " + b"x" * 1_000_001, "1,000,003 bytes"),
    "empty": (b"", "is not a recipe"),
    "null": (b"null\n", "is not a recipe"),
    "a list": (b"- encoder\n", "is not a recipe"),
    "a number as key": (b"1: 2\nencoder: {}\nmethod: {name: byol}\n", "no setting named '1'"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("kind", ["pretrain", "transfer"])
def test_a_file_that_is_no_recipe_is_one_line_with_its_name(
    kind: str, content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="mine.yaml") as caught:
        load_transfer_recipe(str(path)) if kind == "transfer" else load_pretrain_recipe(str(path), [])
    text = str(caught.value)
    assert message in text
    assert len(text.splitlines()) == 1
    assert len(text) < 600


def test_a_pipe_or_a_device_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in (str(tmp_path / "pipe.yaml"), "/dev/zero", "/dev/null", str(tmp_path)):
        with pytest.raises(ValueError, match="recipe"):
            load_pretrain_recipe(name, [])


def test_plain_yaml_is_read_as_ever() -> None:
    assert parse_yaml("a: {b: [1, 2.5, x, null]}\nc: yes") == {"a": {"b": [1, 2.5, "x", None]}, "c": True}


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with each of its flags."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from commands(inner, (*words, word))
        elif action.option_strings:
            yield words, action


FLAGS = [
    (words, action.option_strings[0])
    for words, action in commands(cli._parser())
    if action.type not in (None, str, Path, cli._here, cli._anywhere)
]


def test_no_number_on_the_command_line_is_without_a_range() -> None:
    assert not [words for words, action in commands(cli._parser()) if action.type in (int, float)]
    assert len(FLAGS) > 20


@pytest.mark.parametrize("number", ["nan", "inf", "-1", "1e999", "x", ""])
@pytest.mark.parametrize(("words", "flag"), FLAGS, ids=[" ".join((*words, flag)) for words, flag in FLAGS])
def test_a_number_on_the_command_line_is_refused_with_its_range(
    words: tuple[str, ...], flag: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words, f"{flag}={number}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"fra: {flag} is {number}: give ")


def fra_in(folder: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fra.cli", *map(str, words)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_working_directory_that_is_gone_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = (
        "import os, sys; os.rmdir(os.getcwd())\n"
        "from fra import cli\n"
        "sys.exit(max(cli.main(words.split()) for words in ('recipes', 'recipes laptop/rafdb.linear')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=gone,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == "fra: the working directory no longer exists: change to another\n" * 2


@pytest.mark.parametrize("environment", [{}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["utf8", "ascii"])
def test_recipes_are_read_and_printed_in_the_posix_locale(tmp_path: Path, environment: dict[str, str]) -> None:
    recipe = tmp_path / "größe.yaml"
    recipe.write_text(
        "# Gesichter für Größe ± 3\nencoder: {name: resnet10_half}\nmethod: {name: byol}\n", encoding="utf-8"
    )
    done = fra_in(tmp_path, "pretrain", recipe, "--print_config", LC_ALL="POSIX", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "name: byol" in done.stdout
    recipe.write_text("# Größe\nbatch_sise: 3\nencoder: {}\nmethod: {name: byol}\n", encoding="utf-8")
    done = fra_in(tmp_path, "pretrain", recipe, "--print_config", LC_ALL="POSIX", **environment)
    assert done.returncode == 2
    assert "no setting named 'batch_sise'; did you mean 'batch_size'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
