"""Answers as aligned columns. Never wider than its content, never cut: a digest that lost its end is no answer."""

from __future__ import annotations

import shutil
import textwrap
import unicodedata
from collections.abc import Sequence


def cell_len(text: str) -> int:
    """Columns on a terminal: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Columns two blanks apart; those in `right` (by position) are aligned to the right."""
    lines = [header, *rows]
    widths = [max(cell_len(line[i]) for line in lines) for i in range(len(header))]

    def text(line: Sequence[str]) -> str:
        cells = []
        for position, (cell, width) in enumerate(zip(line, widths, strict=True)):
            pad = " " * (width - cell_len(cell))
            cells.append(pad + cell if position in right else cell + pad)
        return "  ".join(cells).rstrip()

    return "\n".join(text(line) for line in lines)


def folded(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset(), width: int = 0
) -> str:
    """As `table`, with the last column broken at blanks where lines would be wider than `width` (that of the terminal,
    80 without one). A word is never broken.
    """
    width = width or shutil.get_terminal_size((80, 24)).columns
    start = sum(max(cell_len(line[i]) for line in (header, *rows)) + 2 for i in range(len(header) - 1))
    blank = [""] * (len(header) - 1)
    broken: list[Sequence[str]] = []
    for row in rows:
        room = max(width - start, 24)
        first, *more = wrapped("", row[-1], width=room)
        broken += [(*row[:-1], first), *((*blank, text) for text in more)]
    return table(header, broken, right=right)


def wrapped(start: str, text: str, *, width: int = 0) -> list[str]:
    """`start` and `text` on lines of at most `width` (that of the terminal, 80 without one), broken at blanks, with
    later lines indented as far as `start`. A word is never broken.
    """
    width = width or shutil.get_terminal_size((80, 24)).columns
    room = max(width - cell_len(start), 24)
    first, *more = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{start}{first}".rstrip(), *(" " * cell_len(start) + line for line in more)]


def fitted(text: str, *, width: int = 0) -> str:
    """Every line of `text` broken at blanks to fit the terminal; what follows keeps the indentation of its line."""
    lines = []
    for line in text.splitlines():
        blanks = " " * (len(line) - len(line.lstrip()))
        lines += wrapped(blanks, line.strip(), width=width)
    return "\n".join(lines)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size(count: float) -> str:
    """Bytes for people, decimal as registries and `docker images` show them: 2.51 GB."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            value = count / step
            return (
                f"{value:.2f} {unit}" if value < 10 else f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
            )
    return f"{count:.0f} B"
