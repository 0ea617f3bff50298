"""A team's matrix of real wheels (`tests.support.real_matrix`), from lock to tags, with both engines and all probes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildctl.artifacts.store import Store
from buildctl.build.buildkit.buildkit import DockerOptions, build_with_docker, user_secrets, with_fixed_times
from buildctl.dockerfile.bake import target_of
from buildctl.ground.scratch import scratch
from buildctl.lock.locked import load_locked
from buildctl.lock.wheels import read_wheel_lock
from buildctl.matrix.project import Project
from buildctl.oci.check import check_image
from buildctl.oci.entry import EPOCH
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.oci.scan import DEBIAN_SETUID
from tests.support.engine import Engine
from tests.support.publishing import skopeo
from tests.support.real_matrix import CELLS, KEPT, TAGS, project, push_base, run, seed
from tests.support.registry import docker_registry
from tests.support.sameness import configuration_differences, file_differences, raw_configuration, tree
from tests.support.wheelhouse import wheelhouse

pytestmark = [pytest.mark.docker, pytest.mark.big, pytest.mark.network]

# what Debian's own script does with it where there is no setcap
ALLOWED = DEBIAN_SETUID | {"usr/bin/mtr-packet"}
ROOM = 6  # times the image: what BuildKit keeps of each step, what it exports, and the layout


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The built project, HOST:PORT of the registry that has its base, and where that keeps its data."""

    folder: Path
    registry: str
    data: Path

    @property
    def layout(self) -> Layout:
        return Layout(self.folder / "dist")


@pytest.fixture(scope="module")
def world(docker_engine: Engine, stores: Path) -> Iterator[World]:
    if not docker_engine.own:
        pytest.skip("NOT RUN: the registry and the index are on this machine's loopback")
    folder = stores / "real-matrix"  # on the disk, not in /tmp
    with docker_registry(folder / "registry") as registry, pytest.MonkeyPatch.context() as patch:
        for key in ("DOCKER_HOST", "DOCKER_CONFIG", "PATH"):
            patch.setenv(key, docker_engine.env[key])
        yield made(folder, registry)
    shutil.rmtree(folder)


def made(folder: Path, registry: str) -> World:
    push_base(folder / "base", registry)
    run(project(folder / "team", registry), "lock", "--record-scripts")
    run(folder / "team", "build", "--no-load")
    return World(folder=folder / "team", registry=registry, data=folder / "registry" / "data")


def test_docker_world_is_what_was_asked_for(world: World) -> None:
    assert set(CELLS) == {cell.id for cell in Project.find(world.folder).matrix.cells} <= set(world.layout.names())
    recorded = [path.name for path in world.folder.rglob("*.recorded")]
    assert recorded == ["runtime.amd64.recorded"], "vim's scripts, for cu124-2.6"
    for cell in CELLS:
        found = world.layout.resolve(cell)
        config, files = raw_configuration(world.layout, found), tree(world.layout, found)
        team = "py311" in cell
        assert (set(config["config"]) >= KEPT, "etc/team-release" in files) == (team, team)
        user = "1234:1234" if cell.startswith("cu") else "4321:4321" if team else "1000:1000"
        assert config["config"]["User"] == user
        assert {"app/main.py", "etc/team/run.toml"} <= set(files)
        assert [path for path in files if path.endswith("team_lib/core.py")]


@pytest.mark.usefixtures("docker_client")
@pytest.mark.parametrize("cell", CELLS)
def test_both_engines_agree(cell: str, world: World) -> None:
    size = sum(layer.size for layer in world.layout.manifest(world.layout.resolve(cell)).layers)
    if shutil.disk_usage(world.folder).free < (needed := ROOM * size):
        pytest.skip(f"NOT RUN: BuildKit needs {needed >> 30} GiB of disk for this image")
    try:
        theirs, built = by_docker(world, cell)
        one = world.layout.resolve(cell)
        assert check_image(theirs, built, allow_setuid=ALLOWED) == []
        assert file_differences(tree(world.layout, one), tree(theirs, built)) == []
        both = raw_configuration(world.layout, one), raw_configuration(theirs, built)
        assert configuration_differences(*both) == []
    finally:
        shutil.rmtree(world.folder / "buildkit", ignore_errors=True)
        subprocess.run(["docker", "buildx", "prune", "-af"], check=True, capture_output=True)


def by_docker(world: World, cell: str) -> tuple[Layout, Descriptor]:
    """BuildKit fetches from an index on loopback that has the locked wheels: each byte came from the machine's own."""
    there = Project.find(world.folder)
    (locked,) = load_locked(there, [found for found in there.matrix.cells if found.id == cell])
    layout = Layout(world.folder / "buildkit")
    run(world.folder, "--layout", layout.root, "bases", locked.cell.name)
    target = target_of(locked.cell, context=there.images, layout=layout.root, image=locked.image)
    target = replace(target if locked.image else with_fixed_times(target), created=locked.created)  # as the engine does
    wheels = read_wheel_lock(there.wheel_lock(locked.cell.name, locked.cell.arch)).wheels
    store = Store.default()
    with scratch("secrets") as secrets, wheelhouse([w for w in wheels if store.artifact(w.digest)], store) as url:
        files = user_secrets(Path(secrets), {"UV_DEFAULT_INDEX": url})
        return layout, build_with_docker(
            [target], DockerOptions(epoch=EPOCH, secrets=files, network="host"), layout=layout
        )[cell]


@pytest.mark.parametrize("cell", CELLS)
def test_no_probe_fails_in_docker_world(cell: str, world: World) -> None:
    try:
        (answer,) = json.loads(run(world.folder, "test", cell, "--runtime", "sandbox", "--json").stdout)["reports"]
    finally:
        run(world.folder, "prune", "--unpacked", "--yes")  # gigabytes for each cell
    found = {finding["name"]: (finding["status"], finding["detail"]) for finding in answer["findings"]}
    assert [(name, *what) for name, what in found.items() if what[0] == "FAILED"] == []
    assert len([name for name, what in found.items() if what[0] == "PASSED"]) > 35


def test_docker_world_is_published(world: World) -> None:
    stems = {tag["tag"] for tag in json.loads(run(world.folder, "tags", "--json").stdout)}
    assert stems >= TAGS | {cell.rpartition("-")[0] for cell in CELLS}
    seed(world.data, "team/pytorch", world.layout, CELLS)
    run(world.folder, "publish", "--to", f"{world.registry}/team/pytorch")
    there = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{world.registry}/team/pytorch"))["Tags"]
    assert set(there) >= TAGS
    checked = run(world.folder, "check").stdout
    assert all(cell.rpartition("-")[0] in checked for cell in CELLS)
