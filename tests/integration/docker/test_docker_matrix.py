"""The other engine for a matrix off the beaten track: own wheels and files, a base from a registry, two indexes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from buildctl.build.buildkit.buildkit import DockerOptions, build_with_docker, user_secrets, with_fixed_times
from buildctl.dockerfile.bake import target_of
from buildctl.lock.index import uv_environment
from buildctl.lock.locked import load_locked
from buildctl.matrix.project import Project
from buildctl.oci.check import check_image
from buildctl.oci.entry import EPOCH
from buildctl.oci.layout import Layout
from tests.support.engine import Engine
from tests.support.sameness import configuration_differences, file_differences, raw_configuration, tree
from tests.support.team import NAMES, World, team_world

pytestmark = [pytest.mark.docker, pytest.mark.big]


@pytest.fixture(scope="module")
def world(upstream: str, built_store: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with team_world(tmp_path_factory.mktemp("team"), upstream, built_store) as found:
        found.run("build", "--no-load")
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("UV_DEFAULT_INDEX")  # the machine's own index has uv
            found.run("bases")
        yield found


@pytest.mark.parametrize("name", NAMES)
def test_both_engines_agree_on_a_teams_image(
    name: str, world: World, docker_engine: Engine, docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    if not docker_engine.own:
        pytest.skip("NOT RUN: the indexes and the registry are on this machine's loopback")
    project = Project.find(world.project)
    (locked,) = load_locked(project, project.matrix.select([name]))
    ours, theirs = Layout(project.layout), Layout(tmp_path / "dist")
    target = target_of(locked.cell, context=project.images, layout=ours.root, image=locked.image)
    secrets = user_secrets(tmp_path, uv_environment(), index=locked.cell.accelerator.index)
    options = DockerOptions(epoch=EPOCH, secrets=secrets, network="host", cache=False)
    target = target if locked.image else with_fixed_times(target)  # as the engine does
    made = build_with_docker([target], options, layout=theirs)[locked.cell.id]
    assert check_image(theirs, made) == []
    one = ours.resolve(locked.cell.id)
    assert file_differences(tree(ours, one), tree(theirs, made)) == []
    assert configuration_differences(raw_configuration(ours, one), raw_configuration(theirs, made)) == []
