"""Files that the docs and the comments name: each is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = ("protos", "server", "client", "tests", "benchmarks", "docs")
# The changelog tells of files as they were.
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")} - {ROOT / "CHANGELOG.md"})
# What readers' own commands make: a stub of an example, what the benchmarks train.
MADE_BY_READERS = {"iris_client.py", "benchmarks/models/"}

MODULE = re.compile(r"(?<![\w./<\"'-])(?:[\w-]+/)*[\w-]+\.py\b")
FOLDER = re.compile(r"`((?:[\w-]+/)+)`")
LINK = re.compile(r"\]\(([^)#\s:]+)(?:#[^)\s]*)?\)")


@pytest.fixture(scope="module", name="paths")
def _paths() -> set[str]:
    """Every file and folder of ours, each with a slash before it; a folder with one behind it."""
    found = {f"/{path.name}" for path in ROOT.iterdir() if path.is_file()}
    for path in (path for root in ROOTS for path in [ROOT / root, *(ROOT / root).rglob("*")]):
        found.add(f"/{path.relative_to(ROOT)}{'/' if path.is_dir() else ''}")
    return found


def missing(named: set[str], paths: set[str]) -> list[str]:
    """Those *named* with which no path ends."""
    return sorted(name for name in named if not any(path.endswith(f"/{name}") for path in paths))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page: Path, paths: set[str]) -> None:
    text = page.read_text()

    named = {*MODULE.findall(text), *FOLDER.findall(text)} - MADE_BY_READERS

    assert missing(named, paths) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_page_that_a_page_links_to_is_there(page: Path) -> None:
    linked = set(LINK.findall(page.read_text()))

    assert [link for link in sorted(linked) if not (page.parent / link).exists()] == []


def test_every_file_that_our_code_names_is_there(paths: set[str]) -> None:
    named: set[str] = set()
    for root in ("protos", "server", "client", "benchmarks"):
        for path in (ROOT / root).rglob("*.py"):
            named |= set(MODULE.findall(path.read_text()))

    assert missing(named - MADE_BY_READERS, paths) == []
