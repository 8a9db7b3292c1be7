"""The documentation's links: every page and file that docs, cards, README, recipes and comments name exists."""

import re
from pathlib import Path

import pytest
from documented import miniature

from fra import cli
from scripts import make_reference

ROOT = Path(__file__).parents[1]
MADE = {"commands.md", "recipes.md", "datasets.md", "bundled.md"}
"""Pages of docs/reference that scripts/make_reference.py makes while the documentation is built."""
PAGES = sorted(path for pattern in ("*.md", "docs/**/*.md", "fra/weights/*/*.md") for path in ROOT.glob(pattern))
SOURCES = sorted(
    path
    for folder in ("fra", "tests", "benchmarks", "experiments", "scripts")
    for ending in ("py", "yaml", "j2")
    for path in (ROOT / folder).rglob(f"*.{ending}")
)
NAMED = re.compile(r"(?<![\w/])docs/[\w/.-]+\.(?:md|png)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SPECIFIED = re.compile(r"\bspec ([a-z_]+\.md)(?:, (?:section|sec\.)? ?(\d+))?")


def test_pages_and_sources_are_found() -> None:
    assert len(PAGES) > 20
    assert len(SOURCES) > 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files(page: Path) -> None:
    for link in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if not link.startswith(("http:", "https:", "#", "mailto:")):
            target = page.parent / link.split("#")[0]
            made = target.name in MADE and target.parent.resolve() == ROOT / "docs" / "reference"
            assert made or target.exists(), f"{page}: {link}"


def test_pages_named_in_code_and_recipes_exist() -> None:
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for name in NAMED.findall(path.read_text())
        if not (ROOT / name).exists()
    ]
    assert not missing, missing


def test_sections_of_the_specifications_named_in_code_exist() -> None:
    wrong = []
    for path in SOURCES:
        for page, section in SPECIFIED.findall(path.read_text()):
            file = ROOT / "docs/explain/spec" / page
            if not file.exists() or (section and not re.search(rf"^## {section}\.", file.read_text(), re.MULTILINE)):
                wrong.append(f"{path.relative_to(ROOT)}: {page}, {section}")
    assert not wrong, wrong


def test_every_page_is_in_the_navigation_once() -> None:
    nav = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2])
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(nav) == sorted([*pages, *(f"reference/{name}" for name in MADE)])


def test_pages_made_from_the_code_are_those_that_are_linked() -> None:
    made = make_reference.made_pages()
    assert set(made) == {f"reference/{name}" for name in MADE}
    assert "## fra pretrain" in made["reference/commands.md"]
    assert "## fra data check" in made["reference/commands.md"]
    assert "| `method.teacher_momentum` | `0.996` |" in made["reference/recipes.md"]
    assert "train 12,271, test 3,068" in made["reference/datasets.md"]
    assert made["reference/bundled.md"].count("CC BY 4.0") >= 6


def test_the_glossary_explains_every_measure_as_its_method_declares_it() -> None:
    page = make_reference.on_page_markdown((ROOT / "docs/reference/glossary.md").read_text())
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert sum("`feature_std`, all methods" in row for row in rows) == 1
    assert sum("`usage_0` …, only fra" in row for row in rows) == 1
    assert "mean cosine of two regions' mask embeddings" in next(row for row in rows if "`mask_cosine`" in row)
    assert rows[1:] == sorted(rows[1:], key=str.lower)
    assert len({row.split("|")[1] for row in rows}) == len(rows)
    assert "{measures}" not in page


def test_a_page_that_would_load_something_from_elsewhere_is_refused() -> None:
    page = type("Page", (), {"file": type("File", (), {"src_uri": "a.md"})})
    assert make_reference.on_post_page("<script src='x.js'></script><a href=\"https://e.org\">", page) is not None
    for html in ('<script src="https://e.org/x.js">', '<link rel="stylesheet" href="https://e.org/x.css">'):
        with pytest.raises(ValueError, match="another host"):
            make_reference.on_post_page(html, page)


def test_the_files_of_a_run_folder_are_all_explained(tmp_path: Path, drawn_faces: Path) -> None:
    page = (ROOT / "docs" / "reference" / "run_folder.md").read_text()
    out = tmp_path / "run"
    words = [*miniature("fra pretrain laptop/resnet10_half.fra"), "--faces", str(drawn_faces), "--out", str(out)]
    assert cli.main(words) == 0
    section = page.partition("## `fra pretrain`")[2].partition("\n## ")[0]
    for path in out.iterdir():
        assert path.name in section or path.name.startswith("."), path.name


def test_lines_of_rooms_are_counted_in_the_architecture_page() -> None:
    page = (ROOT / "docs" / "dev" / "architecture.md").read_text()
    names = re.findall(r"\{lines:([\w.* ]*)\}", page)
    *rooms, everything = [make_reference.lines_of(name.split()) for name in names]
    assert min(rooms) > 100
    assert sum(rooms) == everything
    assert "{lines" not in make_reference.on_page_markdown(page)


def test_only_what_others_made_may_be_missing() -> None:
    """`importorskip` skips whatever it cannot import: for a name of ours, or one that is made up, for ever."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    given = {
        (path.name, found) for path in files for found in re.findall(r"\bimportorskip\(([^,)]*)", path.read_text())
    }
    wrong = sorted((name, text) for name, text in given if text and not re.fullmatch(r'"(?!fra\b)[\w.]+"', text))
    assert not wrong, wrong
