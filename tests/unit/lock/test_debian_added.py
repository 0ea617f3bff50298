"""An image's own Debian packages in a project: which locks, which bases, which labels."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.artifacts.debian.package import BaseLock, Recorded, RecordedChange
from buildctl.artifacts.store import Store
from buildctl.build.assembler import bases_under
from buildctl.build.recipes import Compiling, debian_base
from buildctl.dockerfile.bake import bake_file
from buildctl.dockerfile.files import render_images
from buildctl.ground.errors import LockError, ResolveError
from buildctl.lock.debian import read_base_lock, write_base_lock
from buildctl.lock.debian_added import Wanted, added_name, inputs_of, settle
from buildctl.lock.inside.assembly import Debs
from buildctl.lock.locked import load_locked
from buildctl.lock.update import check_locks, stale_locks
from buildctl.matrix.cells import Cell, DebianBase, Flavour
from buildctl.matrix.project import Project
from buildctl.oci.compression import ZSTD
from buildctl.publish.provenance import CiRun, statement
from buildctl.publish.sbom import locked_hashes
from tests.conftest import ROOT
from tests.support.debs import deb, file, lock_of, package, tiny_base, write_all
from tests.unit.publish.test_provenance import BUILDER, IMAGE

LESS = package(deb("less"), "less")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for name in ("images", "templates"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (ROOT / "matrix.yaml").read_text()
    (tmp_path / "matrix.yaml").write_text(
        f"{text}\nimages: {{cuda-2.6: {{apt: [less]}}, cuda-2.10: {{apt: [less]}}}}\n"
    )
    return Project.find(tmp_path)


def cell(project: Project, cell_id: str) -> Cell:
    return next(c for c in project.matrix.cells if c.id == cell_id)


def lock(project: Project, cell_id: str) -> BaseLock:
    """As `buildctl lock` would write it, if apt said so."""
    wanted = cell(project, cell_id)
    below = [read_base_lock(path) for path in project.debian_locks(wanted)[:-1]]
    made = BaseLock(
        base=added_name(wanted),
        flavour=str(wanted.flavour),
        arch=wanted.arch,
        suite=below[0].suite,
        inputs=inputs_of(wanted, below),
        packages=(LESS,),
    )
    write_base_lock(project.added_lock(wanted), made)
    return made


def shown(project: Project, *names: str) -> list[str]:
    return [project.shown(path) for path in (p for p, _ in stale_locks(project, project.matrix.select(names)))]


def test_locks_stand_on_each_other(project: Project) -> None:
    def names(cell_id: str) -> list[str]:
        return [project.shown(path) for path in project.debian_locks(cell(project, cell_id))]

    base = "images/bases/debian13"
    assert names("cuda-2.6-amd64") == [f"{base}/runtime.amd64.packages", "images/cuda-2.6/runtime.amd64.packages"]
    assert names("cuda-2.6-devel-amd64") == [
        f"{base}/runtime.amd64.packages",
        f"{base}/devel.amd64.packages",
        "images/cuda-2.6/devel.amd64.packages",
    ]
    assert names("cuda-2.15-arm64") == [f"{base}/runtime.arm64.packages"]
    # what a stage on the build platform stands on, where the image does not exist
    elsewhere = replace(cell(project, "cuda-2.6-amd64"), arch="arm64")
    assert [project.shown(p) for p in project.debian_locks(elsewhere)] == [f"{base}/runtime.arm64.packages"]


def test_missing_and_stale_locks_are_found(project: Project) -> None:
    assert shown(project, "cuda-2.6") == ["images/cuda-2.6/runtime.amd64.packages"]
    lock(project, "cuda-2.6-amd64")
    assert shown(project, "cuda-2.6") == []
    assert shown(project, "cuda-2.15", "mps-2.6") == []
    assert check_locks(project, project.matrix.select(["cuda-2.6"])) == 4  # wheels, two bases, its own
    assert shown(project, "cuda-2.6*") == ["images/cuda-2.6/devel.amd64.packages"]
    path = project.base_lock(
        next(b for b in project.matrix.bases if isinstance(b, DebianBase)), Flavour.RUNTIME, "amd64"
    )
    base = read_base_lock(path)
    write_base_lock(path, replace(base, packages=base.packages[1:]))
    assert shown(project, "cuda-2.6") == ["images/cuda-2.6/runtime.amd64.packages"]  # its base moved
    with pytest.raises(LockError, match=r"matrix.yaml \(apt\) or the lock of the base changed"):
        check_locks(project, project.matrix.select(["cuda-2.6"]))


def test_a_layer_does_not_depend_on_the_name_of_the_image(project: Project) -> None:
    keys = {}
    for name in ("cuda-2.6", "cuda-2.10"):
        lock(project, f"{name}-amd64")
        locks = [read_base_lock(path) for path in project.debian_locks(cell(project, f"{name}-amd64"))]
        base = cell(project, "cuda-2.6-amd64").base
        assert isinstance(base, DebianBase)
        compiling = Compiling(base=base, lock=locks[0])
        recipe = debian_base("x", locks, compiling=compiling, compression=ZSTD)
        plain = debian_base("y", locks[:1], compiling=compiling, compression=ZSTD)
        keys[name] = [r.key for r in recipe.recipes]
        assert keys[name][:1] == [r.key for r in plain.recipes]  # and the base's own layer is the base's
        empty = [locks[0], replace(locks[1], packages=())]
        assert len(debian_base("x", empty, compiling=compiling, compression=ZSTD).recipes) == 1
    assert keys["cuda-2.6"] == keys["cuda-2.10"]
    assert len(keys["cuda-2.6"]) == 2


def test_both_engines_and_the_label_name_the_base(project: Project) -> None:
    assert '"base": "oci-layout://dist:base-debian13_cuda-2.6-devel"' in bake_file(project.matrix.cells)
    for cell_id in ("cuda-2.6-amd64", "cuda-2.6-devel-amd64"):
        lock(project, cell_id)
    list(render_images(project, load_locked(project, project.matrix.select(["cuda-2.6", "cuda-2.15"]))))
    assert 'base.name="base-debian13_cuda-2.6"' in project.dockerfile("cuda-2.6").read_text()
    assert 'base.name="base-debian13"' in project.dockerfile("cuda-2.15").read_text()
    found = {(c.base_image, c.arch) for c in bases_under([cell(project, "cuda-2.6-amd64")])}
    assert ("base-debian13_cuda-2.6", "amd64") in found


def test_bill_and_provenance_know_them(project: Project) -> None:
    lock(project, "cuda-2.6-amd64")
    with_it, without = load_locked(project, [cell(project, "cuda-2.6-amd64"), cell(project, "cuda-2.15-amd64")])
    assert locked_hashes(with_it)["deb", "less", "1.0"] == LESS.digest
    assert ("deb", "less", "1.0") not in locked_hashes(without)
    value = statement(project, with_it, IMAGE, run=CiRun(builder=BUILDER))
    assert "images/cuda-2.6/runtime.amd64.packages" in str(value)


def test_the_extra_tells_onnx_runtime_to_keep_quiet(project: Project) -> None:
    matrix = project.root / "matrix.yaml"
    matrix.write_text(matrix.read_text() + "extras: [onnx]\n")
    again = Project.find(project.root)
    list(render_images(again, load_locked(again, again.matrix.select(["cpu-2.6"]))))
    assert 'ENV ORT_DISABLE_TELEMETRY="1"\n' in again.dockerfile("cpu-2.6").read_text()


def test_scripts_are_recorded_only_on_request_and_a_record_stays(project: Project, tmp_path: Path) -> None:
    runtime = tiny_base()
    tool = deb("tool", [file("usr/bin/tool")], control={"postinst": "#!/bin/sh\nfrobnicate\n"})
    paths = write_all(tmp_path, {**runtime, "tool": tool})
    store = Store(tmp_path / "store")
    for digest, path in paths.items():
        store.artifact_path(digest).write_bytes(path.read_bytes())
    below, new = lock_of(runtime), lock_of({"tool": tool})
    want = Wanted(cell=cell(project, "cuda-2.6-amd64"), below=(below,), key='images["cuda-2.6"].apt')
    debs = Debs(store=store, mirrors={})
    with pytest.raises(
        ResolveError, match=r'images\["cuda-2.6"\].apt \(cuda-2.6, amd64\): tool 1.0: its postinst'
    ) as e:
        settle([want], [new], debs)
    assert "--record-scripts" in str(e.value.hint)

    made = Recorded(changes=(RecordedChange(kind="file", mode=0o644, uid=0, gid=0, path="etc/tool", text="made\n"),))
    settled = settle([want], [new], debs, record=lambda *_: made)[0][0]
    assert settled.recorded == made
    assert settle([want], [new], debs, olds=[settled])[0] == [settled]  # without the option, since nothing moved
    moved = replace(new, inputs=f"sha256:{'1' * 64}")
    with pytest.raises(ResolveError, match="frobnicate"):
        settle([want], [moved], debs, olds=[settled])
