"""`buildctl matrix`: the cells with their state, and the combinations that cannot exist with the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from buildctl.errors import BuildctlError, LayoutError
from buildctl.lock import is_stale, read_wheel_lock
from buildctl.matrix import Cell, Combination
from buildctl.oci.layout import Layout
from buildctl.project import Project
from buildctl.table import table


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
    cells: tuple[CellState, ...]
    impossible: tuple[Combination, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "cells": [state.to_json() for state in self.cells],
            "impossible": [
                {
                    "name": c.name,
                    "platform": f"{'darwin' if c.os == 'macos' else 'linux'}/{c.arch}",
                    "reason": c.reason,
                    "instead": c.instead,
                }
                for c in self.impossible
            ],
        }

    def text(self) -> str:
        rows = [
            (
                state.cell.image,
                state.cell.platform,
                state.torch,
                "native environment" if state.cell.native else "image",
                state.locked,
                state.built.removeprefix("sha256:")[:12] or "-",
                state.tested or "-",
            )
            for state in self.cells
        ]
        out = table(("NAME", "PLATFORM", "TORCH", "KIND", "LOCKED", "BUILT", "TESTED"), rows)
        return out + self._reasons()

    def _reasons(self) -> str:
        """Combinations that share a reason stand together."""
        grouped: dict[tuple[str, str, str], list[str]] = {}
        for c in self.impossible:
            platform = f"{'darwin' if c.os == 'macos' else 'linux'}/{c.arch}"
            instead = c.instead.replace(c.key, "VERSION")
            grouped.setdefault((platform, c.reason, instead), []).append(c.name)
        lines = [
            f"  {', '.join(names)} on {platform}: {reason}\n      instead: {instead}"
            for (platform, reason, instead), names in grouped.items()
        ]
        return "\n\nCannot exist:\n" + "\n".join(lines) if lines else ""


def overview(project: Project, names: Sequence[str], arch: str | None) -> Overview:
    """Raises MatrixError for names that do not exist or cannot exist, with the reason."""
    cells = project.matrix.select(names, arch)
    tags = _tags(project)
    impossible = () if names else tuple(c for c in project.matrix.combinations if not c.exists)
    return Overview(cells=tuple(_state(project, cell, tags) for cell in cells), impossible=impossible)


def _tags(project: Project) -> dict[str, str]:
    try:
        layout = Layout(project.layout)
        return {name: str(layout.resolve(name).digest) for name in layout.names()}
    except LayoutError:
        return {}


def _state(project: Project, cell: Cell, tags: dict[str, str]) -> CellState:
    torch, locked = str(cell.torch), "no"
    try:
        lock = read_wheel_lock(project.wheel_lock(cell.name, cell.arch))
        locked = "stale" if is_stale(cell, lock) else "yes"
        torch = next((w.version for w in lock.wheels if w.name == "torch"), torch)
    except BuildctlError:
        pass
    built = tags.get(cell.id, "")
    return CellState(cell=cell, torch=torch, locked=locked, built=built, tested=_tested(project, cell, built))


def _tested(project: Project, cell: Cell, built: str) -> str:
    """Only a report about exactly the digest that is there counts."""
    try:
        report = json.loads(project.report(cell).read_bytes())
    except (OSError, ValueError):
        return ""
    if not built or report.get("digest") != built:
        return ""
    statuses = [finding.get("status") for finding in report.get("findings", [])]
    if "FAILED" in statuses:
        return "FAILED"
    not_run = statuses.count("NOT RUN")
    return f"PASSED, {not_run} not run" if not_run else "PASSED"
