"""The lock of an image's own Debian packages (`apt` under `images` in matrix.yaml): what they add to its base.

apt resolves on top of the packages that the base is locked to. Its lock is next to the image's other locks,
images/NAME/FLAVOUR.ARCH.packages, and its inputs include the base: a changed base makes it stale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from buildctl.artifacts.debian.base import check_scripts
from buildctl.artifacts.debian.deb import Control
from buildctl.artifacts.debian.package import BaseLock, DebPackage, Recorded
from buildctl.artifacts.debian.recorded import binding
from buildctl.artifacts.debian.scripts.commands import UnknownScriptError
from buildctl.ground.errors import ArtifactError, ResolveError, ToolError
from buildctl.ground.scratch import scratch
from buildctl.lock.apt import apt, one_of, parse_uri, private_root, unprovided, update
from buildctl.lock.debian import FORMAT
from buildctl.lock.inside.assembly import Debs
from buildctl.matrix.cells import Cell, DebianBase
from buildctl.oci.digest import Digest
from buildctl.oci.image import canonical_json

# Runs the scripts of a lock's packages on top of the locks below, and tells what they did.
Record = Callable[[BaseLock, Sequence[BaseLock], Callable[[DebPackage], Path]], Recorded]


class BaseMovedError(ResolveError):
    """The packages cannot be added without changing a package locked in the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """`below` are the locks that the cell's packages go on top of, the lowest first; `key` names matrix.yaml's keys."""

    cell: Cell
    below: tuple[BaseLock, ...]
    key: str


def added_name(cell: Cell) -> str:
    """What such a lock calls its base: the cell's base, with the image on it."""
    return f"{cell.base.name}_{cell.name}"


def inputs_of(cell: Cell, below: Sequence[BaseLock]) -> str:
    """The digest of everything that the resolution depends on: the names, and the locked packages of the base."""
    value = {
        "format": FORMAT,
        "apt": sorted(set(cell.apt)),
        "below": [[p.name, p.version, p.architecture] for lock in below for p in lock.packages],
    }
    return str(Digest.of(canonical_json(value)))


def is_stale(cell: Cell, lock: BaseLock, below: Sequence[BaseLock]) -> str | None:
    """Why the lock no longer matches the matrix and the locks of the base; None if it does."""
    name, suite = added_name(cell), below[0].suite
    if (lock.base, lock.suite, lock.flavour) != (name, suite, cell.flavour):
        return f"it is for {lock.base} ({lock.suite}, {lock.flavour}), the matrix has {name} ({suite}, {cell.flavour})"
    if lock.inputs != inputs_of(cell, below):
        return "matrix.yaml (apt) or the lock of the base changed after it was written"
    return None


def resolve_added(
    wanted: Sequence[Wanted],
    *,
    mirrors: Mapping[str, Sequence[str]],
    control: Callable[[DebPackage], Control],
    keyring: Path | None = None,
) -> list[BaseLock]:
    """The locks of cells on one suite and architecture, in their order, from one state of the archive.

    `control` reads the control archive of a package of the base. Raises LockError as `resolve_base` does, and
    BaseMovedError.
    """
    base, arch = wanted[0].cell.base, wanted[0].cell.arch
    assert isinstance(base, DebianBase)  # noqa: S101 - matrix.yaml's reader refuses the others
    known: dict[tuple[tuple[str, ...], tuple[BaseLock, ...]], tuple[DebPackage, ...]] = {}
    with scratch("apt") as folder:
        root = Path(folder)
        sources = private_root(root, base.suite, arch, mirrors, keyring)
        update(root, base.suite)
        for want in wanted:
            question = (want.cell.apt, want.below)
            if question not in known:
                (root / "status").write_text(_status(want.below, control), encoding="utf-8")
                known[question] = _packages(root, sources, want)
    return [
        BaseLock(
            base=added_name(want.cell),
            flavour=str(want.cell.flavour),
            arch=arch,
            suite=base.suite,
            inputs=inputs_of(want.cell, want.below),
            packages=known[want.cell.apt, want.below],
        )
        for want in wanted
    ]


def _status(below: Sequence[BaseLock], control: Callable[[DebPackage], Control]) -> str:
    """The base as dpkg would list it: all installed."""
    stanzas = []
    for package in (package for lock in below for package in lock.packages):
        fields = {k: v for k, v in control(package).fields.items() if k != "Description"}
        lines = [f"Package: {fields.pop('Package')}", "Status: install ok installed"]
        stanzas.append("".join(f"{line}\n" for line in [*lines, *(f"{k}: {v}" for k, v in fields.items())]))
    return "\n".join(stanzas)


def _packages(root: Path, sources: Mapping[str, str], want: Wanted) -> tuple[DebPackage, ...]:
    names = sorted(set(want.cell.apt))
    what = f"{want.key} ({want.cell.image}, {want.cell.arch})"
    try:
        out = apt(["apt-get", "install", "--print-uris", "--no-remove", "-qq", "--", *names], root)
    except ToolError as error:
        if "remove is disabled" in error.message:
            raise BaseMovedError(f"{what}: {', '.join(names)} would remove packages of the base") from error
        message = f"{what}: apt cannot resolve the packages: {error.message}"
        raise ResolveError(message, hint=one_of(error, root)) from error
    packages = [parse_uri(line, sources) for line in out.splitlines() if line.startswith("'")]
    there = {p.name: p.version for lock in want.below for p in lock.packages}
    # apt reads an unknown name as a pattern, or as something that another package provides
    taken = there.keys() | {p.name for p in packages}
    if unknown := unprovided(set(names) - taken, taken, root, what):
        raise ResolveError(
            f"{what}: no such package in {want.below[0].suite}: {', '.join(unknown)}",
            hint=f"names are as in apt: `apt-cache search NAME` on Debian {want.below[0].suite}",
        )
    if moved := [f"{p.name} {there[p.name]} -> {p.version}" for p in packages if p.name in there]:
        raise BaseMovedError(f"{what}: {', '.join(names)} needs newer packages in the base: {', '.join(moved)}")
    return tuple(sorted(packages, key=lambda p: p.name))


def settle(
    wanted: Sequence[Wanted],
    found: Sequence[BaseLock],
    debs: Debs,
    *,
    olds: Sequence[BaseLock] = (),
    record: Record | None = None,
) -> tuple[list[BaseLock], tuple[str, ...]]:
    """The locks with what is recorded of scripts that are not understood; and what is skipped, for people.

    A record of `olds` about the same packages stays. Raises ResolveError for scripts that are not understood, without
    `record`, and for packages that do not go together.
    """
    known = {binding(old): old.recorded for old in olds if old.recorded is not None}
    notes: dict[str, None] = {}
    settled = []
    checked: dict[tuple[DebPackage, ...], Recorded | None] = {}
    for want, new in zip(wanted, found, strict=True):
        key = (*new.packages, *(package for lock in want.below for package in lock.packages))
        if key not in checked:
            debs.fetch(new.packages)
            try:
                checked[key], skipped = _checked(want, new, debs, known.get(binding(new)), record)
            except (ArtifactError, ResolveError) as error:
                where = f"{want.key} ({want.cell.image}, {new.arch})"
                raise ResolveError(f"{where}: {error.message}", hint=error.hint) from error
            notes |= dict.fromkeys(skipped)
        settled.append(replace(new, recorded=checked[key]))
    return settled, tuple(notes)


def _checked(
    want: Wanted, new: BaseLock, debs: Debs, old: Recorded | None, record: Record | None
) -> tuple[Recorded | None, tuple[str, ...]]:
    try:
        return None, check_scripts(new, debs.path, below=want.below)
    except UnknownScriptError:
        recorded = old if old or record is None else record(new, want.below, debs.path)
        if recorded is None:
            raise
    return recorded, check_scripts(replace(new, recorded=recorded), debs.path, below=want.below)
