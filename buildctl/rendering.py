"""`buildctl render`: Dockerfiles from templates, matrix and locks, and the scripts that they copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from buildctl.build_docker import BAKE, bake_file
from buildctl.claiming import kept_claims
from buildctl.dockerfile.common import COMMON, common_file
from buildctl.dockerfile.render import drift, render_image
from buildctl.errors import DriftError
from buildctl.lock import read_wheel_lock
from buildctl.locking import LOCKED
from buildctl.log import say
from buildctl.matrix import Cell, Flavour
from buildctl.oci.files import write_whole
from buildctl.project import Project


def render_images(project: Project, cells: Iterable[Cell]) -> Iterator[str]:
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


def update_rendered(project: Project, cells: Iterable[Cell], *, locked: bool) -> None:
    """Render what is not as templates, matrix and locks say; with `locked` refuse instead."""
    if locked:
        refuse_drift(project, cells, LOCKED)
        return
    for line in render_images(project, cells):
        if not line.endswith("is up to date"):
            say(line)


def refuse_drift(project: Project, cells: Iterable[Cell], why: str) -> None:
    """Raises DriftError that names every file these cells are built from, and that would be rendered differently.

    No build reads docker-bake.json. `why` begins the sentence: `with --locked`.
    """
    texts = _render(project, cells)
    names = [project.shown(path) for path, text in texts.items() if path.name != BAKE and drift(path, text)]
    if names:
        files = "1 rendered file" if len(names) == 1 else f"{len(names)} rendered files"
        raise DriftError(
            f"{why}, {files} would have to change:\n  " + "\n  ".join(names),
            hint="run `buildctl render`; `buildctl render --check` shows the difference",
        )


def check_rendered(project: Project, cells: Iterable[Cell]) -> int:
    """How many files were checked. Raises DriftError with the differences."""
    texts = _render(project, cells)
    found = [diff for path, text in texts.items() if (diff := drift(path, text, shown_as=project.shown(path)))]
    if found:
        raise DriftError(
            f"{len(found)} of {len(texts)} files differ from what would be rendered:\n" + "\n".join(found),
            hint="run `buildctl render` and commit the result; edit templates, not what is rendered",
        )
    return len(texts)


def _render(project: Project, cells: Iterable[Cell]) -> dict[Path, str]:
    """Always all architectures of a name: its Dockerfile is one."""
    names = dict.fromkeys(cell.name for cell in cells if not cell.native)
    texts = {project.common / name: common_file(name).decode() for name in COMMON}
    texts[project.root / BAKE] = bake_file(project.matrix.cells)
    for name in names:
        of_name = [c for c in project.matrix.cells if c.name == name and c.flavour is Flavour.RUNTIME]
        locks = {c.arch: read_wheel_lock(project.wheel_lock(name, c.arch)) for c in of_name}
        claims = {c.arch: kept_claims(project, c, locks[c.arch]) for c in of_name}
        texts[project.dockerfile(name)] = render_image(of_name, locks, project.templates, claims=claims)
    return texts
