"""The rows of the table of exit codes that need a network; the others are in tests/unit/cli/test_exit_codes.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from buildctl.ground.errors import ExitCode
from tests.conftest import buildctl
from tests.support.projects import copy_project

NO_INDEX = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}


def test_an_index_that_does_not_answer(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    done = buildctl("native", "mps-2.6", "--verify", "--json", cwd=project, env=NO_INDEX)
    assert done.returncode == ExitCode.UNREACHABLE, done.stderr
    assert json.loads(done.stdout)["error"]["exitCode"] == ExitCode.UNREACHABLE
    told = buildctl("-v", "native", "mps-2.6", "--verify", cwd=project, env=NO_INDEX)
    assert "  $ " in told.stderr
    assert "uv pip compile" in told.stderr


def test_a_registry_that_has_no_such_thing(tmp_path: Path) -> None:
    argv = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().split(" port ")[1].split()[0]
            done = buildctl("-v", "verify", f"127.0.0.1:{port}/a:b")
        finally:
            server.kill()
    assert done.returncode == ExitCode.REGISTRY, done.stderr
    assert f"  GET http://127.0.0.1:{port}/v2/a/manifests/b: 404" in done.stderr


@pytest.mark.network
def test_what_cannot_be_locked(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    matrix = project / "matrix.yaml"
    text = matrix.read_text()
    assert '"2.6": 2.6.0' in text
    matrix.write_text(text.replace('"2.6": 2.6.0', '"2.6": 2.6.99'))
    done = buildctl("lock", "mps-2.6", cwd=project)
    assert done.returncode == ExitCode.UNSOLVABLE, done.stderr
