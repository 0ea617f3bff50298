"""The native runtime and its probes on a real environment: real torch on this Linux machine stands in for a Mac.

`sitecustomize` in the environment makes this torch call its CPU "mps", and workers start as they do on macOS; what is
then computed, compared and refused is real.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from buildctl.lock.locked import load_locked
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.runtimes.sandbox.emulation import native_arch
from buildctl.testing import probes
from buildctl.testing.probes.expected import Expected, expected_of
from buildctl.testing.report import Finding, Status
from tests.conftest import ROOT, buildctl
from tests.support.native import environment_of

PASSED, FAILED, NOT_RUN = Status.PASSED, Status.FAILED, Status.NOT_RUN
ON_MPS = ("mps available", "matmul on mps", "convolution on mps", "autograd on mps", "mps fallback")
# on amd64, what says that these wheels are for CUDA, which nobody wants in an environment for a Mac
NOT_FOR_MACS = (
    ("cuda version", "gpu architectures", "cudnn version", "nccl version") if native_arch() == "amd64" else ()
)
CELLS = {"amd64": "cuda-2.6", "arm64": "cpu-2.6"}
pytestmark = [pytest.mark.big] if native_arch() == "amd64" else []  # 3 GB there, 130 MB on arm64

AS_ON_A_MAC = """
import multiprocessing
multiprocessing.set_start_method("spawn")
import torch
torch.backends.mps.is_built = torch.backends.mps.is_available = lambda: True
to, arange = torch.Tensor.to, torch.arange
def to_mps(self, *args, **options):
    return {to}
def arange_mps(*args, device="cpu", **options):
    return arange(*args, **options)
torch.Tensor.to, torch.arange = to_mps, arange_mps
"""
HONEST = 'self.clone() if args == ("mps",) else to(self, *args, **options)'
WRONG = 'self * 1.5 if args == ("mps",) else to(self, *args, **options)'
NO_MEMORY = (
    '(_ for _ in ()).throw(RuntimeError("MPS backend out of memory (MPS allocated: 0 bytes, other allocations: '
    '0 bytes, max allowed: 7.93 GB). Tried to allocate 256 bytes on private pool.")) if args == ("mps",) '
    "else to(self, *args, **options)"
)


@pytest.fixture(scope="module")
def environment(built_store: dict[str, str], stores: Path, layouts: Callable[[str], Path]) -> Iterator[Path]:
    arch = native_arch()
    built = layouts(CELLS[arch])
    target = stores / "native"
    (target / "root").mkdir(parents=True)
    unpacked = Path(built_store["BUILDCTL_CACHE"]) / "unpacked"
    yield environment_of(built, f"{CELLS[arch]}-{arch}", arch, unpacked=unpacked, target=target)
    shutil.rmtree(target)


@pytest.fixture(scope="module")
def claimed() -> Expected:
    """By the image that the environment is made from."""
    project = Project.find(ROOT)
    cell = next(c for c in project.matrix.select([CELLS[native_arch()]]) if c.arch == native_arch())
    return expected_of(load_locked(project, [cell])[0])


@pytest.fixture(scope="module")
def expected(claimed: Expected) -> Expected:
    """As on a Mac, where torch is not built for CUDA."""
    nothing = dataclasses.replace(claimed, versions={}, gpu_architectures=None, cudnn=None, nccl=None)
    return dataclasses.replace(nothing, native=True, accelerator="mps")


def asked(environment: Path, expected: Expected, customized: str = "") -> Mapping[str, Finding]:
    custom = environment / "lib" / "python3.13" / "site-packages" / "sitecustomize.py"
    custom.write_text(customized)
    report = probes.test_native(environment, expected, cell="mps-2.6-arm64", lock=Digest.of(b"lock"))
    custom.unlink()
    assert report.runtime == "native"
    assert [f.name for f in report.findings] == probes.names_of(expected)
    return {f.name: f for f in report.findings}


def test_a_real_environment_passes_all_that_is_not_about_mps(environment: Path, expected: Expected) -> None:
    found = asked(environment, expected)
    others = {name: f.status for name, f in found.items() if "mps" not in name}
    wanted = dict.fromkeys(others, PASSED) | dict.fromkeys(NOT_FOR_MACS, FAILED)
    assert others == wanted, [f.detail for f in found.values() if f.status is FAILED]
    assert str(environment) in found["python"].detail
    # the wheels of Linux in an environment that should be for Apple GPUs: built for MPS is asserted all the same
    assert found["mps built"].status is FAILED
    assert {found[name].status for name in ON_MPS} == {NOT_RUN}


def test_where_mps_computes_everything_passes(environment: Path, expected: Expected) -> None:
    with_mps = dataclasses.replace(expected, built=(*expected.built, "mps"), never=())
    found = asked(environment, with_mps, AS_ON_A_MAC.format(to=HONEST))
    others = {name: f.status for name, f in found.items() if f.status is not PASSED}
    assert others == dict.fromkeys(NOT_FOR_MACS, FAILED), found
    assert found["devices"].detail.startswith("cpu (")
    assert ", mps; absent: " in found["devices"].detail
    assert found["matmul on mps"].detail.endswith("against float64 on the CPU")


def test_an_apple_gpu_that_computes_something_else_fails(environment: Path, expected: Expected) -> None:
    found = asked(environment, expected, AS_ON_A_MAC.format(to=WRONG))
    wrong = ("matmul on mps", "convolution on mps", "autograd on mps", "mps fallback")
    assert {name: found[name].status for name in wrong} == dict.fromkeys(wrong, FAILED)
    assert "expected an error of at most 0.005" in found["matmul on mps"].detail
    assert found["matmul on cpu"].status is PASSED


def test_a_virtual_mac_without_memory_for_mps_is_not_run(environment: Path, expected: Expected) -> None:
    found = asked(environment, expected, AS_ON_A_MAC.format(to=NO_MEMORY))
    on_data = ("matmul on mps", "convolution on mps", "autograd on mps", "mps fallback")
    assert {name: found[name].status for name in on_data} == dict.fromkeys(on_data, NOT_RUN)
    assert "MPS backend out of memory" in found["mps fallback"].detail
    assert (found["mps built"].status, found["two processes"].status) == (PASSED, PASSED)


def test_what_is_installed_beside_the_lock_is_found(environment: Path, expected: Expected) -> None:
    stray = environment / "lib" / "python3.13" / "site-packages" / "stray-1.0.dist-info"
    stray.mkdir()
    (stray / "METADATA").write_text("Metadata-Version: 2.1\nName: stray\nVersion: 1.0\n")
    found = asked(environment, expected)
    shutil.rmtree(stray)
    assert found["distributions"].status is FAILED
    assert "stray: expected to be absent" in found["distributions"].detail


def test_as_somebodys_environment_it_is_judged_by_its_own_files(environment: Path, claimed: Expected) -> None:
    done = buildctl("test", f"env:{environment}", "--json")
    (report,) = json.loads(done.stdout)["reports"]
    found = {finding["name"]: finding for finding in report["findings"]}
    # that Python came without headers, which torch.compile needs where the machine has a compiler
    wrong = ["torch.compile"] if shutil.which("g++") else []
    assert [name for name, finding in found.items() if finding["status"] == "FAILED"] == wrong, done.stdout
    assert done.returncode == len(wrong), done.stderr
    assert found["torch.compile"]["status"] == ("FAILED" if wrong else "NOT RUN")
    assert (report["cell"], report["runtime"]) == (f"env:{environment}", "native")
    assert found["torch build"]["detail"] == claimed.build
    if cuda := claimed.versions.get("cuda"):
        assert found["cuda version"]["detail"] == f"built for CUDA {cuda}"
        assert sorted(found["gpu architectures"]["detail"].split()) == sorted(claimed.gpu_architectures or ())
        assert {found[name]["status"] for name in ("cudnn version", "nccl version")} == {"PASSED"}
    assert found["distributions"]["detail"].startswith(f"{len(claimed.distributions)} distributions")
