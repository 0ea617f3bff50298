"""Deliberately wrong images FAIL, and an image that does not answer never passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from buildctl.artifacts.store import Store
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.runtimes.sandbox.emulation import native_arch
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime
from buildctl.testing import probes
from buildctl.testing.probes import checks
from buildctl.testing.probes.expected import Expected
from buildctl.testing.report import Finding, Report, Status
from tests.support.images import file, tar
from tests.support.pythons import Python, base_python, put_image, python_members, torch_layer

FAILED, PASSED = Status.FAILED, Status.PASSED


@pytest.fixture(scope="module")
def host() -> Python:
    return base_python()


@pytest.fixture(scope="module")
def base(host: Python) -> bytes:
    return tar(*python_members(host))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def cpu(host: Python) -> Expected:
    return Expected(
        torch="2.6.0",
        python=host.version,
        arch=native_arch(),
        accelerator="cpu",
        never=("cuda", "mps"),
        distributions={"torch": "2.6.0"},
    )


@pytest.fixture
def cuda(cpu: Expected) -> Expected:
    return replace(cpu, accelerator="cuda", versions={"cuda": "12.4"}, built=("cuda",), never=("mps",))


def asked(store: Store, root: Path, expected: Expected, *layers: bytes) -> Report:
    report = probes.test_image(put_image(root, *layers), expected, SandboxRuntime(store))
    if report.verdict is Status.NOT_RUN:
        pytest.skip(f"NOT RUN: {report.findings[0].detail}")
    return report


def by_name(report: Report) -> Mapping[str, Finding]:
    return {finding.name: finding for finding in report.findings}


HONEST = ("platform", "python", "torch", "cuda version", "backends", "gpu architectures", "devices", "distributions")


def test_an_honest_image_passes_what_it_can(
    base: bytes, host: Python, store: Store, tmp_path: Path, cpu: Expected
) -> None:
    sympy = file(f"{host.site}/sympy-9.0.dist-info/METADATA", b"Metadata-Version: 2.1\nName: sympy\nVersion: 9.0\n\n")
    expected = replace(cpu, distributions={"torch": "2.6.0", "sympy": "9.0"})
    found = by_name(asked(store, tmp_path, expected, base, torch_layer(host, more=(sympy,))))
    assert {name: found[name].status for name in (*HONEST, "no cuda", "any uid", "home and workdir")} == dict.fromkeys(
        (*HONEST, "no cuda", "any uid", "home and workdir"), PASSED
    )
    assert found["torch"].detail == "torch 2.6.0"
    assert found["torch.compile"].status is Status.NOT_RUN
    # this torch only talks: what it cannot compute is FAILED, not left out
    assert found["matmul on cpu"].status is FAILED
    assert "sympy 9.0, torch.export with a dynamic shape: AttributeError" in found["helper packages"].detail
    assert list(found) == probes.names_of(cpu)


def test_another_version_fails(base: bytes, host: Python, store: Store, tmp_path: Path, cpu: Expected) -> None:
    report = asked(store, tmp_path, cpu, base, torch_layer(host, version="2.5.1", metadata="2.6.0"))
    found = by_name(report)
    assert (found["torch"].status, found["torch"].detail) == (FAILED, "expected torch 2.6.0, image reports 2.5.1")
    assert found["distributions"].status is PASSED
    assert report.verdict is FAILED


def test_a_version_that_the_lock_does_not_pin_fails(
    base: bytes, host: Python, store: Store, tmp_path: Path, cpu: Expected
) -> None:
    found = by_name(asked(store, tmp_path, cpu, base, torch_layer(host, metadata="2.6.1")))
    assert found["distributions"].status is FAILED
    assert "torch: expected 2.6.0, image reports 2.6.1" in found["distributions"].detail


def test_a_cpu_wheel_under_a_cuda_name_fails(
    base: bytes, host: Python, store: Store, tmp_path: Path, cuda: Expected
) -> None:
    found = by_name(asked(store, tmp_path, cuda, base, torch_layer(host, version="2.6.0+cpu", metadata="2.6.0")))
    assert found["cuda version"].detail == "expected CUDA 12.4, image reports none (a CPU build)"
    failed = ("cuda version", "backends", "gpu architectures", "cuda libraries", "without a gpu")
    assert {name: found[name].status for name in failed} == dict.fromkeys(failed, FAILED)
    # another local version of the right release is no fault by itself; the CUDA version above is what tells
    assert found["torch"].status is PASSED


def test_a_cuda_wheel_in_a_cpu_image_fails(
    base: bytes, host: Python, store: Store, tmp_path: Path, cpu: Expected
) -> None:
    found = by_name(asked(store, tmp_path, cpu, base, torch_layer(host, cuda="12.4")))
    assert found["cuda version"].detail == "expected CPU only, image reports a CUDA build (12.4)"
    assert (found["backends"].status, found["gpu architectures"].status) == (FAILED, FAILED)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (
            "{site}/nvidia_cublas_cu12-12.4.5.8.dist-info/METADATA",
            "expected no distribution of CUDA libraries, image has nvidia-",
        ),
        ("opt/hidden/libcudart.so.12", "expected no CUDA library, image has 1: /opt/hidden/libcudart.so.12"),
    ],
)
def test_something_of_nvidia_in_a_cpu_image_fails(
    base: bytes, host: Python, store: Store, tmp_path: Path, cpu: Expected, path: str, says: str
) -> None:
    name = path.format(site=host.site)
    more = file(name, b"Metadata-Version: 2.1\nName: nvidia-cublas-cu12\nVersion: 12.4.5.8\n\n")
    found = by_name(asked(store, tmp_path, cpu, base, torch_layer(host, more=(more,))))
    assert found["no cuda"].status is FAILED
    assert says in found["no cuda"].detail


def test_a_backend_that_must_not_be_there_fails(
    base: bytes, host: Python, store: Store, tmp_path: Path, cpu: Expected
) -> None:
    found = by_name(asked(store, tmp_path, cpu, base, torch_layer(host, mps=True)))
    assert found["backends"].detail == "expected no mps in this build, image reports: mkldnn, mps"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("import os, sys; print('garbage', flush=True); os._exit(0)", "the probe gave no answer"),
        ("import os; os._exit(3)", "exit code 3"),
        ("import time\ntime.sleep(600)", "still running after"),
        ("raise ImportError('libtorch.so: wrong ELF class')", "libtorch.so: wrong ELF class"),
    ],
    ids=["crash", "silence", "exit", "hang", "error"],
)
def test_a_torch_that_cannot_be_asked_fails(
    base: bytes, host: Python, store: Store, tmp_path: Path, cpu: Expected, body: str, says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    runs = {name: replace(run, deadline=3) for name, run in checks.RUNS.items()}
    monkeypatch.setattr("buildctl.testing.probes.findings.RUNS", runs)
    found = by_name(asked(store, tmp_path, cpu, base, torch_layer(host, body=body)))
    assert found["torch"].status is FAILED
    assert says in found["torch"].detail
    answered_before = ("platform", "python")
    unasked = [n for n in HONEST if n not in (*answered_before, "torch", "distributions")]
    assert {name: found[name].status for name in unasked} == dict.fromkeys(unasked, FAILED)
    assert {name: found[name].status for name in answered_before} == dict.fromkeys(answered_before, PASSED)


def test_an_image_of_another_python_or_architecture_fails(
    base: bytes, host: Python, store: Store, tmp_path: Path, cpu: Expected
) -> None:
    other = "arm64" if cpu.arch == "amd64" else "amd64"
    found = by_name(asked(store, tmp_path, replace(cpu, python="2.7", arch=other), base, torch_layer(host)))
    assert found["python"].detail.startswith("expected Python 2.7, image reports 3.")
    assert found["platform"].detail.startswith("expected platform Linux ")


def test_a_broken_image_fails(store: Store, tmp_path: Path, cpu: Expected) -> None:
    image = put_image(tmp_path, tar(file("a")))
    blob = image.layout / "blobs" / "sha256" / next((tmp_path / "blobs").iterdir()).name
    blob.unlink()
    blob.write_bytes(b"nonsense")
    report = probes.test_image(image, cpu, SandboxRuntime(store))
    assert [(f.name, f.status) for f in report.findings] == [("image", FAILED)]


def test_a_runtime_that_cannot_run_it_makes_everything_not_run(
    base: bytes, store: Store, tmp_path: Path, cpu: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(arch: str) -> None:
        raise RuntimeUnavailableError("no qemu here", hint="install it")

    monkeypatch.setattr("buildctl.runtimes.sandbox.sandbox.emulators_for", refuse)
    report = probes.test_image(put_image(tmp_path, base), cpu, SandboxRuntime(store))
    assert {f.status for f in report.findings} == {Status.NOT_RUN}
    assert {f.detail for f in report.findings} == {"no qemu here (install it)"}
    assert report.verdict is Status.NOT_RUN
