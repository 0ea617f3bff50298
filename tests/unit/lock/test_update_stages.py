"""What a command that builds brings up to date before it builds, and what `--locked` refuses by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from buildctl.cli.program import cli
from buildctl.dockerfile.files import update_rendered
from buildctl.ground.errors import BuildctlError, DockerfileError, DriftError, LockError
from buildctl.lock.claims import read_claims
from buildctl.lock.locked import load_locked
from buildctl.lock.update import update_locks
from buildctl.matrix.project import Project
from tests.conftest import ROOT

CPU = "  cpu:\n    arch: [amd64, arm64]\n    base: debian13\n"
ENV = (CPU, f"{CPU}    env: {{ODD: '1'}}\n")
DEVICES = (CPU, f"{CPU}    devices: {{never: [cuda, mps, xpu]}}\n")
PACKAGE = ("      - tzdata\n", "      - tzdata\n      - nano\n")
WHEEL = ("  - numpy\n", "  - numpy\n  - six\n")
TEMPLATE = '{% extends "image.Dockerfile.j2" %}\n{% block after_wheels %}\nRUN echo odd\n{% endblock %}\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What render and build read; not docker-bake.json, which no build reads."""
    folder = tmp_path / "project"
    for name in ("images", "templates"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "matrix.yaml", folder)
    return folder


def edit(root: Path, change: tuple[str, str]) -> Project:
    matrix = root / "matrix.yaml"
    assert change[0] in matrix.read_text()
    matrix.write_text(matrix.read_text().replace(*change))
    return Project.find(root)


def with_template(root: Path) -> None:
    (root / "templates" / "cpu-2.6.Dockerfile.j2").write_text(TEMPLATE)


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("command", [("build", "--no-load"), ("fetch",), ("bases",)], ids=lambda c: c[0])
@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (ENV, 4, "images/cpu-2.6/Dockerfile"),
        (None, 4, "images/cpu-2.6/Dockerfile"),  # a template
        (DEVICES, 4, "images/cpu-2.6/claims.arm64.json: never: "),
        (PACKAGE, 4, "images/bases/debian13/runtime.arm64.packages: "),
        (WHEEL, 4, "images/cpu-2.6/requirements.arm64.txt: "),
    ],
    ids=["env", "template", "devices", "packages of the base", "wheels"],
)
def test_locked_refuses_by_name_before_any_work(
    root: Path,
    command: tuple[str, ...],
    change: tuple[str, str] | None,
    code: int,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if change:
        edit(root, change)
    else:
        with_template(root)
    before = tree(root)
    store = root.parent / "store"
    monkeypatch.setenv("BUILDCTL_CACHE", str(store))
    with pytest.raises(BuildctlError) as refused:
        cli.main(["--project", str(root), *command, "cpu-2.6", "--locked"], standalone_mode=False)
    assert refused.value.exit_code == code
    assert f"\n  {named}" in refused.value.message
    assert str(refused.value.hint).startswith("run `buildctl ")
    assert tree(root) == before
    assert not store.exists(), "nothing was downloaded, nothing was made"


@pytest.mark.parametrize("command", [("build", "--no-load"), ("fetch",)], ids=lambda c: c[0])
def test_a_command_that_builds_renders_first(
    root: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's refusal names the line that only the new Dockerfile has."""
    with_template(root)
    monkeypatch.setenv("BUILDCTL_CACHE", str(root.parent / "store"))
    with pytest.raises(DockerfileError, match=r"RUN: assemble runs nothing from an image.*'echo odd'"):
        cli.main(["--project", str(root), *command, "cpu-2.6"], standalone_mode=False)
    assert "RUN echo odd\n" in (root / "images/cpu-2.6/Dockerfile").read_text()
    assert (root / "docker-bake.json").read_bytes() == (ROOT / "docker-bake.json").read_bytes()


def test_what_is_as_it_should_be_is_left_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project.find(root)
    before = tree(root)
    update_locks(project, project.matrix.cells, locked=True)
    update_rendered(project, load_locked(project, project.matrix.cells), locked=True)
    update_locks(project, project.matrix.cells, locked=False)
    assert tree(root) == before
    update_rendered(project, load_locked(project, project.matrix.cells), locked=False)
    assert capsys.readouterr().err == "docker-bake.json written\n"


def test_claims_follow_the_matrix_without_a_look_into_the_wheel(root: Path) -> None:
    project = edit(root, DEVICES)
    cells = project.matrix.select(["cpu-2.6"])
    path = root / "images/cpu-2.6/claims.arm64.json"
    before = read_claims(path)
    update_locks(project, cells, locked=False)
    now = read_claims(path)
    assert (before.never, now.never) == (("cuda", "mps"), ("cuda", "mps", "xpu"))
    assert now.facts == before.facts
    update_rendered(project, load_locked(project, cells), locked=False)
    assert 'dev.buildctl.devices.never="cuda mps xpu"' in project.dockerfile("cpu-2.6").read_text()


@pytest.mark.parametrize(
    "change", [{"versions": {"cuda": "12.5"}}, {"python": "3.12"}, {"name": "cpu-2.7"}, {"lock": "sha256:0"}]
)
def test_claims_that_somebody_edited_are_refused(root: Path, change: dict[str, str]) -> None:
    project = Project.find(root)
    path = root / "images/cuda-2.6/claims.amd64.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
    with pytest.raises(LockError, match=rf"\n  images/cuda-2.6/claims.amd64.json: .*{next(iter(change))}"):
        update_locks(project, project.matrix.select(["cuda-2.6"]), locked=True)


def test_one_architecture_of_an_image_needs_the_locks_of_all_since_its_dockerfile_is_one(root: Path) -> None:
    project = Project.find(root)
    lock = root / "images/cuda-2.15/requirements.arm64.txt"
    lock.write_text(lock.read_text().replace("python: 3.13", "python: 3.12"))
    with pytest.raises(LockError, match=r"images/cuda-2.15/requirements.arm64.txt: it is for Python 3.12"):
        update_locks(project, project.matrix.select(["cuda-2.15"], "amd64"), locked=True)


def test_a_script_that_images_copy_is_drift_too(root: Path) -> None:
    project = Project.find(root)
    (project.common / "entrypoint").write_text("#!/bin/sh\n")
    with pytest.raises(DriftError, match=r"^with --locked, 1 rendered file would have to change:\n  images/common/ent"):
        update_rendered(project, load_locked(project, project.matrix.select(["cpu-2.6"])), locked=True)
