"""`buildctl render`: Dockerfiles from templates, matrix and locks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from buildctl.dockerfile.render import drift, render_image
from buildctl.errors import DriftError
from buildctl.lock import read_wheel_lock
from buildctl.matrix import Cell, Flavour
from buildctl.oci.files import write_whole
from buildctl.project import Project


def render_images(project: Project, cells: Iterable[Cell]) -> Iterator[str]:
    """Write what differs; one line for each Dockerfile. Everything is rendered before anything is written."""
    texts = _render(project, cells)
    for name, text in texts.items():
        path = project.dockerfile(name)
        shown = project.shown(path)
        if not drift(path, text, shown_as=shown):
            yield f"{shown} is up to date"
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
        yield f"{shown} written"


def check_rendered(project: Project, cells: Iterable[Cell]) -> int:
    """How many Dockerfiles were checked. Raises DriftError with the differences."""
    texts = _render(project, cells)
    found = {
        name: diff
        for name, text in texts.items()
        if (diff := drift(project.dockerfile(name), text, shown_as=f"images/{name}/Dockerfile"))
    }
    if found:
        raise DriftError(
            f"{len(found)} of {len(texts)} Dockerfiles differ from what would be rendered:\n"
            + "\n".join(found.values()),
            hint=f"run `buildctl render {' '.join(found)}` and commit the result; edit templates, not Dockerfiles",
        )
    return len(texts)


def drifted(project: Project, cells: Iterable[Cell]) -> tuple[str, ...]:
    """Names whose Dockerfile on disk is not what would be rendered."""
    texts = _render(project, cells)
    return tuple(n for n, text in texts.items() if drift(project.dockerfile(n), text, shown_as=n))


def _render(project: Project, cells: Iterable[Cell]) -> dict[str, str]:
    """Always all architectures of a name: its Dockerfile is one."""
    names = dict.fromkeys(cell.name for cell in cells if not cell.native)
    texts: dict[str, str] = {}
    for name in names:
        of_name = [c for c in project.matrix.cells if c.name == name and c.flavour is Flavour.RUNTIME]
        locks = {c.arch: read_wheel_lock(project.wheel_lock(name, c.arch)) for c in of_name}
        texts[name] = render_image(of_name, locks, project.templates)
    return texts
