"""Fixtures of the integration tests: what is expensive is asked for by name."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.engine import Engine, Unavailable, engine
from tests.support.projects import Small, small
from tests.support.registry import Proxy, docker_registry, proxy

DOCKER = {"docker_engine", "docker_client"}
IMAGES = {"asked", "built", "built_store", "everything", "layouts"}
ROOM = 6 << 30  # bytes that must be free before a module; cpu-2.6, on the disk and in Docker, needs half of it
ROOM_BIG = 30 << 30  # the same with both engines' cuda-2.6
OWN = pytest.StashKey[Engine | None]()  # our own engine, once it runs


class ByFile(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """A file has one worker, and so has all that uses Docker."""

    def _split_scope(self, nodeid: str) -> str:
        return "docker" if says_docker(nodeid) else nodeid.partition("::")[0]


def says_docker(nodeid: str) -> bool:
    """In the name of the test, its file or its folder; a parameter such as docker-archive does not count."""
    return "docker" in nodeid.partition("[")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile | None:
    """`--dist loadgroup`. xdist's own adds the group to a test's id, which pytest 9 no longer lets it."""
    return ByFile(config, log) if config.getoption("dist") == "loadgroup" else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what needs real images, and what takes gigabytes."""
    wanted = set(getattr(item, "fixturenames", ()))
    docker = bool(DOCKER & wanted) or item.get_closest_marker("docker") is not None
    if docker and not says_docker(item.nodeid):
        raise pytest.UsageError(f"{item.nodeid} uses Docker, so its name says `docker`: two workers share one engine")
    if docker or IMAGES & wanted:
        item.add_marker("images")
    if "everything" in wanted:
        item.add_marker("big")


@pytest.fixture(scope="module", autouse=True)
def _give_back_room(request: pytest.FixtureRequest, stores: Path) -> Iterator[None]:
    """After each module, where the disk is short: what our own engine holds, and what can be unpacked again."""
    yield
    big = any(item.get_closest_marker("big") for item in request.session.items)
    if shutil.disk_usage(stores).free >= (ROOM_BIG if big else ROOM):
        return
    own = request.config.stash.get(OWN, None)
    if own is not None:
        for what in (["image", "prune", "-af"], ["buildx", "prune", "-af"]):
            subprocess.run(["docker", *what], env=own.env, check=True, capture_output=True, timeout=300)
    if hasattr(request.config, "workerinput"):
        return  # another worker may be in there
    for folder in ("unpacked", "unpacked-images"):
        shutil.rmtree(stores / "built" / folder, ignore_errors=True)


@pytest.fixture(scope="session")
def docker_engine(pytestconfig: pytest.Config) -> Iterator[Engine]:
    """The Docker Engine that answers, else one of our own; where neither can be, the test is NOT RUN."""
    running = engine()
    try:
        found = running.__enter__()
    except Unavailable as reason:
        pytest.skip(f"NOT RUN: {reason}")
    if found.own:
        pytestconfig.stash[OWN] = found
    try:
        yield found
    finally:
        pytestconfig.stash[OWN] = None
        running.__exit__(None, None, None)


@pytest.fixture
def docker_client(docker_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[docker.DockerClient]:
    """A client of that engine, which DOCKER_HOST and PATH (`docker`, buildx) name as well during the test."""
    for key in ("DOCKER_HOST", "DOCKER_CONFIG", "PATH"):
        if key in docker_engine.env:
            monkeypatch.setenv(key, docker_engine.env[key])
    client = docker_engine.client()
    yield client
    client.close()


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a registry without authentication, Debian's docker-registry."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as netloc:
        yield netloc


@pytest.fixture
def front(upstream: str) -> Iterator[Proxy]:
    """What stands before that registry, counts, and fails on demand."""
    with proxy(upstream) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path) -> Small:
    return small(tmp_path / "project")
