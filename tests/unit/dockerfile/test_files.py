from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from buildctl.dockerfile.files import check_rendered, render_images
from buildctl.ground.errors import DriftError
from buildctl.lock.locked import LockedCell, load_locked
from buildctl.matrix.project import Project

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for name in ("images", "templates"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("matrix.yaml", "docker-bake.json"):
        shutil.copy(ROOT / name, tmp_path)
    return Project.find(tmp_path)


def everything(project: Project) -> tuple[LockedCell, ...]:
    return load_locked(project, project.matrix.cells)


def test_what_is_committed_is_what_would_be_rendered(project: Project) -> None:
    assert check_rendered(project, everything(project)) == 14


@pytest.mark.parametrize(
    "name",
    [
        "images/cuda-2.6/Dockerfile",
        "images/common/install-wheels",
        "docker-bake.json",
        "images/common/entrypoint",
        "images/README.md",
        "images/cuda-2.6/constraints.txt",
    ],
)
def test_drift_is_found_shown_and_mended(project: Project, name: str) -> None:
    path = project.root / name
    committed = path.read_text()
    path.write_text(committed + "# edited by hand\n")
    with pytest.raises(DriftError, match=r"1 of 14 files differ") as caught:
        check_rendered(project, everything(project))
    assert f"--- {name} (committed)" in caught.value.message
    assert "-# edited by hand" in caught.value.message
    assert [line for line in render_images(project, everything(project)) if "written" in line] == [f"{name} written"]
    assert path.read_text() == committed
    assert check_rendered(project, everything(project)) == 14


def test_a_missing_file_is_drift_and_scripts_are_made_executable(project: Project) -> None:
    entrypoint = project.common / "entrypoint"
    entrypoint.unlink()
    with pytest.raises(DriftError, match="/dev/null"):
        check_rendered(project, everything(project))
    assert "images/common/entrypoint written" in list(render_images(project, everything(project)))
    assert entrypoint.stat().st_mode & 0o777 == 0o755


def test_a_changed_template_is_drift(project: Project) -> None:
    template = project.templates / "image.Dockerfile.j2"
    template.write_text(template.read_text().replace("WORKDIR /workspace", "WORKDIR /work"))
    with pytest.raises(DriftError, match=r"5 of 14 files differ"):
        check_rendered(project, everything(project))
