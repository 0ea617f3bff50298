"""A team's matrix of real wheels (`tests.support.real_matrix`), from lock to tags, with both engines and all probes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import docker
import pytest

from buildctl.artifacts.store import Store
from buildctl.build.buildkit.buildkit import DockerOptions, build_with_docker, user_secrets, with_fixed_times
from buildctl.dockerfile.bake import target_of
from buildctl.lock.locked import load_locked
from buildctl.lock.wheels import read_wheel_lock
from buildctl.matrix.project import Project
from buildctl.oci.check import check_image
from buildctl.oci.entry import EPOCH
from buildctl.oci.layout import Layout
from tests.support.engine import Engine
from tests.support.publishing import skopeo
from tests.support.real_matrix import CELLS, KEPT, TAGS, project, push_base, run
from tests.support.sameness import configuration_differences, file_differences, raw_configuration, tree
from tests.support.wheelhouse import wheelhouse

pytestmark = [pytest.mark.docker, pytest.mark.big, pytest.mark.network]

ROOM = 6  # times the image: what BuildKit keeps of each step, what it exports, and the layout


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The built project, and HOST:PORT of the registry that has its base."""

    folder: Path
    registry: str

    @property
    def layout(self) -> Layout:
        return Layout(self.folder / "dist")


@pytest.fixture(scope="module")
def world(docker_engine: Engine, upstream: str, stores: Path) -> Iterator[World]:
    if not docker_engine.own:
        pytest.skip("NOT RUN: the registry and the index are on this machine's loopback")
    folder = stores / "real-matrix"  # on the disk, not in /tmp
    with pytest.MonkeyPatch.context() as patch:
        for key in ("DOCKER_HOST", "DOCKER_CONFIG", "PATH"):
            patch.setenv(key, docker_engine.env[key])
        push_base(folder / "base", upstream)
    shutil.rmtree(folder / "base")
    run(project(folder / "team", upstream), "lock", "--record-scripts")
    run(folder / "team", "build", "--no-load", "--locked")
    yield World(folder=folder / "team", registry=upstream)
    shutil.rmtree(folder)


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


@pytest.mark.parametrize("cell", CELLS)
def test_both_engines_agree(
    cell: str, world: World, docker_client: docker.DockerClient, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """BuildKit fetches from an index on loopback that has the locked wheels: each byte came from the machine's own."""
    there = Project.find(world.folder)
    (locked,) = load_locked(there, [found for found in there.matrix.cells if found.id == cell])
    ours, theirs = world.layout, Layout(world.folder / f"buildkit-{cell}")
    needed = ROOM * sum(layer.size for layer in ours.manifest(ours.resolve(cell)).layers)
    if shutil.disk_usage(world.folder).free < needed:
        pytest.skip(f"NOT RUN: BuildKit needs {needed >> 30} GiB of disk for this image")
    request.addfinalizer(lambda: shutil.rmtree(theirs.root))
    run(world.folder, "--layout", theirs.root, "bases", locked.cell.name)
    target = target_of(locked.cell, context=there.images, layout=theirs.root, image=locked.image)
    target = replace(target if locked.image else with_fixed_times(target), created=locked.created)  # as the engine does
    wheels = read_wheel_lock(there.wheel_lock(locked.cell.name, locked.cell.arch)).wheels
    with wheelhouse(wheels, Store.default()) as url:
        secrets = user_secrets(tmp_path, {"UV_DEFAULT_INDEX": url})
        options = DockerOptions(epoch=EPOCH, secrets=secrets, network="host")
        made = build_with_docker([target], options, layout=theirs)[cell]
    subprocess.run(["docker", "buildx", "prune", "-af"], check=True, capture_output=True)
    assert check_image(theirs, made) == []
    one = ours.resolve(cell)
    assert file_differences(tree(ours, one), tree(theirs, made)) == []
    assert configuration_differences(raw_configuration(ours, one), raw_configuration(theirs, made)) == []


@pytest.mark.parametrize("cell", CELLS)
def test_no_probe_fails_in_docker_world(cell: str, world: World) -> None:
    (answer,) = json.loads(run(world.folder, "test", cell, "--runtime", "sandbox", "--json").stdout)
    found = {finding["name"]: (finding["status"], finding["detail"]) for finding in answer["findings"]}
    assert [(name, *what) for name, what in found.items() if what[0] == "FAILED"] == []
    assert len([name for name, what in found.items() if what[0] == "PASSED"]) > 35


def test_docker_world_is_published(world: World) -> None:
    stems = {tag["tag"] for tag in json.loads(run(world.folder, "tags", "--json").stdout)}
    assert stems >= TAGS | {cell.rpartition("-")[0] for cell in CELLS}
    run(world.folder, "publish", "--to", f"{world.registry}/team/pytorch")
    there = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{world.registry}/team/pytorch"))["Tags"]
    assert set(there) >= TAGS
    checked = run(world.folder, "check").stdout
    assert all(cell.rpartition("-")[0] in checked for cell in CELLS)
