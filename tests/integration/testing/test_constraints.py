"""pip and uv keep the torch that the tag names, against an index on loopback that offers a newer one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import uv

from buildctl.artifacts.store import Store
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.lock.wheels import read_wheel_lock
from buildctl.matrix.project import Project
from buildctl.oci.layout import Layout
from buildctl.runtimes.api import ImageRef, Session
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime
from buildctl.testing.probes.asking import deadline_for
from tests.conftest import ROOT, buildctl
from tests.support.servers import Site, site, wheel

CELLS = ("cpu-2.6-arm64", "cuda-2.6-amd64")
OFFER = {
    "torch-2.15.0-py3-none-any.whl": (),
    "torch-2.6.0+cu126-py3-none-any.whl": (),
    "torchvision-0.30.0-py3-none-any.whl": ("torch==2.15.0",),
    "xformers-0.5-py3-none-any.whl": ("torch>=2.10",),
    "einops-0.8-py3-none-any.whl": ("torch>=2",),
}


@pytest.fixture(scope="module")
def index() -> Iterator[Site]:
    with site() as server:
        server.publish("newer", {name: wheel(name, requires=requires) for name, requires in OFFER.items()})
        yield server


Pip = Callable[..., tuple[int, str]]  # arguments, env=VARIABLES -> status and all that was said


@contextmanager
def started(layout: Path, store: Mapping[str, str], cell: str) -> Iterator[Session]:
    images = Layout(layout)
    descriptor = images.resolve(cell)
    ref = ImageRef(
        layout=layout,
        descriptor=descriptor,
        name=cell,
        arch=cell.rpartition("-")[2],
        config=images.config(descriptor),
    )
    try:
        with SandboxRuntime(Store(Path(store["BUILDCTL_CACHE"]))).start(ref) as session:
            yield session
    except RuntimeUnavailableError as reason:
        pytest.skip(f"NOT RUN: {reason.message}")


@contextmanager
def of_an_image(layout: Path, store: Mapping[str, str], cell: str) -> Iterator[Pip]:
    with started(layout, store, cell) as session:

        def pip(*argv: str, **env: str) -> tuple[int, str]:
            done = session.run(["pip", *argv], timeout=deadline_for(session, 60), env=env, network=True)
            assert done.returncode is not None, done
            return done.returncode, done.stdout + done.stderr

        yield pip


def of_this_machine(folder: Path) -> Pip:
    """The locked pip, in an environment that has the metadata of what cuda-2.6 has, and its constraints."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--system-site-packages", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name, version, needs in (("torch", "2.6.0", ""), ("torchvision", "0.21.0", "Requires-Dist: torch==2.6.0\n")):
        (site / f"{name}-{version}.dist-info").mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        (site / f"{name}-{version}.dist-info" / "METADATA").write_text(text)
    wheel = read_wheel_lock(Project.find(ROOT).wheel_lock("cuda-2.6", "amd64")).wheel("pip")
    assert wheel is not None
    archive = Store.default().artifact(wheel.digest)
    assert archive is not None
    constraint = str(ROOT / "images" / "cuda-2.6" / "constraints.txt")
    known = {"PATH": os.environ["PATH"], "HOME": str(folder), "PIP_CONSTRAINT": constraint}

    def pip(*argv: str, **env: str) -> tuple[int, str]:
        command = [str(folder / "bin" / "python"), str(archive / "pip"), *argv]
        done = subprocess.run(command, env=known | env, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout + done.stderr

    return pip


@pytest.fixture(params=["the locked pip", *(pytest.param(cell, marks=pytest.mark.big) for cell in CELLS)])
def pip(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pip]:
    if request.param in CELLS:
        layouts, store = (request.getfixturevalue(name) for name in ("layouts", "built_store"))
        with of_an_image(layouts(request.param), store, request.param) as found:
            yield found
    else:
        assert buildctl("fetch", "cpu-2.6").returncode == 0  # the same pip
        yield of_this_machine(tmp_path / "environment")


@pytest.mark.network
def test_pip_keeps_torch_until_the_variable_is_emptied(pip: Pip, index: Site) -> None:
    def asked(*what: str, **env: str) -> tuple[int, str]:
        return pip("install", "--dry-run", "--index-url", f"{index.url}/newer/simple/", *what, **env)

    kept = asked("-U", "torchvision")
    assert (kept[0], "Would install" in kept[1]) == (0, False), kept
    assert "already satisfied: torchvision" in kept[1]
    for what in (["xformers"], ["torchvision>=0.22"], ["torch==2.15.0"], ["--user", "torch==2.6.0+cu126"]):
        refused = asked(*what)
        assert refused[0] == 1, refused
        assert "(constraint) torch" in refused[1]
        assert "empty.PIP_CONSTRAINT.to.change.it" in refused[1]
    assert "Would install einops-0.8" in asked("einops")[1]
    changed = asked("-U", "torchvision", PIP_CONSTRAINT="")
    assert "Would install torch-2.15.0 torchvision-0.30.0" in changed[1], changed


def test_uv_keeps_torch_until_the_variable_is_emptied(tmp_path: Path, index: Site) -> None:
    """The images have no uv, but people add one: the same file, read by the uv of this machine."""
    argv = [uv.find_uv_bin(), "pip", "install", "--dry-run", "--no-config", "--no-cache", "--python", sys.executable]
    argv += ["--target", str(tmp_path / "target"), "--default-index", f"{index.url}/newer/simple/"]

    def install(*asked: str, constraint: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "UV_CONSTRAINT": constraint}
        return subprocess.run([*argv, *asked], env=environment, capture_output=True, text=True, check=False, timeout=60)

    constraint = str(ROOT / "images" / "cuda-2.6" / "constraints.txt")
    for asked in ("xformers", "torchvision>=0.22", "torch==2.6.0+cu126"):
        refused = install(asked, constraint=constraint)
        assert refused.returncode == 1, refused
        assert "your requirements are unsatisfiable" in refused.stderr
        allowed = install(asked, constraint="")
        assert allowed.returncode == 0, allowed
