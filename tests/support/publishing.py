"""What tests do with a small project and a registry: publish to it, and look at what is there."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from buildctl.console.progress import Silent
from buildctl.ground.net import Patience
from buildctl.oci.digest import Digest
from buildctl.oci.image import Index
from buildctl.publish.publish import PublishOptions, publish
from buildctl.publish.result import Published
from buildctl.registry.client import Repository
from buildctl.registry.reference import Reference
from buildctl.registry.transport import Transport
from tests.support.projects import Small
from tests.support.registry import Proxy

PATIENCE = Patience(connect=5, read=5, attempts=4, backoff=0.01, longest_wait=3)


def repository(front: Proxy, request: pytest.FixtureRequest, *, chunk: int = 64 << 20, name: str = "") -> Repository:
    """A repository of its own for each test: content is random, so nothing is shared behind the scenes."""
    own = "".join(c if c.isalnum() else "-" for c in request.node.name.lower()).strip("-")
    own = "-".join(filter(None, [*own.split("-"), name]))
    reference = Reference(registry=front.netloc, repository=f"test/{own}")
    transport = Transport(front.netloc, patience=PATIENCE, credentials=lambda _: None)
    return Repository(reference=reference, transport=transport, write=True, chunk=chunk)


def push(project: Small, to: Repository, *ids: str, **options: object) -> Published:
    wanted = replace(PublishOptions(), **options)  # type: ignore[arg-type]
    return publish(project.project, project.pinned, project.cells(*ids), to, wanted, progress=Silent())


def outcomes(result: Published) -> dict[str, str]:
    return {tag.name: tag.outcome.name for tag in result.tags}


def platforms(to: Repository, tag: str) -> dict[str, Digest]:
    index = Index.from_json(to.manifest(tag).json())
    return {str(m.platform): m.digest for m in index.manifests}


def skopeo(*args: str, timeout: float = 60) -> str:
    done = subprocess.run(["skopeo", *args], check=False, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout
