"""A treemap as rectangles: areas in proportion, as close to squares as they get (Bruls, Huizing, van Wijk: "Squarified
treemaps", 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    x: float
    y: float
    width: float
    height: float

    def inside(self, margin: float, top: float = 0) -> Box:
        """Without its edge, and without `top` for a heading; never negative."""
        width, height = max(0.0, self.width - 2 * margin), max(0.0, self.height - 2 * margin - top)
        return Box(self.x + margin, self.y + margin + top, width, height)


def squarified(values: Sequence[float], box: Box) -> list[Box]:
    """A rectangle in `box` for each value, in that order; values are positive, and best from large to small."""
    total = sum(values)
    if not values or total <= 0 or box.width <= 0 or box.height <= 0:
        return [Box(box.x, box.y, 0, 0) for _ in values]
    scale = box.width * box.height / total
    return _laid([value * scale for value in values], box)


def _laid(areas: Sequence[float], box: Box) -> list[Box]:
    out: list[Box] = []
    rest = list(areas)
    while rest:
        side = max(min(box.width, box.height), 1e-9)
        count = 1
        while count < len(rest) and _worst(rest[: count + 1], side) <= _worst(rest[:count], side):
            count += 1
        row, rest = rest[:count], rest[count:]
        placed, box = _row(row, box)
        out += placed
    return out


def _worst(row: Sequence[float], side: float) -> float:
    """The largest ratio of sides in a row along `side`."""
    total = sum(row)
    return max(side**2 * max(row) / total**2, total**2 / (side**2 * max(min(row), 1e-9)))


def _row(row: Sequence[float], box: Box) -> tuple[list[Box], Box]:
    """The row along the shorter side, and what is left of the box. Rounding lets nothing stick out of a thin one."""
    total, placed, at = sum(row), [], 0.0
    if box.width >= box.height:
        width = min(total / box.height, box.width) if box.height else 0.0
        for area in row:
            placed.append(Box(box.x, box.y + at, width, min(area / width, box.height - at) if width else 0.0))
            at += placed[-1].height
        return placed, Box(box.x + width, box.y, max(0.0, box.width - width), box.height)
    height = min(total / box.width, box.height) if box.width else 0.0
    for area in row:
        placed.append(Box(box.x + at, box.y, min(area / height, box.width - at) if height else 0.0, height))
        at += placed[-1].width
    return placed, Box(box.x, box.y + height, box.width, max(0.0, box.height - height))
