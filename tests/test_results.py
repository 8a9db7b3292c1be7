"""results/results.csv and the tables made from it: fresh, one question each, and wrong input is refused."""

import csv
import re
import shutil
from pathlib import Path

import pytest

from scripts import make_results

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of what the script reads and writes, in which a test may change anything."""
    for name in ("docs", "results"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.png"))
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def rows() -> list[dict[str, str]]:
    with (ROOT / "results" / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_tables_of_readme_and_docs_are_fresh() -> None:
    assert make_results.main(["--check"]) == 0


def test_a_changed_number_makes_pages_stale_until_they_are_made_again(copied: Path) -> None:
    file = copied / "results" / "results.csv"
    text = file.read_text()
    changed = re.sub(r"^(laptop,.*,rafdb,linear,1,accuracy,)[\d.]+", r"\g<1>12.34", text, flags=re.MULTILINE)
    assert changed != text
    file.write_text(changed)
    assert make_results.main(["--check"], copied) == 1
    assert make_results.main([], copied) == 0
    assert "| 12.34 ± " in (copied / "README.md").read_text()
    assert make_results.main(["--check"], copied) == 0


def test_a_number_that_was_never_measured_is_a_dash() -> None:
    readme = (ROOT / "README.md").read_text()
    (line,) = [line for line in readme.splitlines() if line.startswith("| random weights")]
    assert line.endswith(" | – |")


def test_two_different_numbers_for_one_cell_are_refused(copied: Path) -> None:
    file = copied / "results" / "results.csv"
    lines = [
        line for line in file.read_text().splitlines() if line.startswith("laptop,") and ",lfw,pairs,,auc," in line
    ]
    (line,) = [line for line in lines if ",no,," in line]
    other = re.sub(r",lfw,pairs,,auc,[\d.]+,", ",lfw,pairs,,auc,12.3,", line)
    file.write_text(file.read_text() + other + "\n")
    with pytest.raises(ValueError, match="table bundled: several numbers have"):
        make_results.main([], copied)


@pytest.mark.parametrize("line", ["laptop,,0", "laptop" + "," * 30, ",,,rafdb,linear,1,accuracy,1,,,,,,,,no,,here,"])
def test_rows_that_are_not_whole_are_refused(copied: Path, line: str) -> None:
    file = copied / "results" / "results.csv"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(ValueError, match="results.csv, line"):
        make_results.main([], copied)


def test_a_table_of_more_than_six_columns_is_refused() -> None:
    column = dict(label="x", encoder="laptop", dataset="lfw", metric="auc")
    with pytest.raises(ValueError, match="at most 6 columns"):
        make_results.table(
            make_results.read_numbers(ROOT / "results"), dict(rows=[dict(label="a")], columns=[column] * 6)
        )


def test_a_page_that_asks_for_an_unknown_table_is_named(copied: Path) -> None:
    (copied / "docs" / "new.md").write_text("<!-- table: nothing -->\n<!-- end of table -->\n")
    with pytest.raises(ValueError, match="has no table 'nothing'"):
        make_results.main([], copied)


def test_superseded_numbers_say_by_what_and_all_others_do_not() -> None:
    numbers = rows()
    assert len(numbers) > 800
    assert {row["superseded"] for row in numbers} == {"yes", "no"}
    for row in numbers:
        assert bool(row["superseded_by"]) == (row["superseded"] == "yes"), row


def test_recipe_hashes_are_those_of_the_bundled_cards() -> None:
    for name in ("laptop", "laptop_fine", "laptop_byol", "laptop_swav", "laptop_lewel"):
        card = (ROOT / "fra" / "weights" / name / "card.md").read_text()
        hashes = {row["recipe"] for row in rows() if row["encoder"] == name}
        assert len(hashes) == 1
        assert f"recipe {hashes.pop()}," in card
