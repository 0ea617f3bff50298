"""What `buildctl export` writes, loaded by a real Docker Engine and run."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import docker
import pytest

from buildctl.publish.export.archives import docker_archive, oci_archive
from buildctl.publish.export.parcel import Attachment, find_carried
from buildctl.registry.referrers import Document, artifact
from buildctl.runtimes.sandbox.emulation import native_arch
from tests.support.images import file, image, tar
from tests.support.programs import programs

pytestmark = pytest.mark.docker


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_docker_loads_and_runs_it(docker_client: docker.DockerClient, tmp_path: Path, form: str) -> None:
    arch = native_arch()
    layout, descriptor = image(tmp_path, tar(*programs("cat")), tar(file("hello", form.encode())), arch=arch)
    (carried,) = find_carried(_none, f"{layout.root}:a-{arch}", None, bare=True)
    bill = artifact(descriptor, Document(kind="application/vnd.cyclonedx+json", data=b"{}"))
    whole = replace(carried, attachments=(Attachment(subject=descriptor.digest, artifact=bill),))
    pieces = docker_archive([carried]) if form == "docker-archive" else oci_archive([whole], None)
    (tmp_path / "a.tar").write_bytes(b"".join(pieces))
    done = subprocess.run(["docker", "load", "-i", tmp_path / "a.tar"], capture_output=True, text=True, check=False)
    tag = f"pytorch:a-{arch}"
    try:
        assert done.returncode == 0, done.stderr
        assert tag in done.stdout
        assert docker_client.containers.run(tag, ["cat", "/hello"], remove=True) == form.encode()
        found = docker_client.images.get(tag)
        assert found.attrs["RootFS"]["Layers"] == [str(d) for d in layout.config(descriptor).diff_ids]
        if form == "oci-archive":  # manifest.json tells Docker's containerd store no digest of a manifest
            assert found.id in (str(descriptor.digest), str(layout.manifest(descriptor).config.digest))
    finally:
        docker_client.images.remove(tag, force=True)


def _none() -> NoReturn:
    raise AssertionError("no project is asked for")
