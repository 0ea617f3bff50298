from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from buildctl.publish.page.treemap import Box, squarified

BOX = Box(10, 20, 300, 200)


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=60))
@example([1, 251273734])
def test_areas_are_in_proportion_and_stay_inside(values: list[int]) -> None:
    values.sort(reverse=True)
    boxes = squarified(values, BOX)
    for value, box in zip(values, boxes, strict=True):
        assert box.width * box.height == pytest.approx(value / sum(values) * 60_000, rel=1e-6, abs=1e-6)
        assert box.x >= 10 - 1e-6
        assert box.y >= 20 - 1e-6
        assert box.x + box.width <= 310 + 1e-6
        assert box.y + box.height <= 220 + 1e-6


def test_equal_parts_are_nearly_square() -> None:
    for box in squarified([1] * 12, Box(0, 0, 400, 300)):
        assert box.width / box.height == pytest.approx(1)


@pytest.mark.parametrize("box", [Box(0, 0, 0, 5), Box(0, 0, 5, 0)])
def test_no_room_is_no_area(box: Box) -> None:
    assert [b.width * b.height for b in squarified([3, 1], box)] == [0, 0]


def test_nothing_is_nothing() -> None:
    assert squarified([], BOX) == []
