"""`buildctl lock`: bring wheel locks and base locks in line with matrix.yaml, or list where they differ."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildctl.artifacts.debian.package import BaseLock
from buildctl.artifacts.store import Store
from buildctl.console.log import say
from buildctl.console.table import counted
from buildctl.ground.errors import FetchError, LockError
from buildctl.lock import debian, debian_added
from buildctl.lock.agreement import glibc_of, refuse_newer_glibc, refuse_other_python, refuse_python_of
from buildctl.lock.apt import instead_of_apt, resolve_base
from buildctl.lock.apt_sources import apt_mirrors
from buildctl.lock.claim_files import derive, stale_claims, write_claims
from buildctl.lock.debian_added import Record
from buildctl.lock.inside import base_image
from buildctl.lock.inside.assembly import Debs, dated, refuse_unbuildable
from buildctl.lock.inside.base_image import ImageLock, lock_image
from buildctl.lock.inside.local_wheels import keep_local, local_problem, offered, refuse_others, refuse_unusable
from buildctl.lock.locked import LOCKED, debian_bases
from buildctl.lock.refusal.unsolvable import explained
from buildctl.lock.uv import NoSolutionError
from buildctl.lock.wheels import changes, is_stale, read_wheel_lock, resolve_wheels, write_wheel_lock
from buildctl.matrix.additions import keys_of
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import Base, Cell, DebianBase, Flavour
from buildctl.matrix.project import Project
from buildctl.oci.files import write_whole


def lock_cells(
    project: Project,
    cells: Sequence[Cell],
    *,
    upgrade: bool,
    upgrade_bases: bool = False,
    record: Record | None = None,
) -> Iterator[str]:
    """Resolve what is missing, malformed or stale, or with `upgrade` everything, with `upgrade_bases` the Debian
    packages below unchanged wheels; one line for each lock. What is refused leaves every lock as it was.

    `record` runs the maintainer scripts that are not understood; without it they are refused.
    """
    with _all_or_nothing(project):
        yield from _lock_all(project, cells, upgrade=upgrade, upgrade_bases=upgrade_bases, record=record)


@contextlib.contextmanager
def _all_or_nothing(project: Project) -> Iterator[None]:
    """Locks of bases, wheels and added packages change together: an error puts all of them back. Ctrl-C does not."""
    before = {path: path.read_bytes() for path in project.locks()}
    try:
        yield
    except Exception:
        now = {path: path.read_bytes() for path in project.locks()}
        for path in now.keys() - before.keys():
            path.unlink()
        for path, data in before.items():
            if now.get(path) != data:
                write_whole(path, data)
        if now != before:
            say("the locks are as they were before")
        raise


def _lock_all(
    project: Project, cells: Sequence[Cell], *, upgrade: bool, upgrade_bases: bool, record: Record | None
) -> Iterator[str]:
    whole = _by_wheel_lock(project, cells)
    renewed = upgrade or upgrade_bases
    if not renewed:
        refuse_other_python(project, cells)
    yield from _lock_bases(project, _bases(project, cells), upgrade=renewed, record=record)  # they decide what fits
    for cell in whole:
        yield from _lock_wheels(project, cell, upgrade=upgrade)
    yield from write_claims(project, whole, Store.default(), again=False)
    yield from _lock_added(project, _added(project, cells), record)


def check_locks(project: Project, cells: Sequence[Cell]) -> int:
    """How many locks were checked. Raises LockError listing all that are missing or stale."""
    refuse_other_python(project, cells)
    problems = [f"{project.shown(path)}: {reason}" for path, reason in stale_locks(project, cells)]
    if problems:
        raise LockError(
            f"{len(problems)} locks are missing or stale:\n  " + "\n  ".join(problems),
            hint="run `buildctl lock` and commit the result",
        )
    return len(_by_wheel_lock(project, cells)) + len(_bases(project, cells)) + len(_added(project, cells))


def stale_locks(project: Project, cells: Iterable[Cell]) -> list[tuple[Path, str]]:
    """Path and reason of every lock that is missing, malformed or does not match the matrix."""
    found: list[tuple[Path, str]] = []
    cells = tuple(cells)
    for cell in _by_wheel_lock(project, cells):
        path = project.wheel_lock(cell.name, cell.arch)
        if reason := _wheel_problem(project, cell):
            found.append((path, reason))
    return found + _stale_debian(project, cells)


def _stale_debian(project: Project, cells: Iterable[Cell]) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    cells = tuple(cells)
    for key in _bases(project, cells):
        if reason := _base_problem(project, key):
            found.append((key.path(project), reason))
    for cell in _added(project, cells):
        if reason := _added_problem(project, cell):
            found.append((project.added_lock(cell), reason))
    return found


def update_locks(project: Project, cells: Sequence[Cell], *, locked: bool) -> None:
    """Update missing or stale locks and claims, as uv does; with `locked` refuse instead."""
    if locked:
        refuse_stale_locks(project, cells, LOCKED)
        return
    refuse_other_python(project, cells)
    if stale := stale_locks(project, cells):
        say(f"updating {counted(len(stale), 'lock')}:\n  {_listed(project, stale)}")
        _tell(lock_cells(project, cells, upgrade=False))
    whole = _by_wheel_lock(project, cells)
    if claims := stale_claims(project, whole):
        say(f"updating {counted(len(claims), 'claims file')}:\n  {_listed(project, claims)}")
        _tell(write_claims(project, whole, Store.default(), again=False))
    _refuse_contradictions(project, cells)


def _refuse_contradictions(project: Project, cells: Sequence[Cell]) -> None:
    """Checks what no single lock shows: the current base below wheels that were locked on another one."""
    refuse_other_python(project, cells)
    for cell in _by_wheel_lock(project, cells):
        lock = read_wheel_lock(project.wheel_lock(cell.name, cell.arch))
        refuse_newer_glibc(cell, lock.wheels, _runtime_below(project, cell))


def refuse_stale_locks(project: Project, cells: Sequence[Cell], why: str) -> None:
    """Raises LockError listing the locks, else the claims files, that do not match matrix.yaml.

    `why` begins the sentence: `with --locked`.
    """
    refuse_other_python(project, cells)
    for what, command, stale in (
        ("locks", "lock", stale_locks(project, cells)),
        ("claims files", "claims", stale_claims(project, _by_wheel_lock(project, cells))),
    ):
        if stale:
            raise LockError(
                f"{why}, {len(stale)} {what} would have to change:\n  {_listed(project, stale)}",
                hint=f"run `buildctl {command}`",
            )
    _refuse_contradictions(project, cells)


def refuse_stale_bases(project: Project, cells: Sequence[Cell], why: str) -> None:
    """As `refuse_stale_locks`, of the Debian packages alone."""
    stale = _stale_debian(project, cells)
    if stale:
        raise LockError(
            f"{why}, {len(stale)} locks would have to change:\n  {_listed(project, stale)}", hint="run `buildctl lock`"
        )


def _listed(project: Project, stale: Sequence[tuple[Path, str]]) -> str:
    return "\n  ".join(f"{project.shown(path)}: {reason}" for path, reason in stale)


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        if not line.endswith("is up to date"):
            say(line)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseKey:
    base: Base
    flavour: Flavour
    arch: str

    def path(self, project: Project) -> Path:
        if isinstance(self.base, DebianBase):
            return project.base_lock(self.base, self.flavour, self.arch)
        return project.image_lock(self.base, self.flavour, self.arch)


def _by_wheel_lock(project: Project, cells: Iterable[Cell]) -> list[Cell]:
    """One cell for each wheel lock, which flavours share, of every architecture: the Dockerfile of a name is one."""
    names = {cell.name for cell in cells}
    return list({(c.name, c.arch): c for c in project.matrix.cells if c.name in names}.values())


def _bases(project: Project, cells: Iterable[Cell]) -> list[BaseKey]:
    """The bases that these cells need, in the order in which they are resolved: devel is on top of runtime.

    Runtime is locked for every architecture, since its Python makes the bytecode on whatever machine builds.
    """
    keys: dict[BaseKey, None] = {}
    for cell in cells:
        if cell.native:
            continue
        for base in debian_bases(project, cell):
            for arch in ARCHES:
                keys[BaseKey(base=base, flavour=Flavour.RUNTIME, arch=arch)] = None
        keys[BaseKey(base=cell.base, flavour=cell.flavour, arch=cell.arch)] = None
    return list(keys)


def _wheel_problem(project: Project, cell: Cell) -> str | None:
    try:
        lock = read_wheel_lock(project.wheel_lock(cell.name, cell.arch))
        return is_stale(cell, lock) or local_problem(project, cell, lock)
    except LockError as error:
        return error.message.removeprefix(f"{project.wheel_lock(cell.name, cell.arch)}").lstrip(": ")


def _lock_wheels(project: Project, cell: Cell, *, upgrade: bool) -> Iterator[str]:
    path = project.wheel_lock(cell.name, cell.arch)
    try:
        old = read_wheel_lock(path)
    except LockError:
        old = None
    if old is not None and not upgrade and not (is_stale(cell, old) or local_problem(project, cell, old)):
        yield f"{project.shown(path)} is up to date"
        return
    from buildctl.lock.refusal.linking import refuse_unlinkable  # ELF: only where something is locked

    say(f"resolving {cell.name} for {cell.platform}")
    runtime = _runtime_below(project, cell)
    glibc = glibc_of(runtime) if runtime else None
    refuse_unusable(project, cell, glibc)
    with offered(project, cell) as links:
        try:
            new = resolve_wheels(cell, keep=None if upgrade else old, glibc=glibc, links=links)
        except NoSolutionError as error:
            raise explained(cell, project.matrix.additions, error, glibc=glibc, links=links) from error
    refuse_others(project, cell, new)
    refuse_newer_glibc(cell, new.wheels, runtime)
    derived = derive(project, cell, Store.default(), again=False, lock=new)  # raises before anything is written
    keep_local(project, cell, new, Store.default())  # the index has none of them
    refuse_unlinkable(cell, new, derived.claims.versions, Store.default())
    write_wheel_lock(path, new)
    yield f"{project.shown(path)}: {len(new.wheels)} wheels"
    yield from (f"  {line}" for line in changes(old, new) if old is not None)


def _runtime_below(project: Project, cell: Cell) -> BaseLock | ImageLock | None:
    """The lock of a cell's base, which is made before its wheels are resolved."""
    if cell.native or not isinstance(cell.base, DebianBase):
        return base_image.load_image_lock(project, cell)
    return debian.read_base_lock(project.base_lock(cell.base, Flavour.RUNTIME, cell.arch))


def _base_problem(project: Project, key: BaseKey) -> str | None:
    path = key.path(project)
    try:
        if isinstance(key.base, DebianBase):
            return debian.is_stale(key.base, debian.read_base_lock(path))
        return base_image.is_stale(key.base, key.flavour, base_image.read_image_lock(path))
    except LockError as error:
        return error.message.removeprefix(str(path)).lstrip(": ")


def _lock_bases(project: Project, keys: Sequence[BaseKey], *, upgrade: bool, record: Record | None) -> Iterator[str]:
    """The flavours of a base on an architecture come from one state of the archive: one stale lock renews them all."""
    groups: dict[tuple[str, str], list[BaseKey]] = {}
    for key in keys:
        groups.setdefault((key.base.name, key.arch), []).append(key)
    for group in groups.values():
        base = group[0].base
        if not upgrade and not any(_base_problem(project, key) for key in group):
            yield from (f"{project.shown(key.path(project))} is up to date" for key in group)
        elif isinstance(base, DebianBase):
            yield from renew_base(project, base, group[0].arch, shipped=not upgrade, record=record)
        else:
            yield from lock_image(project, base, [key.flavour for key in group], group[0].arch)
            refuse_other_python(project, [c for c in project.matrix.cells if not c.native and c.base == base])


def renew_base(
    project: Project, base: DebianBase, arch: str, *, shipped: bool = False, record: Record | None = None
) -> Iterator[str]:
    """Resolve a base again for one architecture and rewrite its locks, and those of images that have Debian packages
    of their own on it; yields which packages moved from what to what. With `shipped`, a machine that cannot resolve
    takes what comes with buildctl.
    """
    yield from _renew_base(project, base, arch, instead_of_apt(base, arch) if shipped else {})
    cells = [c for c in project.matrix.cells if c.apt and c.base == base and c.arch == arch]
    yield from _resolve_groups(project, cells, moving=False, record=record)


def _renew_base(project: Project, base: DebianBase, arch: str, found: Mapping[Flavour, BaseLock]) -> Iterator[str]:
    mirrors: Mapping[str, Sequence[str]] = {}
    if not found:
        say(f"resolving {base.name} ({base.suite}) for {arch}")
        mirrors = dict(apt_mirrors(project.matrix.debian_mirror))
        found = resolve_base(base, arch, mirrors=mirrors)
    refuse_python_of(project, found[Flavour.RUNTIME])
    found = {f: debian.dated_as(project.base_lock(base, f, arch), lock) for f, lock in found.items()}
    flavours = [lock for f, lock in found.items() if f in {Flavour.RUNTIME, *project.matrix.flavours}]
    if mirrors and not all(lock.newest for lock in flavours):  # a minute; what was locked or came along has been built
        refuse_unbuildable(base, flavours, Debs(store=Store.default(), mirrors=mirrors))
    for flavour, new in found.items():
        yield from _write(project, project.base_lock(base, flavour, arch), new)


def _write(project: Project, path: Path, new: BaseLock) -> Iterator[str]:
    try:
        moved = debian.changes(debian.read_base_lock(path), new)
    except LockError:
        moved = []
    debian.write_base_lock(path, dated(new, Store.default()))
    yield f"{project.shown(path)}: {len(new.packages)} packages"
    yield from (f"  {line}" for line in moved)


# ---------------------------------------------------------------------------------- Debian packages of single images


def _added(project: Project, cells: Iterable[Cell]) -> list[Cell]:
    """The cells with Debian packages of their own, for every architecture of their images: a base is one index."""
    wanted = {cell.image for cell in cells if cell.apt}
    return [cell for cell in project.matrix.cells if cell.image in wanted and not cell.native]


def _below(project: Project, cell: Cell) -> tuple[BaseLock, ...]:
    return tuple(debian.read_base_lock(path) for path in project.debian_locks(cell)[:-1])


def _added_problem(project: Project, cell: Cell) -> str | None:
    path = project.added_lock(cell)
    try:
        lock = debian.read_base_lock(path)
        return debian_added.is_stale(cell, lock, _below(project, cell))
    except LockError as error:
        return error.message.removeprefix(str(path)).lstrip(": ")


def _lock_added(project: Project, cells: Sequence[Cell], record: Record | None) -> Iterator[str]:
    stale = [cell for cell in cells if _added_problem(project, cell)]
    yield from (f"{project.shown(project.added_lock(c))} is up to date" for c in cells if c not in stale)
    yield from _resolve_groups(project, stale, moving=True, record=record)


def _resolve_groups(project: Project, cells: Sequence[Cell], *, moving: bool, record: Record | None) -> Iterator[str]:
    """Resolve by base and architecture; with `moving` a base is resolved again if its packages are in the way."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.base.name, cell.arch), []).append(cell)
    for group in groups.values():
        yield from _resolve_added(project, group, moving=moving, record=record)


def _resolve_added(project: Project, cells: Sequence[Cell], *, moving: bool, record: Record | None) -> Iterator[str]:
    base, arch = cells[0].base, cells[0].arch
    assert isinstance(base, DebianBase)  # noqa: S101 - matrix.yaml's reader refuses the others
    say(f"resolving the Debian packages of {', '.join(cell.image for cell in cells)} for {arch}")
    mirrors = dict(apt_mirrors(project.matrix.debian_mirror))
    wanted = [
        debian_added.Wanted(
            cell=cell,
            below=_below(project, cell),
            key=", ".join(keys_of(project.matrix.additions, cell.name, "apt")),
        )
        for cell in cells
    ]
    try:
        debs = Debs(store=Store.default(), mirrors=mirrors)
        debs.fetch(package for want in wanted for lock in want.below for package in lock.packages)
        found = debian_added.resolve_added(wanted, mirrors=mirrors, control=debs.control)
    except (debian_added.BaseMovedError, FetchError) as error:
        if not moving or (isinstance(error, FetchError) and not error.vanished):
            raise
        say(f"{error.message}\nresolving the base again")
        yield from renew_base(project, base, arch, record=record)
        return
    for new in found:
        debs.fetch(new.packages)
    settled, notes = debian_added.settle(wanted, found, debs, olds=_records(project, cells), record=record)
    for note in notes:
        say(f"skipped: {note}")
    for cell, new in zip(cells, settled, strict=True):
        yield from _write(project, project.added_lock(cell), new)


def _records(project: Project, cells: Sequence[Cell]) -> list[BaseLock]:
    """Locks as they are, for what was recorded about the same packages."""
    found = []
    for cell in cells:
        with contextlib.suppress(LockError):
            found.append(debian.read_base_lock(project.added_lock(cell)))
    return found
