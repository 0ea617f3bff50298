from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from buildctl.ground.errors import ResolveError
from buildctl.lock.refusal import outdated
from buildctl.lock.refusal.outdated import refuse_outdated
from buildctl.lock.uv import Found
from buildctl.matrix.cells import Cell
from buildctl.matrix.read import parse_matrix

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MATRIX = """\
python: "3.13"
versions: {"2.6": 2.6.0}
packages: [asked, "bounded<2"]
flavours: [runtime]
bases: {debian13: {debian: trixie, packages: [python3]}}
accelerators: {cuda: {arch: [amd64], base: debian13}}
"""


def cell() -> Cell:
    return parse_matrix(MATRIX, Path("matrix.yaml")).cells[0]


def found(name: str, year: int | None) -> Found:
    uploaded = datetime(year, 6, 1, tzinfo=UTC) if year else None
    return Found(
        name=name,
        version="1.0",
        filename=f"{name}-1.0-py3-none-any.whl",
        url="",
        size=1,
        digest=None,
        uploaded=uploaded,
    )


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The packages that have newer releases without a wheel; who asks is added to it."""
    asked: list[str] = []

    def newer_without_wheel(name: str, *_: object) -> bool:
        asked.append(name)
        return True

    monkeypatch.setattr(outdated, "newer_without_wheel", newer_without_wheel)
    return asked


def test_an_old_version_of_what_is_asked_for_is_refused_with_the_way_to_have_it(newer: list[str]) -> None:
    with pytest.raises(ResolveError) as caught:
        refuse_outdated(cell(), [found("asked", 2020)], now=NOW, kept=(), glibc=None)
    assert (
        "the newest wheel of asked (packages) is asked 1.0 of 2020: newer versions have no wheel"
        in caught.value.message
    )
    assert "ask for asked==1.0" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["bounded", "needed"])
def test_of_what_is_bounded_or_needed_it_is_told(newer: list[str], name: str) -> None:
    (note,) = refuse_outdated(cell(), [found(name, 2020)], now=NOW, kept=(), glibc=None)
    assert note == f"{name} 1.0 of 2020 is locked: newer versions have no wheel for Python 3.13 on linux/amd64"


def test_a_lock_that_has_it_stays_as_it_is(newer: list[str]) -> None:
    assert len(refuse_outdated(cell(), [found("asked", 2020)], now=NOW, kept=[("asked", "1.0")], glibc=None)) == 1


@pytest.mark.parametrize(("name", "year"), [("asked", 2025), ("needed", 2024), ("asked", None), ("torch", 2020)])
def test_young_wheels_and_torch_are_not_asked_about(newer: list[str], name: str, year: int | None) -> None:
    assert refuse_outdated(cell(), [found(name, year)], now=NOW, kept=(), glibc=None) == ()
    assert newer == []


def test_an_old_version_that_is_the_newest_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outdated, "newer_without_wheel", lambda *_: False)
    assert refuse_outdated(cell(), [found("asked", 2010)], now=NOW, kept=(), glibc=None) == ()
