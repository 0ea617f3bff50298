"""Where uv finds no solution: which of the user's packages is to blame, why, and what to do.

uv's own story is about everything at once and can have a hundred lines. Each package is resolved by itself here, first
without and then with what it needs, next to the cell's torch.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from buildctl.ground.errors import LockError, ResolveError
from buildctl.lock.uv import FAMILY, Found, NoSolutionError, index_of, resolve
from buildctl.matrix.additions import EXTRAS, Addition
from buildctl.matrix.cells import Cell

_LOOKUPS = 4
_LONGEST = 40  # lines of uv's story that are shown
_NO_WHEEL = re.compile(r"all versions of (\S+) have no usable wheels|Wheels are required for `([^`]+)`")
_NOT_FOR_PYTHON = re.compile(r"only found wheels for `([^`]+)` \(\S+\) with the following Python (?:ABI )?tags?: (.*)")
_NOT_FOR_PLATFORM = re.compile(r"only found wheels for `([^`]+)` \(\S+\) (?:on|with) the following platforms?: (.*)")
_UNKNOWN = re.compile(r"(\S+) was not found in the package registry")
_TORCH = re.compile(r"\btorch(?:\{[^}]*\})?[=<>~!]{1,2}(\d+(?:\.\d+)*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """`what` is a sentence about one package, `way` what to do about it."""

    what: str
    way: str


def explained(
    cell: Cell,
    additions: tuple[Addition, ...],
    error: NoSolutionError,
    *,
    glibc: tuple[int, int] | None,
    links: Path | None = None,
) -> LockError:
    """The error for people: names the packages at fault by their keys if possible, else shows uv's own message. `links`
    is a folder of the cell's own wheels.
    """
    where = f"{cell.name} on {cell.platform}"
    if blame := _of_torch(cell, glibc, links):
        return ResolveError(f"{where}: {blame.what}", hint=blame.way)
    own = [text for text in cell.requirements if canonicalize_name(Requirement(text).name) not in FAMILY]
    with ThreadPoolExecutor(_LOOKUPS) as pool:
        found = [blame for blame in pool.map(lambda text: _blame(cell, additions, text, glibc, links), own) if blame]
    if not found:
        asked = ", ".join(dict.fromkeys(["packages", *(_key(cell, additions, Requirement(text).name) for text in own)]))
        if cell.accelerator.index:
            asked += f", {cell.accelerator.place('index')}"
        return ResolveError(
            f"{where}: what matrix.yaml asks for (versions, {asked}) cannot be satisfied: {_short(error.message)}",
            hint=error.hint or f"ask for versions that the index has, or correct {cell.accelerator.place('index')}",
        )
    return ResolveError(
        "\n".join(f"{where}: {blame.what}" for blame in found),
        hint="; ".join(dict.fromkeys(blame.way for blame in found)),
    )


def _short(story: str) -> str:
    lines = story.splitlines()
    return story if len(lines) <= _LONGEST else "\n".join([*lines[:_LONGEST], f"... ({len(lines)} lines)"])


def _key(cell: Cell, additions: tuple[Addition, ...], name: str) -> str:
    """Where matrix.yaml asks for a package: `images.cuda-*.packages`."""
    name = canonicalize_name(name)
    for addition in (one for one in additions if one.matches(cell.name)):
        if any(rule.name == name for rule in addition.packages):
            return f"{addition.key}.packages"
        if any(canonicalize_name(parse_wheel_filename(Path(w).name)[0]) == name for w in addition.wheels):
            return f"{addition.key}.wheels"
        if any(name == canonicalize_name(Requirement(text).name) for e in addition.extras for text in EXTRAS[e]):
            return addition.key if addition.key == "extras" else f"{addition.key}.extras"
    return "packages"


def _of_torch(cell: Cell, glibc: tuple[int, int] | None, links: Path | None) -> Blame | None:
    """Why the cell's torch alone cannot be had; None if it can."""
    asked, index = f'torch {cell.torch} (versions["{cell.key}"])', cell.accelerator.index
    try:
        _tried(cell, [f"torch=={cell.torch}"], glibc, links, alone=True)
    except NoSolutionError as error:
        story = error.message
    else:
        return None
    elsewhere = f"correct {cell.accelerator.place('index')}" if index else "configure an index that has it"
    if tags := _for(_NOT_FOR_PYTHON, story, "torch"):
        return Blame(
            what=f"{asked} has no wheel for Python {cell.python}, only for {tags.replace('`', '')}",
            way="set `python` to one of these, ask for another torch under `versions`, or exclude the combination",
        )
    if platforms := _for(_NOT_FOR_PLATFORM, story, "torch"):
        return Blame(
            what=f"{asked} has no wheel for {cell.platform}, only for {platforms.replace('`', '')}",
            way=f"exclude the combination, or {elsewhere}",
        )
    on = cell.accelerator.place("index") if index else "the package index"
    there = _nearest(cell, glibc, links)
    way = f"set it to {there}, the nearest there" if there else elsewhere
    return Blame(what=f"{asked} is not on {on}, for Python {cell.python}", way=f"{way}, or drop it from `versions`")


def _nearest(cell: Cell, glibc: tuple[int, int] | None, links: Path | None) -> str | None:
    """The newest torch of the same minor version that could be had, or else the newest of all."""
    for text in (f"torch=={cell.torch.major}.{cell.torch.minor}.*", "torch"):
        with suppress(NoSolutionError):
            return str(_tried(cell, [text], glibc, links, alone=True)[0].version)
    return None


def _blame(
    cell: Cell, additions: tuple[Addition, ...], text: str, glibc: tuple[int, int] | None, links: Path | None
) -> Blame | None:
    """Why this package alone cannot be had, or not next to the cell's torch; None if it can."""
    name = canonicalize_name(Requirement(text).name)
    asked = f"{name} ({_key(cell, additions, name)})"
    try:
        _tried(cell, [text], glibc, links, alone=True)
    except NoSolutionError as error:
        return _missing(cell, asked, name, error.message, text)
    try:
        _tried(cell, [text, f"torch=={cell.torch}"], glibc, links, alone=False)
    except NoSolutionError as error:
        return _not_with_torch(cell, asked, name, error.message)
    return None


def _tried(
    cell: Cell, texts: list[str], glibc: tuple[int, int] | None, links: Path | None, *, alone: bool
) -> tuple[Found, ...]:
    with index_of(cell.accelerator) as index:
        return resolve(
            texts, python=cell.python, platform=cell.platform, index=index, glibc=glibc, alone=alone, links=links
        )


def _missing(cell: Cell, asked: str, name: str, story: str, text: str) -> Blame:
    """Nothing on the index is this package, for this Python and platform."""
    if _UNKNOWN.search(story):
        return Blame(what=f"{asked} is not on the package index", way=f"correct the name {name}, or drop it")
    if tags := _for(_NOT_FOR_PYTHON, story, name):
        return Blame(
            what=f"{asked} has no wheel for Python {cell.python}, only for {tags.replace('`', '')}",
            way=f"drop {name}, ask for a version that has one, or set `python` in matrix.yaml to one that it supports",
        )
    if platforms := _for(_NOT_FOR_PLATFORM, story, name):
        return Blame(
            what=f"{asked} has no wheel for {cell.platform}, only for {platforms.replace('`', '')}",
            way=f"put {name} under `images` for the images on other platforms alone",
        )
    if any(name in pair for pair in _NO_WHEEL.findall(story)):
        return Blame(
            what=f"{asked} has no wheel for Python {cell.python} on {cell.platform}, only sources, and only wheels are "
            "installed",
            way=f"build a wheel of {name} for this Python and torch and serve it from your own package index, or "
            "install it in a template with --engine docker (docs/templates.md)",
        )
    return Blame(what=f"{text} ({_key_of(asked)}) does not exist: {_short(story)}", way=f"ask for another {name}")


def _key_of(asked: str) -> str:
    return asked.partition("(")[2].rstrip(")")


def _for(pattern: re.Pattern[str], story: str, name: str) -> str | None:
    return next((match[2].strip() for match in pattern.finditer(story) if match[1] == name), None)


def _not_with_torch(cell: Cell, asked: str, name: str, story: str) -> Blame:
    """The package is there, but what it needs is not, or needs another torch."""
    needed = {first or second for first, second in _NO_WHEEL.findall(story)} - {name, "torch"}
    torches = sorted({Version(found) for found in _TORCH.findall(story)} - {cell.torch})
    if torches:
        return Blame(
            what=f"{asked} does not go with torch {cell.torch}: its versions depend on torch "
            f"{', '.join(map(str, torches))}, or ranges between",
            way=f"ask for {name} only with versions of torch that it goes with: "
            f'{{name: {name}, torch: ">=..."}}, or drop it',
        )
    if unknown := set(_UNKNOWN.findall(story)) - {name}:
        return Blame(
            what=f"{asked} needs {', '.join(sorted(unknown))}, which is not on the package index",
            way=f"serve {', '.join(sorted(unknown))} from your own package index, or add it to `images.*.wheels`",
        )
    if needed:
        return Blame(
            what=f"{asked} needs {', '.join(sorted(needed))}, which has no wheel for Python {cell.python} on "
            f"{cell.platform}, only sources",
            way=f"serve wheels of {', '.join(sorted(needed))} from your own package index, or drop {name}",
        )
    return Blame(
        what=f"{asked} does not go with torch {cell.torch}: {_short(story)}", way=f"ask for another version of {name}"
    )
