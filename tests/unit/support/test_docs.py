"""What the pages for people refer to exists: links, headings, files, folders, functions."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import buildctl
from tests.conftest import ROOT
from tests.unit.test_import_direction import ROWS

PACKAGE = Path(buildctl.__file__).parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "images" / "README.md"])
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
# Files that are named, not linked: in backticks, from the root of the repository.
NAMED = re.compile(
    r"`((?:buildctl|tests|docs|scripts|templates|images|benchmarks|\.github)/[\w./-]*|[\w.-]+\.(?:md|toml|yaml|txt))`"
)
TESTS = sorted([*(ROOT / "tests/unit").rglob("test_*.py"), *(ROOT / "tests/integration").rglob("test_*.py")])
FOLDERS = [name for row in reversed(ROWS) for name in row if (PACKAGE / name).is_dir()]


def prose(path: Path) -> str:
    """The page without its blocks of code, where brackets mean something else."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def links(path: Path) -> Iterator[str]:
    yield from (target for target in LINK.findall(prose(path)) if "://" not in target)


def headings(path: Path) -> set[str]:
    """The anchors as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(path: Path) -> list[str]:
    found = []
    for target in links(path):
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists() or (anchor and anchor not in headings(there)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_relative_link_is_broken(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# What `it` is, and why\n")
    page = tmp_path / "a.md"
    page.write_text(
        "[1](b.md#what-it-is-and-why) [2](b.md#why) [3](c.md) [4](#here) [5](https://x.example)\n```\n[6](d)\n```\n"
    )
    assert broken(page) == ["b.md#why", "c.md", "#here"]


def test_the_site_has_every_page_once() -> None:
    """What is not in `nav` is found by search alone; what is there twice has two places."""
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    listed = re.findall(r"[\w.-]+\.md", nav)
    there = [p.name for p in PAGES if p.parent in {ROOT, ROOT / "docs"} and p.name != "README.md"]
    assert sorted(listed) == sorted([*there, "index.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_list_in_a_list_is_one_on_the_site_too(page: Path) -> None:
    """GitHub takes two or three blanks, the site's Markdown four: with fewer, the points join the outer list."""
    assert re.findall(r"^ {1,3}(?:[-*]|\d+\.) .*", prose(page), re.MULTILINE) == []


def test_no_page_of_the_site_asks_another_host() -> None:
    """The theme's script asks GitHub about the repository wherever it finds this attribute."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "scripts" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    assert hooks.on_post_page('<a href="x" data-md-component="source">', None, None) == '<a href="x">'


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_of_the_package_and_its_tests_that_are_named_exist(page: Path) -> None:
    named = [
        name for name in NAMED.findall(prose(page)) if name.startswith(("buildctl/", "tests/", "scripts/", "docs/"))
    ]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_file_that_contributing_names_exists() -> None:
    page = ROOT / "CONTRIBUTING.md"
    named = NAMED.findall(prose(page)) + re.findall(r"tests/[\w./]+", page.read_text())
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_contributing_lists_the_folders_in_order_in_their_own_words() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| folder | |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == [f"`{name}/`" for name in FOLDERS]
    for name, (_, words) in zip(FOLDERS, rows, strict=True):
        text = " ".join((ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text())) or "").split())
        assert words == re.split(r"(?<=\.) ", text)[0]


def test_the_way_of_a_cell_names_functions_that_exist_and_is_short() -> None:
    steps = (ROOT / "docs" / "design.md").read_text().partition("## Following one cell")[2]
    assert len(re.findall(r"^\d+\. ", steps, re.MULTILINE)) <= 12
    names = re.findall(r"`([a-z_]+(?:\.\w+){2,})`", steps)
    assert len(names) > 15
    for name in names:
        parts = name.split(".")
        value: object = importlib.import_module(f"buildctl.{parts[0]}.{parts[1]}")
        for count, part in enumerate(parts[2:], 3):
            if isinstance(value, ModuleType) and not hasattr(value, part):
                importlib.import_module(f"buildctl.{'.'.join(parts[:count])}")
            value = getattr(value, part)


def rows_with_tests(path: Path) -> dict[str, list[str]]:
    """The rows of the tables whose last column is `test`, by their first cell, with the tests that they name."""
    found: dict[str, list[str]] = {}
    for block in re.findall(r"(?:^\|.*\n)+", path.read_text(), re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]
        if lines[0][-1] == "test":
            found |= {row[0]: re.findall(r"`(test_\w+)`", row[-1]) for row in lines[2:]}
    return found


@pytest.mark.parametrize(("page", "least"), [("publishing.md", 20), ("faults.md", 30)])
def test_every_row_about_others_names_a_test_that_exists(page: str, least: int) -> None:
    rows = rows_with_tests(ROOT / "docs" / page)
    tests = set(re.findall(r"^def (test_\w+)", "\n".join(p.read_text() for p in TESTS), re.MULTILINE))
    assert len(rows) >= least
    assert [row for row, names in rows.items() if not names or not tests.issuperset(names)] == []
