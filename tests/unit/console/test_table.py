from __future__ import annotations

import pytest

from buildctl.console.table import fitted, folded, size, table


def test_columns_are_as_wide_as_their_widest_cell_and_nothing_is_cut() -> None:
    digest = "sha256:" + "a" * 64
    text = table(
        ("CELL", "SIZE", "DIGEST"), [("a", "2.51 GB", digest), ("cuda-2.6-amd64", "9 B", "")], right=frozenset({1})
    )
    assert text.splitlines() == [
        "CELL               SIZE  DIGEST",
        f"a               2.51 GB  {digest}",
        "cuda-2.6-amd64      9 B",
    ]


def test_a_wide_character_takes_two_columns() -> None:
    assert table(("A", "B"), [("字", "x"), ("ab", "y")]).splitlines()[1:] == ["字  x", "ab  y"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_340, "12.3 kB"),
        (123_400_000, "123 MB"),
        (2_512_000_000, "2.51 GB"),
    ],
)
def test_bytes_are_decimal_with_three_digits(count: int, shown: str) -> None:
    assert size(count) == shown


def test_lines_are_broken_at_blanks_and_keep_their_indentation() -> None:
    assert (
        fitted("  one two three four five six seven\nshort", width=26)
        == "  one two three four five\n  six seven\nshort"
    )
    assert fitted("x" * 40, width=30) == "x" * 40


def test_only_the_last_column_is_broken() -> None:
    text = folded(("KEY", "VALUE"), [("a", "one two three four five six")], width=29)
    assert text.splitlines() == ["KEY  VALUE", "a    one two three four five", "     six"]
