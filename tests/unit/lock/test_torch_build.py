"""What torch is, by torch itself: packages next to it may bring any CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildctl.ground.errors import LockError
from buildctl.lock.claims import WheelFacts
from buildctl.lock.torch_build import build_of, check_build, declared_build
from buildctl.matrix.read import load_matrix

CELL = load_matrix(Path(__file__).parents[3] / "matrix.yaml").select(["cuda-2.6"], "amd64")[0]
ARM = load_matrix(Path(__file__).parents[3] / "matrix.yaml").select(["cpu-2.6"])[0]


def facts(**said: str) -> WheelFacts:
    return WheelFacts(wheel="", torch="2.6.0", said=said, gpu_architectures=(), ptx=(), mps=False)


def test_a_second_cuda_runtime_is_of_other_packages() -> None:
    versions = {"torch": "2.6.0", "nvidia-cuda-runtime": "13.0.1", "nvidia-cuda-runtime-cu12": "12.4.127"}
    build = build_of(CELL, versions, facts(cuda="12.4"))
    assert build is not None
    assert (build.kind.name, build.version) == ("cuda", "12.4")
    with pytest.raises(LockError, match="the lock says built for CUDA 13"):
        build_of(CELL, {"torch": "2.6.0", "nvidia-cuda-runtime": "13.0.1"}, facts(cuda="12.4"))


def test_the_cuda_of_other_packages_does_not_declare_torch() -> None:
    assert declared_build(ARM, {"torch": "2.6.0", "nvidia-cuda-runtime-cu12": "12.4.127"}) is None
    declared = declared_build(CELL, {"torch": "2.6.0+cu124"})
    assert declared is not None
    assert str(declared) == "built for CUDA 12.4"


@pytest.mark.parametrize(
    ("name", "is_cuda"), [("nvidia-ml-py", False), ("nvidia-cudnn-cu12", True), ("nvidia-nccl", True)]
)
def test_what_asks_the_driver_is_not_a_library_of_cuda(name: str, is_cuda: bool) -> None:
    versions = {"torch": "2.6.0", name: "12.0"}
    build = build_of(ARM, versions, facts())
    if is_cuda:
        with pytest.raises(LockError, match=f"is a CPU build, but other packages bring {name}"):
            check_build(ARM, versions, build)
    else:
        check_build(ARM, versions, build)
