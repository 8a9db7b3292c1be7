"""Every `fra` command in README, docs, cards, recipes and pages is understood as it is written; what it names exists.

Those in `sh` blocks are run by test_guides.py and test_readme.py; those in messages are in faults/test_hints.py.
"""

import argparse
import re
import shlex
from pathlib import Path

import pytest
from documented import ROOT

from fra import cli
from fra.data.datasets import find_dataset
from fra.pretrain.run import load_pretrain_recipe
from fra.shipped import shipped_recipes
from fra.transfer.recipes import load_transfer_recipe
from fra.weights.bundled import TASK, shipped_names

OTHERWISE = {"CHANGELOG.md", "log.md", "mistakes.md"}
"""Two speak of commands of their day, or of single flags; the last shows mistakes, and has a test of its own."""
NO_COMMANDS = {"fra needs Python 3.11 or newer"}
"""Messages that begin like one."""
PATTERNS = ("*.md", "docs/**/*.md", "fra/weights/*/*.md", "fra/recipes/**/*.yaml", "fra/**/*.j2")
PAGES = [path for pattern in PATTERNS for path in sorted(ROOT.glob(pattern)) if path.name not in OTHERWISE]
INLINE = re.compile(r"`(fra [^`]+)`|<code>(fra [^<]+)</code>")
LINE = re.compile(r"^[#$ \t]*(?:srun |torchrun .* )?(?:.*/bin/)?(fra (?:[a-z]+|--)[^\n]*)$", re.MULTILINE)
PLACEHOLDER = re.compile(r"[A-Z]{2,}|\.\.\.|[{}]|glasses|simsiam")
"""What is to be replaced, and what two guides tell how to add."""


def lines_of(page: Path) -> set[str]:
    """The commands of a page: in its text between backquotes, in its blocks whole lines."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE) if page.suffix == ".md" else [text]
    found = [line for block in blocks for line in LINE.findall(block.replace("\\\n", " "))]
    found += [line or other for line, other in INLINE.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))]
    return {" ".join(line.split()) for line in found} - NO_COMMANDS


def only_named(words: list[str]) -> bool:
    """`fra crop` alone speaks of the command."""
    return all(word.isalpha() and word.islower() for word in words) and len(words) <= 2


LINES = sorted({(line, str(page.relative_to(ROOT))) for page in PAGES for line in lines_of(page)})


def test_many_are_found_of_every_kind() -> None:
    assert len(LINES) > 150
    assert {Path(page).suffix for _, page in LINES} == {".md", ".yaml", ".j2"}


def test_all_are_understood() -> None:
    parser, faults = cli._parser(), []
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for line, page in LINES:
        words = shlex.split(line, comments=True)[1:]
        words = [word.partition("|")[0] for word in words]  # of `--format onnx|torch` the first
        try:
            if only_named(words):
                assert words[0] in commands.choices, "no such command"
            elif words[0] not in ("--version", "--completion", "--help") and words[-1] != "--help":
                check(parser.parse_args(words), page)
        except (ValueError, AssertionError) as error:
            faults.append(f"{page}: {line}: {error}")
    assert not faults, "\n".join(faults)


def check(options: argparse.Namespace, page: str) -> None:
    """What a command of a page calls by a name of ours is there, and the settings that it changes too."""
    if options.run is cli._cluster:
        options = cli._parser().parse_args(cli._job_words(options))
    recipe = getattr(options, "recipe", "")
    if recipe.startswith(("paper/", "one_gpu/", "laptop/", "smoke/")) and not PLACEHOLDER.search(recipe):
        settings = [word for word in options.set if not PLACEHOLDER.search(word)]
        load = load_pretrain_recipe if options.run is cli._pretrain else load_transfer_recipe
        load(recipe, settings)
    if options.run in (cli._layout, cli._check) and not PLACEHOLDER.search(options.name):
        find_dataset(options.name)
    for task in getattr(options, "task", None) or ():
        learned = f"--out {task}" in (ROOT / page).read_text(encoding="utf-8")
        assert "/" in task or PLACEHOLDER.search(task) or learned or task in shipped_names(TASK), f"no task {task}"


def test_recipes_and_settings_that_are_not_there_are_noticed() -> None:
    assert shipped_recipes("pretrain")
    for line in ("pretrain laptop/resnet10_half.fro", "pretrain laptop/resnet10_half.fra --set epochs=2"):
        with pytest.raises(ValueError, match=r"did you mean|no setting|no recipe"):
            check(cli._parser().parse_args(line.split()), "README.md")
    with pytest.raises(ValueError, match="required"):
        cli._parser().parse_args(["regions", "RUN"])
