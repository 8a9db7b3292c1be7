"""The documentation's links: every page and file that docs, cards, README, recipes and comments name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
            assert (page.parent / link.split("#")[0]).exists(), f"{page}: {link}"


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
