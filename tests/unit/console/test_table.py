"""How answers are laid out, and how bytes are written for people."""

from __future__ import annotations

import pytest

from buildctl.console.table import size, table


def test_columns_are_as_wide_as_their_content_and_the_last_one_ends_where_it_ends() -> None:
    rows = [("a", "10", "x"), ("\u7570", "9", "")]
    lines = table(("NAME", "N", ""), rows, right=frozenset({1})).splitlines()
    assert lines == [
        "NAME   N",
        "a     10  x",
        "\u7570     9",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_400, "999 kB"),
        (3_083_000_000, "3.08 GB"),
        (12_345_678.9, "12.3 MB"),
        (5e12, "5000 GB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text
