"""Commands that messages name can be copied: they are understood, and those of a finished run work."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from tiny_runs import SETTINGS

import fra
from fra import cli
from fra.system.text import command

MODULES = sorted(Path(fra.__file__).parent.rglob("*.py"))
COMMANDS = re.compile(r"`(fra [^`]+)`")


def messages(tree: ast.Module) -> list[str]:
    """The texts of a module that are no docstrings, with x for what is filled in."""
    documentation = {
        id(statement.value)
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    }
    parts = {id(part) for text in ast.walk(tree) if isinstance(text, ast.JoinedStr) for part in text.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation | parts:
            found.append(node.value)
    return found


def names_a_command(words: list[str]) -> bool:
    """`fra crop` alone speaks of the command and is nothing to copy."""
    return all((word.isalpha() and word.islower()) or word == "x" for word in words) and len(words) <= 2


HINTS = sorted(
    {
        (path.name, hint)
        for path in MODULES
        for text in messages(ast.parse(path.read_text(encoding="utf-8")))
        for hint in COMMANDS.findall(text)
        if not names_a_command(hint.split()[1:])
    }
)


def test_there_are_hints() -> None:
    assert len(HINTS) >= 5
    assert len(MODULES) > 100


@pytest.mark.parametrize(("module", "hint"), HINTS, ids=[hint for _, hint in HINTS])
def test_a_command_in_a_message_is_understood(module: str, hint: str) -> None:
    words = shlex.split(hint)[1:]
    if words == ["x", "--help"] or "--help" in words:
        return
    if "|" in words:
        words = words[: words.index("|")]
    cli._parser().parse_args(words)


def test_names_with_blanks_stay_whole() -> None:
    assert command("fra", "report", Path("my runs/it's")) == """`fra report 'my runs/it'"'"'s'`"""


@pytest.mark.parametrize("method", ["fra", "byol", "swav", "lewel"])
def test_the_steps_after_a_run_work_as_they_are_printed(
    method: str,
    drawn_faces: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [word for setting in SETTINGS[method] for word in ("--set", setting)]
    more = ["--set", "schedule.epochs=1", "--workers", "0", "--device", "cpu"]
    run = f"my {method}"
    words = ["pretrain", f"smoke/resnet10_half.{method}", "--faces", str(drawn_faces), "--out", run, *more, *settings]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    hints = COMMANDS.findall(printed)
    assert [shlex.split(hint)[1] for hint in hints] == (["regions", "report"] if method == "fra" else ["report"])
    for hint in hints:
        assert cli.main(shlex.split(hint)[1:]) == 0, hint
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / f"{run}.regions" / "regions.png").exists() == (method == "fra")
