"""Claims from the wheels to the running image through the command line, and each kind of lie on the way."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Ran, buildctl
from tests.support.projects import copy_project

HOSTS = ROOT / "tests" / "support" / "hosts"


def answer(done: Ran, code: int = 0) -> dict[str, Any]:
    assert done.returncode == code, done.stdout + done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project's own matrix, templates and locks, to lie in."""
    return copy_project(tmp_path / "project")


def alter(project: Path, cell: str, old: str, new: str) -> None:
    name, _, arch = cell.rpartition("-")
    path = project / "images" / name / f"claims.{arch}.json"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@pytest.mark.network
@pytest.mark.parametrize("names", [["cpu-2.6"], pytest.param(["cuda-2.6", "cpu-2.6"], marks=pytest.mark.big)])
def test_the_files_of_claims_are_what_the_wheels_say(names: list[str], layouts: Callable[[str], Path]) -> None:
    built = layouts(names[0])
    done = buildctl("--layout", built, "claims", "--check", *names)
    said = f"{len(names)} files of claims agree with the wheels\n"
    assert (done.returncode, done.stdout) == (0, said), done.stderr


@pytest.mark.network
@pytest.mark.parametrize(
    ("cell", "true", "false"),
    [
        ("cpu-2.6-arm64", "2.6.0+cpu", "2.6.0+cpv"),
        pytest.param("cuda-2.6-amd64", "sm_90", "sm_91", marks=pytest.mark.big),
    ],
)
def test_a_claim_that_the_wheel_does_not_make_is_refused_with_both_values(
    cell: str, true: str, false: str, copy: Path, layouts: Callable[[str], Path]
) -> None:
    name = cell.rpartition("-")[0]
    layouts(name)
    alter(copy, cell, f'"{true}"', f'"{false}"')
    done = buildctl("--project", copy, "claims", "--check", name)
    assert done.returncode == 4
    assert true in done.stderr
    assert false in done.stderr
    assert buildctl("--project", copy, "claims", name).returncode == 0
    assert buildctl("--project", copy, "claims", "--check", name).returncode == 0


@pytest.mark.network
def test_pieces_at_the_index_say_the_same_as_the_whole_wheel(built: Path, copy: Path, tmp_path: Path) -> None:
    (copy / "images" / "cpu-2.6" / "claims.arm64.json").unlink()
    empty = {"BUILDCTL_CACHE": str(tmp_path / "empty")}
    done = buildctl("--project", copy, "claims", "cpu-2.6", env=empty)
    assert "from parts of the wheel at the index" in done.stdout, done.stderr
    file = Path("images") / "cpu-2.6" / "claims.arm64.json"
    assert (copy / file).read_bytes() == (ROOT / file).read_bytes()
    assert sum(p.stat().st_size for p in (tmp_path / "empty").rglob("*") if p.is_file()) == 0


@pytest.mark.network
def test_one_digit_makes_the_test_of_the_image_fail_with_both_values(
    everything: Path, built_store: dict[str, str], copy: Path
) -> None:
    alter(copy, "cuda-2.6-amd64", '"nccl": "2.21.5"', '"nccl": "2.21.6"')
    test = ("test", "cuda-2.6", "--runtime", "sandbox", "--json")
    done = buildctl("--project", copy, "--layout", everything, *test, env=built_store)
    (report,) = answer(done, 1)["reports"]
    failed = {f["name"]: f["detail"] for f in report["findings"] if f["status"] == "FAILED"}
    assert failed.pop("nccl version") == "expected NCCL 2.21.6, image reports 2.21.5"
    assert "expected 2.21.6, the label has 2.21.5" in failed.pop("labels")
    assert failed == {}


@pytest.mark.network
@pytest.mark.parametrize("cell", ["cpu-2.6-arm64", pytest.param("cuda-2.6-amd64", marks=pytest.mark.big)])
def test_inspect_shows_the_claims_of_what_is_built(cell: str, layouts: Callable[[str], Path]) -> None:
    name, _, arch = cell.rpartition("-")
    built = layouts(name)
    (seen,) = answer(buildctl("--layout", built, "inspect", name, "--json"))["images"]
    claims = json.loads((ROOT / "images" / name / f"claims.{arch}.json").read_bytes())
    assert seen["source"] == "labels"
    assert seen["digest"].startswith("sha256:")
    for key in ("torch", "torchvision", "torchaudio", "cuda", "cudnn", "nccl", "glibc", "python"):
        assert seen["claims"].get(key) == claims[key]
    by_path = answer(buildctl("inspect", f"{built}:{name}", "--json"))["images"]
    assert by_path[0]["digest"] == seen["digest"]


def test_check_answers_from_a_recorded_host() -> None:
    done = buildctl("check", "cuda-2.6", "cuda-2.10", "--host", HOSTS / "rtx5090.json", "--json")
    kinds = {v["name"]: v["verdict"] for v in answer(done)["verdicts"]}
    assert kinds == {"cuda-2.6": "runs on CPU", "cuda-2.10": "runs with GPU"}
    assert buildctl("check", "mps-2.6", "--host", HOSTS / "gh200.json").returncode == 1


def test_check_saves_facts_of_this_machine_that_it_reads_again(tmp_path: Path) -> None:
    first = answer(buildctl("check", "--save", tmp_path / "host.json", "--json"))
    again = answer(buildctl("check", "--host", tmp_path / "host.json", "--json"))
    assert first == again


def test_doctor_finds_that_this_machine_can_build() -> None:
    found = answer(buildctl("doctor", "--json"))
    assert {s["for"] for s in found["symptoms"]} >= {"build", "lock", "test", "run"}


@pytest.mark.skipif(sys.platform == "darwin", reason="NOT RUN: on a Mac it can be made")
def test_native_says_why_not_here() -> None:
    done = buildctl("native", "mps-2.6")
    assert done.returncode == 10
    assert "macOS on Apple silicon" in done.stderr
    assert "--verify" in done.stderr


@pytest.mark.network
def test_native_verifies_lock_and_wheel_anywhere() -> None:
    done = buildctl("native", "mps-2.6", "--verify")
    assert done.returncode == 0, done.stderr
    assert "an MPS build, needs macOS 14.0" in done.stdout


@pytest.mark.network
def test_a_hash_that_the_index_does_not_have_is_refused(copy: Path) -> None:
    path = copy / "images" / "mps-2.6" / "requirements.arm64.txt"
    text = path.read_text()
    at = text.index("numpy==")
    start = text.index("sha256:", at) + 7
    path.write_text(text[:start] + "0" * 64 + text[start + 64 :])
    (path.parent / "claims.arm64.json").unlink()  # about the lock as it was
    done = buildctl("--project", copy, "native", "mps-2.6", "--verify")
    assert done.returncode == 7
    assert "0" * 64 in done.stderr
