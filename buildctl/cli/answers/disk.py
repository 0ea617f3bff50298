"""`buildctl disk` and `buildctl prune`: what the store takes, and removing some of it."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from buildctl.artifacts.store import Store
from buildctl.artifacts.usage import CHEAP, Item, Sort, chosen, items, remove
from buildctl.console.table import folded, size
from buildctl.ground.clock import now
from buildctl.ground.errors import UsageError

_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}
NOTES = {
    Sort.DOWNLOADS: "prune --downloads; needed again only for layers that are gone",
    Sort.LAYERS: "prune --all",
    Sort.ORPHANS: "prune, an hour after they were made",
    Sort.UNPACKED: "prune; a test in the sandbox unpacks again",
    Sort.BYTECODE: "prune --all; compiled again with the layers that need it",
    Sort.OTHER: "prune --all",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUse:
    """`free` are the bytes that are free on the store's disk."""

    store: Path
    items: tuple[Item, ...]
    free: int

    def to_json(self) -> dict[str, Any]:
        return {
            "store": str(self.store),
            "free": self.free,
            "kinds": [
                {
                    "kind": str(sort),
                    "items": len(some),
                    "size": _all(some),
                    "shared": sum(item.shared for item in some),
                }
                for sort, some in _by_sort(self.items)
            ],
        }

    def text(self) -> str:
        rows = [
            (str(sort), str(len(some)), size(_all(some)), size(sum(item.shared for item in some)), NOTES[sort])
            for sort, some in _by_sort(self.items)
        ]
        answer = folded(("WHAT", "COUNT", "SIZE", "SHARED", "REMOVED BY"), rows, right=frozenset({1, 2, 3}))
        total = sum(item.size + item.shared for item in self.items)
        shared = "SHARED: a layout such as dist/ has it, too (hard links); free once both are gone"
        return f"{answer}\n\n{size(total)} in {self.store}, {size(self.free)} free\n{shared}"


def _by_sort(found: Sequence[Item]) -> Iterator[tuple[Sort, list[Item]]]:
    for sort in Sort:
        yield sort, [item for item in found if item.sort is sort]


def _all(some: Sequence[Item]) -> int:
    return sum(item.size + item.shared for item in some)


def disk_use(store: Store) -> DiskUse:
    place = next(p for p in (store.root, *store.root.parents) if p.exists())
    return DiskUse(store=store.root, items=tuple(items(store)), free=shutil.disk_usage(place).free)


def seconds(age: str | None) -> float:
    """`30d` -> 2592000; nothing is no age at all. Raises UsageError."""
    if age is None:
        return 0.0
    found = re.fullmatch(r"([0-9]{1,6})([hdw])", age.strip())
    if not found:
        raise UsageError(f"{age!r} is not an age", hint="hours, days or weeks: 12h, 30d, 8w")
    return float(int(found[1]) * _UNITS[found[2]])


def sorts_of(*, unpacked: bool, downloads: bool, everything: bool) -> tuple[Sort, ...]:
    """Raises UsageError if --all comes with what it contains."""
    if everything and (unpacked or downloads):
        raise UsageError("--all contains --unpacked and --downloads", hint="leave out one of them")
    if everything:
        return tuple(Sort)
    named = [*([Sort.UNPACKED] if unpacked else []), *([Sort.DOWNLOADS] if downloads else [])]
    return tuple(named) or CHEAP


def pruned(store: Store, sorts: Sequence[Sort], *, unused: float, dry_run: bool, yes: bool) -> Iterator[str]:
    """A line for each sort, then what was freed. Asks before it removes what costs a download, on a terminal."""
    gone = chosen(tuple(items(store)), sorts, now=now().timestamp(), unused=unused)
    for sort, some in _by_sort(gone):
        if some:
            yield f"  {sort}: {len(some)}, {size(sum(item.size for item in some))}"
    expected, shared = sum(item.size for item in gone), sum(item.shared for item in gone)
    rest = f"; {size(shared)} more are shared with layouts, and free when those are gone" if shared else ""
    if dry_run:
        yield f"would free {size(expected)} in {store.root}{rest}; nothing was removed"
        return
    costly = [item for item in gone if item.sort not in CHEAP]
    if costly and not yes and not _confirmed(_all(costly)):
        yield "nothing was removed"
        return
    yield f"freed {size(remove(store, gone))} in {store.root}{rest}"


def on_terminal() -> bool:
    return sys.stdin.isatty()


def _confirmed(count: int) -> bool:
    """Raises UsageError where nobody can answer."""
    if not on_terminal():
        raise UsageError(f"{size(count)} would have to be downloaded or made again", hint="add --yes, or see --dry-run")
    return click.confirm(f"{size(count)} would have to be downloaded or made again. Remove them?", err=True)
