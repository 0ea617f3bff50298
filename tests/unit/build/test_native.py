"""Native environments: what is refused, with the reason, and what uv is told where it is not."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from buildctl.build.native import downloads, install_commands, make_native, native_cell, refuse_stale
from buildctl.cli.answers.findings import Printed
from buildctl.ground.errors import LockError, MatrixError, RuntimeUnavailableError
from buildctl.host.facts import read_host
from buildctl.lock.locked import LockedCell, load_locked
from buildctl.matrix.project import Project
from buildctl.testing import probes
from buildctl.testing.images import TestResult
from buildctl.testing.native import native_names, native_report
from buildctl.testing.probes.expected import expected_of
from buildctl.testing.report import Status
from tests.support.command import run_command

HOSTS = Path(__file__).parents[2] / "support" / "hosts"


def pinned(project: Project) -> LockedCell:
    (locked,) = load_locked(project, [native_cell(project, "mps-2.6")])
    return locked


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("no-gpu", "for macOS on Apple silicon"),
        ("intel-mac", "Intel"),
        ("m1-macos13", "macOS 14.0, this is 13.7"),
        ("m3-rosetta-python", "under rosetta"),
    ],
)
def test_where_it_cannot_be_made_it_says_why(project: Project, host: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match=words) as caught:
        list(make_native(project, "mps-2.6", tmp_path, host=read_host(HOSTS / f"{host}.json")))
    assert "--verify" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_an_image_is_no_native_environment(project: Project) -> None:
    with pytest.raises(MatrixError, match="image for containers") as caught:
        native_cell(project, "cuda-2.6")
    assert "mps-2.6" in str(caught.value.hint)


def test_uv_gets_the_lock_with_its_hashes_and_nothing_else(project: Project, tmp_path: Path) -> None:
    cell = native_cell(project, "mps-2.6")
    lock = project.wheel_lock(cell.name, cell.arch)
    venv, sync = install_commands("uv", cell, lock, tmp_path)
    assert venv[-1] == str(tmp_path)
    assert venv[venv.index("--python") + 1] == cell.python
    assert sync[:3] == ["uv", "pip", "sync"]
    assert "--require-hashes" in sync
    assert sync[-1] == str(lock)


def test_it_says_what_it_downloads(project: Project) -> None:
    locked = pinned(project)
    text = downloads(locked.cell, locked.wheels)
    assert text.startswith(f"mps-2.6: {len(locked.wheels.wheels)} wheels, ")
    assert "MB: torch 2.6.0 (" in text
    assert "Python 3.13 unless it is installed" in text


def test_a_lock_that_is_not_what_the_matrix_asks_for_is_refused(project: Project) -> None:
    locked = pinned(project)
    other = dataclasses.replace(locked, cell=dataclasses.replace(locked.cell, python="3.12"))
    with pytest.raises(LockError, match=r"Python 3\.13, the matrix has 3\.12"):
        refuse_stale(project, other)


# `buildctl test mps-...`


def test_its_findings_are_those_that_make_sense_without_a_container(project: Project) -> None:
    expected = expected_of(pinned(project))
    assert (expected.system, expected.arch, expected.built, expected.never) == ("Darwin", "arm64", ("mps",), ("cuda",))
    names = probes.names_of(expected)
    of_images = {"any uid", "home and workdir", "libraries", "glibc", "no cuda", "cuda libraries", "certificates"}
    assert not ({"entrypoint", "pip install", "works on the gpu", "without a gpu", "bytecode"} | of_images) & set(names)
    on_mps = ["mps built", "mps available", "matmul on mps", "convolution on mps", "autograd on mps", "mps fallback"]
    assert [name for name in names if "mps" in name] == on_mps
    assert {"platform", "distributions", "pip check", "dataloader", "torchscript", "two processes"} <= set(names)


@pytest.mark.parametrize("host", ["no-gpu", "intel-mac", "m1-macos13"])
def test_where_it_cannot_be_everything_is_not_run(project: Project, host: str, tmp_path: Path) -> None:
    report = native_report(project, pinned(project), tmp_path, host=read_host(HOSTS / f"{host}.json"))
    assert {f.status for f in report.findings} == {Status.NOT_RUN}
    result = TestResult(reports=(report,))
    assert result.exit_code == 3
    lines: list[str] = []
    Printed(write=lines.append).ended(report)
    line = " ".join(" ".join(lines).split())
    assert line.startswith("NOT RUN all ")
    assert "mps-2.6 cannot run on this machine (" in line
    assert "--verify" in line


def test_on_a_mac_without_the_environment_it_says_how_to_make_it(project: Project, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"has no environment mps-2\.6") as caught:
        native_report(project, pinned(project), tmp_path, host=read_host(HOSTS / "m3-docker-desktop.json"))
    assert caught.value.hint == f"run `buildctl native mps-2.6 --path {tmp_path}` first"


def test_on_a_mac_the_environment_is_asked(project: Project, tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 5\n")
    python.chmod(0o755)
    report = native_report(project, pinned(project), tmp_path, host=read_host(HOSTS / "m3-docker-desktop.json"))
    found = {f.name: f for f in report.findings}
    assert (found["mps built"].status, found["mps built"].detail) == (Status.FAILED, "exit code 5")
    assert report.verdict is Status.FAILED


def test_names_of_images_and_globs_are_no_native_environments(project: Project) -> None:
    assert native_names(project, ["cuda-2.6", "mps-2.6", "mps-*", "nonsense"]) == ["mps-2.6"]


@pytest.mark.skipif(sys.platform == "darwin", reason="NOT RUN: it may exist on a Mac")
@pytest.mark.usefixtures("without_docker")
def test_the_command_line_reports_it(tmp_path: Path) -> None:
    done = run_command("--layout", tmp_path / "dist", "test", "mps-2.6", "--junit", tmp_path / "junit.xml")
    assert done.returncode == 3, done.stderr
    assert "NOT RUN  all" in done.stdout
    kept = json.loads((tmp_path / "dist" / "reports" / "mps-2.6-arm64.json").read_text())
    assert (kept["verdict"], kept["runtime"]) == ("NOT RUN", "native")
    assert "<skipped" in (tmp_path / "junit.xml").read_text()
