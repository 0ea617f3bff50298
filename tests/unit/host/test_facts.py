"""Facts about hosts, from what programs print, and as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildctl.ground.errors import BuildctlError
from buildctl.host.facts import (
    ContainerEngine,
    Gpu,
    Host,
    container_toolkit,
    driver_version,
    parse_docker,
    parse_gpus,
    parse_podman,
    read_host,
    this_host,
    translation,
)

HOSTS = sorted((Path(__file__).parents[2] / "support" / "hosts").glob("*.json"))
PLAIN = Host(system="linux", arch="amd64", kernel="6.1").to_json()


@pytest.mark.parametrize("path", HOSTS, ids=lambda p: p.stem)
def test_recorded_hosts_are_what_save_writes(path: Path) -> None:
    host = read_host(path)
    assert json.loads(path.read_bytes()) == json.loads(json.dumps(host.to_json()))
    assert host.summary()


def test_gpus_are_read_from_the_csv() -> None:
    text = "NVIDIA H200, 580.159.03, 9.0\nNVIDIA GeForce RTX 5090, 580.159.03, 12.0\n"
    assert parse_gpus(text) == (
        "580.159.03",
        (Gpu(name="NVIDIA H200", capability="9.0"), Gpu(name="NVIDIA GeForce RTX 5090", capability="12.0")),
        "",
    )


def test_an_old_driver_does_not_tell_the_capability() -> None:
    driver, gpus, problem = parse_gpus("Tesla V100-SXM2-16GB, 470.223.02\n")
    assert (driver, gpus, problem) == ("470.223.02", (Gpu(name="Tesla V100-SXM2-16GB", capability=None),), "")


def test_a_driver_without_gpus_says_so() -> None:
    assert parse_gpus("") == (None, (), "nvidia-smi finds no GPU")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("580.159.03", "580.159.03"),
        ("610.47 [Deprecated; use the KMD version]", "610.47"),
        ("N/A", None),
        ("[N/A]", None),
        ("[Not Supported]", None),
        ("", None),
    ],
)
def test_a_driver_is_a_version_or_unknown(text: str, version: str | None) -> None:
    assert driver_version(text) == version
    assert parse_gpus(f"NVIDIA H100, {text}, 9.0\n")[0] == version
    assert Host.from_json({**PLAIN, "driver": text}, "x").driver == version


def test_of_two_gpus_one_of_which_is_lost_the_good_one_counts() -> None:
    text = "NVIDIA A100, [Unknown Error], [Unknown Error]\nNVIDIA H100, 580.95.05, 9.0\n"
    driver, gpus, problem = parse_gpus(text)
    assert (driver, [gpu.name for gpu in gpus]) == ("580.95.05", ["NVIDIA H100"])
    assert problem == "nvidia-smi reports [Unknown Error] for NVIDIA A100"
    assert parse_gpus("NVIDIA A100, 580.95.05, [GPU is lost]\n")[:2] == ("580.95.05", ())


def docker(**changes: object) -> dict[str, object]:
    info = {"ServerVersion": "28.5.2", "Architecture": "x86_64", "OperatingSystem": "Debian GNU/Linux 13"}
    return {**info, "KernelVersion": "6.12.0", "Runtimes": {"runc": {}}, **changes}


def test_docker_tells_platform_and_gpus() -> None:
    plain = ContainerEngine(name="Docker", version="28.5.2", arch="amd64", desktop=False, gpus=False)
    assert parse_docker(docker()) == plain
    assert parse_docker(docker(Runtimes={"runc": {}, "nvidia": {}})).gpus
    devices = [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]
    only = parse_docker(docker(DiscoveredDevices=devices))
    assert (only.gpus, only.cdi) == (True, True)
    assert not parse_docker(docker(DiscoveredDevices=devices, Runtimes={"nvidia": {}})).cdi
    assert parse_docker(docker(OperatingSystem="OrbStack", KernelVersion="6.17.8-orbstack-00308")).desktop
    assert parse_docker(docker(OperatingSystem="Docker Desktop", Architecture="aarch64")).desktop


def test_a_docker_without_a_server_is_no_engine() -> None:
    with pytest.raises(BuildctlError, match="Cannot connect"):
        parse_docker({"ServerErrors": ["Cannot connect to the Docker daemon"]})


def test_podman_tells_platform() -> None:
    info = {"host": {"arch": "arm64", "serviceIsRemote": True}, "version": {"Version": "5.4.2"}}
    assert parse_podman(info) == ContainerEngine(name="podman", version="5.4.2", arch="arm64", desktop=True, gpus=False)
    with pytest.raises(BuildctlError, match="cannot parse"):
        parse_podman({})


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "found"),
    [
        ("amd64", "vendor_id\t: GenuineIntel\n", (None, "amd64")),
        ("arm64", "CPU implementer\t: 0x41\n", (None, "arm64")),
        ("amd64", "vendor_id\t: VirtualApple\n", ("rosetta", "arm64")),
        ("amd64", "CPU implementer\t: 0x61\n", ("qemu", "arm64")),
        ("arm64", "vendor_id\t: AuthenticAMD\n", ("qemu", "amd64")),
    ],
)
def test_translation_is_told_by_a_processor_that_does_not_fit(
    machine: str, cpuinfo: str, found: tuple[str | None, str]
) -> None:
    assert translation(machine, cpuinfo) == found


def test_a_cdi_specification_counts_as_toolkit(tmp_path: Path) -> None:
    (tmp_path / "nvidia.yaml").write_text("cdiVersion: 0.6.0\n")
    assert container_toolkit([tmp_path]) == f"CDI {tmp_path}/nvidia.yaml"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 9}, "schema 9, not 1"),
        ({"gpus": [{"name": "x"}]}, "not a host facts file"),
        ({"colour": "red"}, "unknown colour"),
        ({"system": "plan9"}, "plan9 is not a known system"),
        ({"driver": 580}, "driver: 580"),
        ({"kernel": None}, "kernel: None"),
        ({"gpus": None}, "gpus: None is not a list"),
        ({"gpus": [{"name": "NVIDIA L4", "capability": "sm_89"}]}, "'sm_89' is not MAJOR.MINOR"),
        ({"gpus": [{"name": "NVIDIA L4", "capability": "8"}]}, "'8' is not MAJOR.MINOR"),
        ({"engine": "docker"}, "engine: 'docker'"),
        ({"toolkit": ["nvidia-ctk"]}, r"toolkit: \['nvidia-ctk'\]"),
        ({"macos": "Tahoe"}, "'Tahoe' is not a version"),
        ({"wsl": "no"}, "wsl: 'no'"),
    ],
)
def test_a_malformed_file_is_refused_with_its_name(change: dict[str, object], words: str) -> None:
    value = Host(system="linux", arch="amd64", kernel="6.1").to_json()
    with pytest.raises(BuildctlError, match=words) as caught:
        Host.from_json({**value, **change}, "server.json")
    assert "server.json" in caught.value.message


@pytest.mark.parametrize("machine", ["armv7l", "riscv64", "ppc64le"])
def test_another_architecture_keeps_its_name(machine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: machine)
    host = this_host()
    assert host.arch == machine
    assert f"on {machine}, " in host.summary()
    assert Host.from_json(json.loads(json.dumps(host.to_json())), "x") == host


def test_this_host_answers_whatever_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    host = this_host()
    assert host.engine is None
    assert Host.from_json(json.loads(json.dumps(host.to_json())), "x") == host
