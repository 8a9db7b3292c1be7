"""Where and how a command computes: told once, by flags that are declared once."""

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from fra.files import MARK
from fra.runtime import Runtime, add_flags

FRA = Path(__file__).parents[1] / "fra"
MOST = 8
NAMES = [field.name for field in fields(Runtime)]


def signatures() -> Iterator[tuple[str, list[str]]]:
    """Every function and method of fra, and the names of its parameters without self and cls."""
    for file in sorted(FRA.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                given = node.args
                names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                names += [each.arg for each in (given.vararg, given.kwarg) if each]
                where = f"{file.relative_to(FRA.parent)}:{node.lineno} {getattr(node, 'name', 'lambda')}"
                yield where, [name for name in names if name not in ("self", "cls")]


def test_no_signature_has_more_than_eight_parameters() -> None:
    found = dict(signatures())
    assert len(found) > 1000  # an empty list would pass, too
    assert [where for where, names in found.items() if len(names) > MOST] == []


def test_no_signature_takes_loosely_what_runtime_holds() -> None:
    """Those that resolve a setting take that one, with what it depends on."""
    several = {where: names for where, names in signatures() if len(set(names) & set(NAMES)) > 1}
    assert {where.split()[1] for where in several} == {"choose_precision", "load_encoder", "load_region_model"}


def test_it_is_built_without_torch() -> None:
    program = "import fra, sys; fra.Runtime(device='cpu'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=FRA.parent).returncode == 0


def parse(words: str, *names: str) -> Runtime:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser, *names)
    parser.add_argument("--other")
    return Runtime.of(parser.parse_args(words.split()))


def test_flags_say_the_same_as_runtime_by_default() -> None:
    assert parse("", *NAMES) == parse("") == parse("--threads auto", "threads") == Runtime()


def test_flags_of_a_command_arrive() -> None:
    words = "--other x --device cpu --precision bf16 --devices 2 --nodes 3 --workers 0 --threads 4 --resume --quiet"
    found = parse(words, *NAMES)
    assert found == Runtime("cpu", "bf16", devices=2, nodes=3, workers=0, threads=4, resume=True, quiet=True)
    assert found.processes == 6


@pytest.mark.parametrize(
    "name, value, advice",
    [
        ("devices", 0, "give at least 1"),
        ("nodes", -1, "give at least 1"),
        ("workers", -1, "give a number from 0 to 1024"),
        ("threads", 0, "give a number from 1 to 1024"),
    ],
)
def test_numbers_out_of_range_are_refused_in_both_ways(name: str, value: int, advice: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}: {advice}"):
        Runtime(**{name: value})
    with pytest.raises(argparse.ArgumentError, match=f"is {value}: {advice}"):
        parse(f"--{name}={value}", name)


def test_a_step_of_a_longer_command_resumes_what_was_begun(tmp_path: Path) -> None:
    assert not Runtime(resume=True).continuing(tmp_path).resume
    (tmp_path / MARK).touch()
    assert Runtime(quiet=True).continuing(tmp_path) == Runtime(resume=True, quiet=True)
