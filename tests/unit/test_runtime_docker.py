"""The docker runtime where there is no daemon; with one: tests/integration/test_docker_runtime.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from buildctl.daemon import connect
from buildctl.errors import RuntimeUnavailableError
from buildctl.runtimes.api import ImageRef, Runtime
from buildctl.runtimes.docker import NO_GPU, DockerRuntime, _as_signal, _gpus_reason
from tests.images import file, image, tar


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


@pytest.mark.parametrize("host", ["garbage", "unix://", "tcp://"])
def test_a_malformed_host_is_no_traceback(monkeypatch: pytest.MonkeyPatch, no_daemon: str, host: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    monkeypatch.setattr("buildctl.daemon.CONNECT", 0.1)
    with pytest.raises(RuntimeUnavailableError):
        connect()


def test_ssh_without_paramiko_says_what_to_install(monkeypatch: pytest.MonkeyPatch, no_daemon: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://gpu-box.invalid")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailableError, match="paramiko") as caught:
        connect()
    assert "docker[ssh]" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, ""),
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, ""),
        ({"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"Source": "cdi", "ID": "vendor.invalid/dev=0"}]}, NO_GPU),
        ({"Runtimes": {"runc": {}}}, NO_GPU),
        ({}, NO_GPU),
    ],
)
def test_gpus_are_there_when_the_daemon_can_pass_them(info: dict[str, Any], reason: str) -> None:
    assert _gpus_reason(info, wants=True, emulated=None) == reason


def test_no_gpu_for_images_that_cannot_use_one() -> None:
    info: dict[str, Any] = {"Runtimes": {"nvidia": {}}}
    assert _gpus_reason(info, wants=False, emulated=None)
    assert _gpus_reason(info, wants=True, emulated="qemu-aarch64")


@pytest.mark.parametrize(
    ("status", "code"), [(0, 0), (1, 1), (127, 127), (128, 128), (137, -9), (139, -11), (255, 255)]
)
def test_a_death_by_signal_is_a_negative_code(status: int, code: int) -> None:
    assert _as_signal(status) == code
