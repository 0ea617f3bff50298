"""The base of real images moves; what is above stays, and is what a build from the same locks would have given."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from buildctl.oci.digest import Digest
from buildctl.oci.layout import Layout
from tests.conftest import ROOT, buildctl
from tests.support.projects import copy_project

pytestmark = pytest.mark.network

# Python tells of every file that it opens before it does (PEP 578)
WATCHED = """\
import sys
opened = open(sys.argv.pop(1), "w", buffering=1)
sys.addaudithook(lambda event, what: event == "open" and opened.write(f"{what[0]}\\n"))
from buildctl.cli import main
main()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of this project."""
    return copy_project(tmp_path / "project")


def drop_netbase(project: Path) -> None:
    """As if Debian had dropped a package."""
    for lock in (project / "images/bases/debian13").glob("*.packages"):
        lock.write_text(re.sub(r"\nPackage: netbase\n(?:.+\n)*", "", lock.read_text()))


def test_a_rebase_moves_the_base_and_equals_a_build(
    built: Path, built_store: dict[str, str], project: Path, tmp_path: Path
) -> None:
    assert buildctl("build", "cpu-2.6", "--no-load", "--locked", cwd=project, env=built_store).returncode == 0
    layout = Layout(project / "dist")
    before = layout.manifest(layout.resolve("cpu-2.6-arm64"))
    drop_netbase(project)
    done = buildctl("rebase", "cpu-2.6", "--locked", "--json", cwd=project, env=built_store)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [line.split()[:3] for line in said["packages"][1:]] == [["-", "deb", "netbase"]]
    assert said["seconds"] < 5
    after = layout.resolve("cpu-2.6-arm64")
    assert said["images"][0]["after"] == str(after.digest)
    assert layout.manifest(after).layers[1:] == before.layers[1:]
    assert layout.manifest(after).layers[0] != before.layers[0]
    again = buildctl(
        "--layout", tmp_path / "again", "build", "cpu-2.6", "--no-load", "--locked", cwd=project, env=built_store
    )
    assert again.returncode == 0, again.stderr
    assert Layout(tmp_path / "again").resolve("cpu-2.6-arm64").digest == after.digest
    assert buildctl("fsck", cwd=project).returncode == 0


@pytest.mark.parametrize(
    ("arch", "names", "size"),
    [
        ("arm64", ["cpu-2.6"], 100_000_000),
        pytest.param("amd64", ["cuda-2.6", "cuda-2.6-devel"], 2_000_000_000, marks=pytest.mark.big),
    ],
    ids=["cpu", "cuda"],
)
def test_a_rebase_reads_no_byte_of_a_wheel_layer_and_names_each_base(
    arch: str,
    names: list[str],
    size: int,
    layouts: Callable[[str], Path],
    built_store: dict[str, str],
    project: Path,
    tmp_path: Path,
) -> None:
    layouts(names[0])  # makes the layers
    assert buildctl("build", *names, "--no-load", "--locked", cwd=project, env=built_store).returncode == 0
    layout = Layout(project / "dist")
    images = [{d.digest: d.size for d in layout.manifest(layout.resolve(f"{name}-{arch}")).layers} for name in names]
    assert sum(length for digest, length in images[0].items() if digest in images[-1]) > size
    above = list(images[0])[1:]  # the base may be looked into, for its packages
    wheels = {digest.hex: layout.blob_path(digest).stat().st_ino for digest in above if digest in images[-1]}
    drop_netbase(project)
    opened = tmp_path / "opened"
    argv: list[str | Path] = [sys.executable, "-c", WATCHED, opened, "rebase", *names, "--locked", "--json"]
    environment = {**os.environ, **built_store, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [line for line in said["packages"] if "netbase" not in line] == [
        f"base-debian13{name.removeprefix('cuda-2.6').removeprefix('cpu-2.6')}-{arch}:" for name in names
    ]
    assert sum("- deb netbase" in line for line in said["packages"]) == len(names)
    assert all(image["before"] != image["after"] and image["keptBytes"] > size for image in said["images"])
    files = opened.read_text().splitlines()
    assert any("blobs/sha256/" in file for file in files), "nothing was watched"
    assert [file for file in files if Path(file).name in wheels] == []
    assert {name: layout.blob_path(Digest(name)).stat().st_ino for name in wheels} == wheels
