"""What `buildctl lock` resolves again, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from buildctl.lock import update as locking
from buildctl.matrix.project import Project
from tests.conftest import ROOT


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been resolved; nothing is, and nothing is written."""
    seen: list[str] = []

    def wheels(_project: Project, cell: Any, *, upgrade: bool) -> Iterator[str]:
        if upgrade:
            seen.append(f"wheels of {cell.name}")
        yield ""

    def base(_project: Project, base: Any, arch: str) -> Iterator[str]:
        seen.append(f"{base.name} for {arch}")
        yield ""

    monkeypatch.setattr(locking, "_lock_wheels", wheels)
    monkeypatch.setattr(locking, "renew_base", base)
    return seen


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"upgrade": False}, set()),
        ({"upgrade": False, "upgrade_bases": True}, {"debian13 for amd64", "debian13 for arm64"}),
        ({"upgrade": True}, {"wheels of cpu-2.6", "debian13 for amd64", "debian13 for arm64"}),
    ],
)
def test_upgrades_reach_as_far_as_they_say(resolved: list[str], options: dict[str, bool], expected: set[str]) -> None:
    project = Project.find(ROOT)
    list(locking.lock_cells(project, project.matrix.select(["cpu-2.6"]), **options))
    assert set(resolved) == expected
