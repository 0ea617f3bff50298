"""What `buildctl lock` resolves again, and what it leaves alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildctl.ground.errors import LockError
from buildctl.lock import update as locking
from buildctl.lock.debian import read_base_lock
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import DebianBase, Flavour
from buildctl.matrix.project import Project
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A copy of this one: its claims are written again."""
    shutil.copytree(ROOT / "images", tmp_path / "images")
    shutil.copy(ROOT / "matrix.yaml", tmp_path)
    return Project.find(tmp_path)


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been resolved; nothing is."""
    seen: list[str] = []

    def wheels(_project: Project, cell: Any, *, upgrade: bool) -> Iterator[str]:
        if upgrade:
            seen.append(f"wheels of {cell.name}")
        yield ""

    def base(_project: Project, base: Any, arch: str, *, shipped: bool, record: object = None) -> Iterator[str]:
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
def test_upgrades_reach_as_far_as_they_say(
    project: Project, resolved: list[str], options: dict[str, Any], expected: set[str]
) -> None:
    list(locking.lock_cells(project, project.matrix.select(["cpu-2.6"]), **options))
    assert set(resolved) == expected


@pytest.mark.parametrize(
    ("error", "kept"), [(LockError("refused"), False), (KeyboardInterrupt(), True)], ids=["refused", "Ctrl-C"]
)
def test_what_is_refused_leaves_every_lock_as_it_was(
    error: BaseException,
    kept: bool,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A base that has moved, a new lock and claims that are gone, before an image's own packages are refused."""
    before = {path: path.read_bytes() for path in project.locks()}
    moved = before.keys() & {tmp_path / "images/bases/debian13" / f"runtime.{arch}.packages" for arch in ARCHES}
    gone = tmp_path / "images/cpu-2.6/claims.arm64.json"

    def refused(*_: Any) -> Iterator[str]:
        for path in moved:
            path.write_bytes(b"another state of the archive\n")
        (tmp_path / "images/cpu-2.6/devel.arm64.packages").write_bytes(b"new\n")
        gone.unlink()
        yield "moved"
        raise error

    monkeypatch.setattr(locking, "_lock_added", refused)
    with pytest.raises(type(error)):
        list(locking.lock_cells(project, project.matrix.select(["cpu-2.6"]), upgrade=False))
    assert len(moved) == 2
    assert ({path: path.read_bytes() for path in project.locks()} != before) == kept
    assert ("the locks are as they were before" in capsys.readouterr().err) == (not kept)


def test_a_base_is_unpacked_only_when_a_package_of_it_moved(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (base,) = {cell.base for cell in project.matrix.images_of() if isinstance(cell.base, DebianBase)}
    paths = {flavour: project.base_lock(base, flavour, "arm64") for flavour in (Flavour.RUNTIME, Flavour.DEVEL)}
    texts = {path: path.read_bytes() for path in paths.values()}
    found = {flavour: replace(read_base_lock(path), newest=0) for flavour, path in paths.items()}
    unpacked: list[str] = []
    monkeypatch.setattr(locking, "apt_mirrors", lambda _: {"debian": ("http://mirror.example.invalid/debian",)})
    monkeypatch.setattr(locking, "resolve_base", lambda *_args, **_options: found)
    monkeypatch.setattr(locking, "refuse_unbuildable", lambda _base, locks, _debs: unpacked.extend(map(str, locks)))
    list(locking.renew_base(project, base, "arm64"))
    assert unpacked == []
    assert {path: path.read_bytes() for path in texts} == texts
    first, *others = found[Flavour.DEVEL].packages
    found[Flavour.DEVEL] = replace(found[Flavour.DEVEL], packages=(replace(first, version="99"), *others))
    list(locking.renew_base(project, base, "arm64"))
    assert len(unpacked) == 2
