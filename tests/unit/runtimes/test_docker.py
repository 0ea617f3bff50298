"""The docker runtime where there is no daemon; with one: tests/integration/docker/test_docker_runtime.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from buildctl.docker.daemon import connect
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.matrix.accelerators import CPU, CUDA
from buildctl.runtimes.api import ImageRef, Runtime
from buildctl.runtimes.docker import NO_GPU, DockerRuntime, _as_signal, gpu_request, repository_name
from tests.support.images import file, image, tar


@pytest.fixture
def no_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    host = f"unix://{tmp_path}/nobody.sock"
    monkeypatch.setenv("DOCKER_HOST", host)
    return host


def test_without_a_daemon_the_reason_says_where_it_looked(no_daemon: str, tmp_path: Path) -> None:
    layout, descriptor = image(tmp_path, tar(file("a")))
    ref = ImageRef(
        layout=layout.root, descriptor=descriptor, name="a-amd64", arch="amd64", config=layout.config(descriptor)
    )
    runtime: Runtime = DockerRuntime()
    with pytest.raises(RuntimeUnavailableError) as caught, runtime.start(ref):
        pytest.fail("started")
    assert no_daemon in caught.value.message
    assert "No such file or directory" in caught.value.message
    assert "DOCKER_HOST" in str(caught.value.hint)


def test_an_unknown_context_is_named(no_daemon: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match="no docker context named gpu-box"):
        connect("gpu-box")


@pytest.mark.parametrize("host", ["garbage", "unix://{none}", "tcp://"])
def test_a_malformed_host_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, no_daemon: str, host: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host.format(none=tmp_path / "none"))
    monkeypatch.setattr("buildctl.docker.daemon.CONNECT", 0.1)
    with pytest.raises(RuntimeUnavailableError):
        connect()


# What `docker info` says, cut to what matters, of: the NVIDIA runtime (toolkit 1.14 and older, and newer ones by
# default), CDI from Docker 28 on, Docker Desktop, colima.
RUNTIME = {"Runtimes": {"io.containerd.runc.v2": {"path": "runc"}, "nvidia": {"path": "nvidia-container-runtime"}}}
DEVICES = [{"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in ("0", "GPU-3e5a", "all")]
CDI = {
    "Runtimes": {"runc": {"path": "runc"}},
    "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"],
    "DiscoveredDevices": DEVICES,
}
OTHER_CDI = CDI | {"DiscoveredDevices": [{"Source": "cdi", "ID": "vendor.invalid/dev=all"}]}
NONE: dict[str, Any] = {"Runtimes": {"runc": {"path": "runc"}}, "CDISpecDirs": [], "DiscoveredDevices": None}


@pytest.mark.parametrize(
    ("info", "request_"),
    [
        (RUNTIME, {"Driver": "", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}),
        (CDI, {"Driver": "cdi", "Count": 0, "DeviceIDs": ["nvidia.com/gpu=all"], "Capabilities": [], "Options": {}}),
        (
            CDI | {"DiscoveredDevices": DEVICES[:2]},
            {
                "Driver": "cdi",
                "Count": 0,
                "DeviceIDs": ["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-3e5a"],
                "Capabilities": [],
                "Options": {},
            },
        ),
    ],
    ids=["runtime", "cdi", "cdi without all"],
)
def test_gpus_are_asked_for_as_the_daemon_can_pass_them(info: dict[str, Any], request_: dict[str, Any]) -> None:
    assert gpu_request(info, kind=CUDA, emulated=None) == (request_, "")


@pytest.mark.parametrize("info", [OTHER_CDI, NONE, {}], ids=["other devices", "none", "old"])
def test_without_gpus_the_reason_is_the_daemon(info: dict[str, Any]) -> None:
    assert gpu_request(info, kind=CUDA, emulated=None) == (None, NO_GPU)


@pytest.mark.parametrize("info", [RUNTIME, CDI], ids=["runtime", "cdi"])
def test_no_gpu_for_images_that_cannot_use_one(info: dict[str, Any]) -> None:
    assert gpu_request(info, kind=CPU, emulated=None) == (None, "not an image for GPUs")
    assert gpu_request(info, kind=CUDA, emulated="qemu-aarch64") == (None, "an emulated image cannot use a GPU")


@pytest.mark.parametrize(
    ("status", "code"), [(0, 0), (1, 1), (127, 127), (128, 128), (137, -9), (139, -11), (255, 255)]
)
def test_a_death_by_signal_is_a_negative_code(status: int, code: int) -> None:
    assert _as_signal(status) == code


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cuda-2.6-amd64", "cuda-2.6-amd64"),
        ("image linux/amd64", "image-linux-amd64"),
        ("registry.example:5000/A/b@sha256:00 linux/arm64", "registry.example-5000-a-b-sha256-00-linux-arm64"),
        ("../x__y..z/", "x-y-z"),
        ("\x1b中文", "image"),
        ("a." * 300, "a" + ".a" * 63),
    ],
)
def test_any_name_of_an_image_becomes_one_that_docker_takes(text: str, name: str) -> None:
    assert repository_name(text) == name
    assert re.fullmatch(r"[a-z0-9]+(?:[.-][a-z0-9]+)*", name)
