"""Pages of the reference that are made from the code while the documentation is built (a hook of mkdocs).

They are no files of the repository, so they cannot be stale: commands from the parsers' help, recipe fields from the
dataclasses and the docstrings under their fields, datasets from their readers, bundled weights from their cards.
"""

import argparse
import ast
import contextlib
import dataclasses
import inspect
import io
import json
import os
import re
import textwrap
import types
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

ROOT = Path(__file__).parents[1]
ELSEWHERE = re.compile(r"<(?:script|img|iframe|source)[^>]*src=\"https?:[^\"]*|<link[^>]*href=\"https?:[^\"]*")


def made_pages() -> dict[str, str]:
    """Path below docs/ → Markdown."""
    return {
        "reference/commands.md": commands(),
        "reference/recipes.md": recipes(),
        "reference/datasets.md": datasets(),
        "reference/bundled.md": bundled(),
    }


def on_files(files: Any, config: Any) -> Any:
    """Called by mkdocs: the made pages join those in docs/, and the numbers lie beside the pages about them."""
    from mkdocs.structure.files import File

    for path, text in made_pages().items():
        files.append(File.generated(config, path, content=text))
    numbers = (ROOT / "results" / "results.csv").read_text(encoding="utf-8")
    files.append(File.generated(config, "results/results.csv", content=numbers))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs: files of the repository that are no pages are named, not linked; what code knows is put in."""
    markdown = with_measures(markdown)
    markdown = re.sub(r"\{lines:([\w.* ]*)\}", lambda match: f"{lines_of(match[1].split()):,}", markdown)
    return re.sub(
        r"\[([^\]]+)\]\((?:\.\./)+((?:fra|tests|scripts|experiments|benchmarks)/[^)]+)\)", r"\1 (`\2`)", markdown
    )


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Called by mkdocs: a page that would fetch anything from elsewhere is refused."""
    if found := ELSEWHERE.search(output):
        raise ValueError(f"{page.file.src_uri} would load something from another host: {found[0]}")
    return output


def with_measures(markdown: str) -> str:
    """A table that ends in {measures}, in the order of the alphabet, with a row for each column of health.csv."""
    from fra.pretrain.health import COMMON_COLUMNS
    from fra.pretrain.run import METHODS

    if "{measures}" not in markdown:
        return markdown
    owned = [(f"only {name}", column) for name, (_, kind) in METHODS.items() for column in kind.health_columns]
    rows = [
        f"| {column.title[0].lower()}{column.title[1:]} (`{column.name}{'_0` …' if column.family else '`'}, {owner})"
        f" | {column.meaning}; expected: {column.good} |"
        for owner, column in [*(("all methods", column) for column in COMMON_COLUMNS), *owned]
    ]
    head, line, table = markdown.partition("|---|---|\n")
    written = [row for row in table.splitlines() if row.startswith("|")]
    return "\n".join([head + line.strip(), *sorted([*written, *rows], key=str.lower), ""])


def lines_of(names: list[str]) -> int:
    """Lines of Python in these rooms or files of fra/, or in all."""
    places = [place for name in names or ["*"] for place in (ROOT / "fra").glob(name)]
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*.py"))]
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def commands() -> str:
    """Every command's help, as the parser prints it."""
    from fra.cli import _parser

    parts = [
        "# Commands\n\n`fra COMMAND --help` prints the same. A RECIPE is a name from `fra recipes` or a YAML file"
        " ([its fields](recipes.md)); flags cannot be abbreviated. Exit status: 0 done, 1 `fra data check` found"
        " something, 2 wrong input (one line says what to do), 130 interrupted (`--resume` continues).\n"
    ]
    for name, parser in subparsers(_parser()):
        parts.append(f"## fra {name}\n\n```text\n{help_of(parser)}\n```\n")
    return "\n".join(parts)


def subparsers(parser: argparse.ArgumentParser, before: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Name and parser of every command that does something, `data check` and its like too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                deeper = list(subparsers(inner, f"{before}{name} "))
                yield from deeper or [(before + name, inner)]


def help_of(parser: argparse.ArgumentParser) -> str:
    """Help of one width, whatever the terminal's."""
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return parser.format_help().strip()
    finally:
        if width is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = width


def recipes() -> str:
    """Every field of every recipe, with its default and the docstring under it."""
    from fra.pretrain.run import METHODS, PretrainRecipe
    from fra.transfer.protocol import TransferRecipe
    from fra.transfer.recipes import RECIPES

    parts = [
        "# Recipe fields\n\nA recipe is a YAML file with these fields; `fra recipes` lists the shipped ones and"
        " `fra recipes NAME` prints one. `--set section.field=value` changes a field from the command line. A field"
        " without a default must be given.\n\n## Pre-training\n"
    ]
    parts += [fields_of(schema, path) for path, schema in sections(PretrainRecipe)]
    for name, (config, _) in METHODS.items():
        parts += [fields_of(schema, path) for path, schema in sections(config, "method", title=f"method: {name}")]
    parts.append(
        f"## Transfer\n\n`protocol` is one of {', '.join(f'`{name}`' for name in RECIPES)} (where it is missing:"
        " `linear`). Every protocol has the fields of the first table, and its own.\n"
    )
    common = [field.name for field in dataclasses.fields(TransferRecipe)]
    parts += [fields_of(schema, path, without=("protocol",)) for path, schema in sections(TransferRecipe)]
    for name, schema in RECIPES.items():
        (_, own), *inner = sections(schema, title=f"protocol: {name}")
        parts.append(fields_of(own, ("", f"protocol: {name}"), without=common))
        parts += [fields_of(section, (path[0], f"protocol: {name}, {path[0]}")) for path, section in inner]
    return "\n".join(parts)


def sections(schema: type, prefix: str = "", title: str = "") -> Iterator[tuple[tuple[str, str], type]]:
    """A recipe's dataclass and those inside it, each with its dotted prefix and heading."""
    yield (prefix, title or prefix or schema.__name__), schema
    for name, hint in get_type_hints(schema).items():
        for inner in dataclasses_in(hint):
            path = f"{prefix}.{name}" if prefix else name
            yield from sections(inner, path, f"{title}, {name}" if title else path)


def dataclasses_in(hint: Any) -> Iterator[type]:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
    elif get_origin(hint) is not None or isinstance(hint, types.UnionType):
        for part in get_args(hint):
            yield from dataclasses_in(part)


def fields_of(schema: type, where: tuple[str, str], *, without: Collection[str] = ()) -> str:
    """One table: key, default, what it says under the field."""
    prefix, title = where
    about = " ".join((inspect.getdoc(schema) or "").split("\n\n")[0].split())
    lines = [f"### {title}\n", about + "\n", "| field | default | |", "|---|---|---|"]
    explained = docstrings(schema)
    for field in dataclasses.fields(schema):
        if field.name in without or any(True for _ in dataclasses_in(get_type_hints(schema)[field.name])):
            continue  # in another table, or a section of its own
        key = f"{prefix}.{field.name}" if prefix else field.name
        text = cell(explained.get(field.name, ""))
        lines.append(f"| `{key}` | {default_of(field)} | {text} |")
    return "\n".join(lines) + "\n"


def default_of(field: "dataclasses.Field[Any]") -> str:
    """As a recipe would write it."""
    if field.default is not dataclasses.MISSING:
        return f"`{cell(json.dumps(field.default, default=str))}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{cell(json.dumps(field.default_factory(), default=str))}`"
    return "required"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def docstrings(schema: type) -> dict[str, str]:
    """Field → the string literal below it in the source, of the class and those it inherits from."""
    found: dict[str, str] = {}
    for kind in reversed(schema.__mro__):
        if not dataclasses.is_dataclass(kind):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)
        for line, below in zip(tree.body, tree.body[1:], strict=False):
            named = isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            if named and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[line.target.id] = str(below.value.value)  # type: ignore[union-attr]
    return found


def datasets() -> str:
    """The trees that are read, and what a complete download holds."""
    from fra.data.datasets import DATASETS

    parts = [
        "# Datasets\n\n`fra data layout NAME` prints the tree of a dataset, `fra data check NAME DIR` compares a"
        " download with it: counts, labels, splits, unreadable files, test faces among the training faces. No dataset"
        " is part of fra; ask their authors, and mind their licences.\n",
        "| name | complete download | how faces are cut |",
        "|---|---|---|",
    ]
    for name, dataset in DATASETS.items():
        counts = ", ".join(f"{split} {dataset.published.total(split):,}" for split in dataset.published.images)
        parts.append(f"| [`{name}`](#{name}) | {counts or '–'} | {', '.join(dataset.crops) or 'one way'} |")
    for name, dataset in DATASETS.items():
        parts.append(f"\n## {name} {{#{name}}}\n\n```text\n{dataset.layout.strip()}\n```")
    return "\n".join(parts) + "\n"


def bundled() -> str:
    """The cards of the weights that come with the package."""
    parts = [
        "# Bundled weights\n\nEvery command that takes an encoder takes these names. Accuracy beside each other:"
        " [results](../results/index.md).\n"
    ]
    for card in sorted((ROOT / "fra" / "weights").glob("*/card.md")):
        text = re.sub(r"^(#+) ", r"#\1 ", card.read_text(encoding="utf-8"), flags=re.MULTILINE)
        parts.append(text)
    return "\n".join(parts)
