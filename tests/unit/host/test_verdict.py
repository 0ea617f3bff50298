"""Recorded hosts against the committed claims of the default matrix: which verdict, why, what next."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from buildctl.ground.errors import MatrixError
from buildctl.host.check import check_images
from buildctl.host.facts import Gpu, Host, read_host
from buildctl.host.verdict import Subject, Verdict, VerdictKind, catalogue, covers, decide
from buildctl.lock.claims import WheelFacts
from tests.conftest import ROOT

HOSTS = Path(__file__).parents[2] / "support" / "hosts"
G, C, E, N = VerdictKind.GPU, VerdictKind.CPU, VerdictKind.EMULATED, VerdictKind.NOT
ORDER = ("cuda-2.6", "cuda-2.10", "cuda-2.15", "cpu-2.6", "cpu-2.10", "mps-2.6", "mps-2.10", "mps-2.15")
WANTED: Mapping[str, tuple[VerdictKind, ...]] = {
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
        ("rtx5090", "cuda-2.6", "RTX 5090 (sm_120), only for sm_50 sm_60", "use cuda-2.15"),
        ("old-driver", "cuda-2.6", "driver 470.223.02 is older than 525, which CUDA 12.4 needs", "to >= 525"),
        ("driver-550", "cuda-2.15", "older than 580, which CUDA 13.2 needs", ">= 580, or use cuda-2.10"),
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
        (
            "mixed-gpus",
            "cuda-2.6",
            "RTX 3090 (sm_86), driver 580.95.05 >= 525; but torch has no code for",
            "--gpus all",
        ),
        ("podman-cdi", "cuda-2.6", "NVIDIA L4 (sm_89)", "podman run -it --rm --device nvidia.com/gpu=all"),
        ("podman-cdi", "cuda-2.15", "older than 580", "until then: buildctl build cuda-2.15, then podman run -it --rm"),
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
    facts = WheelFacts(wheel="", torch="", said={}, gpu_architectures=architectures, ptx=ptx, mps=False)
    assert covers(dataclasses.replace(claims, facts=facts), Gpu(name="x", capability=capability)) is covered


def changed(host: str, **changes: object) -> Host:
    return dataclasses.replace(read_host(HOSTS / f"{host}.json"), **changes)  # type: ignore[arg-type]


def with_engine(host: str, **changes: bool) -> Host:
    engine = read_host(HOSTS / f"{host}.json").engine
    assert engine
    return changed(host, engine=dataclasses.replace(engine, **changes))  # type: ignore[arg-type]


def named(subjects: list[Subject], name: str) -> Subject:
    return next(s for s in subjects if s.name == name)


def test_a_driver_of_unknown_version_is_no_driver_that_is_new_enough(subjects: list[Subject]) -> None:
    verdict = decide(named(subjects, "cuda-2.6"), changed("h200", driver=None), subjects)
    assert verdict.kind is VerdictKind.CPU
    assert "driver version is unknown" in verdict.reason
    assert "reload or reinstall" in verdict.next_step


@pytest.mark.parametrize("driver", ["580.65", "590.44.01", "595.10"])
def test_new_drivers_run_the_newest_image(subjects: list[Subject], driver: str) -> None:
    verdict = decide(named(subjects, "cuda-2.15"), changed("h200", driver=driver), subjects)
    assert (verdict.kind, f"driver {driver} >= 580" in verdict.reason) == (VerdictKind.GPU, True)


def test_a_lost_gpu_is_told_and_the_good_one_counts(subjects: list[Subject]) -> None:
    said = "nvidia-smi reports [Unknown Error] for NVIDIA A100"
    verdict = decide(named(subjects, "cuda-2.6"), changed("h200", gpu_problem=said), subjects)
    assert verdict.kind is VerdictKind.GPU
    assert verdict.reason.endswith(f"; but {said}")


def test_a_mac_of_unknown_version_gets_an_answer(subjects: list[Subject]) -> None:
    verdict = decide(named(subjects, "mps-2.6"), changed("m3-docker-desktop", macos=None), subjects)
    assert (verdict.kind, verdict.reason) == (VerdictKind.NOT, "the macOS version is unknown")


def test_docker_that_knows_gpus_by_cdi_only_is_told_so(subjects: list[Subject]) -> None:
    verdict = decide(named(subjects, "cuda-2.6"), with_engine("h200", cdi=True), subjects)
    assert verdict.kind is VerdictKind.GPU
    assert "docker run -it --rm --device nvidia.com/gpu=all " in verdict.next_step


@pytest.mark.parametrize(
    ("kernel", "driver", "gpu", "kind", "reason", "step"),
    [
        ("6.8.12-tegra", "580.00", "11.0", G, "driver 580.00 >= 580", "docker run -it --rm --runtime=nvidia "),
        ("6.8.12-tegra", None, "8.7", G, "driver of unknown version", "--runtime=nvidia"),
        ("5.15.148-tegra", None, "8.7", C, "JetPack 6 or older", "update to JetPack 7"),
    ],
)
def test_jetson(
    subjects: list[Subject], kernel: str, driver: str | None, gpu: str, kind: VerdictKind, reason: str, step: str
) -> None:
    gpus = (Gpu(name="NVIDIA Jetson", capability=gpu),)
    verdict = decide(named(subjects, "cuda-2.15"), changed("gh200", kernel=kernel, driver=driver, gpus=gpus), subjects)
    assert verdict.kind is kind
    assert reason in verdict.reason
    assert step in verdict.next_step


def test_every_engine_on_a_mac_is_a_virtual_machine_that_emulates(subjects: list[Subject]) -> None:
    verdict = decide(named(subjects, "cuda-2.6"), with_engine("m3-docker-desktop", desktop=False), subjects)
    assert verdict.kind is VerdictKind.EMULATED
    assert "apt-get" not in verdict.next_step


@pytest.mark.parametrize("arch", ["armv7l", "riscv64", "ppc64le"])
@pytest.mark.parametrize("name", ["cuda-2.6", "cpu-2.6", "mps-2.6"])
def test_other_architectures_are_told_apart(subjects: list[Subject], arch: str, name: str) -> None:
    verdict = decide(named(subjects, name), changed("no-gpu", arch=arch), subjects)
    assert (verdict.kind, verdict.next_step) == (VerdictKind.NOT, "use a machine with amd64 or arm64")
    assert f"no wheels for {arch}" in verdict.reason


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
