"""Layers are made while wheels are still being downloaded, from an index on loopback that waits for them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildctl.dockerfile.render import HEAVY
from buildctl.oci.check import check_layout
from tests.conftest import Ran, buildctl
from tests.support.servers import Fault, Site, site, wheel
from tests.support.tiny import NAME, tiny, tiny_wheels

pytestmark = pytest.mark.network
TORCH = "/index/files/torch-2.6.0-cp313-cp313-manylinux_2_28_aarch64.whl"


@dataclass(frozen=True, slots=True)
class Here:
    """A project, an index that has its wheels, and a store that has only its Debian packages."""

    project: Path
    index: Site
    env: dict[str, str]

    @property
    def store(self) -> Path:
        return Path(self.env["BUILDCTL_CACHE"])

    @property
    def layers(self) -> int:
        """Those that are finished."""
        folder = self.store / "layers"
        return len(list(folder.iterdir())) if folder.is_dir() else 0

    def build(self, *args: str) -> Ran:
        return buildctl("build", NAME, "--no-load", *args, cwd=self.project, env=self.env, timeout=400)


@pytest.fixture(scope="module")
def wheels() -> dict[str, bytes]:
    return tiny_wheels() | {TORCH.rpartition("/")[2]: torch()}


def torch(**more: str) -> bytes:
    """So big that it has a layer of its own."""
    noise = random.Random("torch").randbytes(HEAVY)
    return wheel(TORCH.rpartition("/")[2], more=more, files={"torch/noise": noise})


@pytest.fixture
def here(wheels: dict[str, bytes], store: dict[str, str], tmp_path: Path) -> Iterator[Here]:
    with site() as index:
        env = store | {"UV_DEFAULT_INDEX": index.publish("index", wheels), "UV_NO_CACHE": "1"}
        yield Here(tiny(tmp_path / "project", wheels=wheels), index, env)


def until(reached: Callable[[], bool], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.02)
    return reached()


def test_a_layer_is_made_before_the_last_wheel_is_here(here: Here) -> None:
    made: list[bool] = []
    here.index.before = lambda path: made.append(until(lambda: here.layers > 0)) if path == TORCH else None
    done = here.build()
    assert done.returncode == 0, done.stderr
    assert made
    assert all(made), "the index got nothing of what it waited for"
    assert check_layout(here.project / "dist") == []


def test_a_download_that_fails_stops_the_build_and_finished_layers_stay(here: Here) -> None:
    here.index.before = lambda path: until(lambda: here.layers > 0) if path == TORCH else None
    here.index.always[TORCH] = Fault(status=403)
    done = here.build()
    assert done.returncode == 7, done.stderr
    assert "cannot fetch torch-2.6.0" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (here.project / "dist" / "index.json").exists(), "no image without torch"
    assert not list((here.store / "tmp").iterdir())
    del here.index.always[TORCH]
    done = here.build("--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"][0]["layersReused"] > 0


def test_what_has_arrived_stays_when_a_layer_cannot_be_made(
    here: Here, wheels: dict[str, bytes], tmp_path: Path
) -> None:
    """Wheels that overwrite each other are found once both are here; the image is not written."""
    other = wheels | {TORCH.rpartition("/")[2]: torch(**{"numpy/m1.py": "other = True\n"})}
    clash = Here(tiny(tmp_path / "clash", wheels=other), here.index, here.env)
    here.index.publish("index", other)
    here.index.before = lambda path: until(lambda: here.layers > 0) if path == TORCH else None
    done = clash.build()
    assert done.returncode != 0
    assert "numpy/m1.py" in done.stderr
    assert not (clash.project / "dist" / "index.json").exists()
    assert clash.layers > 0


def test_what_the_index_no_longer_has_is_refused_before_any_download(here: Here, tmp_path: Path) -> None:
    del here.index.files["/index/simple/torch/"]
    empty = here.env | {"BUILDCTL_CACHE": str(tmp_path / "empty"), "http_proxy": "http://127.0.0.1:9"}
    done = buildctl("build", NAME, "--no-load", cwd=here.project, env=empty)
    assert done.returncode != 0
    assert "the package index" in done.stderr
    assert not [path for path in tmp_path.joinpath("empty").rglob("*") if path.is_file()]


def test_interrupted_while_it_waits_for_a_wheel_it_ends_at_once(here: Here) -> None:
    argv = [sys.executable, "-m", "buildctl", "build", NAME, "--no-load"]
    here.index.always[TORCH] = Fault(stall=1000)
    process = subprocess.Popen(
        argv,
        cwd=here.project,
        env={**os.environ, **here.env},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert until(lambda: here.layers > 0)
        process.terminate()
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 143
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
