"""Shared by all tests: the project itself, and images that are built once per session."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ran:
    returncode: int
    stdout: str
    stderr: str


def buildctl(
    *args: str | Path,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    timeout: float = 900,
) -> Ran:
    """Run the command line as a user does, in a process of its own."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "buildctl", *map(str, args)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout with cuda-2.6/amd64 and cpu-2.6/arm64, runtime and devel, from the user's store."""
    layout = tmp_path_factory.mktemp("built") / "dist"
    done = buildctl(
        "--layout", layout, "build", "cuda-2.6", "cuda-2.6-devel", "cpu-2.6", "cpu-2.6-devel", "--no-load", "--locked"
    )
    assert done.returncode == 0, done.stderr
    return layout
