"""Unit tests open no socket, start no Docker and ask no package index: one that tries has failed."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import yaml

from buildctl.artifacts.store import Store
from buildctl.matrix.project import Project
from tests.conftest import ROOT
from tests.support.guard import guarded

REFUSED = pytest.StashKey[Path]()
MEMORY = Path("/dev/shm")
HERE = Path(__file__).parent


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: there is always a test that waits for a process or a thread."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    """What is imported and collected stays: looking for garbage in it took a tenth of the suite's CPU time.

    In a fresh clone nothing has been compiled, and the workers would all compile the same at the same time: each begins
    with a share of its own.
    """
    gc.disable()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    worker, count = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    modules = sorted(path.relative_to(ROOT).with_suffix("").parts for path in HERE.rglob("test_*.py"))
    for parts in modules[len(modules) * worker // count : len(modules) * (worker + 1) // count]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # it is told when it is collected
            importlib.import_module(".".join(parts))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(100_000)
    gc.enable()


def pytest_sessionfinish() -> None:
    """pytest looks for what is left five times."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Temporary files lie in memory where there is enough: making and removing them on a disk takes a third of the
    suite's CPU time. Workers inherit the choice; whoever chose a folder gets that one.
    """
    if config.option.basetemp or "TMPDIR" in os.environ or not MEMORY.is_dir():
        return
    if not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC and shutil.disk_usage(MEMORY).free > 1 << 30:
        tempfile.tempdir = os.environ["TMPDIR"] = str(MEMORY)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with guarded() as refused:
        item.stash[REFUSED] = refused
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """What a fixture or the test tried, even where the error was caught."""
    yield
    if item.stash[REFUSED].stat().st_size:
        pytest.fail(f"a unit test must not {item.stash[REFUSED].read_text().splitlines()[0]}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_done_in_vain() -> Iterator[None]:
    """Nobody pulls the plug here, and most waiting is for an fsync: tests that count them set it themselves. The same
    text is the same YAML: a matrix.yaml is read hundreds of times.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(yaml, "compose", functools.lru_cache(yaml.compose))
        yield


def no_docker(folder: Path) -> dict[str, str]:
    """Environment variables for a machine without a daemon. `folder` gets a `docker` and a `podman` that only fail."""
    folder.mkdir()
    for name in ("docker", "podman"):
        (folder / name).write_text("#!/bin/sh\necho no daemon >&2\nexit 1\n")
        (folder / name).chmod(0o755)
    return {"DOCKER_HOST": f"unix://{folder}/no.sock", "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def without_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in no_docker(tmp_path / "without-docker").items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def project() -> Project:
    """This one."""
    return Project.find(ROOT)
