"""The native road: what is refused, with the reason, and what uv is told where it is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from buildctl.errors import LockError, MatrixError, RuntimeUnavailableError
from buildctl.host import read_host
from buildctl.native import current_lock, install_commands, make_native, native_cell
from buildctl.project import Project
from tests.conftest import ROOT

HOSTS = Path(__file__).parents[1] / "hosts"


@pytest.fixture(scope="module")
def project() -> Project:
    return Project.find(ROOT)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("no-gpu", "for macOS on Apple silicon"),
        ("intel-mac", "Intel"),
        ("m1-macos13", "macOS 14.0, this is 13.7"),
        ("m3-rosetta-python", "under rosetta"),
    ],
)
def test_where_it_cannot_be_made_it_says_why(project: Project, host: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match=words) as caught:
        list(make_native(project, "mps-2.6", tmp_path, host=read_host(HOSTS / f"{host}.json")))
    assert "--verify" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_an_image_is_no_native_environment(project: Project) -> None:
    with pytest.raises(MatrixError, match="image for containers") as caught:
        native_cell(project, "cuda-2.6")
    assert "mps-2.6" in str(caught.value.hint)


def test_uv_gets_the_lock_with_its_hashes_and_nothing_else(project: Project, tmp_path: Path) -> None:
    cell = native_cell(project, "mps-2.6")
    lock = project.wheel_lock(cell.name, cell.arch)
    venv, sync = install_commands("uv", cell, lock, tmp_path)
    assert venv[-1] == str(tmp_path)
    assert venv[venv.index("--python") + 1] == cell.python
    assert sync[:3] == ["uv", "pip", "sync"]
    assert "--require-hashes" in sync
    assert sync[-1] == str(lock)


def test_a_lock_that_is_not_what_the_matrix_asks_for_is_refused(project: Project) -> None:
    cell = dataclasses.replace(native_cell(project, "mps-2.6"), python="3.12")
    with pytest.raises(LockError, match=r"Python 3\.13, the matrix says 3\.12"):
        current_lock(project, cell)
