"""What layers are made from, brought into the store; where Debian no longer has it, the base is locked again, once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from buildctl.artifacts.debian.package import DebPackage
from buildctl.artifacts.debian.python import python_packages
from buildctl.artifacts.store import LayerStore, Store
from buildctl.build.assemble import Recipe
from buildctl.build.planner import Planned, Planner
from buildctl.build.recipes import Compiling, artifacts_of
from buildctl.console.log import say
from buildctl.console.progress import Progress, open_progress
from buildctl.ground.errors import FetchError, LockError
from buildctl.lock.inside.local_wheels import keep_local
from buildctl.lock.locked import LOCKED, LockedCell
from buildctl.lock.update import renew_base
from buildctl.lock.wheels import WheelLock
from buildctl.matrix.cells import Cell, DebianBase
from buildctl.matrix.project import Project
from buildctl.oci.compression import ZSTD
from buildctl.oci.digest import Digest

if TYPE_CHECKING:
    from buildctl.artifacts.download import Download

T = TypeVar("T")
# Downloads are imported where they are used: most builds have little to do.


def fetch_images(project: Project, locked: Sequence[LockedCell]) -> int:
    """Download everything these cells are made from into the store, even if layers exist; returns how many artifacts.

    Raises BuildctlError, among them VanishedDebError.
    """
    store, planner = Store.default(), Planner(project=project, compression=ZSTD)
    planned = [planner.plan(cell) for cell in locked]
    fetch_materials(project, planned, store, None)
    return len({artifact.digest for p in planned for r in p.recipes for artifact in artifacts_of(r)})


class VanishedDebError(FetchError):
    """Debian packages that no mirror has any longer; `bases` are those with locks on them, with the architecture."""

    def __init__(self, error: FetchError, bases: Sequence[tuple[DebianBase, str]]) -> None:
        super().__init__(error.message, hint=error.hint, vanished=True)
        self.bases = tuple(bases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What to download, and from where. `bases` are locks, by base and architecture, with their packages."""

    debs: tuple[Download, ...]
    bases: Mapping[tuple[DebianBase, str], frozenset[Digest]]
    wheels: tuple[Download, ...]


def missing_in(planned: Iterable[Planned], layers: LayerStore | None) -> dict[str, Recipe]:
    """The recipes whose layers are not in `layers`, by key; all recipes if `layers` is None."""
    recipes = {r.key: r for p in planned for r in p.recipes}
    return {key: r for key, r in recipes.items() if layers is None or layers.get(key) is None}


def fetch_materials(project: Project, planned: Sequence[Planned], store: Store, layers: LayerStore | None) -> None:
    """Only what a layer that is missing in `layers` is made from (None: everything); nothing at all, and no network,
    when every layer is there.
    """
    missing = missing_in(planned, layers)
    if not missing:
        return
    from buildctl.artifacts.download import download

    with open_progress("fetched") as progress:
        materials = locate_materials(project, planned, store, missing)
        fetch_debs_of(materials, store, progress)
        download(materials.wheels, store=store, progress=progress)
    for compiling in {p.compiling for p in planned}:
        compiling.prepare(store)


def locate_materials(
    project: Project, planned: Sequence[Planned], store: Store, missing: Mapping[str, Recipe]
) -> Materials:
    """Find what these layers are made from and the store lacks. Asks the package index, but downloads nothing. Raises
    FetchError and LockError for files that no source offers.
    """
    from buildctl.lock.apt_sources import apt_mirrors
    from buildctl.lock.fetch import deb_downloads, wheel_downloads

    bases = _deb_locks(planned, missing)
    packages = {k: d for found in bases.values() for k, d in found.items() if store.artifact(k) is None}
    mirrors = dict(apt_mirrors(project.matrix.debian_mirror)) if packages else {}
    debs = deb_downloads(packages.values(), store=store, mirrors=mirrors)
    for p in planned:
        if p.wheels is not None:
            keep_local(project, p.cell, p.wheels, store)
    wanted = {artifact.digest for recipe in missing.values() for artifact in artifacts_of(recipe)}
    wheels = wheel_downloads(_wanted_locks(planned, wanted), store=store)
    return Materials(debs=tuple(debs), bases={k: frozenset(v) for k, v in bases.items()}, wheels=tuple(wheels))


def fetch_debs_of(materials: Materials, store: Store, progress: Progress) -> None:
    """Raises VanishedDebError for packages that no mirror has, once all others have arrived."""
    from buildctl.artifacts.download import Downloads

    try:
        with Downloads(materials.debs, store=store, progress=progress, all_gone=True) as downloads:
            downloads.wait()
    except FetchError as error:
        if not error.vanished:
            raise
        gone = {item.digest for item in materials.debs if store.artifact(item.digest) is None}
        raise VanishedDebError(error, [base for base, digests in materials.bases.items() if digests & gone]) from error


def _wanted_locks(planned: Sequence[Planned], wanted: set[Digest]) -> list[tuple[Cell, WheelLock]]:
    return [
        (p.cell, replace(p.wheels, wheels=tuple(w for w in p.wheels.wheels if w.digest in wanted)))
        for p in planned
        if p.wheels is not None
    ]


def _deb_locks(
    planned: Sequence[Planned], missing: Mapping[str, Recipe]
) -> dict[tuple[DebianBase, str], dict[Digest, DebPackage]]:
    """The Debian packages of missing layers, and of the Pythons that make bytecode, by the lock they are in."""
    locks: dict[tuple[DebianBase, str], dict[Digest, DebPackage]] = {}
    for p in planned:
        needed = [a for r in p.recipes if r.key in missing for a in artifacts_of(r) if isinstance(a, DebPackage)]
        if needed and isinstance(p.cell.base, DebianBase):
            locks.setdefault((p.cell.base, p.cell.arch), {}).update((d.digest, d) for d in needed)
        if isinstance(p.compiling, Compiling):
            own = {d.digest: d for d in python_packages(p.compiling.lock)}
            locks.setdefault((p.compiling.base, p.compiling.lock.arch), {}).update(own)
    return locks


def renewing(project: Project, work: Callable[[], T], *, locked: bool) -> T:
    """Repeat all steps after locking, on a base that had to be locked again. With `locked` refuse instead."""
    try:
        return work()
    except VanishedDebError as error:
        if locked:
            hint = "run `buildctl lock --upgrade`, or leave out --locked"
            raise LockError(f"{LOCKED}: {error.message}", hint=hint) from error
        say(f"{error.message}\nDebian replaces packages when they are fixed; resolving the base again")
        for base, arch in error.bases:
            for line in renew_base(project, base, arch):
                say(line)
    return work()
