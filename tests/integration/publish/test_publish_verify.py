"""`verify` on what was published as it should be, and on images whose documents or labels lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildctl.artifacts.bill import SBOM_KIND, bill
from buildctl.artifacts.contents import packages_of
from buildctl.console.progress import Silent
from buildctl.ground.errors import LayoutError
from buildctl.ground.net import Patience
from buildctl.lock.locked import LockedCell
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, canonical_json
from buildctl.publish.publish import PublishOptions, publish
from buildctl.publish.verify import Verified, verify
from buildctl.registry.client import Repository
from buildctl.registry.problems import UnavailableError
from buildctl.registry.reference import Reference
from buildctl.registry.referrers import Document
from buildctl.registry.transport import Transport
from buildctl.registry.upload import Blob
from buildctl.testing.report import Status
from tests.conftest import buildctl
from tests.support.images import config_of, file, tar
from tests.support.projects import Small
from tests.support.registry import Fault, Proxy

CELL = "cpu-2.6-arm64"
SITE = "usr/local/lib/python3.13/dist-packages"


def put(project: Small, labels: dict[str, str]) -> Descriptor:
    """An image that holds torch 2.6.0 and says what `labels` say."""
    metadata = b"Metadata-Version: 2.1\nName: torch\nVersion: 2.6.0\n"
    torch = project.blobs.add(tar(file(f"{SITE}/torch-2.6.0.dist-info/METADATA", metadata)))
    layers = [project.shared, torch]
    config = replace(config_of(layers, arch="arm64"), labels=labels)
    found = project.layout.put_image(name=CELL, config=config, layers=layers, blob=project.blobs.path)
    project.report(CELL)
    return found


def honest(
    project: Small, change: Callable[[dict[str, Any]], object] = lambda _: None
) -> Callable[..., list[Document]]:
    def documents(locked: LockedCell, descriptor: Descriptor) -> list[Document]:
        packages = packages_of(project.layout, descriptor)
        value = bill(locked.cell.image, descriptor, project.layout.config(descriptor), packages, {}, suite="")
        change(value)
        return [Document(kind=SBOM_KIND, data=canonical_json(value))]

    return documents


def published(project: Small, front: Proxy, documents: Callable[..., list[Document]]) -> Repository:
    reference = Reference(registry=front.netloc, repository=f"verify/p{front.server_address[1]}", tag="x")
    patience = Patience(connect=5, read=5, attempts=3, backoff=0.01, longest_wait=1)
    to = Repository(reference=reference, transport=Transport(front.netloc, patience=patience), write=True)
    options = PublishOptions(revision="r")
    publish(project.project, project.pinned, project.cells(CELL), to, options, documents=documents, progress=Silent())
    return replace(to, reference=reference.tagged("cpu-2.6"))


def findings(repository: Repository, tmp_path: Path) -> dict[str, tuple[Status, str]]:
    (found,) = verify(repository, arch=None, scratch=tmp_path, progress=Silent())
    assert isinstance(found, Verified)
    return {f.name: (f.status, f.detail) for f in found.findings}


def test_a_good_image_passes_and_what_is_not_there_is_not_run(project: Small, front: Proxy, tmp_path: Path) -> None:
    put(project, {"dev.buildctl.torch": "2.6.0"})
    found = findings(published(project, front, honest(project)), tmp_path)
    passed = {name for name, (status, _) in found.items() if status is Status.PASSED}
    assert passed == {"platform", "layers", "bill of materials", "labels", "report"}
    assert found["provenance"] == (Status.NOT_RUN, "none attached")
    assert found["signature"][0] is Status.NOT_RUN
    assert not list(tmp_path.glob("buildctl-verify-*"))


def test_a_label_that_lies_is_found(project: Small, front: Proxy, tmp_path: Path) -> None:
    put(project, {"dev.buildctl.torch": "2.6.0", "dev.buildctl.torchvision": "0.21.0"})
    status, detail = findings(published(project, front, honest(project)), tmp_path)["labels"]
    assert (status, detail) == (Status.FAILED, "the label claims torchvision 0.21.0, the layers hold none")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda v: v["components"].clear(), "pypi torch 2.6.0 is only in the image"),
        (lambda v: v["components"][0].update(version="2.6.1"), "pypi torch 2.6.1 is only in the bill"),
        (lambda v: v["metadata"]["component"].update(hashes=[{"alg": "SHA-256", "content": "a" * 64}]), "is about"),
        (lambda v: v.pop("metadata"), "malformed"),
    ],
    ids=["empty", "another version", "another image", "malformed"],
)
def test_a_bill_that_lies_is_found(
    change: Callable[[dict[str, Any]], object], expected: str, project: Small, front: Proxy, tmp_path: Path
) -> None:
    put(project, {"dev.buildctl.torch": "2.6.0"})
    status, detail = findings(published(project, front, honest(project, change)), tmp_path)["bill of materials"]
    assert status is Status.FAILED
    assert expected in detail


def test_a_layer_that_does_not_match_never_becomes_an_image(project: Small, front: Proxy, tmp_path: Path) -> None:
    image = put(project, {"dev.buildctl.torch": "2.6.0"})
    repository = published(project, front, honest(project))
    layer: Digest = project.layout.manifest(image).layers[1].digest
    front.faults = [Fault(when=lambda m, p: m == "GET" and str(layer) in p, times=99, corrupt=True)]
    with pytest.raises(UnavailableError, match="does not match its digest"):
        findings(repository, tmp_path)


def test_a_wrong_diff_id_is_found(
    project: Small, front: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(project, {"dev.buildctl.torch": "2.6.0"})
    layers = [replace(project.shared, diff_id=Digest("b" * 64))]
    project.layout.put_image(name=CELL, config=config_of(layers, arch="arm64"), layers=layers, blob=project.blobs.path)
    project.report(CELL)
    with pytest.raises(LayoutError, match="its content does not match"):
        published(project, front, lambda *_: [])
    monkeypatch.setattr(Blob, "is_true", lambda _: True)  # as another program pushes it
    status, detail = findings(published(project, front, lambda *_: []), tmp_path)["layers"]
    assert status is Status.FAILED
    assert "diff" in detail


def test_the_command_line_publishes_and_verifies(project: Small, front: Proxy) -> None:
    put(project, {"dev.buildctl.torch": "2.6.0"})
    root, place = project.project.root, f"{front.netloc}/cli/p{front.server_address[1]}"
    plan = buildctl("publish", "cpu-2.6", "--to", place, "--dry-run", "--json", cwd=root)
    assert plan.returncode == 0, plan.stderr
    assert front.writes() == []
    done = buildctl("publish", "cpu-2.6", "--to", place, "--no-sbom", "--json", cwd=root)
    assert done.returncode == 0, done.stderr
    assert {t["tag"]: t["outcome"] for t in json.loads(done.stdout)["tags"]}["cpu-2.6"] == "new"
    verified = buildctl("verify", f"{place}:cpu-2.6", "--json", cwd=root)
    assert verified.returncode == 0, verified.stdout
    absent = buildctl("verify", f"{place}:no-such-tag", cwd=root)
    assert absent.returncode == 12
    assert "no-such-tag" in absent.stderr
    assert "Traceback" not in absent.stderr
