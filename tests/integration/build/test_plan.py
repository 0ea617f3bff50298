"""`buildctl plan`: what a build would do, without doing it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from buildctl.artifacts.debian.python import build_arch, python_packages
from buildctl.lock.debian import read_base_lock
from tests.support.tiny import CELL, NAME, WHEELS, tiny


def planned(project: Path, store: Path, *names: str) -> dict[str, Any]:
    environment = {**os.environ, "BUILDCTL_CACHE": str(store), "DOCKER_HOST": f"unix://{store}/no.sock"}
    argv = [sys.executable, "-m", "buildctl", "--project", str(project), "plan", *names, "--json"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=60)
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tiny(tmp_path / "project", tmp_path / "wheels-only")


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_what_is_missing_is_counted_once_and_nothing_is_kept(project: Path, tmp_path: Path) -> None:
    before = files(project)
    found = planned(project, tmp_path / "store", NAME)
    lock_path = project / "images/bases/debian13/runtime.arm64.packages"
    lock = read_base_lock(lock_path)
    wheels = (project / "images" / NAME / "requirements.arm64.txt").read_text().count("==")
    # what makes the bytecode runs on this machine: a Python for another architecture than the image's
    ours = read_base_lock(lock_path.with_name(f"runtime.{build_arch()}.packages"))
    compiling = {package.digest for package in python_packages(ours)}
    assert found["download"]["artifacts"] == len({p.digest for p in lock.packages} | compiling) + wheels
    (image,) = found["images"]
    assert image["id"] == CELL
    # a layer that nobody has made is about as big as its packages
    assert (
        image["size"]
        >= sum(p.size for p in lock.packages) + WHEELS["torch-2.6.0-cp313-cp313-manylinux_2_28_aarch64.whl"]
    )
    assert image["size"] <= found["download"]["size"]
    assert len(found["make"]) == 3
    assert (found["reuse"]["layers"], found["docker"]["answers"]) == (0, False)
    assert files(project) == before
    assert not files(tmp_path / "store")


def test_what_is_there_is_not_downloaded(project: Path, tmp_path: Path) -> None:
    all_missing = planned(project, tmp_path / "store")
    without_wheels = planned(project, tmp_path / "wheels-only")
    assert without_wheels["download"]["artifacts"] == all_missing["download"]["artifacts"] - len(WHEELS)


def test_what_a_build_refuses_a_plan_refuses(project: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "buildctl", "--project", str(project), "plan", "cuda-2.6"],
        env={**os.environ, "BUILDCTL_CACHE": str(tmp_path / "store")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
