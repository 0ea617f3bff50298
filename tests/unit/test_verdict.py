"""Recorded hosts against the committed claims of the default matrix: which verdict, why, what next."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from buildctl.checking import check_images
from buildctl.claims import WheelFacts
from buildctl.errors import MatrixError
from buildctl.host import Gpu, read_host
from buildctl.verdict import Kind, Subject, Verdict, catalogue, covers, decide
from tests.conftest import ROOT

HOSTS = Path(__file__).parents[1] / "hosts"
G, C, E, N = Kind.GPU, Kind.CPU, Kind.EMULATED, Kind.NOT
ORDER = ("cuda-2.6", "cuda-2.10", "cuda-2.15", "cpu-2.6", "cpu-2.10", "mps-2.6", "mps-2.10", "mps-2.15")
WANTED: Mapping[str, tuple[Kind, ...]] = {
    "rtx5090": (C, G, G, E, E, N, N, N),
    "old-driver": (C, C, C, N, N, N, N, N),
    "driver-550": (G, G, C, N, N, N, N, N),
    "no-toolkit": (C, C, C, N, N, N, N, N),
    "broken-driver": (C, C, C, N, N, N, N, N),
    "wsl2": (G, G, G, E, E, N, N, N),
    "gh200": (N, N, G, C, C, N, N, N),
    "h200": (G, G, G, N, N, N, N, N),
    "mixed-gpus": (G, G, G, N, N, N, N, N),
    "podman-cdi": (G, G, C, N, N, N, N, N),
    "no-gpu": (C, C, C, E, E, N, N, N),
    "amd-gpu": (C, C, C, N, N, N, N, N),
    "intel-gpu": (C, C, C, N, N, N, N, N),
    "arm64-server": (N, N, C, C, C, N, N, N),
    "m3-docker-desktop": (E, E, C, C, C, G, G, G),
    "m3-rosetta-python": (E, E, C, C, C, N, N, N),
    "m1-macos13": (N, N, N, N, N, N, N, N),
    "macos-ci": (N, N, N, N, N, C, C, C),
    "intel-mac": (C, C, C, E, E, N, N, N),
}


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    return catalogue(ROOT, tmp_path_factory.mktemp("empty") / "dist")


def asked(subjects: list[Subject], host: str, name: str) -> Verdict:
    return decide(next(s for s in subjects if s.name == name), read_host(HOSTS / f"{host}.json"), subjects)


def test_every_recorded_host_has_wanted_verdicts() -> None:
    assert set(WANTED) == {path.stem for path in HOSTS.glob("*.json")}


@pytest.mark.parametrize("host", WANTED)
def test_recorded_host(subjects: list[Subject], host: str) -> None:
    assert {name: asked(subjects, host, name).kind for name in ORDER} == dict(zip(ORDER, WANTED[host], strict=True))


@pytest.mark.parametrize(
    ("host", "name", "reason", "step"),
    [
        ("rtx5090", "cuda-2.6", "RTX 5090 (sm_120) is compiled in: it has sm_50 sm_60", "use cuda-2.10"),
        ("old-driver", "cuda-2.6", "driver 470.223.02 is older than 525, which CUDA 12.4 needs", "to >= 525"),
        ("driver-550", "cuda-2.15", "older than 580, which CUDA 13.2 needs", ">= 580, or use cuda-2.6"),
        ("no-toolkit", "cuda-2.6", "no NVIDIA container toolkit", "sudo nvidia-ctk runtime configure"),
        ("broken-driver", "cuda-2.6", "couldn't communicate", "NVIDIA driver (>= 525)"),
        ("gh200", "cuda-2.6", "only for amd64, this is arm64", "use cpu-2.6"),
        ("gh200", "cuda-2.15", "GH200 480GB (sm_90), driver 580.95.05 >= 580", "docker run -it --rm --gpus all"),
        ("m3-docker-desktop", "cuda-2.6", "Rosetta or QEMU", "use cpu-2.6 or mps-2.6 (native, with the GPU)"),
        ("m3-docker-desktop", "cpu-2.6", "with the GPU: buildctl native mps-2.6", "pytorch:cpu-2.6"),
        ("m3-docker-desktop", "mps-2.15", "MPS on Apple M3 Pro, macOS 15.6", "buildctl native mps-2.15"),
        ("m3-rosetta-python", "mps-2.6", "under rosetta", "arch -arm64"),
        ("m1-macos13", "mps-2.15", "need macOS 14.0, this is 13.7", "update macOS"),
        ("macos-ci", "mps-2.6", "virtual machine", "buildctl native"),
        ("intel-mac", "mps-2.6", "Intel", "use cuda-2.6 in Docker, on the CPU"),
        ("intel-mac", "cpu-2.6", "QEMU translates", "use cuda-2.6"),
        ("no-gpu", "cuda-2.6", "no NVIDIA GPU here", "docker run -it --rm pytorch:cuda-2.6"),
        ("mixed-gpus", "cuda-2.6", "RTX 3090 (sm_86), driver 580.95.05 >= 525; but no code for", "--gpus all"),
        ("podman-cdi", "cuda-2.6", "NVIDIA L4 (sm_89)", "podman run -it --rm --device nvidia.com/gpu=all"),
    ],
)
def test_reason_and_next_step(subjects: list[Subject], host: str, name: str, reason: str, step: str) -> None:
    verdict = asked(subjects, host, name)
    assert reason in verdict.reason
    assert step in verdict.next_step


@pytest.mark.parametrize(
    ("architectures", "ptx", "capability", "covered"),
    [
        (("sm_80",), (), "8.0", True),
        (("sm_80",), (), "8.9", True),  # a cubin runs on later minors
        (("sm_86",), (), "8.0", False),  # and not on earlier ones
        (("sm_90",), (), "10.0", False),  # never across majors
        (("sm_90",), (), "12.0", False),
        (("sm_90",), ("compute_90",), "12.0", True),  # PTX is compiled by the driver
        ((), ("compute_90",), "8.9", False),
        (("sm_90a",), (), "9.0", True),
        (("sm_100a",), (), "10.3", False),  # for exactly one
        (("sm_100f",), (), "10.3", True),  # for its family
        (("sm_120",), (), "12.1", True),
        ((), (), None, True),  # a driver that does not say
    ],
)
def test_which_code_runs_on_which_gpu(
    subjects: list[Subject],
    architectures: tuple[str, ...],
    ptx: tuple[str, ...],
    capability: str | None,
    covered: bool,
) -> None:
    claims = subjects[-1].claims[0]
    facts = WheelFacts(wheel="", torch="", cuda=None, gpu_architectures=architectures, ptx=ptx, mps=False)
    assert covers(dataclasses.replace(claims, facts=facts), Gpu(name="x", capability=capability)) is covered


def test_what_is_not_built_says_how_to_build_it(subjects: list[Subject]) -> None:
    subject = next(s for s in subjects if s.name == "cuda-2.6")
    host = read_host(HOSTS / "h200.json")
    assert decide(subject, host).next_step.startswith("buildctl build cuda-2.6, then docker run")
    assert decide(dataclasses.replace(subject, built=True), host).next_step.startswith("docker run")


def test_facts_are_saved_and_checked_elsewhere(tmp_path: Path) -> None:
    saved = tmp_path / "server.json"
    first = check_images(ROOT, tmp_path, ["cuda-2.6"], host_file=HOSTS / "h200.json", save=saved)
    again = check_images(ROOT, tmp_path, ["cuda-2.6"], host_file=saved, save=None)
    assert first.to_json() == again.to_json()
    assert again.exit_code == 0
    assert check_images(ROOT, tmp_path, ["mps-2.6"], host_file=saved, save=None).exit_code == 1


def test_an_unknown_name_lists_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(MatrixError) as caught:
        check_images(ROOT, tmp_path, ["cuda-9"], host_file=HOSTS / "h200.json", save=None)
    assert "cuda-2.15" in str(caught.value.hint)
