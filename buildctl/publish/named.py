"""Names that `buildctl check` takes besides those of claims: flavours, single architectures, globs and tags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from buildctl.ground.errors import UnknownNameError
from buildctl.host.catalogue import Subject, layout_names
from buildctl.lock.claims import Claims
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.publish.tags import TagKind, tags_of

_REPOSITORY = "pytorch:"  # what images are called in Docker


def subjects_named(project: Project, known: Sequence[Subject], name: str, arch: str) -> list[Subject]:
    """What `name` stands for on a host that runs images for `arch`. Raises UnknownNameError, and ImpossibleError with
    the reason for what cannot exist.
    """
    name = name.removeprefix(_REPOSITORY)
    found = {(s.name, c.arch): (s, c) for s in known for c in s.claims}
    there = {cell: found[key] for cell in project.matrix.cells if (key := (cell.name, cell.arch)) in found}
    built = layout_names(project.layout)
    if tagged := _tagged(name, {cell: claims for cell, (_, claims) in there.items()}):
        first = next((cell for cell in tagged if cell.arch == arch), tagged[0])
        subject = replace(there[first][0], name=name, claims=tuple(there[cell][1] for cell in tagged))
        return [replace(subject, image=first.image, built=first.image in built)]
    cells = [cell for cell in project.matrix.select([name]) if cell in there]
    if not cells:
        raise UnknownNameError(f"{name} has no claims yet", hint=f"run `buildctl lock {name}`")
    return [
        replace(
            there[same[0]][0],
            name=name if name == same[0].id else image,
            claims=tuple(there[cell][1] for cell in same),
            image=image,
            built=image in built,
        )
        for image in dict.fromkeys(cell.image for cell in cells)
        if (same := [cell for cell in cells if cell.image == image])
    ]


def unlocked(project: Project, known: Iterable[str]) -> tuple[str, ...]:
    """Names of the matrix that nothing is known about yet."""
    return tuple(dict.fromkeys(cell.name for cell in project.matrix.cells if cell.name not in set(known)))


def _tagged(name: str, claims: Mapping[Cell, Claims]) -> tuple[Cell, ...]:
    """The cells of that tag, with any revision; none if it is also the name of an image."""
    if any(name == cell.image for cell in claims):
        return ()
    tags = tags_of(tuple(claims), {cell.id: one for cell, one in claims.items()})
    fits = [t for t in tags if name == t.stem or (t.kind is TagKind.IMMUTABLE and name.startswith(f"{t.stem}-"))]
    return max(fits, key=lambda t: len(t.stem)).cells if fits else ()
