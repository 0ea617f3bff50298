"""What the project is for: the images say what they are, and it is true inside, with Docker and without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from tests.conftest import Asked, Ran, buildctl
from tests.support.projects import copy_project

pytestmark = pytest.mark.network
Findings = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def tested(built: Path, asked: Asked) -> Findings:
    """Of cpu-2.6: one run of the probes under emulation, for all tests."""
    return findings(built, asked.ran, asked.junit)


@pytest.fixture(scope="module")
def tested_cuda(everything: Path, built_store: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Findings:
    names, junit = ("cuda-2.6", "cuda-2.6-devel"), tmp_path_factory.mktemp("junit") / "report.xml"
    argv: list[str | Path] = ["test", *names, "--runtime", "sandbox", "--json", "--junit", junit]
    return findings(everything, buildctl("--layout", everything, *argv, env=built_store), junit)


def findings(built: Path, done: Ran, junit: Path) -> Findings:
    """Findings of the sandbox runtime by cell and name, from the command that a person types."""
    assert done.returncode == 0, done.stdout + done.stderr
    reports = {r["cell"]: r for r in json.loads(done.stdout)["reports"]}
    suites = {s.get("name"): s for s in ET.parse(junit).getroot()}
    for cell, report in reports.items():
        assert report["digest"] == json.loads((built / "reports" / f"{cell}.json").read_bytes())["digest"]
        assert int(suites[cell].get("skipped", "")) == report["counts"]["NOT RUN"]
    return {cell: {f["name"]: f"{f['status']}: {f['detail']}" for f in r["findings"]} for cell, r in reports.items()}


def test_a_cuda_image_is_built_for_cuda_and_falls_back_to_the_cpu(tested_cuda: Findings) -> None:
    found = tested_cuda["cuda-2.6-amd64"]
    assert found["torch"] == "PASSED: torch 2.6.0+cu124"
    assert found["cuda version"] == "PASSED: built for CUDA 12.4"
    assert found["gpu architectures"].startswith("PASSED: sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90")
    if found["works on the gpu"].startswith("NOT RUN"):
        assert found["without a gpu"] == "PASSED: built for CUDA 12.4, no device, runs on the cpu"
        assert "no NVIDIA device on this host" in found["works on the gpu"]


def test_a_cpu_image_has_no_file_of_cuda(tested: Findings) -> None:
    found = tested["cpu-2.6-arm64"]
    assert found["no cuda"] == "PASSED: no distribution of CUDA libraries, no CUDA library, no NVIDIA environment"
    assert found["platform"] == "PASSED: Linux aarch64"


@pytest.mark.images
@pytest.mark.parametrize("cell", ["cpu-2.6-arm64", pytest.param("cuda-2.6-amd64", marks=pytest.mark.big)])
@pytest.mark.parametrize(
    "name",
    ["any uid", "pip check", "pip install", "console scripts", "bytecode", "locale", "certificates", "home and workdir",
     "dataloader", "matmul on cpu", "entrypoint", "distributions", "numpy", "pip keeps torch", "read-only root",
     "home of root",
     "login shell", "standard library"],
)  # fmt: skip
def test_images_are_as_people_expect_them(cell: str, name: str, request: pytest.FixtureRequest) -> None:
    found: Findings = request.getfixturevalue("tested" if cell.startswith("cpu") else "tested_cuda")
    assert found[cell][name].startswith("PASSED"), found[cell][name]


def test_torch_compile_works_in_devel_alone(tested_cuda: Findings) -> None:
    assert tested_cuda["cuda-2.6-devel-amd64"]["torch.compile"].startswith("PASSED")
    assert tested_cuda["cuda-2.6-amd64"]["torch.compile"].startswith("NOT RUN")


def test_an_image_that_is_not_what_its_lock_says_fails_and_names_both(
    everything: Path, built_store: dict[str, str], tmp_path: Path
) -> None:
    project = copy_project(tmp_path / "project")
    lock = project / "images/cuda-2.6/requirements.amd64.txt"
    text = lock.read_text()
    lock.write_text(text.replace("numpy==", "numpy==1!").replace("# numpy-", "# numpy-1!"))
    assert lock.read_text() != text
    done = buildctl("--layout", everything, "test", "cuda-2.6", "--runtime", "sandbox", cwd=project, env=built_store)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED   distributions" in done.stdout
    assert "1!" in done.stdout


def test_an_image_that_is_not_built_is_not_passed(built_store: dict[str, str], tmp_path: Path) -> None:
    done = buildctl("--layout", tmp_path, "test", "cuda-2.6", env=built_store)
    assert done.returncode == 8
    assert "not built: cuda-2.6-amd64" in done.stderr
    assert "buildctl build cuda-2.6" in done.stderr


@pytest.mark.parametrize(
    ("name", "arch", "version"),
    [("cpu-2.6", "arm64", "2.6.0+cpu"), pytest.param("cuda-2.6", "amd64", "2.6.0+cu124", marks=pytest.mark.big)],
)
def test_docker_runs_what_was_built(
    name: str,
    arch: str,
    version: str,
    docker_client: docker.DockerClient,
    built_store: dict[str, str],
    layouts: Callable[[str], Path],
) -> None:
    built = layouts(name)
    done = buildctl("--layout", built, "build", name, "--load", env=built_store)
    assert done.returncode == 0, done.stderr
    assert f"pytorch:{name}" in done.stdout
    command = ["python", "-c", "import torch; print(torch.__version__)"]
    try:
        said = docker_client.containers.run(
            f"pytorch:{name}", command, remove=True, platform=f"linux/{arch}", read_only=True, user="4321:4321"
        )
    finally:
        for tag in (name, f"{name}-{arch}"):
            docker_client.images.remove(f"pytorch:{tag}", force=True)
    assert said.decode().strip() == version


def test_the_docker_runtime_agrees_with_the_sandbox(
    docker_client: docker.DockerClient, everything: Path, built_store: dict[str, str], tested_cuda: Findings
) -> None:
    assert docker_client.ping()
    done = buildctl("--layout", everything, "test", "cuda-2.6", "--runtime", "docker", "--json", env=built_store)
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = json.loads(done.stdout)["reports"]
    assert report["runtime"] == "docker"
    statuses = {f["name"]: f["status"] for f in report["findings"]}
    sandbox = {name: text.partition(":")[0] for name, text in tested_cuda["cuda-2.6-amd64"].items()}
    assert statuses == sandbox


@pytest.mark.parametrize(
    "name",
    ["cpu-2.6-arm64", *(pytest.param(n, marks=pytest.mark.big) for n in ("cuda-2.6-amd64", "cpu-2.6-devel-arm64"))],
)
def test_skopeo_reads_the_layout(name: str, layouts: Callable[[str], Path]) -> None:
    built = layouts(name)
    if shutil.which("skopeo") is None:
        pytest.skip("NOT RUN: skopeo is not installed")
    done = subprocess.run(["skopeo", "inspect", f"oci:{built}:{name}"], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert seen["Architecture"] == name.rpartition("-")[2]
    assert seen["Labels"]["dev.buildctl.torch"] == "2.6.0"
    assert not any(e.startswith("NVIDIA") for e in seen["Env"]) or name.startswith("cuda")


def test_no_host_path_and_no_secret_is_in_an_image(built: Path) -> None:
    """The layers' own check says what names there are; here it is the contents of what was generated."""
    done = subprocess.run(
        ["grep", "-rlaF", "--", str(Path.home() / ".cache"), built / "blobs"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "", "no manifest or configuration names a path of this machine"
    assert os.environ.get("HOME", "/nonexistent") not in (built / "index.json").read_text()
