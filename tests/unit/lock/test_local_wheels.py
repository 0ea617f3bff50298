from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.artifacts.store import Store
from buildctl.ground.errors import LockError, ResolveError
from buildctl.lock.inside.local_wheels import keep_local, local_problem, offered, refuse_others, refuse_unusable
from buildctl.lock.wheels import LockedWheel, WheelLock
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from tests.support.projects import small, wheel_lock
from tests.support.servers import wheel

NAME = "our_lib-1.0-py3-none-any.whl"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    found = small(tmp_path / "project").project
    (found.images / "wheels").mkdir()
    (found.images / "wheels" / NAME).write_bytes(b"ours")
    (found.images / "wheels" / "other-1.0-py3-none-any.whl").write_bytes(b"not asked for")
    with (found.root / "matrix.yaml").open("a") as file:
        file.write(f"images: {{cpu-2.6: {{wheels: [wheels/{NAME}]}}}}\n")
    return Project.find(found.root)


@pytest.fixture
def cell(project: Project) -> Cell:
    return project.matrix.select(["cpu-2.6"])[0]


@pytest.fixture
def lock(cell: Cell) -> WheelLock:
    own = LockedWheel(name="our-lib", version="1.0", filename=NAME, size=4, digest=Digest.of(b"ours"))
    found = wheel_lock(cell)
    return replace(found, wheels=(own, *found.wheels))


def test_uv_is_offered_only_what_was_asked_for(project: Project, cell: Cell) -> None:
    with offered(project, cell) as folder:
        assert folder is not None
        assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [(NAME, b"ours")]
    with offered(project, project.matrix.select(["cuda-2.6"])[0]) as folder:
        assert folder is None


def test_a_wheel_that_changed_makes_the_lock_stale(project: Project, cell: Cell, lock: WheelLock) -> None:
    assert local_problem(project, cell, lock) is None
    (project.images / "wheels" / NAME).write_bytes(b"ours, again")
    assert local_problem(project, cell, lock) == f"{NAME} of images.*.wheels changed after it was locked"


def test_an_index_with_the_same_package_is_not_taken_for_it(project: Project, cell: Cell, lock: WheelLock) -> None:
    refuse_others(project, cell, lock)
    theirs = replace(lock.wheels[0], filename="our_lib-1.0-cp313-cp313-manylinux_2_28_aarch64.whl")
    with pytest.raises(ResolveError, match="is not one of images"):
        refuse_others(project, cell, replace(lock, wheels=(theirs, *lock.wheels[1:])))
    same_name = replace(lock.wheels[0], digest=Digest.of(b"theirs"))
    with pytest.raises(ResolveError, match="is not one of images"):
        refuse_others(project, cell, replace(lock, wheels=(same_name, *lock.wheels[1:])))


def test_it_is_in_the_store_without_being_downloaded(
    project: Project, cell: Cell, lock: WheelLock, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    keep_local(project, cell, lock, store)
    kept = store.artifact(Digest.of(b"ours"))
    assert kept is not None
    assert kept.read_bytes() == b"ours"
    (project.images / "wheels" / NAME).unlink()
    keep_local(project, cell, lock, store)
    with pytest.raises(LockError, match=rf"no {NAME} with SHA-256 \w+ in images"):
        keep_local(project, cell, lock, Store(tmp_path / "another"))


@pytest.mark.parametrize(
    ("tag", "glibc"),
    [
        ("cp311-cp311-linux_aarch64", (2, 41)),
        ("cp313-cp313-linux_x86_64", (2, 41)),
        ("cp313-cp313-macosx_11_0_arm64", (2, 41)),
        ("cp313-cp313-manylinux_2_39_aarch64", (2, 36)),
        ("cp313-cp313-musllinux_1_2_aarch64", None),
    ],
)
def test_a_wheel_that_does_not_fit_the_cell_is_refused_by_its_key(
    project: Project, cell: Cell, tag: str, glibc: tuple[int, int] | None
) -> None:
    name = f"wheels/our_lib-1.0-{tag}.whl"
    with pytest.raises(
        ResolveError, match=r'images\["cpu-2\.6"\]\.wheels has no wheel of our-lib for Python 3\.13 on linux/arm64'
    ):
        refuse_unusable(project, replace(cell, wheels=(name,)), glibc)
    fitting = "our_lib-1.0-cp313-cp313-manylinux_2_28_aarch64.whl"
    (project.images / "wheels" / fitting).write_bytes(wheel(fitting))
    refuse_unusable(project, replace(cell, wheels=(name, f"wheels/{fitting}")), glibc)


@pytest.mark.parametrize("data", [b"", b"no zip", wheel("another-1.0-py3-none-any.whl")])
def test_a_file_that_is_not_that_wheel_is_refused(project: Project, cell: Cell, data: bytes) -> None:
    (project.images / "wheels" / NAME).write_bytes(data)
    with pytest.raises(ResolveError, match=rf"images/wheels/{NAME} cannot be installed: {NAME}: "):
        refuse_unusable(project, cell, (2, 41))
