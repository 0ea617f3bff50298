"""matrix.yaml and what is locked: a Python that no base has, wheels that a base is too old for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.build.planner import Planner
from buildctl.cli.program import cli
from buildctl.ground.errors import BuildctlError, ExitCode, LockError, ProblemsError
from buildctl.lock.agreement import refuse_newer_glibc, refuse_other_python
from buildctl.lock.debian import read_base_lock, write_base_lock
from buildctl.lock.inside.base_image import write_image_lock
from buildctl.lock.update import check_locks, lock_cells, update_locks
from buildctl.lock.wheels import read_wheel_lock
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import Flavour, ImageBase
from buildctl.matrix.project import Project
from buildctl.oci.compression import ZSTD
from tests.support.projects import Small, base_lock, image_lock, small

CELL = "cpu-2.6-arm64"
IMAGE = "add an image with Python 3.12 under bases (docs/matrix.md), since no Debian release here has it"
SECOND = ("  debian13:", "  debian12: {debian: bookworm, packages: [python3]}\n  debian13:")


@pytest.fixture
def project(tmp_path: Path) -> Small:
    return small(tmp_path / "project")


def asking(project: Small, python: str, *edits: tuple[str, str]) -> Project:
    path = project.project.root / "matrix.yaml"
    text = path.read_text().replace('python: "3.13"', f'python: "{python}"')
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return Project.find(path.parent)


def refused(project: Project, *command: str) -> BuildctlError:
    with pytest.raises(BuildctlError) as caught:
        cli.main(["--project", str(project.root), *command], standalone_mode=False)
    return caught.value


@pytest.mark.parametrize(
    "command",
    [
        ("lock",),
        ("lock", "--check"),
        ("build", "--no-load"),
        ("build", "--no-load", "--locked"),
        ("fetch",),
        ("bases",),
        ("publish", "--to", "127.0.0.1:9/p"),
    ],
    ids=" ".join,
)
def test_a_python_that_no_base_has_is_refused_with_key_line_and_the_way_out(
    project: Small, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolved(*_: object, **__: object) -> None:
        raise AssertionError("no wheel is resolved")

    monkeypatch.setattr("buildctl.lock.update.resolve_wheels", resolved)
    changed = asking(project, "3.12")
    error = refused(changed, command[0], "cpu-2.6", *command[1:])
    assert error.exit_code == ExitCode.SETTINGS
    assert error.message == (
        f"{changed.root}/matrix.yaml: 1 problem\n  line 1: python: 3.12 is not in the base (debian13: Python 3.13)"
    )
    assert error.hint == f'set python: "3.13"; or {IMAGE}'


def test_another_base_that_has_it_is_named(project: Small) -> None:
    changed = asking(project, "3.11", SECOND)
    write_base_lock(
        changed.images / "bases/debian12/runtime.arm64.packages",
        base_lock(changed, "arm64", python="3.11", name="debian12"),
    )
    with pytest.raises(ProblemsError, match=r"\(debian13: Python 3.13; debian12: Python 3.11\)") as caught:
        check_locks(changed, changed.matrix.select(["cpu-2.6"]))
    assert caught.value.hint == 'use the base debian12 under accelerators; or set python: "3.13"'


def test_of_several_pythons_the_one_that_no_base_has_is_refused(project: Small) -> None:
    changed = asking(project, "3.13", ('python: "3.13"', 'python: ["3.13", "3.12"]'), SECOND)
    write_base_lock(
        changed.images / "bases/debian12/runtime.arm64.packages",
        base_lock(changed, "arm64", python="3.11", name="debian12"),
    )
    with pytest.raises(ProblemsError) as caught:
        check_locks(changed, changed.matrix.select(["cpu-2.6*"]))
    assert caught.value.problems == (
        "line 1: python[1]: 3.12 is not in the base (debian13: Python 3.13; debian12: Python 3.11)",
    )
    assert caught.value.hint == f"take 3.12 out of python; or {IMAGE}"
    assert check_locks(project.project, project.cells(CELL))


def test_a_base_without_python_is_refused(project: Small) -> None:
    path = project.project.images / "bases/debian13/runtime.arm64.packages"
    lock = read_base_lock(path)
    write_base_lock(path, replace(lock, packages=lock.packages[:1]))
    with pytest.raises(ProblemsError, match=r"3.13 is not in the base \(debian13: no Python\)") as caught:
        update_locks(project.project, project.cells(CELL), locked=True)
    assert caught.value.hint == (
        "add python3.13 to bases.debian13.packages; or add a base with debian: trixie, which has Python 3.13"
    )


def test_a_base_that_is_resolved_now_is_asked_before_its_lock_is_written(
    project: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = asking(project, "3.12", ("packages: [python3]", "packages: [python3, nano]"))
    found = {Flavour.RUNTIME: base_lock(changed, "amd64", python="3.13")}
    monkeypatch.setattr("buildctl.lock.update.resolve_base", lambda *_, **__: found)
    path = changed.images / "bases/debian13/runtime.amd64.packages"
    before = path.read_bytes()
    with pytest.raises(ProblemsError, match=r"debian13: Python 3\.13"):
        list(lock_cells(changed, changed.matrix.select(["cpu-2.6"]), upgrade=False))
    assert path.read_bytes() == before


@pytest.mark.parametrize(("libc", "fits"), [("2.27-8", False), ("2.28-10", True), ("1:2.36-9+deb12u14", True)])
def test_wheels_that_the_base_is_too_old_for_are_refused(project: Small, libc: str, fits: bool) -> None:
    """Those of the fixture are manylinux_2_28."""
    cell = project.cell(CELL)
    lock = base_lock(project.project, "arm64")
    runtime = replace(lock, packages=tuple(replace(p, version=libc) if p.name == "libc6" else p for p in lock.packages))
    wheels = read_wheel_lock(project.project.wheel_lock(cell.name, cell.arch)).wheels
    if fits:
        refuse_newer_glibc(cell, wheels, runtime)
        return
    with pytest.raises(
        LockError, match=r"numpy-2.5.5-py3-none-manylinux_2_28_aarch64.whl needs glibc 2.28, but"
    ) as one:
        refuse_newer_glibc(cell, wheels, runtime)
    assert f"bases.debian13 has {libc}" in one.value.message
    write_base_lock(project.project.images / "bases/debian13/runtime.arm64.packages", runtime)
    with pytest.raises(LockError, match="needs glibc"):
        update_locks(project.project, project.cells(CELL), locked=True)


SLIM = """\
python: "3.13"
versions: {"2.6": 2.6.0}
packages: []
flavours: [runtime]
bases:
  slim: {image: "registry.invalid/python:3"}
  debian13: {debian: trixie, packages: [python3]}
accelerators:
  cpu: {arch: [arm64], base: slim, devices: {}}
"""


@pytest.fixture
def slim(tmp_path: Path) -> Project:
    (tmp_path / "matrix.yaml").write_text(SLIM.replace(*SECOND))
    return Project(tmp_path, tmp_path / "dist")


def test_the_python_that_was_found_in_a_base_image_is_compared(slim: Project) -> None:
    cell = slim.matrix.cells[0]
    assert isinstance(cell.base, ImageBase)
    path = slim.image_lock(cell.base, cell.flavour, "arm64")
    write_image_lock(path, image_lock(slim, "arm64"))
    refuse_other_python(slim, [cell])
    write_image_lock(path, image_lock(slim, "arm64", python="3.12"))
    with pytest.raises(ProblemsError, match=r"python: 3.13 is not in the base \(slim: Python 3.12\)"):
        refuse_other_python(slim, [cell])


def test_bytecode_for_a_base_image_is_made_by_a_debian_base_with_its_python_else_by_itself(slim: Project) -> None:
    """A Python of another version compiles without a word, for itself."""
    cell = slim.matrix.cells[0]
    assert isinstance(cell.base, ImageBase)
    for name, python in (("debian12", "3.11"), ("debian13", "3.13")):
        for arch in ARCHES:
            lock = base_lock(slim, arch, python=python, name=name)
            write_base_lock(slim.images / f"bases/{name}/runtime.{arch}.packages", lock)
    planner = Planner(project=slim, compression=ZSTD)
    assert planner.compiling(cell).base.name == "debian13"
    other = replace(cell, python="3.14")
    with pytest.raises(BuildctlError, match=r"no base with Python 3\.14 for this machine \((amd|arm)64\)"):
        planner.compiling(other)
    for arch in ARCHES:
        write_image_lock(slim.image_lock(cell.base, cell.flavour, arch), image_lock(slim, arch, python="3.14"))
    assert planner.compiling(other).base.name == "slim"
