"""docs/which-image.md says the same in both languages, and what it says of drivers is what the code knows."""

from __future__ import annotations

import re

import pytest

from buildctl.host.requirement import CUDA_OF_DRIVER
from tests.conftest import ROOT

ENGLISH = (ROOT / "docs/which-image.md").read_text()
CHINESE = (ROOT / "docs/which-image.zh.md").read_text()
Table = list[list[str]]


def tables(text: str) -> list[Table]:
    """The cells of each table, row by row, without the line below the heading."""
    found: list[Table] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            if not line.startswith("|---"):
                found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        before = line
    return found


def literal(cell: str) -> list[str]:
    """What no translation changes: code, and numbers with a unit of their own."""
    code = re.findall(r"`[^`]+`", cell)
    return sorted([*code, *re.findall(r"sm_\d+|\b\d+\.\d+\b", re.sub(r"`[^`]+`", "", cell))])


PAIRS = list(zip(tables(ENGLISH), tables(CHINESE), strict=False))  # the Chinese page has a table more


def test_every_english_table_is_there() -> None:
    assert len(tables(CHINESE)) == len(tables(ENGLISH)) + 1


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_the_languages_agree_row_by_row(number: int) -> None:
    english, chinese = PAIRS[number]
    assert [[literal(cell) for cell in row] for row in english] == [[literal(cell) for cell in row] for row in chinese]


def test_code_is_the_same() -> None:
    blocks = [re.findall(r"```python\n(.*?)```", text, re.DOTALL) for text in (ENGLISH, CHINESE)]
    assert blocks[0] == blocks[1] != []


def test_drivers_are_those_that_check_knows() -> None:
    rows = next(table for table in tables(ENGLISH) if table[0][0] == "Driver")[1:]
    for drivers, cuda, _ in rows:
        for driver, version in zip(drivers.split(", "), cuda.split(", "), strict=True):
            assert CUDA_OF_DRIVER[int(driver)] == version
    assert int(rows[-1][0]) == max(CUDA_OF_DRIVER)


def test_the_readme_promises_the_same_images() -> None:
    both = [tables((ROOT / name).read_text())[0] for name in ("README.md", "README.zh.md")]
    assert [[literal(cell) for cell in row] for row in both[0]] == [[literal(cell) for cell in row] for row in both[1]]
    assert len(both[0]) == 4
