"""ROCm and XPU where there is no such GPU: what would be passed, said and judged. Facts are composed, not recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from buildctl.host.catalogue import Subject
from buildctl.host.doctor import examine
from buildctl.host.facts import read_host
from buildctl.host.verdict import VerdictKind, decide
from buildctl.lock.claims import LABEL, Claims, claims_from_labels, label_values
from buildctl.matrix.accelerators import CPU, CUDA, ROCM, XPU, AcceleratorKind
from buildctl.matrix.project import Project
from buildctl.runtimes import gpu_files
from buildctl.runtimes.devices import DeviceNode, device_files, gpu_nodes
from buildctl.runtimes.docker import DockerSession, gpu_request
from buildctl.runtimes.sandbox.gpu import Passthrough, passthrough
from buildctl.testing.probes import judging
from buildctl.testing.probes.checks import CHECKS
from buildctl.testing.probes.expected import Expected
from buildctl.testing.report import Status
from tests.conftest import ROOT

HOSTS = Path(__file__).parents[2] / "support" / "hosts"
KFD, AMD = DeviceNode(path="/dev/kfd"), DeviceNode(path="/dev/dri/renderD128", vendor="0x1002")


def machine(root: Path, *, kfd: bool, vendors: Mapping[str, str]) -> tuple[DeviceNode, ...]:
    """What is found below a /dev and a /sys with these render nodes."""
    (root / "dev" / "dri").mkdir(parents=True)
    for name, vendor in vendors.items():
        (root / "dev" / "dri" / name).touch()
        (root / "sys" / "class" / "drm" / name / "device").mkdir(parents=True)
        (root / "sys" / "class" / "drm" / name / "device" / "vendor").write_text(f"{vendor}\n")
    if kfd:
        (root / "dev" / "kfd").touch()
    return gpu_nodes(root / "dev", root / "sys")


def test_gpus_are_told_by_their_maker(tmp_path: Path) -> None:
    """A render node alone says nothing: NVIDIA's driver makes one, too."""
    vendors = {"renderD128": "0x1002", "renderD129": "0x8086", "renderD130": "0x10de"}
    nodes = machine(tmp_path, kfd=True, vendors=vendors)
    assert ROCM.files is not None
    assert XPU.files is not None
    assert device_files(ROCM.files, nodes) == (("/dev/kfd", "/dev/dri/renderD128"), "")
    assert device_files(XPU.files, nodes) == (("/dev/dri/renderD129",), "")


@pytest.mark.parametrize(
    ("kfd", "vendors", "reason"),
    [
        (False, {"renderD128": "0x1002"}, "an AMD GPU, but no /dev/kfd"),
        (True, {"renderD128": "0x10de"}, "no AMD GPU"),
        (True, {}, "no AMD GPU"),
    ],
)
def test_half_a_gpu_is_none(tmp_path: Path, kfd: bool, vendors: dict[str, str], reason: str) -> None:
    assert ROCM.files is not None
    found, why = device_files(ROCM.files, machine(tmp_path, kfd=kfd, vendors=vendors))
    assert found == ()
    assert reason in why


# check and doctor


def subject(platform: str = "", **versions: str) -> Subject:
    one = Claims(
        torch="2.10.0",
        python="3.13",
        arch="amd64",
        accelerator="a",
        name="a-2.10",
        platform=platform,
        versions=versions,
    )
    return Subject(name="a-2.10", claims=(one,), built=True)


@pytest.mark.parametrize(
    ("claims", "host", "kind", "reason", "step"),
    [
        (
            {"rocm": "6.2"},
            "amd-gpu",
            VerdictKind.GPU,
            "an AMD GPU (/dev/kfd",
            "--device /dev/kfd --device /dev/dri ",
        ),
        ({"rocm": "6.2"}, "amd-gpu", VerdictKind.GPU, "the driver ROCm 6.2 needs, and whether", "pytorch:a-2.10"),
        ({"xpu": "2025.1"}, "intel-gpu", VerdictKind.GPU, "an Intel GPU (/dev/dri/renderD128)", "--device /dev/dri"),
        ({"rocm": "6.2"}, "intel-gpu", VerdictKind.CPU, "no AMD GPU", "docker run -it --rm pytorch:a-2.10"),
        ({"rocm": "6.2"}, "h200", VerdictKind.CPU, "no AMD GPU", "docker run -it --rm pytorch:a-2.10"),
        ({"xpu": "2025.1"}, "amd-gpu", VerdictKind.CPU, "no Intel GPU", "docker run -it --rm pytorch:a-2.10"),
        ({"cuda": "12.6"}, "amd-gpu", VerdictKind.CPU, "no NVIDIA GPU here", "docker run -it --rm pytorch:a-2.10"),
        ({"rocm": "6.2"}, "intel-mac", VerdictKind.CPU, "containers on macOS cannot use the GPU", "docker run"),
    ],
)
def test_verdicts(claims: dict[str, str], host: str, kind: VerdictKind, reason: str, step: str) -> None:
    verdict = decide(subject(**claims), read_host(HOSTS / f"{host}.json"))
    assert verdict.kind is kind
    assert reason in verdict.reason
    assert step in verdict.next_step


def test_doctor_and_the_summary_know_the_gpu() -> None:
    host = read_host(HOSTS / "amd-gpu.json")
    assert "AMD GPU (/dev/kfd, /dev/dri/renderD128)" in host.summary()
    found = examine(lambda: Project.find(ROOT), host)
    assert any(
        s.what == "AMD GPU" and "driver" in s.detail and "not know which driver" in s.detail for s in found.symptoms
    )
    half = examine(lambda: Project.find(ROOT), replace(host, nodes=(AMD,)))
    assert any(s.what == "AMD GPU" and "/dev/kfd" in s.detail and s.mend for s in half.symptoms)


# runtimes


@pytest.fixture
def with_amd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_files, "gpu_nodes", lambda: (KFD, AMD))


@pytest.mark.usefixtures("with_amd")
def test_the_sandbox_passes_the_device_files() -> None:
    found = passthrough(ROCM, "amd64", emulated=False)
    assert found.binds == (("/dev/kfd", "dev/kfd", True), ("/dev/dri/renderD128", "dev/dri/renderD128", True))
    assert passthrough(XPU, "amd64", emulated=False).reason.startswith("no Intel GPU")
    assert passthrough(ROCM, "amd64", emulated=True) == Passthrough(reason="an emulated image cannot use a GPU")
    assert passthrough(CPU, "amd64", emulated=False) == Passthrough(reason="not an image for GPUs")


def test_docker_passes_the_device_files_with_their_groups(tmp_path: Path) -> None:
    (tmp_path / "kfd").touch()
    session = DockerSession(
        client=docker.DockerClient(base_url="tcp://127.0.0.1:1", version="1.43"),
        tag="x",
        platform="linux/amd64",
        entrypoint=(),
        emulated=None,
        gpus_reason="",
        device_request=None,
        device_files=(f"{tmp_path}/kfd",),
        extra_env={},
    )
    assert session.gpus
    config = session._host_config(read_only=True, tmp=False, network=False, init=True)
    (device,) = config["Devices"]
    assert (device["PathOnHost"], device["PathInContainer"]) == (f"{tmp_path}/kfd", f"{tmp_path}/kfd")
    owner = (tmp_path / "kfd").stat().st_gid
    assert config.get("GroupAdd", []) == ([str(owner)] if owner else [])
    assert not replace(session, device_files=()).gpus


@pytest.mark.parametrize("kind", [ROCM, XPU])
def test_nvidias_toolkit_is_not_asked_for_other_gpus(kind: AcceleratorKind) -> None:
    assert gpu_request({"Runtimes": {"nvidia": {}}}, kind=kind, emulated=None) == (None, "")


# probes

BASE = Expected(torch="2.10.0", python="3.13", arch="amd64", accelerator="a")
FOR_ROCM = replace(BASE, versions={"rocm": "6.2"}, built=("rocm",), never=("mps", "xpu"))
FOR_XPU = replace(BASE, versions={"xpu": "2025.1"}, built=("xpu",), never=("cuda", "rocm", "mps"))
FOR_CUDA = replace(BASE, versions={"cuda": "12.6"}, cudnn="9.1.0", nccl="2.21.5", built=("cuda",))


def names(expected: Expected) -> set[str]:
    return {check.name for check in CHECKS if check.applies(expected)}


def test_which_findings_there_are_follows_from_the_kind() -> None:
    of_cuda = {"cuda libraries", "gpu architectures", "cudnn version", "nccl version"}
    assert of_cuda <= names(FOR_CUDA)
    assert not of_cuda & names(FOR_ROCM)
    assert of_cuda & names(FOR_XPU) == {"cudnn version", "nccl version"}  # that there are none
    for expected in (FOR_CUDA, FOR_ROCM, FOR_XPU):
        assert {"works on the gpu", "without a gpu"} <= names(expected)
    assert not {"works on the gpu", "without a gpu"} & names(BASE)
    assert "no cuda" in names(FOR_ROCM) & names(FOR_XPU) & names(BASE)


def on(device: str, *, gpus: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "matmul": {"cpu": 0.0, device: 1e-6},
        "convolution": {device: 1e-6},
        "autograd": {device: [6.0, 0.0]},
        "devices": {device.partition(":")[0]: {"available": True, "names": ["MI300X"]}},
        "gpu_architectures": ["gfx942"],
        "gpus": gpus,
    }


def test_a_gpu_is_judged_by_what_torch_calls_it() -> None:
    """A ROCm build calls its devices cuda, and its capability has nothing to do with sm_90."""
    device = {"capability": [9, 4], "bf16": 0.004, "cudnn": True, "held": 64 << 20, "kept": 0}
    amd = on("cuda:0", gpus={"devices": {"cuda:0": device}, "nccl": 3.0})
    assert judging.gpu(FOR_ROCM, amd)[0] is Status.PASSED
    assert judging.gpu(FOR_CUDA, amd)[0] is Status.FAILED
    intel = on("xpu", gpus={"devices": {}, "nccl": None})
    assert judging.gpu(FOR_XPU, intel)[0] is Status.PASSED
    assert judging.gpu(FOR_XPU, amd)[0] is Status.FAILED


def test_the_devices_of_a_rocm_build_may_be_called_cuda() -> None:
    here = {"cpu": {"available": True, "names": []}, "cuda": {"available": True, "names": ["MI300X"]}}
    assert judging.devices(FOR_ROCM, here)[0] is Status.PASSED
    assert judging.devices(FOR_XPU, here)[0] is Status.FAILED


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        (FOR_ROCM, {"cuda": None, "hip": "6.2.41134-65d174c3e", "xpu": None}),
        (FOR_XPU, {"cuda": None, "hip": None, "xpu": "20250101"}),
        (FOR_CUDA, {"cuda": "12.6", "hip": None}),
        (BASE, {"cuda": None, "hip": None}),
    ],
)
def test_torch_says_what_it_is_built_for(expected: Expected, value: dict[str, str | None]) -> None:
    assert judging.cuda_version(expected, value)[0] is Status.PASSED


@pytest.mark.parametrize("said", [{"cuda": "12.6"}, {"rocm": "6.2"}, {"xpu": "2025.1"}, {}])
def test_labels_tell_the_kind(said: dict[str, str]) -> None:
    (claims,) = subject(**said).claims
    again = claims_from_labels({LABEL + key: value for key, value in label_values(claims).items()}, "amd64")
    assert again is not None
    assert (again.kind, again.built_for) == (claims.kind, claims.built_for)


def test_the_image_variables_follow_from_the_kind() -> None:
    assert CUDA.variables("12.6") == {
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        "NVIDIA_REQUIRE_CUDA": "cuda>=12.0",
    }
    assert ROCM.variables("6.2") == XPU.variables("2025.1") == CPU.variables(None) == {}
