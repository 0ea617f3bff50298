"""Where tags go, against a repository in memory. Real registries: tests/integration/publish/test_publish.py."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from buildctl.build.index import claimed
from buildctl.lock.claims import claims_of
from buildctl.oci.chunked.table import TABLE
from buildctl.oci.chunked.twin import twin_of
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, Index
from buildctl.oci.layout import Layout
from buildctl.publish.move import TagOutcome, TagState, move_tags
from buildctl.publish.tags import TagKind, tags_of
from buildctl.registry.client import Fetched, Repository
from buildctl.registry.problems import UnavailableError
from buildctl.registry.reference import Reference
from tests.support.images import config_of, file, tar
from tests.support.projects import Small, small, wheel_lock

CUDA, CPU = "cuda-2.6-amd64", "cpu-2.6-arm64"


@dataclass
class Shelf:
    """What a repository does for `move`: manifests by tag and digest, and the blobs of a layout. `stuck` are tags that
    do not keep what they are set to.
    """

    layout: Layout
    manifests: dict[str, Fetched] = field(default_factory=dict)
    reference: Reference = field(default_factory=lambda: Reference.parse("registry.example/a:x"))
    stuck: frozenset[str] = frozenset()

    def find(self, wanted: str) -> Fetched | None:
        return self.manifests.get(wanted)

    def manifest(self, wanted: str) -> Fetched:
        return self.manifests[wanted]

    def head(self, wanted: str) -> Descriptor | None:
        found = self.find(wanted)
        return found.descriptor if found else None

    def blob(self, descriptor: Descriptor) -> bytes:
        return self.layout.blob_path(descriptor.digest).read_bytes()

    def put_manifest(self, data: bytes, media_type: str, wanted: str) -> bool:
        if wanted not in self.stuck:
            descriptor = Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data))
            self.manifests[wanted] = Fetched(descriptor=descriptor, data=data)
        return True

    def platforms(self, tag: str) -> dict[str, Digest]:
        index = Index.from_json(self.manifests[tag].json())
        return {str(member.platform): member.digest for member in index.manifests}


@pytest.fixture
def project(tmp_path: Path) -> Small:
    return small(tmp_path)


@pytest.fixture
def shelf(project: Small) -> Shelf:
    return Shelf(project.layout)


def moved(
    project: Small,
    shelf: Shelf,
    *ids: str,
    objections: Mapping[str, str] = {},
    dry_run: bool = False,
    revision: str = "r",
) -> dict[str, TagState]:
    """Push the images of these cells, then move every tag that one of them is in."""
    images = project.images(*ids)
    for image in images.values():
        data = project.layout.blob_path(image.digest).read_bytes()
        shelf.put_manifest(data, image.media_type, str(image.digest))
    candidates = {key: claimed(image, project.layout.config(image)) for key, image in images.items()}
    cells = project.project.matrix.cells
    states = move_tags(
        cast("Repository", shelf),
        tags_of(cells, {c.id: claims_of(c, wheel_lock(c)) for c in cells}, of=ids),
        candidates,
        objections=objections,
        revision=revision,
        dry_run=dry_run,
    )
    return {state.name: state for state in states}


def test_new_tags_point_at_what_was_pushed_and_the_second_time_nothing_moves(project: Small, shelf: Shelf) -> None:
    first = moved(project, shelf, CUDA, CPU)
    assert {state.outcome for state in first.values()} == {TagOutcome.CREATED}
    images = project.images()
    assert shelf.platforms("2.6") == {"linux/amd64": images[CUDA].digest, "linux/arm64": images[CPU].digest}
    assert shelf.manifests["2.6.0-cuda12.4-py3.13-amd64-r"].descriptor.digest == images[CUDA].digest
    assert {state.outcome for state in moved(project, shelf, CUDA, CPU).values()} == {TagOutcome.UNCHANGED}


def test_a_tag_waits_for_an_architecture_that_nobody_has_pushed(project: Small, shelf: Shelf) -> None:
    state = moved(project, shelf, CUDA)["2.6"]
    assert (state.outcome, state.where()) == (TagOutcome.WAITING, f"for {CPU}")
    assert "2.6" not in shelf.manifests


def test_an_architecture_that_is_not_in_this_run_stays(project: Small, shelf: Shelf) -> None:
    moved(project, shelf, CUDA, CPU)
    before = project.images(CPU)[CPU].digest
    project.build(CUDA)
    state = moved(project, shelf, CUDA, revision="r2")["2.6"]
    assert state.outcome is TagOutcome.MOVED
    assert shelf.platforms("2.6") == {"linux/amd64": project.images(CUDA)[CUDA].digest, "linux/arm64": before}


def test_what_was_objected_to_moves_no_tag_but_its_own_for_ever(project: Small, shelf: Shelf) -> None:
    states = moved(project, shelf, CUDA, CPU, objections={CPU: "FAILED: torch"})
    assert states["2.6"].outcome is states["cpu-2.6"].outcome is TagOutcome.REFUSED
    assert states["2.6"].reason == f"{CPU}: FAILED: torch"
    assert states["cuda-2.6"].outcome is TagOutcome.CREATED
    assert "2.6" not in shelf.manifests


def test_an_immutable_tag_is_never_moved(project: Small, shelf: Shelf) -> None:
    moved(project, shelf, CUDA)
    before = dict(shelf.manifests)
    project.build(CUDA)
    state = moved(project, shelf, CUDA)["2.6.0-cuda12.4-py3.13-amd64-r"]
    assert state.outcome is TagOutcome.REFUSED
    assert "use another --revision" in state.reason
    assert shelf.manifests[state.name] == before[state.name]


def test_an_architecture_that_the_matrix_lost_is_not_dropped_in_silence(project: Small, shelf: Shelf) -> None:
    moved(project, shelf, CUDA, CPU)
    shelf.manifests["cuda-2.6"] = shelf.manifests["2.6"]  # which has arm64, too
    state = moved(project, shelf, CUDA, CPU)["cuda-2.6"]
    assert state.outcome is TagOutcome.REFUSED
    assert "allow with --drop-platform linux/arm64" in state.reason


def test_what_a_tag_has_for_another_torch_is_not_kept(project: Small, shelf: Shelf) -> None:
    project.build(CPU, labels={"dev.buildctl.torch": "2.5.0", "dev.buildctl.accelerator": "cpu"})
    moved(project, shelf, CUDA, CPU)
    project.build(CUDA)
    state = moved(project, shelf, CUDA, revision="r2")["2.6"]
    assert (state.outcome, state.reason) == (
        TagOutcome.WAITING,
        f"for {CPU}: for linux/arm64 it has torch 2.5.0, not 2.6.0",
    )


def test_a_dry_run_says_the_same_and_writes_nothing(project: Small, shelf: Shelf) -> None:
    states = moved(project, shelf, CUDA, CPU, dry_run=True)
    assert {state.outcome for state in states.values()} == {TagOutcome.CREATED}
    assert {name for name in shelf.manifests if not name.startswith("sha256:")} == set()


def test_a_registry_that_does_not_keep_a_tag_is_an_error(project: Small, shelf: Shelf) -> None:
    shelf.stuck = frozenset({"2.6"})
    with pytest.raises(UnavailableError, match=r"registry\.example/a:2\.6 does not keep its new value"):
        moved(project, shelf, CUDA, CPU)


def test_in_json_what_is_not_known_is_null() -> None:
    state = TagState(name="2.6", kind=TagKind.MOVING, outcome=TagOutcome.WAITING, reason="for x")
    assert state.to_json() == {
        "tag": "2.6",
        "kind": "moving",
        "outcome": "waiting",
        "digest": None,
        "was": None,
        "platforms": {},
        "reason": "for x",
    }


# twins


def chunked(project: Small) -> str:
    """The image for arm64 with a layer that says it is zstd:chunked; the digest of its twin."""
    layer = project.blobs.add(tar(file("own", os.urandom(100))))
    said = replace(layer.descriptor, annotations={TABLE: str(Digest.of(b"table"))})
    layers = [project.shared, replace(layer, descriptor=said)]
    config = replace(config_of(layers, arch="arm64"), labels={"dev.buildctl.torch": "2.6.0"})
    image = project.layout.put_image(name=CPU, config=config, layers=layers, blob=project.blobs.path)
    twin = twin_of(project.layout.read_bytes(image))
    assert twin is not None
    return str(Digest.of(twin))


def test_the_twin_of_a_tag_leads_to_twins_and_to_images_without_one(project: Small, shelf: Shelf) -> None:
    twin, plain = chunked(project), project.images(CUDA)[CUDA].digest
    states = moved(project, shelf, CUDA, CPU)
    assert {name for name in states if "-lazy" in name} == {
        "2.6.0-cpu-py3.13-arm64-lazy-r", "2.6.0-cpu-py3.13-lazy-r", "cpu-2.6-lazy", "2.6-cpu-lazy", "2.6-lazy",
    }  # fmt: skip
    assert {k: str(v) for k, v in shelf.platforms("2.6-lazy").items()} == {
        "linux/amd64": str(plain),
        "linux/arm64": twin,
    }
    assert str(shelf.manifests["2.6.0-cpu-py3.13-arm64-lazy-r"].descriptor.digest) == twin
    assert {state.outcome for state in moved(project, shelf, CUDA, CPU).values()} == {TagOutcome.UNCHANGED}


def test_a_tag_that_does_not_move_leaves_its_twin(project: Small, shelf: Shelf) -> None:
    chunked(project)
    moved(project, shelf, CUDA, CPU)
    before = dict(shelf.manifests)
    chunked(project)
    states = moved(project, shelf, CUDA, CPU, objections={CPU: "FAILED: torch"}, revision="r2")
    assert "cpu-2.6-lazy" not in states
    assert all(shelf.manifests[tag] == before[tag] for tag in ("cpu-2.6", "cpu-2.6-lazy", "2.6", "2.6-lazy"))


def test_nothing_of_a_twin_that_is_there_is_believed(project: Small, shelf: Shelf) -> None:
    """For an image that is not in this run: its twin comes from the image under the tag, not from the tag's twin."""
    twin = chunked(project)
    moved(project, shelf, CUDA, CPU)
    theirs = shelf.manifests["cuda-2.6"]
    shelf.manifests["2.6-lazy"] = theirs
    project.build(CUDA)
    moved(project, shelf, CUDA, revision="r2")
    assert str(shelf.platforms("2.6-lazy")["linux/arm64"]) == twin
