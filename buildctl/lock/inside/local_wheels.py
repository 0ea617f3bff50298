"""Private wheels (`images.*.wheels` of matrix.yaml): files of the project that are resolved, pinned and installed like
those of an index. They lie in images/, which is the build context, so that Docker finds them too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from buildctl.artifacts.store import Store
from buildctl.artifacts.wheels.wheel import Site, read_wheel
from buildctl.ground.errors import ArtifactError, LockError, ResolveError
from buildctl.ground.scratch import scratch
from buildctl.lock.uv import supported_tags
from buildctl.lock.wheels import LockedWheel, WheelLock
from buildctl.matrix.additions import keys_of
from buildctl.matrix.cells import Cell
from buildctl.matrix.own_files import CONTEXT
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest


@contextmanager
def offered(project: Project, cell: Cell) -> Iterator[Path | None]:
    """A folder that holds the cell's own wheels and nothing else, for uv; None if it has none."""
    if not cell.wheels:
        yield None
        return
    with scratch("wheels") as folder:
        for name in cell.wheels:
            (folder / Path(name).name).symlink_to((project.images / name).resolve())
        yield folder


def refuse_unusable(project: Project, cell: Cell, glibc: tuple[int, int] | None) -> None:
    """Raises ResolveError for a wheel that cannot be read, or a package without a wheel for the cell's Python."""
    where = ", ".join(keys_of(project.matrix.additions, cell.name, "wheels"))
    supported = frozenset(supported_tags(cell.python, cell.platform, glibc))
    files: dict[str, list[str]] = {}
    fitting: set[str] = set()
    for name in cell.wheels:
        package, _, _, tags = parse_wheel_filename(Path(name).name)
        files.setdefault(package, []).append(name)
        if tags & supported:
            fitting.add(package)
            _refuse_damaged(project.images / name, f"{where}: {CONTEXT}/{name}")
    for other in sorted(files.keys() - fitting):
        runs = f"Python {cell.python} on {cell.platform}" + (f" with glibc {glibc[0]}.{glibc[1]}" if glibc else "")
        raise ResolveError(
            f"{cell.name}: {where} has no wheel of {other} for {runs}, only {', '.join(sorted(files[other]))}",
            hint=f"add one that fits, or name the wheels of {other} only for images that they fit",
        )


def _refuse_damaged(path: Path, where: str) -> None:
    try:
        read_wheel(path, filename=path.name, site=Site())
    except (ArtifactError, OSError) as error:
        why = error.message if isinstance(error, ArtifactError) else error.strerror
        raise ResolveError(f"{where} cannot be installed: {why}", hint="build the wheel again") from error


def refuse_others(project: Project, cell: Cell, lock: WheelLock) -> None:
    """Raises ResolveError if a package of the project's own comes from the index."""
    for wheel, files in _own(project, cell, lock):
        if not any(_digest(file) == wheel.digest for file in files):
            raise ResolveError(
                f"{cell.name} on {cell.platform}: {wheel.filename} is not one of images.*.wheels: the index has "
                f"{wheel.name} {wheel.version}, too, with a wheel that fits better",
                hint=f"give the package a name or version that the index does not have, or a wheel for {cell.platform}",
            )


def local_problem(project: Project, cell: Cell, lock: WheelLock) -> str | None:
    """Why the lock no longer matches the project's own wheels; None if it does."""
    for wheel, files in _own(project, cell, lock):
        if not any(_digest(file) == wheel.digest for file in files):
            return f"{wheel.filename} of images.*.wheels changed after it was locked"
    return None


def keep_local(project: Project, cell: Cell, lock: WheelLock, store: Store) -> None:
    """Bring the project's own wheels of a lock into the store. Raises LockError if one changed after it was locked."""
    for wheel, files in _own(project, cell, lock):
        if store.artifact(wheel.digest) is not None:
            continue
        file = next((file for file in files if _digest(file) == wheel.digest), None)
        if file is None:
            raise LockError(
                f"{cell.id}: no {wheel.filename} with SHA-256 {wheel.digest.hex} in images.*.wheels",
                hint="run `buildctl lock`",
            )
        with store.temporary() as temporary:
            shutil.copyfile(file, temporary)
            temporary.rename(store.artifact_path(wheel.digest))


def _own(project: Project, cell: Cell, lock: WheelLock) -> Iterator[tuple[LockedWheel, Sequence[Path]]]:
    """Each wheel of the lock whose package is the project's own, with the files of that name."""
    names = {canonicalize_name(parse_wheel_filename(Path(name).name)[0]) for name in cell.wheels}
    for wheel in lock.wheels:
        if wheel.name in names:
            yield wheel, [project.images / name for name in cell.wheels if Path(name).name == wheel.filename]


def _digest(path: Path) -> Digest | None:
    return Digest.of_file(path) if path.is_file() else None
