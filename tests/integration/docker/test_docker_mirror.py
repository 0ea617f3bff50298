"""A base image that a company's mirror serves, for both engines: the registry it is named after is never asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from buildctl.build.buildkit.buildkit import DockerOptions, build_with_docker
from buildctl.console.progress import Silent
from buildctl.docker.daemon import loopback_port
from buildctl.dockerfile.bake import BakeTarget, target_of
from buildctl.matrix.read import parse_matrix
from buildctl.oci.check import check_layout
from buildctl.oci.entry import EPOCH
from buildctl.oci.image import Descriptor, Layer
from buildctl.oci.layout import INDEX_TYPES, Layout
from buildctl.registry.client import open_repository
from buildctl.registry.reference import Reference
from buildctl.registry.upload import Blob, Upload
from tests.conftest import ROOT, buildctl
from tests.support.images import file, image, tar
from tests.support.projects import copy_project
from tests.support.registry import docker_registry

NAMED = "registry.invalid/team/base"  # nobody answers there


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    with docker_registry(tmp_path / "registry") as registry:
        yield f"{registry}/hub"


def push(layout: Layout, name: str, to: str, *, tag: str = "") -> Descriptor:
    """An image or an index of `layout`, with all that it leads to."""
    repository = open_repository(Reference.parse_repository(to), write=True)
    root = layout.resolve(name)
    manifests = layout.index(root).manifests if root.media_type in INDEX_TYPES else (root,)
    for manifest in manifests:
        found = layout.manifest(manifest)
        for blob in (found.config, *found.layers):
            Upload(
                repository, Blob(descriptor=blob, path=layout.blob_path(blob.digest)), Silent().add("", blob.size)
            ).run()
    for descriptor in dict.fromkeys((*(m.digest for m in manifests), root.digest)):
        kind = root.media_type if descriptor == root.digest else manifests[0].media_type
        repository.put_manifest(layout.blob_path(descriptor).read_bytes(), str(kind), str(descriptor))
    if tag:
        repository.put_manifest(layout.blob_path(root.digest).read_bytes(), str(root.media_type), tag)
    return root


def with_mirror(matrix: str, base: str, mirror: str) -> str:
    """The matrix with the cpu images on that base."""
    matrix = matrix.replace(
        "bases:\n",
        f"bases:\n  ours:\n    image: {NAMED}{base}\n",
    )
    old = "  cpu:\n    arch: [amd64, arm64]\n    base: debian13\n"
    assert old in matrix
    matrix = matrix.replace(old, old.replace("debian13", "ours"))
    return f"{matrix}\nmirror: {{images: {{registry.invalid: {mirror}}}}}\n"


def test_the_assemble_engine_builds_on_it(
    mirror: str, built: Path, built_store: dict[str, str], tmp_path: Path
) -> None:
    base = push(Layout(built), "base-debian13", f"{mirror}/team/base")
    project = copy_project(tmp_path / "project")
    (project / "matrix.yaml").write_text(with_mirror((ROOT / "matrix.yaml").read_text(), f"@{base.digest}", mirror))
    done = buildctl("build", "cpu-2.6", "--no-load", cwd=project, env=built_store)
    assert done.returncode == 0, done.stderr
    ours, theirs = Layout(project / "dist"), Layout(built)
    layers = [d.digest for d in ours.manifest(ours.resolve("cpu-2.6-arm64")).layers]
    assert layers == [d.digest for d in theirs.manifest(theirs.resolve("cpu-2.6-arm64")).layers]
    assert check_layout(project / "dist") == []
    assert mirror not in (project / "images/cpu-2.6/Dockerfile").read_text()
    assert mirror in (project / "docker-bake.json").read_text()


def test_a_tag_is_locked_with_what_is_inside(
    mirror: str, built: Path, built_store: dict[str, str], tmp_path: Path
) -> None:
    """The base that was made here, pushed as somebody else's, with settings of its own and no Debian base to help."""
    theirs = Layout(built)
    found = theirs.resolve("base-debian13", "arm64")
    others = {"Healthcheck": {"Test": ["CMD", "true"]}, "Shell": ["/bin/bash", "-c"]}
    config = replace(theirs.config(found), docker=others, user="mail", stop_signal="SIGINT", history=())
    changed = theirs.put_image(
        name="theirs-arm64",
        config=config,
        layers=[
            Layer(descriptor=d, diff_id=i, uncompressed_size=0)
            for d, i in zip(theirs.manifest(found).layers, config.diff_ids, strict=True)
        ],
        blob=theirs.blob_path,
    )
    push(theirs, "theirs-arm64", f"{mirror}/team/base", tag="1")
    project = copy_project(tmp_path / "project")
    (project / "matrix.yaml").write_text(with_mirror((ROOT / "matrix.yaml").read_text(), ":1", mirror))
    done = buildctl("build", "cpu-2.6", "--no-load", cwd=project, env=built_store)
    assert done.returncode == 0, done.stderr
    lock = json.loads((project / "images/bases/ours/runtime.arm64.image").read_text())
    assert lock == lock | {
        "image": f"{NAMED}:1",
        "digest": str(changed.digest),
        "python": "3.13",
        "interpreter": "/usr/bin/python3.13",
        "purelib": "usr/local/lib/python3.13/dist-packages",
        "commands": "python3 python",
        "glibc": "2.41",
        "user": "8:8",
    }
    layout = Layout(project / "dist")
    made = layout.config(layout.resolve("cpu-2.6-arm64"))
    assert (made.docker, made.stop_signal, made.user) == (others, "SIGINT", "8:8")
    assert f"registry.invalid/team/base:1@{changed.digest}" not in (project / "docker-bake.json").read_text()
    assert f"{mirror}/team/base:1@{changed.digest}" in (project / "docker-bake.json").read_text()
    # the lock holds, whatever the tag leads to now
    push(theirs, "cpu-2.6-arm64", f"{mirror}/team/base", tag="1")
    again = buildctl("build", "cpu-2.6", "--no-load", "--locked", cwd=project, env=built_store)
    assert again.returncode == 0, again.stderr


def test_buildkit_builds_on_it(docker_client: docker.DockerClient, mirror: str, tmp_path: Path) -> None:
    with loopback_port(docker_client, 1) as port:
        if port is None:
            pytest.skip("NOT RUN: this Docker Engine is on another machine, and the mirror on this one's loopback")
    theirs, _ = image(tmp_path / "base", tar(file("from-the-base")), arch="arm64")
    base = push(theirs, "a-arm64", f"{mirror}/team/base")
    matrix = parse_matrix(
        with_mirror((ROOT / "matrix.yaml").read_text(), f"@{base.digest}", mirror), tmp_path / "matrix.yaml"
    )
    cell = next(cell for cell in matrix.cells if cell.id == "cpu-2.6-arm64")
    dockerfile = tmp_path / "images" / "cpu-2.6" / "Dockerfile"
    dockerfile.parent.mkdir(parents=True)
    dockerfile.write_text("FROM base\nLABEL built=yes\n")
    contexts = {"base": target_of(cell, context=tmp_path / "images", layout=tmp_path / "dist").contexts["base"]}
    wanted = BakeTarget(
        name=cell.id,
        arch=cell.arch,
        dockerfile="cpu-2.6/Dockerfile",
        context=str(tmp_path / "images"),
        contexts=contexts,
    )
    layout = Layout(tmp_path / "dist")
    made = build_with_docker([wanted], DockerOptions(epoch=EPOCH), layout=layout)[cell.id]
    assert layout.manifest(made).layers == theirs.manifest(base).layers
