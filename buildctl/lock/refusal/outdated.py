"""Versions of years ago, chosen because newer ones have no wheel that fits: pip would build those from source, and uv
takes the old one without a word.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import lru_cache

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from buildctl.ground.errors import ResolveError
from buildctl.lock.uv import FAMILY, Found, NoSolutionError, resolve
from buildctl.matrix.cells import Cell

_LOOKUPS = 4
_ASKED_FOR = timedelta(days=365)  # since the upload of a wheel that matrix.yaml asks for
_NEEDED = timedelta(days=2 * 365)  # of one that only other packages need


def refuse_outdated(
    cell: Cell,
    found: Sequence[Found],
    *,
    now: datetime,
    kept: Collection[tuple[str, str]],
    glibc: tuple[int, int] | None,
) -> tuple[str, ...]:
    """A line for each old version of a dependency with a newer one that has no wheel.

    Raises ResolveError if matrix.yaml asks for the package itself, in any version, unless it was locked before
    (`kept`, by name and version).
    """
    asked: dict[str, Requirement] = {canonicalize_name(r.name): r for r in map(Requirement, cell.requirements)}
    old = [one for one in found if one.name not in FAMILY and _is_old(one, asked, now)]
    with ThreadPoolExecutor(_LOOKUPS) as pool:
        newer = list(pool.map(lambda f: newer_without_wheel(f.name, f.version, cell.python, cell.platform, glibc), old))
    notes = []
    for one in (one for one, there in zip(old, newer, strict=True) if there):
        since = f"{one.name} {one.version} of {one.uploaded:%Y}"
        why = f"newer versions have no wheel for Python {cell.python} on {cell.platform}"
        if one.name in asked and not asked[one.name].specifier and (one.name, one.version) not in kept:
            raise ResolveError(
                f"{cell.name} on {cell.platform}: the newest wheel of {one.name} (packages) is {since}: {why}",
                hint=f"to have it all the same, ask for {one.name}=={one.version}; for a newer one, serve a wheel "
                f"of it from your own package index, or install it in a template with --engine docker",
            )
        notes.append(f"{since} is locked: {why}")
    return tuple(notes)


def _is_old(one: Found, asked: Collection[str], now: datetime) -> bool:
    return one.uploaded is not None and now - one.uploaded > (_ASKED_FOR if one.name in asked else _NEEDED)


@lru_cache(maxsize=1024)
def newer_without_wheel(
    name: str, version: str, python: str, platform: str, glibc: tuple[int, int] | None = None
) -> bool:
    """Whether there are releases after `version`, none of which has a wheel there. Raises LockError if the index fails.

    Once in a process: the images of a matrix share most packages.
    """
    try:
        resolve([f"{name}>{version}"], python=python, platform=platform, glibc=glibc, alone=True)
    except NoSolutionError as error:
        return "usable wheels" in error.message or "no wheels with" in error.message
    return False
