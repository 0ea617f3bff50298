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
from buildctl.oci.layout import Layout
from buildctl.runtimes.api import ImageRef, Outcome, Session
from buildctl.runtimes.sandbox.sandbox import SandboxRuntime
from buildctl.testing.probes.asking import deadline_for
from tests.conftest import ROOT
from tests.support.servers import Site, site, wheel

CELLS = ("cpu-2.6-arm64", pytest.param("cuda-2.6-amd64", marks=pytest.mark.big))
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


@pytest.mark.network
@pytest.mark.parametrize("cell", CELLS)
def test_pip_keeps_torch_until_the_variable_is_emptied(
    layouts: Callable[[str], Path], built_store: dict[str, str], index: Site, cell: str
) -> None:
    with started(layouts(cell), built_store, cell) as session:

        def pip(*asked: str, **env: str) -> Outcome:
            argv = ["pip", "install", "--dry-run", "--index-url", f"{index.url}/newer/simple/", *asked]
            return session.run(argv, timeout=deadline_for(session, 60), env=env, network=True)

        kept = pip("-U", "torchvision")
        assert (kept.returncode, "Would install" in kept.stdout) == (0, False), kept
        assert "already satisfied: torchvision" in kept.stdout
        for asked in (["xformers"], ["torchvision>=0.22"], ["torch==2.15.0"], ["--user", "torch==2.6.0+cu126"]):
            refused = pip(*asked)
            assert refused.returncode == 1, refused
            assert "(constraint) torch" in refused.stdout + refused.stderr
            assert "empty.PIP_CONSTRAINT.to.change.it" in refused.stdout + refused.stderr
        assert "Would install einops-0.8" in pip("einops").stdout
        changed = pip("-U", "torchvision", PIP_CONSTRAINT="")
        assert "Would install torch-2.15.0 torchvision-0.30.0" in changed.stdout, changed


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
