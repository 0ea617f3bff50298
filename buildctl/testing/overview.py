"""`buildctl matrix`: the cells with their state, and the combinations that cannot exist with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from buildctl.console.table import folded, wrapped
from buildctl.ground.clock import now
from buildctl.ground.errors import BuildctlError, LayoutError
from buildctl.lock.locked import load_locked
from buildctl.lock.update import stale_locks
from buildctl.matrix.cells import Cell, Combination, ImageBase
from buildctl.matrix.explain import MatrixSetting, settings
from buildctl.matrix.project import Project
from buildctl.oci.layout import Layout
from buildctl.testing.debt import Debt, debt_text, debts
from buildctl.testing.kept import built_digest
from buildctl.testing.merge import read_report
from buildctl.testing.probes.known import known_findings
from buildctl.testing.report import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class CellState:
    """`locked` is yes, stale or no; `built` the manifest digest; `tested` PASSED, FAILED, NOT RUN or empty."""

    cell: Cell
    torch: str
    locked: str
    built: str
    tested: str

    def to_json(self) -> dict[str, Any]:
        cell = self.cell
        return {
            "id": cell.id,
            "image": cell.image,
            "name": cell.name,
            "flavour": str(cell.flavour),
            "accelerator": cell.accelerator.name,
            "arch": cell.arch,
            "platform": cell.platform,
            "native": cell.native,
            "torch": self.torch,
            "python": cell.python,
            "locked": self.locked,
            "built": self.built or None,
            "tested": self.tested or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """`debt` is what never ran, or not on what is there now; its ages are those at `now`."""

    cells: tuple[CellState, ...]
    impossible: tuple[Combination, ...]
    debt: tuple[Debt, ...]
    now: datetime

    def to_json(self) -> dict[str, Any]:
        return {
            "cells": [state.to_json() for state in self.cells],
            "jobs": _jobs(self.cells),
            "impossible": [
                {
                    "name": c.name,
                    "platform": f"{'darwin' if c.os == 'macos' else 'linux'}/{c.arch}",
                    "reason": c.reason,
                    "instead": c.instead,
                }
                for c in self.impossible
            ],
            "debt": [debt.to_json(self.now) for debt in self.debt],
        }

    def text(self) -> str:
        rows = [
            (
                state.cell.image,
                state.cell.platform,
                state.torch,
                state.locked,
                "native" if state.cell.native else state.built.removeprefix("sha256:")[:12] or "-",
                state.tested or "-",
            )
            for state in self.cells
        ]
        out = folded(("NAME", "PLATFORM", "TORCH", "LOCKED", "BUILT", "TESTED"), rows)
        debt = debt_text(self.debt, self.now)
        return out + (f"\n\nDebt, because NOT RUN is not PASSED:\n{debt}" if debt else "") + self._reasons()

    def _reasons(self) -> str:
        """Combinations that share a reason stand together."""
        grouped: dict[tuple[str, str, str], list[str]] = {}
        for c in self.impossible:
            platform = f"{'darwin' if c.os == 'macos' else 'linux'}/{c.arch}"
            instead = c.instead.replace(f"{c.key}{c.suffix}", "VERSION")
            grouped.setdefault((platform, c.reason, instead), []).append(c.name)
        lines = [
            line
            for (platform, reason, instead), names in grouped.items()
            for line in (
                *wrapped("  ", f"{', '.join(names)} on {platform}: {reason}"),
                *wrapped("      instead: ", instead),
            )
        ]
        return "\n\nCannot exist:\n" + "\n".join(lines) if lines else ""


def _jobs(cells: Sequence[CellState]) -> list[dict[str, str]]:
    """One for each image name and architecture: flavours share every layer but the base's, one machine makes both."""
    found: dict[tuple[str, str], list[str]] = {}
    for state in cells:
        if not state.cell.native:
            found.setdefault((state.cell.name, state.cell.arch), []).append(state.cell.image)
    return [{"name": name, "arch": arch, "images": " ".join(images)} for (name, arch), images in found.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    settings: tuple[MatrixSetting, ...]

    def to_json(self) -> dict[str, Any]:
        return {"settings": [setting.to_json() for setting in self.settings]}

    def text(self) -> str:
        rows = [(setting.key, setting.source, setting.shown()) for setting in self.settings]
        return folded(("KEY", "FROM", "VALUE"), rows)


def explained(project: Project) -> Explained:
    _ = project.matrix  # every problem of it, not only what a schema can find
    return Explained(settings=settings(project.matrix.path))


def overview(project: Project, names: Sequence[str], arch: str | None) -> Overview:
    """Raises MatrixError for names that do not exist or cannot exist, with the reason."""
    cells = project.matrix.select(names, arch)
    project.matrix.publish.check(known_findings(), str(project.matrix.path))
    tags = _tags(project)
    debt = [debt for cell in cells for debt in debts(project, cell, built_digest(project, cell))]
    impossible = () if names else tuple(c for c in project.matrix.combinations if not c.exists)
    stale = {path for path, _ in stale_locks(project, cells)}
    states = tuple(_state(project, cell, tags, stale) for cell in cells)
    return Overview(cells=states, impossible=impossible, debt=tuple(debt), now=now())


def _tags(project: Project) -> dict[str, str]:
    try:
        layout = Layout(project.layout)
        return {name: str(layout.resolve(name).digest) for name in layout.names()}
    except LayoutError:
        return {}


def _state(project: Project, cell: Cell, tags: dict[str, str], stale: AbstractSet[Path]) -> CellState:
    torch, wheels = str(cell.torch), project.wheel_lock(cell.name, cell.arch)
    wanted = {wheels, *(() if cell.native else project.debian_locks(cell))}
    if not cell.native and isinstance(cell.base, ImageBase):
        wanted.add(project.image_lock(cell.base, cell.flavour, cell.arch))
    locked = "stale" if wanted & stale else "yes"
    if not all(path.is_file() for path in wanted):
        locked = "no"
    with suppress(BuildctlError):
        torch = load_locked(project, [cell])[0].claims.torch
    built = tags.get(cell.id, "")
    return CellState(cell=cell, torch=torch, locked=locked, built=built, tested=_tested(project, cell, built))


def _tested(project: Project, cell: Cell, built: str) -> str:
    """Only a report about exactly the digest that is there counts."""
    try:
        report = read_report(project.report(cell))
    except BuildctlError:
        return ""
    digest = built or (str(built_digest(project, cell)) if cell.native else "")
    if report is None or str(report.digest) != digest:
        return ""
    not_run = report.count(Status.NOT_RUN)
    passed = report.verdict is Status.PASSED and not_run
    return f"PASSED, {not_run} not run" if passed else str(report.verdict)
