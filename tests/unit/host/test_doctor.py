"""What is missing is told with the command that mends it."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

import pytest

from buildctl.ground.errors import MatrixError
from buildctl.host.doctor import Examination, State, examine, sandbox_problem
from buildctl.host.facts import Host, read_host
from buildctl.matrix.project import Project
from tests.conftest import ROOT

HOSTS = Path(__file__).parents[2] / "support" / "hosts"


@functools.cache
def project() -> Project:
    return Project.find(ROOT)


def seen(host: str) -> Examination:
    return examine(project, read_host(HOSTS / f"{host}.json"))


def mends(found: Examination) -> dict[str, str]:
    return {s.what: s.mend for s in found.symptoms if s.state is not State.GOOD}


def test_everything_that_is_missing_has_a_command() -> None:
    for path in HOSTS.glob("*.json"):
        for symptom in seen(path.stem).symptoms:
            assert symptom.detail
            assert symptom.mend or symptom.state is not State.MISSING, f"{path.stem}: {symptom}"


def test_a_missing_toolkit() -> None:
    assert "nvidia-ctk runtime configure" in mends(seen("no-toolkit"))["GPU in containers"]
    assert "GPU in containers" not in mends(seen("h200"))


def test_a_driver_that_does_not_answer() -> None:
    assert "nvidia-driver" in mends(seen("broken-driver"))["GPU"]


def test_a_mac_cannot_build_but_has_the_native_road() -> None:
    found = seen("m3-docker-desktop")
    assert found.exit_code == 1
    assert mends(found)["system"].startswith("build on Linux")
    assert next(s for s in found.symptoms if s.what == "Apple GPU").state is State.GOOD
    assert "arm64" in mends(seen("m3-rosetta-python"))["Python"]


def test_outside_of_a_project_nothing_can_be_built() -> None:
    def nowhere() -> Project:
        raise MatrixError("no matrix.yaml here", hint="go there")

    found = examine(nowhere, read_host(HOSTS / "no-gpu.json"))
    assert found.exit_code == 1
    assert mends(found)["project"] == "go there"


@pytest.mark.parametrize(("free", "state"), [(10**9, State.MISSING), (20 * 10**9, State.WORTH), (10**11, State.GOOD)])
def test_a_disk_that_is_too_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, state: State) -> None:
    monkeypatch.setenv("BUILDCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(free, 0, free))
    disk = next(s for s in seen("no-gpu").symptoms if s.what == "disk")
    assert disk.state is state
    assert (disk.mend == "") == (state is State.GOOD)


def test_the_answer_comes_first_with_the_command_for_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = seen("no-toolkit").text().splitlines()
    assert lines[2].startswith("Ready to ")
    start = next(n for n, line in enumerate(lines) if line.startswith("Not ready to run: GPU in containers:"))
    assert "    sudo systemctl restart docker" in lines[start:]
    assert lines[start:].index("    sudo systemctl restart docker") < lines[start:].index("To build:")
    assert all(len(line) <= 80 for line in lines if "sudo" not in line and "/" not in line)


def test_closed_namespaces_name_the_switch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel" / "apparmor_restrict_unprivileged_userns").write_text("1\n")
    assert sandbox_problem(tmp_path)[1] == "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"


def test_a_machine_without_an_engine_says_what_docker_said() -> None:
    host = Host(system="linux", arch="amd64", kernel="6.1", engine_problem="Cannot connect")
    found = examine(lambda: Project.find(ROOT), host)
    assert next(s.detail for s in found.symptoms if s.what == "container engine") == "Cannot connect"


def test_another_program_of_that_name_on_the_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, text in ((ours, "#!/usr/bin/python3\nfrom buildctl.cli import main\n"), (theirs, "\x7fELF")):
        folder.mkdir()
        (folder / "buildctl").write_text(text)
        (folder / "buildctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{ours}:{tmp_path}")
    assert "buildctl" not in mends(seen("no-gpu"))
    monkeypatch.setenv("PATH", f"{theirs}:{ours}")
    (symptom,) = [s for s in seen("no-gpu").symptoms if s.what == "buildctl"]
    assert f"{theirs}/buildctl is another program of that name" in symptom.detail
    assert "comes first" in symptom.detail
    assert "torch-buildctl" in symptom.mend
