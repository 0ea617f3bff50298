"""What a locked torch is built for, and whether that is what the accelerator claims to be: the one home of "no CPU
build under a CUDA name", its reverse, and every other claim that a name or a key of matrix.yaml makes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from packaging.version import Version

from buildctl.ground.errors import LockError, ResolveError
from buildctl.matrix.accelerators import CPU, MPS, VENDORS, VERSIONED, AcceleratorKind, agrees, readings, short_version

if TYPE_CHECKING:
    from buildctl.matrix.cells import Accelerator, Cell


class Inside(Protocol):
    """What torch.version says, by kind, as read from torch's wheel."""

    @property
    def said(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """`version` is MAJOR.MINOR, None for a CPU build or if unknown. `seen` is the evidence."""

    kind: AcceleratorKind
    version: str | None = None
    seen: str

    def __str__(self) -> str:
        """`built for CUDA 12.6`, `a CPU build`"""
        return f"built for {self.kind.titled(self.version)}" if self.version else self.kind.build


def build_of(cell: Cell, versions: Mapping[str, str], facts: Inside | None = None) -> Build | None:
    """`versions` are all locked distributions. What is inside torch's wheel (`facts`) decides; without it, the lock
    decides if it can, and None means unknown. Raises LockError if the two contradict each other.
    """
    if cell.native:
        return Build(kind=MPS, seen="a native environment")
    told = _by_version(versions)
    if facts is None:
        return told or _by_runtime(versions) or _by_vendor(versions)
    inside = _inside(facts)
    for locked in (told, _other_runtime(inside, versions)):
        if locked is not None and (locked.kind, locked.version or inside.version) != (inside.kind, inside.version):
            raise ResolveError(
                f"{cell.name}-{cell.arch}: torch's wheel is {inside} ({inside.seen}), the lock says {locked} "
                f"({locked.seen})",
                hint=f"the wheels contradict each other; {_another_index(cell)}",
            )
    return inside


def declared_build(cell: Cell, versions: Mapping[str, str]) -> Build | None:
    """What torch's own version says it is; None if that says nothing. The CUDA of other packages is not torch's."""
    return None if cell.native else _by_version(versions)


def _by_version(versions: Mapping[str, str]) -> Build | None:
    """From torch's local version, as in 2.10.0+cu126."""
    torch = versions["torch"]
    for kind in (*VERSIONED, CPU):
        if kind.local is not None and (match := kind.local.fullmatch(Version(torch).local or "")):
            digits = readings(kind, match[1])[0] if match.groups() else None
            version = short_version(digits) if digits else _runtime(kind, versions)
            return Build(kind=kind, version=version, seen=f"its version is {torch}")
    return None


def _by_runtime(versions: Mapping[str, str]) -> Build | None:
    for kind in VERSIONED:
        if version := _runtime(kind, versions):
            return Build(kind=kind, version=version, seen=f"it needs {_first(kind, versions)} {version}")
    return None


def _other_runtime(inside: Build, versions: Mapping[str, str]) -> Build | None:
    """A runtime of torch's kind that is not of its version, if there is none that is: other packages may bring more."""
    pattern = inside.kind.runtime
    names = [name for name in sorted(versions) if pattern is not None and pattern.fullmatch(name)]
    found = [(name, short_version(versions[name])) for name in names]
    if not found or any(version == inside.version for _, version in found):
        return None
    name, version = found[0]
    return Build(kind=inside.kind, version=version, seen=f"it needs {name} {version}")


def _by_vendor(versions: Mapping[str, str]) -> Build | None:
    """Which kind, of no known version: some package that only its images hold."""
    for kind in VERSIONED:
        if kind.vendor and (found := _of(kind.vendor, versions)):
            return Build(kind=kind, seen=f"it needs {found[0]}")
    return None


def _inside(facts: Inside) -> Build:
    for kind in VERSIONED:
        if text := facts.said.get(kind.name):
            return Build(kind=kind, version=short_version(text), seen=f"torch/version.py has {text}")
    return Build(kind=CPU, seen=f"torch/version.py names no {VENDORS}")


def _first(kind: AcceleratorKind, versions: Mapping[str, str]) -> str | None:
    pattern = kind.runtime
    return next((name for name in sorted(versions) if pattern.fullmatch(name)), None) if pattern is not None else None


def _runtime(kind: AcceleratorKind, versions: Mapping[str, str]) -> str | None:
    name = _first(kind, versions)
    return ".".join(map(str, Version(versions[name]).release[:2])) if name else None


# ------------------------------------------------------------------------------------------------------------ claims


def check_build(cell: Cell, versions: Mapping[str, str], build: Build | None) -> None:
    """A tag must be true. Raises LockError, with the key and line in matrix.yaml, for a torch that contradicts
    the accelerator's name, keys or kind, whatever it is called.
    """
    if cell.native:
        return
    claimed = cell.accelerator
    if build is None:
        build = Build(kind=CPU, seen=f"it needs no {VENDORS} runtime")
    if claimed.kind is not None and build.kind != claimed.kind:
        raise _refused(cell, build, versions)
    for claim in claimed.claims:
        if build.version and not any(agrees(one, build.version) for one in claim.versions):
            raise ResolveError(
                f"{cell.name}-{cell.arch}: {claim.where} claims {build.kind.label} {' or '.join(claim.versions)}, the "
                f"index serves torch {versions['torch']}, which is {build} ({build.seen})",
                hint=f"rename the accelerator or correct the key, or {_another_index(cell)}",
            )
    for kind in VERSIONED:
        if kind.vendor and build.kind != kind and (found := _of(kind.vendor, versions)):
            raise ResolveError(
                f"{cell.name}-{cell.arch}: torch {versions['torch']} is {build}, but other packages bring "
                f"{', '.join(found[:3])}",
                hint=f"drop what needs them, or use an accelerator of kind {kind.name}",
            )


def _refused(cell: Cell, build: Build, versions: Mapping[str, str]) -> LockError:
    kind = cell.accelerator.kind
    assert kind is not None  # noqa: S101 - the caller asked
    return ResolveError(
        f"{cell.name}-{cell.arch}: {cell.accelerator.claimed_by} claims {kind.label}, the index serves torch "
        f"{versions['torch']}, which is {build} ({build.seen}), not {kind.build}",
        hint=f"{_another_index(cell)}, or exclude the combination",
    )


def _another_index(cell: Cell) -> str:
    accelerator: Accelerator = cell.accelerator
    wanted = f" that has {accelerator.kind.label} builds" if accelerator.kind else ""
    if accelerator.index:
        return f"set {accelerator.place('index')} to an index{wanted}"
    return f"set `index` under {accelerator.place()} to one{wanted}"


def _of(vendor: re.Pattern[str], versions: Mapping[str, str]) -> list[str]:
    return sorted(name for name in versions if vendor.fullmatch(name))


def certain_build(cell: Cell, versions: Mapping[str, str], facts: Inside | None = None) -> Build:
    """As `build_of`, checked as `check_build` does, of a known kind and version. Raises LockError."""
    build = build_of(cell, versions, facts)
    check_build(cell, versions, build)
    if build is None:
        if cell.accelerator.kind is None:
            raise _unknown_kind(cell)
        return Build(kind=CPU, seen="the lock")
    if build.kind in VERSIONED and build.version is None:
        raise _unknown_version(cell, build)
    if build.kind.driver_floors is not None and build.kind.driver_floor(build.version) is None:
        raise ResolveError(
            f"{cell.id}: the minimum driver of {build.kind.titled(build.version)} is unknown",
            hint="add it to driver_floors in buildctl/matrix/accelerators.py",
        )
    return build


def _unknown_kind(cell: Cell) -> LockError:
    """For an accelerator whose name claims nothing, with a wheel that tells nothing until it can be read."""
    return ResolveError(
        f"{cell.name}-{cell.arch}: unknown what the locked torch is built for: its wheel has not been "
        f"read, and {cell.accelerator.place()} claims nothing",
        hint=f"add `kind:` there ({', '.join(kind.name for kind in (CPU, *VERSIONED))}), or run `buildctl claims` "
        "where the index is reachable",
    )


def _unknown_version(cell: Cell, build: Build) -> LockError:
    return ResolveError(
        f"{cell.name}-{cell.arch}: unknown which {build.kind.label} the locked torch is built for ({build.seen}): "
        "its wheel has not been read",
        hint="run `buildctl claims` where the index is reachable",
    )
