"""The base of a real image moves; what is above stays, and is what a build from the same locks would have given."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from buildctl.oci.layout import Layout
from tests.conftest import ROOT, buildctl

pytestmark = pytest.mark.network


def test_a_rebase_moves_the_base_and_equals_a_build(tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in ("images", "templates"):
        shutil.copytree(ROOT / name, project / name)
    shutil.copy(ROOT / "matrix.yaml", project)
    assert buildctl("build", "cpu-2.6", "--no-load", "--locked", cwd=project).returncode == 0
    layout = Layout(project / "dist")
    before = layout.manifest(layout.resolve("cpu-2.6-arm64"))
    for lock in (project / "images/bases/debian13").glob("runtime.*.packages"):  # as if Debian had dropped a package
        lock.write_text(re.sub(r"\nPackage: netbase\n(?:.+\n)*", "", lock.read_text()))
    done = buildctl("rebase", "cpu-2.6", "--locked", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [line.split()[:3] for line in said["packages"][1:]] == [["-", "deb", "netbase"]]
    assert said["seconds"] < 5
    after = layout.resolve("cpu-2.6-arm64")
    assert said["images"][0]["after"] == str(after.digest)
    assert layout.manifest(after).layers[1:] == before.layers[1:]
    assert layout.manifest(after).layers[0] != before.layers[0]
    built = buildctl("--layout", tmp_path / "again", "build", "cpu-2.6", "--no-load", "--locked", cwd=project)
    assert built.returncode == 0, built.stderr
    assert Layout(tmp_path / "again").resolve("cpu-2.6-arm64").digest == after.digest
    assert buildctl("fsck", cwd=project).returncode == 0
