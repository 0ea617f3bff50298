"""A matrix off the beaten track, from lock to a tag in a registry: see `tests.support.team`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.layout import Layout
from buildctl.runtimes.sandbox.emulation import native_arch
from buildctl.testing.report import Finding, Report, Status
from tests.support.command import run_command
from tests.support.publishing import skopeo
from tests.support.sameness import raw_configuration, tree
from tests.support.team import HEALTH, NAMES, OTHER, SUFFIX, World, team_world

ARCH = native_arch()


@pytest.fixture(scope="module")
def world(upstream: str, built_store: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with team_world(tmp_path_factory.mktemp("team"), upstream, built_store) as found:
        yield found


def test_from_lock_to_a_tag(world: World) -> None:
    locked = world.run("lock").stdout
    assert f"runtime.{ARCH}.image: {world.registry}/team/base:1@sha256:" in locked
    world.run("build", "--no-load")
    layout, project = Layout(world.project / "dist"), Project.find(world.project)
    assert [cell.name for cell in project.matrix.cells] == list(NAMES)
    for cell in project.matrix.cells:
        found = layout.resolve(cell.id)
        _report(project, cell.id, found.digest)
        files = tree(layout, found)
        assert {files[f"app/{name}"]["mode"] for name in ("main.py", "run.toml")} == {0o644}, "as cloned"
        assert (files["app/sub"]["mode"], files["app/sub/tool"]["mode"]) == (0o755, 0o755)
        assert (files["app/link.py"]["target"], files["etc/team"]["mode"]) == ("main.py", 0o755)
        assert {"etc/team/run.toml"} <= files.keys()
        assert [path for path in files if path.endswith("team_lib/core.py")]
        config = raw_configuration(layout, found)["config"]
        labels, env = config["Labels"], set(config["Env"])
        assert (config["User"], labels["org.example.team"]) == ("1234:1234", "ml")
        assert labels["dev.buildctl.cuda"] == {"cu126": "12.6", "cu128": "12.8"}[cell.accelerator.name]
        assert {"TEAM_MODE=production", "NVIDIA_VISIBLE_DEVICES=all"} <= env
        assert config.get("Healthcheck") == (HEALTH if cell.python == OTHER != "3.13" else None)
    stems = {tag["tag"] for tag in json.loads(world.run("tags", "--json").stdout) if "REVISION" not in tag["tag"]}
    assert stems >= {"cu126-2.10", "2.10-cuda12.6", "2.10-cuda12.8", f"2.10-cuda12.6{SUFFIX}", "2.10"}
    world.run("publish", "--to", f"{world.registry}/team/pytorch")
    names = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{world.registry}/team/pytorch"))["Tags"]
    assert stems <= set(names)
    assert "cu126-2.10" in run_command("check", cwd=world.project).stdout
    assert "is up to date" in world.run("lock").stdout, "and nothing is stale"
    world.run("build", "--no-load", "--locked")


def _report(project: Project, cell_id: str, digest: Digest) -> None:
    """As `buildctl test` writes it; a torch of a few lines cannot pass the real probes."""
    cell = next(cell for cell in project.matrix.cells if cell.id == cell_id)
    finding = Finding(name="torch", status=Status.PASSED, detail="", seconds=0.1)
    report = Report(
        cell=cell.id, digest=digest, arch=cell.arch, runtime="test", emulated=None, gpus=False, findings=(finding,)
    )
    path = project.report(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.to_json()))
