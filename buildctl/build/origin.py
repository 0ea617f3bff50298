"""What an image in the layout was built from: digests of its Dockerfile, scripts and locks, in a file next to it.

It is not part of the image. It tells publish and test whether a build was forgotten: an image keeps
its name even if the files have changed since.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from buildctl.ground.jsontext import parse_json
from buildctl.matrix.cells import Cell, ImageBase
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.files import keep_whole, translated

ORIGINS = "origins"  # the folder in the layout


def note_origin(project: Project, cell: Cell, image: Digest) -> None:
    """The image was built now, from the current files."""
    _write(project, cell, image, _inputs(project, cell))


def note_rebased(project: Project, cell: Cell, before: Digest, after: Digest) -> None:
    """`after` is `before` on another base: with the Debian packages locked now, otherwise unchanged."""
    known = _read(project, cell)
    if known is not None and known[0] == str(before):
        debian = {project.shown(path) for path in project.debian_locks(cell)}
        now = {name: digest for name, digest in _inputs(project, cell).items() if name in debian}
        _write(project, cell, after, {**known[1], **now})


def outdated(project: Project, cell: Cell, image: Digest) -> str | None:
    """Why the image no longer matches the project's files; None if it does or if its origin is unknown."""
    known = _read(project, cell)
    if known is None or known[0] != str(image):
        return None
    now = _inputs(project, cell)
    changed = sorted(name for name in now.keys() | known[1].keys() if now.get(name) != known[1].get(name))
    return f"it was built before {', '.join(changed)} changed" if changed else None


def _inputs(project: Project, cell: Cell) -> dict[str, str]:
    """Digest by shown path."""
    wheels = project.wheel_lock(cell.name, cell.arch)
    files = (project.dockerfile(cell.name), *sorted(project.common.glob("*")), wheels, *project.debian_locks(cell))
    if isinstance(cell.base, ImageBase):
        files = (*files, project.image_lock(cell.base, cell.flavour, cell.arch))
    own = (project.images / source for source, _ in cell.files)
    files = (*files, *(f for path in own for f in ([path] if path.is_file() else sorted(path.rglob("*")))))
    return dict(_digests(project, files))


def _digests(project: Project, files: Iterable[Path]) -> Iterable[tuple[str, str]]:
    for path in files:
        with suppress(OSError):
            yield project.shown(path), str(Digest.of_file(path))


def _path(project: Project, cell: Cell) -> Path:
    return project.layout / ORIGINS / f"{cell.id}.json"


def _write(project: Project, cell: Cell, image: Digest, inputs: Mapping[str, str]) -> None:
    path = _path(project, cell)
    with translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_whole(path, json.dumps({"image": str(image), "inputs": dict(inputs)}, indent=1).encode() + b"\n")


def _read(project: Project, cell: Cell) -> tuple[str, Mapping[str, str]] | None:
    """Image and inputs. A damaged file counts as missing."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        value = parse_json(_path(project, cell).read_bytes())
        if isinstance(value["inputs"], dict):
            return str(value["image"]), value["inputs"]
    return None
