"""The matrix as a table: a row for each version, a column for each accelerator and architecture."""

from __future__ import annotations

from dataclasses import dataclass

from buildctl.matrix.cells import Combination
from buildctl.publish.page.value import PageData, PageImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    accelerator: str
    system: str
    arch: str

    @property
    def platform(self) -> str:
        return f"macOS {self.arch}" if self.system == "macos" else self.arch


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why combinations cannot exist, and what to use instead; `names` share it on one platform."""

    number: int
    names: tuple[str, ...]
    platform: str
    reason: str
    instead: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """`images` that exist there, or the `reason` why none can; `cell` is what the combination would be called."""

    column: Column
    name: str
    images: tuple[PageImage, ...] = ()
    reason: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixRow:
    key: str
    torch: str
    squares: tuple[Square, ...]


def columns(data: PageData) -> tuple[Column, ...]:
    """Those on an accelerator's own system where at least one version exists, or could with another configuration."""
    own = [c for c in data.combinations if str(c.os) == data.systems[c.accelerator]]
    found = dict.fromkeys(Column(accelerator=c.accelerator, system=str(c.os), arch=c.arch) for c in own)
    native = {c for c in found if c.system == "macos" and not any(_is(o, c) and o.exists for o in own)}
    return tuple(c for c in found if c not in native)


def reasons(data: PageData) -> tuple[Reason, ...]:
    """Combinations that share a reason are one, numbered in the order of the matrix."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for c in data.combinations:
        if not c.exists:
            grouped.setdefault((_platform(c), c.reason, c.instead.replace(c.key, "VERSION")), []).append(c.name)
    return tuple(
        Reason(number=number, names=tuple(names), platform=platform, reason=reason, instead=instead)
        for number, ((platform, reason, instead), names) in enumerate(grouped.items(), 1)
    )


def rows(data: PageData) -> tuple[MatrixRow, ...]:
    why, wanted = reasons(data), columns(data)
    torch = {c.key: str(c.torch) for c in data.combinations}
    return tuple(
        MatrixRow(key=key, torch=version, squares=tuple(_square(data, key, column, why) for column in wanted))
        for key, version in torch.items()
    )


def _square(data: PageData, key: str, column: Column, why: tuple[Reason, ...]) -> Square:
    name = f"{column.accelerator}-{key}"
    images = tuple(
        i
        for i in data.images
        if (i.cell.accelerator.name, i.cell.key, i.cell.arch) == (column.accelerator, key, column.arch)
    )
    there = next((c for c in data.combinations if _is(c, column) and c.key == key), None)
    reason = None
    if there is not None and not there.exists:
        reason = next((r for r in why if there.name in r.names and r.platform == _platform(there)), None)
    return Square(column=column, name=name, images=images, reason=reason)


def _is(combination: Combination, column: Column) -> bool:
    return (combination.accelerator, str(combination.os), combination.arch) == (
        column.accelerator,
        column.system,
        column.arch,
    )


def _platform(c: Combination) -> str:
    return f"{'macOS' if str(c.os) == 'macos' else 'Linux'} {c.arch}"
