"""File capabilities that Debian's scripts set, in layers of ours, as containerd unpacks them for Docker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError, ContainerError

from buildctl.docker.load import load
from buildctl.oci.layout import Layout
from buildctl.runtimes.sandbox.emulation import native_arch
from tests.support.real_matrix import run

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.big]
MATRIX = """\
python: "3.11"
versions: {{"2.6": 2.6.0}}
packages: []
flavours: [runtime]
bases:
  debian12: {{debian: bookworm, packages: [iputils-ping, libcap2-bin, python3.11]}}
accelerators:
  {name}: {{arch: [{arch}], base: debian12}}
"""
TAG = "buildctl-test-capabilities:x"
# Docker opens ICMP sockets to everybody; without that it is the capability that opens one
CLOSED = {"net.ipv4.ping_group_range": "1 0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, arch = tmp_path_factory.mktemp("capabilities"), native_arch()
    (root / "matrix.yaml").write_text(MATRIX.format(name={"amd64": "cuda"}.get(arch, "cpu"), arch=arch))
    run(root, "bases")
    return root


@pytest.fixture
def base(folder: Path, docker_client: docker.DockerClient) -> Iterator[docker.DockerClient]:
    layout = Layout(folder / "dist")
    load(layout, layout.resolve("base-debian12", native_arch()), TAG, client=docker_client)
    yield docker_client
    docker_client.images.remove(TAG, force=True)


def test_an_ordinary_user_pings_in_docker(base: docker.DockerClient) -> None:
    def start(*argv: str, **options: Any) -> str:
        said: bytes = base.containers.run(
            TAG, list(argv), user="1000", remove=True, stderr=True, sysctls=CLOSED, **options
        )
        return said.decode()

    assert start("/sbin/getcap", "/usr/bin/ping") == "/usr/bin/ping cap_net_raw=ep\n"
    assert "1 received" in start("ping", "-c1", "127.0.0.1")
    with pytest.raises((ContainerError, APIError), match="not permitted"):
        start("ping", "-c1", "127.0.0.1", cap_drop=["NET_RAW"])
