"""`buildctl lock`: bring the wheel locks and the base locks in line with matrix.yaml, or say where they are not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildctl import lock_debian
from buildctl.claiming import write_claims
from buildctl.errors import LockError
from buildctl.lock import changes, is_stale, read_wheel_lock, resolve_wheels, write_wheel_lock
from buildctl.log import say
from buildctl.matrix import ARCHES, Cell, DebianBase, Flavour
from buildctl.project import Project
from buildctl.store import Store


def lock_cells(project: Project, cells: Sequence[Cell], *, upgrade: bool) -> Iterator[str]:
    """Resolve what is missing, malformed or stale, or with `upgrade` everything; one line for each lock."""
    for cell in _by_wheel_lock(cells):
        yield from _lock_wheels(project, cell, upgrade=upgrade)
    yield from write_claims(project, cells, Store.default(), again=False)
    yield from _lock_bases(project, _bases(cells), upgrade=upgrade)


def check_locks(project: Project, cells: Sequence[Cell]) -> int:
    """How many locks were checked. Raises LockError that lists all that are missing or stale."""
    problems = [f"{project.shown(path)}: {reason}" for path, reason in stale_locks(project, cells)]
    if problems:
        raise LockError(
            f"{len(problems)} locks are missing or stale:\n  " + "\n  ".join(problems),
            hint="run `buildctl lock` and commit the result",
        )
    return len(_by_wheel_lock(cells)) + len(_bases(cells))


def stale_locks(project: Project, cells: Iterable[Cell]) -> list[tuple[Path, str]]:
    """Path and reason of every lock that is missing, malformed or not what the matrix asks for."""
    found: list[tuple[Path, str]] = []
    for cell in _by_wheel_lock(cells):
        path = project.wheel_lock(cell.name, cell.arch)
        if reason := _wheel_problem(project, cell):
            found.append((path, reason))
    for key in _bases(cells):
        if reason := _base_problem(project, key):
            found.append((project.base_lock(key.base, key.flavour, key.arch), reason))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseKey:
    base: DebianBase
    flavour: Flavour
    arch: str


def _by_wheel_lock(cells: Iterable[Cell]) -> list[Cell]:
    """One cell for each wheel lock: flavours share it."""
    return list({(cell.name, cell.arch): cell for cell in cells}.values())


def _bases(cells: Iterable[Cell]) -> list[BaseKey]:
    """The Debian bases that these cells stand on, in the order in which they are resolved: devel stands on runtime.

    Runtime is locked for every architecture, since its Python makes the bytecode on whatever machine builds.
    """
    keys: dict[BaseKey, None] = {}
    for cell in cells:
        if cell.native or not isinstance(cell.base, DebianBase):
            continue
        for arch in ARCHES:
            keys[BaseKey(base=cell.base, flavour=Flavour.RUNTIME, arch=arch)] = None
        keys[BaseKey(base=cell.base, flavour=cell.flavour, arch=cell.arch)] = None
    return list(keys)


def _wheel_problem(project: Project, cell: Cell) -> str | None:
    try:
        return is_stale(cell, read_wheel_lock(project.wheel_lock(cell.name, cell.arch)))
    except LockError as error:
        return error.message.removeprefix(f"{project.wheel_lock(cell.name, cell.arch)}").lstrip(": ")


def _lock_wheels(project: Project, cell: Cell, *, upgrade: bool) -> Iterator[str]:
    path = project.wheel_lock(cell.name, cell.arch)
    try:
        old = read_wheel_lock(path)
    except LockError:
        old = None
    if old is not None and not upgrade and is_stale(cell, old) is None:
        yield f"{project.shown(path)} is up to date"
        return
    say(f"resolving {cell.name} for {cell.platform}")
    new = resolve_wheels(cell, keep=None if upgrade else old)
    write_wheel_lock(path, new)
    yield f"{project.shown(path)}: {len(new.wheels)} wheels"
    yield from (f"  {line}" for line in changes(old, new) if old is not None)


def _base_problem(project: Project, key: BaseKey) -> str | None:
    path = project.base_lock(key.base, key.flavour, key.arch)
    try:
        return lock_debian.is_stale(key.base, lock_debian.read_base_lock(path))
    except LockError as error:
        return error.message.removeprefix(str(path)).lstrip(": ")


def _lock_bases(project: Project, keys: Sequence[BaseKey], *, upgrade: bool) -> Iterator[str]:
    """The flavours of a base on an architecture come from one state of the archive: one stale lock renews them all."""
    groups: dict[tuple[str, str], list[BaseKey]] = {}
    for key in keys:
        groups.setdefault((key.base.name, key.arch), []).append(key)
    for group in groups.values():
        if upgrade or any(_base_problem(project, key) for key in group):
            yield from renew_base(project, group[0].base, group[0].arch)
        else:
            yield from (f"{project.shown(project.base_lock(k.base, k.flavour, k.arch))} is up to date" for k in group)


def renew_base(project: Project, base: DebianBase, arch: str) -> Iterator[str]:
    """Resolve a base anew for one architecture and rewrite its locks; says which packages moved from what to what."""
    from buildctl.apt_sources import apt_mirrors

    say(f"resolving {base.name} ({base.suite}) for {arch}")
    found = lock_debian.resolve_base(base, arch, mirrors=dict(apt_mirrors(project.matrix.debian_mirror)))
    for flavour, new in found.items():
        path = project.base_lock(base, flavour, arch)
        try:
            moved = lock_debian.changes(lock_debian.read_base_lock(path), new)
        except LockError:
            moved = []
        lock_debian.write_base_lock(path, new)
        yield f"{project.shown(path)}: {len(new.packages)} packages"
        yield from (f"  {line}" for line in moved)
