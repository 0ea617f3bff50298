"""The wheel is complete: installed anywhere, it makes a project where there was nothing."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import uv

from tests.conftest import ROOT
from tests.support.sources import PACKAGE


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a release is: from the source distribution."""
    out = tmp_path_factory.mktemp("wheel")
    argv = [uv.find_uv_bin(), "build", "-q", "--no-build-isolation", "--python", sys.executable, "-o", str(out)]
    subprocess.run([*argv, str(ROOT)], check=True, timeout=120)
    (found,) = out.glob("*.whl")
    return found


def test_every_file_of_the_package_is_in_it_and_the_locks_of_the_default_base(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {p.relative_to(PACKAGE.parent) for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {path.as_posix() for path in files} <= names
    locks = (ROOT / "images/bases").rglob("*.packages")
    assert {f"buildctl/lock/{p.relative_to(ROOT / 'images').as_posix()}" for p in locks} <= names


def test_both_names_call_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        text = archive.read(path).decode()
    assert "buildctl = buildctl.cli:main" in text
    assert "torch-buildctl = buildctl.cli:main" in text


def test_unpacked_somewhere_else_it_starts_a_project(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(home)
    (tmp_path / "empty").mkdir()

    def buildctl(*args: str) -> str:
        # -P and PYTHONPATH: this package, not the checkout
        argv = [sys.executable, "-P", "-m", "buildctl", *args]
        environment = {"PYTHONPATH": str(home), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(
            argv, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    where = "import buildctl.lock.debian as d, buildctl.dockerfile.render as r; "
    where += "print(d.SHIPPED[0].is_dir(), *r.TEMPLATES.iterdir())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", where], env={"PYTHONPATH": str(home)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", str(home / "buildctl/dockerfile/templates/image.Dockerfile.j2")]
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert f"(commit {head.stdout[:12]})" in buildctl("--version")
    assert "matrix.yaml written" in buildctl("init", "--cpu", "--torch", "2.6")
    assert "cpu-2.6" in buildctl("matrix")
    assert "debian13" in buildctl("matrix", "--explain")
