"""`buildctl check` on images that are no names of the matrix, and how little it loads for those that are."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from buildctl.ground.errors import LayoutError, MatrixError
from buildctl.host.catalogue import catalogue
from buildctl.host.check import CheckResult, check_images
from buildctl.host.facts import read_host
from buildctl.host.verdict import Verdict, VerdictKind, decide
from buildctl.lock.claims import claim_labels, claims_from_labels, label_values, read_claims
from buildctl.oci.layout import Layout
from tests.conftest import ROOT
from tests.support.images import Blobs, config_of, file, tar

HOSTS = Path(__file__).parents[2] / "support" / "hosts"
NOT_BUILT = ROOT / "no-layout"
CUDA = ROOT / "images" / "cuda-2.6" / "claims.amd64.json"
OURS = claim_labels([read_claims(CUDA)])
THEIRS = {"CUDA_VERSION": "12.4.1", "PYTORCH_VERSION": "2.6.0"}


def put(
    root: Path, name: str, arch: str = "amd64", *, labels: Mapping[str, str] = {}, env: Mapping[str, str] = {}
) -> str:
    layout, blobs = Layout(root / "theirs"), Blobs(root / "blobs")
    layers = [blobs.add(tar(file("a")))]
    config = dataclasses.replace(config_of(layers, arch=arch), labels=labels, env=tuple(env.items()))
    layout.put_image(name=name, config=config, layers=layers, blob=blobs.path)
    return f"{layout.root}:{name}"


def verdict(host: str, *names: str, start: Path = ROOT) -> Verdict:
    (found,) = check_images(start, None, names, host_file=HOSTS / f"{host}.json", save=None).verdicts
    return found


def test_labels_give_back_what_they_were_made_from() -> None:
    claims = read_claims(CUDA)
    again = claims_from_labels(claim_labels([claims]), "amd64")
    assert again is not None
    assert label_values(again) == label_values(claims)
    assert (again.architectures, again.driver_floor) == (claims.architectures, claims.driver_floor)
    assert claims_from_labels({"a": "b"}, "amd64") is None


@pytest.mark.parametrize(
    ("host", "kind", "reason"),
    [
        ("h200", VerdictKind.GPU, "NVIDIA H200 (sm_90), driver 580.159.04 >= 525"),
        ("rtx5090", VerdictKind.CPU, "no code for NVIDIA GeForce RTX 5090 (sm_120), only for"),
        ("old-driver", VerdictKind.CPU, "driver 470.223.02 is older than 525"),
        ("gh200", VerdictKind.NOT, "only for amd64, this is arm64"),
        ("m3-docker-desktop", VerdictKind.EMULATED, "only for amd64"),
    ],
)
def test_an_image_of_ours_by_path_gets_the_verdict_of_its_labels(
    host: str, kind: VerdictKind, reason: str, tmp_path: Path
) -> None:
    found = verdict(host, put(tmp_path, "x", labels=OURS))
    assert (found.kind, reason in found.reason) == (kind, True), found.reason


@pytest.mark.parametrize(
    ("host", "env", "kind", "reason"),
    [
        ("h200", THEIRS, VerdictKind.GPU, "the image does not claim which GPUs its torch is compiled for"),
        ("old-driver", THEIRS, VerdictKind.CPU, "driver 470.223.02 is older than 525"),
        ("no-gpu", THEIRS, VerdictKind.CPU, "no NVIDIA GPU here"),
        ("driver-550", {"NVIDIA_REQUIRE_CUDA": "cuda>=12.6"}, VerdictKind.CPU, "it requires CUDA 12.6, driver 550"),
        ("driver-550", {"NVIDIA_REQUIRE_CUDA": "cuda>=12.4"}, VerdictKind.GPU, "driver 550"),
        ("h200", {"PATH": "/bin"}, VerdictKind.CPU, "its labels and environment claim nothing about CUDA"),
        ("gh200", {"PATH": "/bin"}, VerdictKind.NOT, "only for amd64, this is arm64"),
    ],
)
def test_an_image_of_others_gets_what_can_be_said(
    host: str, env: Mapping[str, str], kind: VerdictKind, reason: str, tmp_path: Path
) -> None:
    found = verdict(host, put(tmp_path, "x", env=env))
    assert (found.kind, reason in found.reason) == (kind, True), found.reason


def test_the_next_step_starts_that_very_image(tmp_path: Path) -> None:
    target = put(tmp_path, "x", labels=OURS)
    step = verdict("h200", target).next_step
    assert step.endswith("docker-daemon:x:latest && docker run -it --rm --gpus all x:latest")
    assert verdict("rtx5090", target).next_step.startswith("use cuda-2.15; until then: ")


def test_a_layout_without_a_name_is_all_that_is_in_it_and_needs_no_project(tmp_path: Path) -> None:
    put(tmp_path, "x", labels=OURS)
    root = put(tmp_path, "y").removesuffix(":y")
    answer = check_images(tmp_path, None, [root], host_file=HOSTS / "h200.json", save=None)
    assert [(v.name, v.kind) for v in answer.verdicts] == [
        (f"{root}:x", VerdictKind.GPU),
        (f"{root}:y", VerdictKind.CPU),
    ]
    with pytest.raises(MatrixError, match=r"no matrix\.yaml"):
        check_images(tmp_path, None, [root, "cuda-2.6"], host_file=HOSTS / "h200.json", save=None)
    with pytest.raises(LayoutError, match="is not an OCI layout"):
        check_images(tmp_path, None, ["./nowhere"], host_file=HOSTS / "h200.json", save=None)


def test_names_and_paths_go_together(tmp_path: Path) -> None:
    names = ["cpu-2.6", put(tmp_path, "x", labels=OURS)]
    answer = check_images(ROOT, None, names, host_file=HOSTS / "h200.json", save=None)
    assert [v.name for v in answer.verdicts] == names


# a verdict on a name is given at once: nothing is imported that it does not need

CHECK = ("check", "cuda-2.6", "--host", str(HOSTS / "h200.json"))
HEAVY = (
    "docker",
    "requests",
    "yaml",
    "jsonschema",
    "rich",
    "buildctl.matrix.matrix",
    "buildctl.registry",
    "buildctl.host.subject",
)


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_verdict_loads_nothing_heavy() -> None:
    code = f"""
import sys
from buildctl.cli import main
try:
    main()
finally:
    print([m for m in {HEAVY} if m in sys.modules])
    files = [f for m in sys.modules.values() if "site-packages" in (f := getattr(m, "__file__", None) or "")]
    names = {{f.partition("site-packages/")[2].partition("/")[0] for f in files}}
    print(sorted(names - {{"_distutils_hack"}}))  # setuptools' own, at every start of a Python that has it
"""
    done = python("-c", code, *CHECK)
    assert "runs with GPU" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-2:] == ["[]", "['click', 'packaging']"]


@pytest.mark.parametrize(
    ("host", "take"),
    [
        ("h200", "cuda-2.15"),
        ("m3-docker-desktop", "mps-2.15"),
        ("no-gpu", "cuda-2.15"),
        ("arm64-server", "cpu-2.10"),
        ("driver-550", "cuda-2.10"),
    ],
)
def test_the_answer_comes_first_the_newest_that_runs_best(host: str, take: str) -> None:
    found = check_images(ROOT, NOT_BUILT, (), host_file=HOSTS / f"{host}.json", save=None)
    assert found.take is not None
    assert (found.take.name, found.to_json()["take"]) == (take, take)
    assert found.text().splitlines()[2].startswith(f"Take {take}, which runs ")
    assert found.text().splitlines()[-1] != ""
    for command in (command for step in found.take.steps for command in step.commands):
        assert f"    {command}" in found.text().splitlines(), "whole, on a line of its own"


def test_one_image_that_was_asked_about_is_answered_without_advice() -> None:
    found = check_images(ROOT, NOT_BUILT, ["cuda-2.6"], host_file=HOSTS / "h200.json", save=None)
    assert (found.take, found.text().count("cuda-2.15")) == (None, 0)


def test_a_common_reason_is_told_once() -> None:
    found = check_images(ROOT, NOT_BUILT, (), host_file=HOSTS / "no-gpu.json", save=None)
    text = " ".join(found.text().split())
    assert text.count("no NVIDIA GPU here") == 1
    assert "Take cuda-2.15, which runs on CPU: no NVIDIA GPU here" in text
    assert "cuda-2.6, cuda-2.10 the same" in text
    old = check_images(ROOT, NOT_BUILT, (), host_file=HOSTS / "old-driver.json", save=None).text()
    assert " ".join(old.split()).count("driver 470.223.02 is older than") == 2
    assert "525, which CUDA 12.4 needs; 525, which CUDA 12.8 needs" in " ".join(old.split())


@pytest.mark.parametrize("path", sorted(HOSTS.glob("*.json")), ids=lambda path: path.stem)
def test_only_commands_are_wider_than_the_terminal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = check_images(ROOT, NOT_BUILT, (), host_file=path, save=None)
    commands = {f"    {command}" for v in found.verdicts for step in v.steps for command in step.commands}
    named = {re.sub(r"(cuda|cpu|mps)-[\d.]+", "NAME", command) for command in commands}
    wide = [line for line in found.text().splitlines() if len(line) > 80]
    assert not set(wide) - commands - named


def test_where_nothing_runs_it_says_so_first() -> None:
    host = dataclasses.replace(read_host(HOSTS / "no-gpu.json"), engine=None, engine_problem="no daemon")
    found = CheckResult(host=host, verdicts=tuple(decide(s, host) for s in catalogue(ROOT, NOT_BUILT) if not s.native))
    assert found.text().splitlines()[2] == "None of them runs here."
    assert " ".join(found.text().split()).count("no container engine responds (no daemon)") == 1
