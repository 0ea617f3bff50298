"""`buildctl render`: Dockerfiles from templates and locked cells, the scripts that they copy, and a guide to images/.

A Dockerfile is one for all architectures of its name: every function here takes them all (`of_all_architectures`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from buildctl.console.log import say
from buildctl.dockerfile.bake import bake_file
from buildctl.dockerfile.common import COMMON, PYTHON, common_file
from buildctl.dockerfile.constraints import render_constraints
from buildctl.dockerfile.guide import GUIDE, guide
from buildctl.dockerfile.render import drift, render_image
from buildctl.ground.errors import DriftError, LockError
from buildctl.lock.inside.base_image import ImageLock, load_image_lock
from buildctl.lock.locked import LOCKED, LockedCell, created, load_debian
from buildctl.lock.wheels import WheelLock, read_wheel_lock
from buildctl.matrix.cells import Cell, Flavour
from buildctl.matrix.project import BAKE, Project
from buildctl.oci.entry import EPOCH
from buildctl.oci.files import write_whole


def render_images(project: Project, cells: Iterable[LockedCell]) -> Iterator[str]:
    """Write what differs; one line for each file. Everything is rendered before anything is written."""
    for path, text in _render(project, cells).items():
        shown = project.shown(path)
        if not drift(path, text, shown_as=shown):
            yield f"{shown} is up to date"
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
        if path.parent == project.common:
            path.chmod(0o755)
        yield f"{shown} written"


def update_rendered(project: Project, cells: Iterable[LockedCell], *, locked: bool) -> None:
    """Render what differs from templates, matrix and locks; with `locked` refuse instead."""
    if locked:
        refuse_drift(project, cells, LOCKED)
        return
    for line in render_images(project, cells):
        if not line.endswith("is up to date"):
            say(line)


def refuse_drift(project: Project, cells: Iterable[LockedCell], why: str) -> None:
    """Raises DriftError listing every file these cells are built from that would be rendered differently.

    Builds do not read docker-bake.json and images/README.md. `why` begins the sentence: `with --locked`.
    """
    texts = _render(project, cells)
    names = [
        project.shown(path) for path, text in texts.items() if path.name not in {BAKE, GUIDE} and drift(path, text)
    ]
    if names:
        files = "1 rendered file" if len(names) == 1 else f"{len(names)} rendered files"
        raise DriftError(
            f"{why}, {files} would have to change:\n  " + "\n  ".join(names),
            hint="run `buildctl render`; `buildctl render --check` shows the difference",
        )


def check_rendered(project: Project, cells: Iterable[LockedCell]) -> int:
    """How many files were checked. Raises DriftError with the differences."""
    texts = _render(project, cells)
    found = [diff for path, text in texts.items() if (diff := drift(path, text, shown_as=project.shown(path)))]
    if found:
        raise DriftError(
            f"{len(found)} of {len(texts)} files differ from a fresh rendering:\n" + "\n".join(found),
            hint="run `buildctl render` and commit the result; edit templates, not rendered files",
        )
    return len(texts)


def _image(project: Project, cell: Cell) -> ImageLock | None:
    with suppress(LockError):
        return load_image_lock(project, cell)
    return None


def _created(project: Project, cell: Cell, wheels: Mapping[tuple[str, str], WheelLock]) -> int:
    """Also of cells that are not being rendered, as far as they are locked."""
    with suppress(LockError):
        found = wheels.get((cell.name, cell.arch)) or read_wheel_lock(project.wheel_lock(cell.name, cell.arch))
        return created(found, load_debian(project, cell))
    return EPOCH


def _render(project: Project, cells: Iterable[LockedCell]) -> dict[Path, str]:
    cells = tuple(cells)
    wanted = (*COMMON, PYTHON) if any(one.image and not one.image.has_python for one in cells) else COMMON
    texts = {project.common / name: common_file(name).decode() for name in wanted}
    texts[project.images / GUIDE] = guide()
    wheels = {(one.cell.name, one.cell.arch): one.wheels for one in cells}
    texts[project.root / BAKE] = bake_file(
        project.matrix.cells, lambda cell: _image(project, cell), lambda cell: _created(project, cell, wheels)
    )
    names: dict[str, list[LockedCell]] = {}
    for locked in cells:
        if not locked.cell.native and locked.cell.flavour is Flavour.RUNTIME:
            names.setdefault(locked.cell.name, []).append(locked)
    for name, of_name in names.items():
        texts[project.constraints(name)] = render_constraints(name, {one.cell.arch: one.wheels for one in of_name})
        texts[project.dockerfile(name)] = render_image(of_name, project.templates)
    return texts
