"""Retention on a registry with two publications: what goes is what the first alone had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from buildctl.console.progress import Silent
from buildctl.oci.digest import Digest
from buildctl.publish.publish import PublishOptions, publish
from buildctl.registry.client import open_repository
from buildctl.registry.reference import Reference
from tests.conftest import ROOT
from tests.support.projects import Small
from tests.support.registry import docker_registry

CUDA, CPU = "cuda-2.6-amd64", "cpu-2.6-arm64"
FIRST, SECOND = "1" * 40, "2" * 40


def versions(data: Path, place: str, updated: str) -> list[dict[str, object]]:
    """All manifests of the repository, as GitHub lists them."""
    tags: dict[str, list[str]] = {}
    repository = open_repository(Reference.parse_repository(place))
    for tag in repository.tags():
        tags.setdefault(str(repository.manifest(tag).descriptor.digest), []).append(tag)
    found = data.glob("data/docker/registry/v2/repositories/team/x/_manifests/revisions/sha256/*")
    return [
        {
            "id": number,
            "name": f"sha256:{path.name}",
            "updated_at": updated,
            "metadata": {"container": {"tags": tags.get(f"sha256:{path.name}", [])}},
        }
        for number, path in enumerate(sorted(found))
    ]


def test_an_old_publication_goes_and_what_is_in_use_stays(project: Small, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "registry") as netloc:
        place = f"{netloc}/team/x"
        to = open_repository(Reference.parse_repository(place), write=True)
        old = project.layout.resolve(CUDA).digest
        for revision in (FIRST, SECOND):
            publish(
                project.project,
                project.pinned,
                project.cells(),
                to,
                PublishOptions(revision=revision),
                progress=Silent(),
            )
            if revision == FIRST:
                project.build(CUDA)
                project.report(CUDA)
        listed = versions(tmp_path / "registry", place, "2020-01-01T00:00:00Z")
        (tmp_path / "versions").write_text(json.dumps([listed]))
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "gh").write_text(
            f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n'
            f'case $* in *DELETE*) ;; *--paginate*) cat {tmp_path}/versions ;; *) echo \'{{"type": "User"}}\' ;; esac\n'
        )
        (tmp_path / "bin" / "gh").chmod(0o755)
        env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        argv: list[str | Path] = [sys.executable, ROOT / "scripts" / "retention", place, "--days", "90", "--delete"]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    gone = {Digest.parse(line.split()[0]) for line in done.stdout.splitlines()}
    kept = {project.layout.resolve(cell).digest for cell in (CUDA, CPU)}
    assert old in gone
    assert not gone & kept
    tags = {tag for line in done.stdout.splitlines() for tag in line.split()[1:]}
    assert {tag for tag in tags if not tag.startswith("sha256-")} == {
        f"2.6.0-cuda12.4-py3.13-amd64-{FIRST}",
        f"2.6.0-cuda12.4-py3.13-{FIRST}",
    }
    assert f"sha256-{old.hex}" in tags, "with the list of what was attached to it"
    deletions = [line for line in (tmp_path / "asked").read_text().splitlines() if "DELETE" in line]
    assert len(deletions) == len(gone)
    assert all("/users/team/packages/container/x/versions/" in line for line in deletions)
