"""Packages that people add most, next to torch: locked without a false alarm about their libraries."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from buildctl.lock.wheels import read_wheel_lock
from buildctl.matrix.project import Project
from tests.conftest import ROOT, buildctl

pytestmark = [pytest.mark.network, pytest.mark.big]  # half a gigabyte is downloaded, once a machine

PACKAGES = (
    *("transformers", "accelerate", "timm", "opencv-python-headless", "bitsandbytes", "triton"),
    *("pyarrow", "scipy", "ray", "lightning", "tensorboard", "jupyterlab"),
)


@pytest.mark.parametrize("torch", ["2.6", "2.10"])
def test_the_named_packages_lock_next_to_a_cuda_build(torch: str, tmp_path: Path) -> None:
    """A planted extension that is refused: test_accelerators.py."""
    matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text())
    versions = {torch: matrix["versions"][torch]}
    accelerators = {"cuda": {"arch": ["amd64"], "base": "debian13"}}
    images = {"cuda-*": {"packages": list(PACKAGES)}}
    kept = {key: matrix[key] for key in ("python", "packages", "bases")}
    text = {**kept, "versions": versions, "flavours": ["runtime"], "accelerators": accelerators, "images": images}
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(text))
    shutil.copytree(ROOT / "images" / "bases", tmp_path / "images" / "bases")
    done = buildctl("lock", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lock = read_wheel_lock(Project.find(tmp_path).wheel_lock(f"cuda-{torch}", "amd64"))
    assert {wheel.name for wheel in lock.wheels} >= set(PACKAGES)
