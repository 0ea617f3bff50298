"""Answers as aligned columns. Never wider than its content, never cut: a digest that lost its end is no answer."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len


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


def size(count: float) -> str:
    """Bytes for people, decimal as registries and `docker images` show them: 2.51 GB."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            value = count / step
            return (
                f"{value:.2f} {unit}" if value < 10 else f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
            )
    return f"{count:.0f} B"
