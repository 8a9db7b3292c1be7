"""Commands that messages name can be copied: they are understood, and those of a finished run work."""

import ast
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import SETTINGS

import fra
from fra import cli
from fra.system.text import command, python_command

MODULES = sorted(Path(fra.__file__).parent.rglob("*.py"))
COMMANDS = re.compile(r"`(fra [^`]+)`")
NAMES_OF_COMMANDS = (
    "crop|pretrain|transfer|compare|regions|predict|embed|data|reproduce|report|export|recipes|doctor|demo|app"
)
BARE = re.compile(rf"(?:^|[\n(,:;] ?)(fra (?:{NAMES_OF_COMMANDS}) [^\n)`]+)")
"""A command that is no part of a sentence stands without backquotes."""


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


def commands(tree: ast.Module) -> list[str]:
    """What calls of `command` make, with x for what is filled in."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command":
            words = [str(word.value) if isinstance(word, ast.Constant) else "x" for word in node.args]
            found.append(shlex.join(words))
    return [line for line in found if line.startswith("fra ")]


def names_a_command(words: list[str]) -> bool:
    """`fra crop` alone speaks of the command and is nothing to copy."""
    return all((word.isalpha() and word.islower()) or word == "x" for word in words) and len(words) <= 2


HINTS = sorted(
    {
        (path.name, hint)
        for path in MODULES
        for tree in [ast.parse(path.read_text(encoding="utf-8"))]
        for hint in [
            *(hint for text in messages(tree) for hint in [*COMMANDS.findall(text), *BARE.findall(text)]),
            *commands(tree),
        ]
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


def test_commands_of_other_programs_are_quoted() -> None:
    """What is filled into one between backquotes went through `command`, which begins the backquotes itself."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                assert not re.search(r"`(?!fra )[a-z]+ [^`\n]*\0[^`]*`", text), (path.name, text)


NAMES = [
    "two words",
    "two  blanks",
    "it's",
    'say "cheese"',
    'it\'s "both"',
    "$HOME `id`",
    "a\u202fb\u3000c",
    "\udcff",
    "-rf",
]
"""Of folders; the last but one is a byte that is no UTF-8."""


def torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), path)


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(2, 3), (torch.zeros(1, 2),)), path)


def printed_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The command of another program that `fra WORDS`, which ends with an error, says."""
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    found = re.search(r"""`((?:python|tar|iconv) (?:[^`'"]|'[^']*'|"[^"]*")*)`""", said)
    assert found, said
    return found[1]


def do(line: str) -> None:
    here = Path(sys.executable).parent
    done = subprocess.run(
        ["sh", "-c", line], env=os.environ | {"PATH": f"{here}:{os.environ['PATH']}"}, capture_output=True, timeout=120
    )
    assert done.returncode == 0, (line, done.stderr)


@pytest.mark.parametrize("save", [torchscript, exported])
@pytest.mark.parametrize("name", ["two  blanks", 'it\'s "both"'])
def test_what_turns_a_file_into_weights_can_be_copied(
    save: Callable[[Path], None],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(name) / f"{name}.pt2"
    path.parent.mkdir()
    save(path)
    words = ["transfer", "smoke/rafdb.linear", "--encoder", str(path), "--data", ".", "--out", "out"]
    do(printed_command(words, capsys))
    [written] = path.parent.glob("*.weights.pth")
    assert {key: value.shape for key, value in torch.load(written).items()} == {"weight": (3, 2), "bias": (3,)}


@pytest.mark.parametrize("name", NAMES)
def test_the_command_for_a_torchscript_is_read_by_shell_and_python_as_it_was_meant(name: str, tmp_path: Path) -> None:
    path = Path(name) / "x.pt"
    words = shlex.split(python_command("print({})", path).strip("`"))
    assert words[:2] == ["python", "-c"]
    assert ast.literal_eval(words[2].removeprefix("print(").removesuffix(")")) == str(path)
    assert words[2].isprintable()


@pytest.mark.parametrize("name", NAMES)
def test_packed_crops_are_unpacked_by_the_command(
    name: str, drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = f"./{name}" if name.startswith("-") else name
    words = ["crop", str(drawn_faces), "--detector", "none", "--size", "32", "--shards", "--workers", "1", "--quiet"]
    assert cli.main([*words, "--out", given]) == 0
    line = printed_command(["predict", given, "--task", "laptop_age", "--detector", "none"], capsys)
    (tmp_path / "FOLDER").mkdir()
    if name != "\udcff":  # shown, but not to be typed
        do(line)
        assert len(list((tmp_path / "FOLDER").rglob("*.jpg"))) == 40


def test_a_list_in_another_encoding_is_converted_by_the_command(
    drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "it's a  list.txt"
    path.write_bytes("".join(f"{face}\n" for face in [*sorted(drawn_faces.iterdir()), "caf\xe9.jpg"]).encode("latin-1"))
    line = printed_command(["crop", path.name, "--out", "out"], capsys)
    do(line.replace("> NEW", "> new.txt"))
    assert (tmp_path / "new.txt").read_text(encoding="utf-8").endswith("caf\xe9.jpg\n")


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
