"""Where the locked artifacts contradict matrix.yaml, or each other: a tag is true only if they agree.

Checked whenever matrix and locks are read together, before anything is resolved, downloaded or built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from buildctl.artifacts.debian.base import pythons
from buildctl.artifacts.debian.package import BaseLock
from buildctl.ground.errors import LockError, ProblemsError, ResolveError
from buildctl.lock.claims import glibc_floor
from buildctl.lock.debian import is_stale, read_base_lock
from buildctl.lock.inside.base_image import ImageLock, read_image_lock
from buildctl.lock.inside.base_image import is_stale as image_is_stale
from buildctl.lock.wheels import LockedWheel
from buildctl.matrix import yamlfile
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import Base, Cell, DebianBase, Flavour
from buildctl.matrix.initial import BASES
from buildctl.matrix.project import Project


def refuse_other_python(project: Project, cells: Iterable[Cell]) -> None:
    """Raises ProblemsError if the current lock of a base of `cells` has a different Python than matrix.yaml asks for.

    Skips a base that is not locked yet: `refuse_python_of` checks it once resolved.
    """
    wanted = dict.fromkeys((c.base, c.flavour, c.arch, c.python) for c in cells if not c.native)
    for base, flavour, arch, python in wanted:
        found = _found(project, base, flavour, arch)
        if found is not None:
            _refuse_python(project, base.name, found, python)


def refuse_python_of(project: Project, lock: BaseLock) -> None:
    """As `refuse_other_python`, for one runtime lock, wherever it comes from, and all images on it."""
    cells = project.matrix.cells
    for python in dict.fromkeys(c.python for c in cells if not c.native and c.base.name == lock.base):
        _refuse_python(project, lock.base, pythons(p.name for p in lock.packages), python)


def _refuse_python(project: Project, base: str, found: Sequence[str], wanted: str) -> None:
    if found == [wanted]:
        return
    others = {other.name: _pythons(project, other) for other in project.matrix.bases if other.name != base}
    fitting = [name for name, versions in others.items() if versions == [wanted]]
    single = len(project.matrix.pythons) == 1
    ways = [f"{'use' if single else 'add'} the base {name} under accelerators" for name in fitting]
    ways += (
        [_without(wanted, found, single=single)]
        if len(found) == 1
        else [f"add python{wanted} to bases.{base}.packages"]
    )
    ways += [] if fitting else [_new_base(wanted)]
    has = {base: found, **{name: versions for name, versions in others.items() if versions}}
    raise _problem(
        project,
        ("python",) if single else ("python", project.matrix.pythons.index(wanted)),
        f"{wanted} is not in the base ({'; '.join(f'{n}: {_named(v)}' for n, v in has.items())})",
        hint="; or ".join(ways),
    )


def _new_base(python: str) -> str:
    if python not in BASES:
        return f"add an image with Python {python} under bases (docs/matrix.md), since no Debian release here has it"
    return f"add a base with debian: {BASES[python][1]}, which has Python {python}"


def refuse_newer_glibc(cell: Cell, wheels: Iterable[LockedWheel], base: BaseLock | ImageLock | None) -> None:
    """Raises ResolveError if a wheel needs a newer C library than the base's locked one, where there is a base."""
    if base is None or (has := glibc_of(base)) is None:
        return
    for wheel in wheels:
        floor = glibc_floor([wheel.filename])
        if floor and tuple(map(int, floor.split("."))) > has:
            raise ResolveError(
                f"{cell.id}: {wheel.filename} needs glibc {floor}, but bases.{base.base} has {_libc(base)}",
                hint=f"use a base with a newer Debian release for {cell.accelerator.name}, "
                f"or an older version of {wheel.name} under packages",
            )


def glibc_of(base: BaseLock | ImageLock) -> tuple[int, int] | None:
    """Of the locked libc6, or of the image; None if the base has none."""
    match = re.match(r"(?:\d+:)?(\d+)\.(\d+)", _libc(base) or "")
    return (int(match[1]), int(match[2])) if match else None


def _libc(base: BaseLock | ImageLock) -> str | None:
    if isinstance(base, ImageLock):
        return base.glibc
    return next((package.version for package in base.packages if package.name == "libc6"), None)


def _without(wanted: str, found: Sequence[str], *, single: bool) -> str:
    return f'set python: "{found[0]}"' if single else f"take {wanted} out of python"


def _named(versions: Sequence[str]) -> str:
    return f"Python {' and '.join(versions)}" if versions else "no Python"


def _pythons(project: Project, base: Base) -> list[str]:
    """Of its runtime lock for any architecture; empty when none is current."""
    return next((found for arch in ARCHES if (found := _found(project, base, Flavour.RUNTIME, arch))), [])


def _found(project: Project, base: Base, flavour: Flavour, arch: str) -> list[str] | None:
    """The Pythons of a base's current lock; None where there is none."""
    if isinstance(base, DebianBase):
        packages = _current(project, base, arch)
        return None if packages is None else pythons(p.name for p in packages.packages)
    try:
        lock = read_image_lock(project.image_lock(base, flavour, arch))
    except LockError:
        return None
    return None if image_is_stale(base, flavour, lock) else [lock.python]


def _current(project: Project, base: DebianBase, arch: str) -> BaseLock | None:
    try:
        lock = read_base_lock(project.base_lock(base, Flavour.RUNTIME, arch))
    except LockError:
        return None
    return None if is_stale(base, lock) else lock


def _problem(project: Project, key: yamlfile.Path, text: str, *, hint: str) -> ProblemsError:
    """With the line, like problems of the file itself."""
    path = project.matrix.path
    document = yamlfile.parse(path.read_text("utf-8"), str(path))
    document.problem(key, text)
    return ProblemsError(document.source, [line for _, line in document.problems], hint=hint)
