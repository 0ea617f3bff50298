"""Where the locked artifacts contradict matrix.yaml, or each other: a tag is true only if they agree.

Checked whenever matrix and locks are read together, before anything is resolved, downloaded or built.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from buildctl.artifacts.debian.base import pythons
from buildctl.artifacts.debian.package import BaseLock
from buildctl.ground.errors import LockError, MatrixError, ProblemsError, ResolveError
from buildctl.lock.claims import glibc_floor
from buildctl.lock.debian import is_stale, read_base_lock
from buildctl.lock.wheels import LockedWheel
from buildctl.matrix import yamlfile
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import Cell, DebianBase, Flavour, ImageBase
from buildctl.matrix.project import Project
from buildctl.oci.image import ImageConfig


def refuse_other_python(project: Project, cells: Iterable[Cell]) -> None:
    """Raises ProblemsError if the current lock of a base of `cells` has a different Python than matrix.yaml asks for.

    Skips a base that is not locked yet: `refuse_python_of` checks it once resolved.
    """
    wanted = dict.fromkeys((c.base, c.arch, c.python) for c in cells if not c.native and isinstance(c.base, DebianBase))
    for base, arch, python in wanted:
        lock = _current(project, base, arch)
        if lock is not None:
            _refuse_python(project, lock, python)


def refuse_python_of(project: Project, lock: BaseLock) -> None:
    """As `refuse_other_python`, for one runtime lock, wherever it comes from, and all images on it."""
    cells = project.matrix.cells
    for python in dict.fromkeys(c.python for c in cells if not c.native and c.base.name == lock.base):
        _refuse_python(project, lock, python)


def _refuse_python(project: Project, lock: BaseLock, wanted: str) -> None:
    found = pythons(p.name for p in lock.packages)
    if found == [wanted]:
        return
    there = [base for base in project.matrix.bases if isinstance(base, DebianBase) and base.name != lock.base]
    others = {base.name: _pythons(project, base) for base in there}
    fitting = [name for name, versions in others.items() if versions == [wanted]]
    single = len(project.matrix.pythons) == 1
    ways = [f"{'use' if single else 'add'} the base {name} under accelerators" for name in fitting]
    ways += (
        [_without(wanted, found, single=single)]
        if len(found) == 1
        else [f"add python{wanted} to bases.{lock.base}.packages"]
    )
    ways += [] if fitting else [f"add a base whose Debian release has Python {wanted}"]
    has = {lock.base: found, **{name: versions for name, versions in others.items() if versions}}
    raise _problem(
        project,
        ("python",) if single else ("python", project.matrix.pythons.index(wanted)),
        f"{wanted} is not in the base ({'; '.join(f'{n}: {_named(v)}' for n, v in has.items())})",
        hint="; or ".join(ways),
    )


def refuse_newer_glibc(cell: Cell, wheels: Iterable[LockedWheel], runtime: BaseLock) -> None:
    """Raises LockError if a wheel needs a newer C library than the base's locked libc6."""
    libc = next((p.version for p in runtime.packages if p.name == "libc6"), None)
    match = re.match(r"(?:\d+:)?(\d+)\.(\d+)", libc or "")
    if match is None:
        return
    for wheel in wheels:
        floor = glibc_floor([wheel.filename])
        if floor and tuple(map(int, floor.split("."))) > (int(match[1]), int(match[2])):
            raise ResolveError(
                f"{cell.id}: {wheel.filename} needs glibc {floor}, but bases.{runtime.base} has {libc}",
                hint=f"use a base with a newer Debian release for {cell.accelerator.name}, "
                f"or an older version of {wheel.name} under packages",
            )


def refuse_python_in(base: ImageBase, config: ImageConfig, python: str) -> None:
    """Raises MatrixError if a base image declares another Python (PYTHON_VERSION)."""
    said = ".".join(dict(config.env).get("PYTHON_VERSION", "").split(".")[:2])
    if re.fullmatch(r"\d+\.\d+", said) and said != python:
        raise MatrixError(
            f"bases.{base.name}: {base.image} has Python {said} (PYTHON_VERSION), but the matrix asks for {python}",
            hint=f'set python: "{said}", or use an image with Python {python}',
        )


def _without(wanted: str, found: Sequence[str], *, single: bool) -> str:
    return f'set python: "{found[0]}"' if single else f"take {wanted} out of python"


def _named(versions: Sequence[str]) -> str:
    return f"Python {' and '.join(versions)}" if versions else "no Python"


def _pythons(project: Project, base: DebianBase) -> list[str]:
    """Of its runtime lock for any architecture; empty when none is current."""
    for arch in ARCHES:
        if (lock := _current(project, base, arch)) is not None:
            return pythons(p.name for p in lock.packages)
    return []


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
