"""What a run found, as docs/benchmarks.json keeps it: every turn of every row, and whether each goal was reached."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measured import Took


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`than` is the row it is compared with, which took its turns in between; `note` is text, `chart` the chart that
    shows it. A row without turns is only its note.
    """

    what: str
    turns: tuple[Took, ...] = ()
    than: str = ""
    note: str = ""
    chart: str = ""

    @property
    def best(self) -> Took:
        return min(self.turns, key=lambda took: took.wall)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """`got` is to be at most `want`, or at least with `least`; None if it was not measured, `why` says the reason."""

    what: str
    want: float
    got: float | None
    unit: str = ""
    least: bool = False
    why: str = ""

    @property
    def reached(self) -> bool | None:
        if self.got is None:
            return None
        return self.got >= self.want if self.least else self.got <= self.want


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    title: str
    rows: tuple[Row, ...]
    notes: str
    goals: tuple[Goal, ...] = ()
    machine: str = ""
    busy: str = ""
    turns: int = field(default=1)

    def row(self, what: str) -> Row:
        return next(row for row in self.rows if row.what == what)


def ratio(slow: Sequence[Took], fast: Sequence[Took]) -> float:
    """How many times the wall time: the median of the pairs that followed each other."""
    return statistics.median(a.wall / b.wall for a, b in zip(slow, fast, strict=True))


def load(path: Path) -> dict[str, Part]:
    """By the name of the part; nothing if there is no file yet."""
    if not path.exists():
        return {}
    return {name: _part(value) for name, value in json.loads(path.read_text())["parts"].items()}


def save(path: Path, parts: dict[str, Part]) -> None:
    value = {"schema": 1, "parts": {name: asdict(part) for name, part in parts.items()}}
    path.write_text(json.dumps(_rounded(value), indent=1) + "\n")


def _part(value: dict[str, Any]) -> Part:
    rows = tuple(Row(**{**row, "turns": tuple(Took(**took) for took in row["turns"])}) for row in value["rows"])
    return Part(**{**value, "rows": rows, "goals": tuple(Goal(**goal) for goal in value["goals"])})


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 3)
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
        case _:
            return value
