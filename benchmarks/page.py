"""docs/benchmarks.md: a section for each part, rewritten one at a time."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HEAD = """\
# Benchmarks

Written by `make bench`. All rows of a section come from one run on one machine; the ratios carry over, the seconds do
not. Files are downloaded before the clock starts and are in the page cache.
"""


@dataclass(frozen=True)
class Row:
    """`seconds` 0 for what is no time."""

    what: str
    seconds: float
    note: str


def section(title: str, rows: Sequence[Row], notes: str) -> str:
    lines = [f"| {r.what} | {f'{r.seconds:.2f} s' if r.seconds else ''} | {r.note} |" for r in rows]
    table = "\n".join(["| what | time | |", "|---|---|---|", *lines])
    return f"## {title}\n\nMeasured with {machine()}.\n\n{table}\n\n{notes}\n"


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    cpu = found[1] if found else "?"
    return (
        f"{os.cpu_count()} cores, {cpu}, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )


def update(path: Path, new: str) -> None:
    """Put the section `new` in the place of the one with its heading, or at the end."""
    old = path.read_text() if path.exists() else ""
    sections = {
        text.partition("\n")[0]: text.strip() + "\n" for text in re.split(r"^(?=## )", old, flags=re.MULTILINE)[1:]
    }
    sections[new.partition("\n")[0]] = new
    path.write_text("\n".join([HEAD, *sections.values()]))
