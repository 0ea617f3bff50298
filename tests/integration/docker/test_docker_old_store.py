"""A Docker Engine without the containerd image store, as of old installations and hosted runners: it unpacks layers and
forgets their digests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildctl.oci.layout import Layout
from tests.conftest import buildctl
from tests.support.engine import Unavailable
from tests.support.engine.daemon import Engine, leased
from tests.support.tiny import CELL, NAME, tiny

pytestmark = [pytest.mark.big, pytest.mark.docker, pytest.mark.network]


@pytest.fixture(scope="module")
def old() -> Iterator[Engine]:
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: only root starts an engine with the old image store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGINE_CONTAINERD", "false")
        try:
            with leased("old", network=False) as found:
                yield found
        except Unavailable as reason:
            pytest.skip(f"NOT RUN: {reason}")


def test_docker_without_the_containerd_store_gets_the_same_image(
    old: Engine, store: dict[str, str], tmp_path: Path
) -> None:
    """Named by its configuration there; what is published comes from the layout, and keeps its digest."""
    project = tiny(tmp_path / "project", Path(store["BUILDCTL_CACHE"]))
    env = {**store, **old.env}
    client = old.client()
    assert "io.containerd.snapshotter" not in str(client.info()["DriverStatus"])
    done = buildctl("build", NAME, "--json", cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    layout = Layout(project / "dist")
    image = layout.resolve(CELL)
    loaded = client.images.get(f"pytorch:{NAME}")
    assert loaded.id == str(layout.manifest(image).config.digest)
    diff_ids = [str(digest) for digest in layout.config(image).diff_ids]
    assert loaded.attrs["RootFS"]["Layers"] == diff_ids
    again = buildctl("build", NAME, "--json", cwd=project, env=env)
    assert {one["moved"] for one in json.loads(again.stdout)["docker"]} == {0}
    assert layout.resolve(CELL).digest == image.digest
    asked = buildctl("test", NAME, "--runtime", "docker", "--json", cwd=project, env=env)
    (report,) = json.loads(asked.stdout)["reports"]
    assert (report["digest"], report["runtime"]) == (str(image.digest), "docker")
    client.close()
