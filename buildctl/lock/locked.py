"""A cell with everything that is pinned for it. Rendering, building, testing and publishing use this value and read
neither locks nor claims.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from buildctl.artifacts.debian.package import BaseLock
from buildctl.console.log import say
from buildctl.ground.errors import LockError
from buildctl.lock.agreement import refuse_other_python
from buildctl.lock.claims import Claims, claims_of, claims_path, lock_digest, read_claims
from buildctl.lock.debian import read_base_lock
from buildctl.lock.inside.base_image import ImageLock, load_image_lock
from buildctl.lock.wheels import WheelLock, read_wheel_lock
from buildctl.matrix.cells import Cell, DebianBase, Flavour
from buildctl.matrix.project import Project
from buildctl.oci.entry import EPOCH

# How the message begins if something would have to change but must not.
LOCKED = "with --locked"
WANTED = "to match matrix.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedCell:
    """`debian` are the locks of the Debian packages below the wheels, the lowest first; none where the base is an image
    or the cell a native environment. `image` is the lock of a base that is an image. `claims` are the reviewed ones.
    """

    cell: Cell
    wheels: WheelLock
    debian: tuple[BaseLock, ...]
    image: ImageLock | None = None
    claims: Claims

    @property
    def created(self) -> int:
        return created(self.wheels, self.debian)


def created(wheels: WheelLock | None, debian: Iterable[BaseLock]) -> int:
    """When the newest locked package was made or uploaded, in seconds since 1970; it depends only on the locks.
    Packages without a time are left out.
    """
    return max([*([wheels.newest] if wheels else []), *(lock.newest for lock in debian)], default=0) or EPOCH


def load_locked(project: Project, cells: Iterable[Cell]) -> tuple[LockedCell, ...]:
    """In the order of `cells`. Raises LockError for a lock or claims that are missing, malformed or about other wheels,
    ProblemsError for a Python missing from the base.
    """
    cells = tuple(cells)
    refuse_other_python(project, cells)
    wheels: dict[Path, WheelLock] = {}
    claims: dict[Path, Claims] = {}
    debian: dict[Path, BaseLock] = {}
    found = []
    for cell in cells:
        path = project.wheel_lock(cell.name, cell.arch)
        if path not in wheels:  # flavours share it
            wheels[path] = read_wheel_lock(path)
            claims[path] = _claims(project, cell, wheels[path])
        below = () if cell.native else load_debian(project, cell, debian)
        image = load_image_lock(project, cell)
        found.append(LockedCell(cell=cell, wheels=wheels[path], debian=below, image=image, claims=claims[path]))
    return tuple(found)


def load_matrix_images(project: Project) -> dict[str, LockedCell]:
    """Every image of the matrix by cell id: all of them decide which tags there are. Raises as `load_locked`."""
    return {one.cell.id: one for one in load_locked(project, (c for c in project.matrix.cells if not c.native))}


def load_debian(project: Project, cell: Cell, known: dict[Path, BaseLock] | None = None) -> tuple[BaseLock, ...]:
    """The locks below the wheels alone, even for an architecture for which the cell's image does not exist.

    `known` are locks that have been read already. Raises LockError.
    """
    known = {} if known is None else known
    paths = project.debian_locks(cell)
    known |= {path: read_base_lock(path) for path in paths if path not in known}
    return tuple(known[path] for path in paths)


def load_runtime(project: Project, base: DebianBase, arch: str) -> BaseLock:
    """The lock of a base by itself, such as the one whose Python makes the bytecode. Raises LockError."""
    return read_base_lock(project.base_lock(base, Flavour.RUNTIME, arch))


def debian_bases(project: Project, cell: Cell) -> tuple[DebianBase, ...]:
    """The base of a cell; if that is an image, those whose Python may compile its bytecode."""
    if isinstance(cell.base, DebianBase):
        return (cell.base,)
    debian = (base for base in project.matrix.bases if isinstance(base, DebianBase))
    return tuple(base for base in debian if cell.python in (project.pythons_of(base) or (cell.python,)))


def of_all_architectures(project: Project, cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """The runtime cells of the images' names on every architecture: what their Dockerfiles are rendered from."""
    names = {cell.name for cell in cells if not cell.native}
    return tuple(c for c in project.matrix.cells if c.name in names and c.flavour is Flavour.RUNTIME)


def _claims(project: Project, cell: Cell, lock: WheelLock) -> Claims:
    """The reviewed file if there is one, else claims from the lock alone. Raises LockError if the file is stale."""
    path = claims_path(project.images, cell.name, cell.arch)
    if not path.exists():
        say(f"{project.shown(path)} is missing: what is inside torch's wheel is not claimed (run `buildctl claims`)")
        return claims_of(cell, lock)
    claims = read_claims(path)
    torch = lock.wheel("torch")
    inside = claims.facts.wheel if claims.facts and torch else None
    for what, said, locked in (
        ("the lock", claims.lock, lock_digest(lock)),
        ("torch's wheel", inside or "", str(torch.digest) if torch and inside else ""),
    ):
        if said != locked:
            raise LockError(
                f"{project.shown(path)} is about other wheels: {what} is {locked}, the file has {said}",
                hint=f"run `buildctl claims {cell.name}`",
            )
    return claims
