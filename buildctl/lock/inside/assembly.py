"""Whether resolved Debian packages can be assembled, found out before their lock is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from buildctl.artifacts.debian.base import check_base
from buildctl.artifacts.debian.deb import Control, made_at, read_control
from buildctl.artifacts.debian.package import BaseLock, DebPackage
from buildctl.artifacts.debian.python import python_packages
from buildctl.artifacts.debian.scripts.commands import UnknownScriptError
from buildctl.artifacts.store import Store
from buildctl.console.log import say
from buildctl.console.progress import open_progress
from buildctl.ground.errors import ArtifactError, LockError, ResolveError
from buildctl.matrix.cells import DebianBase

BELOW_IMAGES = (
    "move that package from the base to `apt` of the images: there `buildctl lock --record-scripts` runs its scripts "
    "once and locks what they do (docs/debian.md)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Debs:
    """Debian packages in the store, fetched if needed."""

    store: Store
    mirrors: Mapping[str, Sequence[str]]

    def fetch(self, packages: Iterable[DebPackage]) -> None:
        missing = {p.digest: p for p in packages if self.store.artifact(p.digest) is None}
        if not missing:
            return
        from buildctl.lock.fetch import fetch_debs  # noqa: PLC0415 - HTTP, only where something is locked

        with open_progress("fetched") as progress:
            fetch_debs(missing.values(), store=self.store, mirrors=self.mirrors, progress=progress)

    def path(self, package: DebPackage) -> Path:
        path = self.store.artifact(package.digest)
        assert path is not None  # noqa: S101 - it was fetched
        return path

    def control(self, package: DebPackage) -> Control:
        return read_control(self.path(package))


def dated(lock: BaseLock, store: Store) -> BaseLock:
    """With the time of its newest package, if all packages are in the store."""
    paths = [store.artifact(package.digest) for package in lock.packages]
    known = [path for path in paths if path is not None]
    return lock if lock.newest or len(known) < len(paths) else replace(lock, newest=max(map(made_at, known), default=0))


def refuse_unbuildable(base: DebianBase, flavours: Sequence[BaseLock], debs: Debs) -> None:
    """`flavours` are the locks of one architecture, the lowest first. Raises ResolveError if no base can be assembled
    from them.
    """
    for number, lock in enumerate(flavours):
        debs.fetch(lock.packages)
        try:
            if not number:
                python_packages(lock)
            for note in check_base(lock, debs.path, below=flavours[:number]):
                say(f"skipped: {note}")
        except (ArtifactError, LockError) as error:
            way_out = BELOW_IMAGES if isinstance(error, UnknownScriptError) else error.hint
            raise ResolveError(
                f"bases.{base.name} ({base.suite}, {lock.flavour}, {lock.arch}) cannot be assembled: {error.message}",
                hint=way_out or "use another Debian release, or other packages for this base",
            ) from error
