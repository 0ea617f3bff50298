"""Packages that people add most, next to torch: locked without a false alarm about their libraries."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from buildctl.lock.wheels import read_wheel_lock
from buildctl.matrix.project import Project
from tests.conftest import ROOT, buildctl

pytestmark = [pytest.mark.network, pytest.mark.big]  # a gigabyte is downloaded, once a machine

NAMED = (
    *("transformers", "accelerate", "timm", "opencv-python-headless", "bitsandbytes", "triton"),
    *("pyarrow", "scipy", "ray", "lightning", "tensorboard", "jupyterlab"),
)
# thirty more of those that projects with torch list most, for the libraries that they and their dependencies bring
MOST_USED = (
    *("pandas", "scikit-learn", "matplotlib", "xxhash", "polars", "h5py", "numba", "protobuf", "grpcio"),
    *("tokenizers", "safetensors", "datasets", "peft", "sentencepiece", "torchmetrics", "torchdata", "einops", "onnx"),
    *("tiktoken", "pydantic", "fastapi", "uvicorn", "aiohttp", "psutil", "lxml", "cryptography", "sqlalchemy", "wandb"),
    *("scikit-image", "soundfile"),
)


@pytest.mark.parametrize(
    ("torch", "packages"),
    [("2.6", NAMED), ("2.10", NAMED), ("2.10", MOST_USED)],
    ids=["2.6", "2.10", "2.10 and the most used"],
)
def test_popular_packages_lock_next_to_a_cuda_build(torch: str, packages: tuple[str, ...], tmp_path: Path) -> None:
    """A planted extension that is refused: test_accelerators.py."""
    matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text())
    versions = {torch: matrix["versions"][torch]}
    accelerators = {"cuda": {"arch": ["amd64"], "base": "debian13"}}
    images = {"cuda-*": {"packages": list(packages)}}
    kept = {key: matrix[key] for key in ("python", "packages", "bases")}
    text = {**kept, "versions": versions, "flavours": ["runtime"], "accelerators": accelerators, "images": images}
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(text))
    shutil.copytree(ROOT / "images" / "bases", tmp_path / "images" / "bases")
    done = buildctl("lock", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lock = read_wheel_lock(Project.find(tmp_path).wheel_lock(f"cuda-{torch}", "amd64"))
    assert {wheel.name for wheel in lock.wheels} >= set(packages)
