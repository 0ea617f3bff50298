"""Docker alone builds the images: a clone, the bases in dist/, `docker buildx bake`, and no buildctl anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from buildctl.artifacts.store import Store
from buildctl.build.buildkit.buildkit import user_secrets
from buildctl.docker.daemon import loopback_port
from buildctl.lock.index import uv_environment
from buildctl.lock.wheels import read_wheel_lock
from buildctl.oci.layout import Layout
from tests.conftest import ROOT, buildctl
from tests.support.engine import Engine
from tests.support.sameness import configuration_differences, file_differences, raw_configuration, tree
from tests.support.tiny import CELL, NAME, tiny
from tests.support.wheelhouse import wheelhouse

pytestmark = [pytest.mark.docker, pytest.mark.network]
TARGET, TAG = "cpu-2_6-arm64", "pytorch:cpu-2.6-arm64"


@dataclass(frozen=True, slots=True)
class Clone:
    """A checkout with the bases in dist/ and what this machine needs to reach an index; and what is to come out."""

    folder: Path
    expected: Path
    options: tuple[str, ...] = ()


@pytest.fixture
def clone_of_this(tmp_path: Path, built: Path, built_store: Mapping[str, str]) -> Clone:
    """What git tracks, as it is now; wheels come from the index that this machine's user has."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("NOT RUN: these sources are no git repository")
    folder = tmp_path / "clone"
    for name in filter(None, done.stdout.decode().split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copyfile(ROOT / name, folder / name)
            (folder / name).chmod(0o755 if os.access(ROOT / name, os.X_OK) else 0o644)
    with_bases(folder, ROOT, built_store)
    override(folder, user_secrets(tmp_path, uv_environment()))
    return Clone(folder, built)


@pytest.fixture
def clone_of_tiny(tmp_path: Path, store: dict[str, str], docker_client: docker.DockerClient) -> Iterator[Clone]:
    """The tiny project; its wheels come from an index on loopback."""
    with loopback_port(docker_client, 1) as port:
        if port != 1:
            pytest.skip("NOT RUN: this Docker Engine is on another machine, and the index on this one's loopback")
    wheels = Path(store["BUILDCTL_CACHE"])
    folder = tiny(tmp_path / "clone", wheels)
    done = buildctl("--layout", tmp_path / "expected", "build", NAME, "--no-load", cwd=folder, env=store)
    assert done.returncode == 0, done.stderr
    with_bases(folder, folder, store)
    lock = read_wheel_lock(folder / "images" / NAME / "requirements.arm64.txt")
    with wheelhouse(lock.wheels, Store(wheels)) as url:
        override(folder, user_secrets(tmp_path, {"UV_DEFAULT_INDEX": url}), network="host")
        yield Clone(folder, tmp_path / "expected", ("--allow", "network.host"))


def with_bases(folder: Path, project: Path, store: Mapping[str, str]) -> None:
    bases = buildctl("--layout", folder / "dist", "bases", NAME, cwd=project, env=store)
    assert bases.returncode == 0, bases.stderr


def override(folder: Path, secrets: Mapping[str, Path], **more: str) -> None:
    """A file that bake reads by itself; what the secrets name must lie below the clone."""
    for name, path in secrets.items():
        shutil.copyfile(path, folder / name)
    target = {**more, "secret": [{"id": name, "src": name} for name in secrets]}
    (folder / "docker-bake.override.json").write_text(json.dumps({"target": {TARGET: target}}))


@pytest.fixture
def plain(docker_engine: Engine, docker_client: docker.DockerClient) -> Iterator[dict[str, str]]:
    """The environment of somebody who has Docker and neither buildctl nor anything of Python's."""
    program = shutil.which("docker", path=docker_engine.env["PATH"])
    assert program is not None
    path = os.pathsep.join([str(Path(program).parent), "/usr/bin", "/bin"])
    for absent in ("buildctl", "uv"):
        if shutil.which(absent, path=path):
            pytest.skip(f"NOT RUN: {absent} is installed for everybody on this machine")
    keep = ("DOCKER_HOST", "DOCKER_CONFIG", "HOME")
    yield {"PATH": path, **{key: docker_engine.env[key] for key in keep if key in docker_engine.env}}
    with suppress(docker.errors.ImageNotFound):
        docker_client.images.remove(TAG, force=True)


def bake(clone: Clone, env: Mapping[str, str], *options: str) -> None:
    argv = ["docker", "buildx", "bake", *clone.options, *options, TARGET]
    done = subprocess.run(argv, cwd=clone.folder, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


# no time stamp has to be rewritten; forced, because a bake before leaves layers as Docker's store wants them
EXPORTED = "*.output=type=oci,tar=false,compression=zstd,oci-mediatypes=true,force-compression=true"


@pytest.mark.parametrize("which", ["clone_of_tiny", pytest.param("clone_of_this", marks=pytest.mark.big)])
def test_a_clone_builds_with_docker_alone_the_same_image(
    which: str, plain: dict[str, str], request: pytest.FixtureRequest
) -> None:
    clone: Clone = request.getfixturevalue(which)
    bake(clone, plain, "--set", f"{EXPORTED},dest=one")
    ours, theirs = Layout(clone.expected), Layout(clone.folder / "one")
    (baked,) = theirs.read_index().manifests
    descriptor = ours.resolve(CELL, "arm64")
    assert file_differences(tree(ours, descriptor), tree(theirs, baked)) == []
    configurations = raw_configuration(ours, descriptor), raw_configuration(theirs, baked)
    assert configuration_differences(*configurations) == []
    # the base is not built anew: the very layers that lay in dist/
    base = ours.manifest(ours.resolve("base-debian13", "arm64")).layers
    assert theirs.manifest(baked).layers[: len(base)] == base


@pytest.mark.big
def test_docker_has_the_image_and_another_bake_gives_the_same(
    clone_of_this: Clone, plain: dict[str, str], docker_client: docker.DockerClient
) -> None:
    bake(clone_of_this, plain)
    bake(clone_of_this, plain, "--set", f"{EXPORTED},dest=one")
    bake(clone_of_this, plain, "--set", f"{EXPORTED},dest=other", "--no-cache")
    theirs = Layout(clone_of_this.folder / "one")
    one, other = (Layout(clone_of_this.folder / name).read_index().manifests for name in ("one", "other"))
    assert [m.digest for m in one] == [m.digest for m in other]
    (baked,) = one
    loaded = docker_client.images.get(TAG).attrs["RootFS"]["Layers"]
    assert loaded == [str(diff_id) for diff_id in theirs.config(baked).diff_ids]
