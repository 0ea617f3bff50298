"""The rule from cells to tags. Pure: which tags exist, over which cells; `publish` decides where they point.

    2.6.0-cuda12.4-py3.13-amd64-REVISION   one cell, immutable
    2.6.0-cuda12.4-py3.13-REVISION         every architecture of it, immutable
    cuda-2.6, 2.6-cuda12.4                 moving, every architecture
    2.6                                    universal: for each architecture the first accelerator that has it

Another Python than the matrix's first is in each: cuda-2.6-py311, 2.6-cuda12.4-py311, 2.6-py311.
The devel flavour has `-devel` at the end of each: cuda-2.6-devel, 2.6-py311-devel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from buildctl.ground.errors import MatrixError
from buildctl.lock.claims import Claims
from buildctl.matrix.accelerators import public_version
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import Cell, Flavour


class TagKind(StrEnum):
    IMMUTABLE = "immutable"
    MOVING = "moving"
    UNIVERSAL = "universal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """`stem` is the name without revision, `title` what the index is called. `cells` are of different architectures;
    a tag of one cell that is `single` is that cell's manifest, every other one an index.
    """

    stem: str
    kind: TagKind
    title: str
    torch: str
    cells: tuple[Cell, ...]
    single: bool = False

    def name(self, revision: str) -> str:
        return f"{self.stem}-{revision}" if self.kind is TagKind.IMMUTABLE else self.stem


def variant(claims: Claims) -> str:
    """`cuda12.4`, `rocm6.2`, `xpu`; the accelerator's name if torch is not built for a GPU."""
    return claims.kind.text(claims.kind.variant, claims.built_for, claims.accelerator)


def tags_of(cells: Sequence[Cell], claims: Mapping[str, Claims], of: Iterable[str] | None = None) -> tuple[Tag, ...]:
    """All tags over `cells` (the whole matrix, natives left out), in the order in which they may move: first
    immutable, last universal ones. With `of`, those that contain one of these cell ids. `claims` are by cell id.
    """
    images = [cell for cell in cells if not cell.native]
    found = [*_singles(images, claims), *_groups(images, claims), *_universal(images)]
    order = list(TagKind)
    found.sort(key=lambda tag: order.index(tag.kind))
    _check(found)
    wanted = None if of is None else set(of)
    return tuple(tag for tag in found if wanted is None or wanted & {cell.id for cell in tag.cells})


def _singles(cells: Sequence[Cell], claims: Mapping[str, Claims]) -> list[Tag]:
    return [
        Tag(
            stem=f"{_full(cell, claims[cell.id])}-{cell.arch}",
            kind=TagKind.IMMUTABLE,
            title=cell.image,
            torch=public_version(str(cell.torch)),
            cells=(cell,),
            single=True,
        )
        for cell in cells
    ]


def _groups(cells: Sequence[Cell], claims: Mapping[str, Claims]) -> list[Tag]:
    """Cells of one image share a moving tag; those with the same CUDA share the ones that name it."""
    found: list[Tag] = []
    for image in dict.fromkeys(cell.image for cell in cells):
        members = [cell for cell in cells if cell.image == image]
        found.append(_tag(image, TagKind.MOVING, image, members))
        for kind in dict.fromkeys(variant(claims[cell.id]) for cell in members):
            same = [cell for cell in members if variant(claims[cell.id]) == kind]
            found.append(_tag(_full(same[0], claims[same[0].id]), TagKind.IMMUTABLE, image, same))
            found.append(_tag(f"{same[0].key}-{kind}{_end(same[0])}", TagKind.MOVING, image, same))
    return found


def _universal(cells: Sequence[Cell]) -> list[Tag]:
    found: list[Tag] = []
    for stem in dict.fromkeys(f"{cell.key}{_end(cell)}" for cell in cells):
        same = [cell for cell in cells if f"{cell.key}{_end(cell)}" == stem]
        first = [next((cell for cell in same if cell.arch == arch), None) for arch in ARCHES]
        members = [cell for cell in first if cell is not None]
        found.append(_tag(stem, TagKind.UNIVERSAL, stem, members))
    return found


def _tag(stem: str, kind: TagKind, title: str, cells: Sequence[Cell]) -> Tag:
    return Tag(stem=stem, kind=kind, title=title, torch=public_version(str(cells[0].torch)), cells=tuple(cells))


def _full(cell: Cell, claims: Claims) -> str:
    return f"{public_version(str(cell.torch))}-{variant(claims)}-py{cell.python}{_flavour(cell)}"


def _end(cell: Cell) -> str:
    return f"{cell.suffix}{_flavour(cell)}"


def _flavour(cell: Cell) -> str:
    return "" if cell.flavour is Flavour.RUNTIME else f"-{cell.flavour}"


def _check(tags: Sequence[Tag]) -> None:
    seen: dict[tuple[str, bool], Tag] = {}
    for tag in tags:
        other = seen.setdefault((tag.stem, tag.kind is TagKind.IMMUTABLE), tag)
        if other is not tag:
            ids = ", ".join(cell.id for cell in (*other.cells, *tag.cells))
            raise MatrixError(
                f"two tags would be named {tag.stem!r} ({ids})",
                hint="give one of the accelerators another name in matrix.yaml",
            )
