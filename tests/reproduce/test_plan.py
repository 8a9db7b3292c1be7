"""`fra reproduce ... --plan`: a row as soon as it is known, a word where something is missing, commands that work."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from fra import cli
from fra.drawing.drawn_face import draw_face
from fra.faces.image import write_image
from fra.pretrain.plan import Plan
from fra.reproduce import plan


class Measured:
    """Stands in for what takes seconds: how often it was asked, for how many pairs, and what had been printed then."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys, self.printed, self.pairs = capsys, [""], [0]

    def __call__(self, *_: object, small: int, **__: Any) -> Plan:
        self.printed.append(self.capsys.readouterr().out)
        self.pairs.append(small)
        return Plan(1_000_000, 900_000, 1e9, 1e8, 1e6, 10.0, 1, 8)

    @property
    def calls(self) -> int:
        return len(self.pairs) - 1


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Measured:
    monkeypatch.chdir(tmp_path)
    found = Measured(capsys)
    monkeypatch.setattr(plan, "make_plan", found)
    return found


def rows(said: str) -> dict[str, str]:
    """The table's lines by their first word."""
    table = said.partition("state\n")[2].partition("\n\n")[0]
    return {line.split()[0]: line for line in table.splitlines()}


def test_each_kind_is_measured_once_and_on_a_few_pictures(measured: Measured) -> None:
    """Five methods; expressions, attributes, 98 and 68 landmarks, whatever their datasets, labels and rates, and 98 by
    3FabRec's protocol."""
    assert cli.main(["reproduce", "all", "--scale", "paper", "--plan"]) == 0
    assert measured.calls == 10
    assert max(measured.pairs) == 2


def test_rows_are_printed_before_the_next_kind_is_measured(
    measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["reproduce", "table1", "--scale", "laptop", "--plan"]) == 0
    before_first, before_second = measured.printed[1:3]
    assert "runs at scale laptop" in before_first
    assert before_second.startswith("resnet10_half.")
    last = capsys.readouterr().out
    assert "left" in last
    assert "modelled, not measured" in last


def test_what_is_missing_is_said_in_its_rows_and_the_plan_goes_on(
    measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is there; then a broken dataset and faces."""
    words = ["reproduce", "table1", "--scale", "laptop", "--plan"]
    assert cli.main(words) == 0
    found = rows("".join(measured.printed) + capsys.readouterr().out)
    assert "missing: --faces" in next(line for name, line in found.items() if name.startswith("resnet10_half.fra_15ep"))
    assert all("`fra data layout rafdb`" in line for name, line in found.items() if name.startswith("rafdb."))
    assert all("`fra data layout 300w`" in line for name, line in found.items() if name.startswith("300w."))

    Path("datasets/rafdb").mkdir(parents=True)
    write_image("faces/a.png", draw_face(1, size=32).image)
    assert cli.main([*words, "--faces", "faces", "--data", "datasets"]) == 0
    found = rows("".join(measured.printed) + capsys.readouterr().out)
    assert found[next(name for name in found if name.startswith("resnet10_half.fra_15ep"))].endswith("to do")
    assert all(
        "`fra data check rafdb datasets/rafdb`" in line for name, line in found.items() if name.startswith("rafdb.")
    )
    assert all("missing: datasets/300w" in line for name, line in found.items() if name.startswith("300w."))


def test_the_commands_of_the_runs_are_understood(measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", "table1", "--scale", "laptop", "--plan"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  fra ")]
    assert len(lines) > 10
    for line in lines:
        options = cli._parser().parse_args(shlex.split(line)[1:])
        assert options.run in (cli._pretrain, cli._transfer)
