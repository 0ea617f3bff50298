"""What somebody who may push but has no key can make of a signed index, and what `verify` answers to each.

Each row of the table in docs/signing.md, section "Attacks that `verify` answers", is a case here, and each case a row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from buildctl.console.progress import Silent
from buildctl.oci.image import Descriptor, MediaType, canonical_json
from buildctl.oci.layout import CONFIG_TYPES
from buildctl.publish.publish import PublishOptions, publish
from buildctl.publish.sign import KeySigner, sign_reference
from buildctl.publish.verify import verify
from buildctl.registry.client import Repository, open_repository
from buildctl.registry.keys import PrivateKey
from buildctl.registry.reference import Reference
from buildctl.registry.referrers import Document, attach
from buildctl.registry.upload import Blob, Upload
from buildctl.testing.report import Status
from tests.conftest import ROOT, buildctl
from tests.support.projects import small
from tests.support.registry import docker_registry

AMD64, ARM64 = {"architecture": "amd64", "os": "linux"}, {"architecture": "arm64", "os": "linux"}
NOBODY = {"architecture": "unknown", "os": "unknown"}
INDEX = str(MediaType.INDEX)
Entries = list[dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """A repository with the signed tags 2.6, cuda-2.6 and cpu-2.6."""

    repository: Repository
    key: PrivateKey
    doomed: list[str] = field(default_factory=list)  # manifests to be deleted once an index names them

    def index(self, tag: str = "2.6") -> dict[str, Any]:
        value: dict[str, Any] = self.repository.manifest(tag).json()
        return value

    def descriptor(self, tag: str) -> dict[str, Any]:
        return self.repository.manifest(tag).descriptor.to_json()

    def image(self, entry: dict[str, Any], **config: Any) -> dict[str, Any]:
        """An image of their own: that of `entry`, its configuration changed; as an entry for the same platform."""
        manifest = self.repository.manifest(entry["digest"]).json()
        said = json.loads(self.repository.blob(Descriptor.from_json(manifest["config"])))
        blob = Blob.of(canonical_json({**said, **config}), next(iter(CONFIG_TYPES & {manifest["config"]["mediaType"]})))
        Upload(self.repository, blob, Silent().add("", 0)).run()
        data = canonical_json({**manifest, "config": blob.descriptor.to_json()})
        made = Blob.of(data, entry["mediaType"]).descriptor
        self.repository.put_manifest(data, entry["mediaType"], str(made.digest))
        return {**made.to_json(), "platform": entry["platform"]}

    def findings(
        self, tag: str, scratch: Path, *, key: bool = True, arch: str | None = None
    ) -> list[dict[str, Status]]:
        """By image."""
        repository = replace(self.repository, reference=self.repository.reference.tagged(tag))
        public = self.key.public if key else None
        found = verify(repository, arch=arch, scratch=scratch, progress=Silent(), key=public)
        return [{f.name: f.status for f in one.findings} for one in found]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    project = small(tmp_path_factory.mktemp("attacks") / "project")
    for cell in ("cuda-2.6-amd64", "cpu-2.6-arm64"):
        project.build(cell, labels={"of": "a test"})
        project.report(cell)
    key = PrivateKey(generate_private_key(SECP256R1()))
    with docker_registry(tmp_path_factory.mktemp("registry")) as netloc:
        repository = open_repository(Reference.parse(f"{netloc}/attacked"), write=True)
        options = PublishOptions(revision="r", signer=KeySigner(key))
        cells = project.cells("cuda-2.6-amd64", "cpu-2.6-arm64")
        publish(project.project, project.pinned, cells, repository, options, documents=lambda *_: [], progress=Silent())
        yield Place(repository, key)


def entries(change: Callable[[Entries, Place], Entries]) -> Callable[[Place], dict[str, Any]]:
    """The signed index with other entries."""

    def changed(place: Place) -> dict[str, Any]:
        index = place.index()
        return {**index, "manifests": change(index["manifests"], place)}

    return changed


def bare(found: Entries, _: Place) -> Entries:
    return [{k: v for k, v in entry.items() if k != "platform"} for entry in found]


def swapped(found: Entries, _: Place) -> Entries:
    one, two = found
    return [{**one, "platform": two["platform"]}, {**two, "platform": one["platform"]}]


def own(found: Entries, place: Place) -> Entries:
    return [place.image(found[0], created="2020-01-01T00:00:00Z"), *found]


def elsewhere(found: Entries, place: Place) -> Entries:
    return [*found, place.image({**found[0], "platform": {**AMD64, "architecture": "s390x"}}, architecture="s390x")]


def gone(found: Entries, place: Place) -> Entries:
    made = place.image(found[0], created="2001-01-01T00:00:00Z")
    place.doomed.append(made["digest"])
    return [made, found[1]]


# Attack -> what makes the index; what FAILED of the images it has (all together), with the key and without.
ATTACKS: dict[str, tuple[Callable[[Place], dict[str, Any]], set[str], set[str]]] = {
    "extra, same platform": (entries(own), {"signature", "platform"}, {"platform"}),
    "extra, other platform": (entries(elsewhere), {"signature"}, set()),
    "swapped": (entries(swapped), {"signature", "platform"}, {"platform"}),
    "removed": (entries(lambda found, _: found[:1]), {"signature"}, set()),
    "re-ordered": (entries(lambda found, _: found[::-1]), {"signature"}, set()),
    "re-tagged": (lambda place: place.index("cpu-2.6"), set(), set()),
    "nested": (entries(lambda _, place: [place.descriptor("2.6")]), {"signature"}, set()),
    "nested twice": (
        entries(lambda _, place: [place.descriptor("cpu-2.6"), place.descriptor("2.6")]), {"signature"}, set()
    ),
    "annotated": (lambda place: {**place.index(), "annotations": {"a": "b"}}, {"signature"}, set()),
    "entry annotated": (
        entries(lambda found, _: [{**e, "annotations": {"a": "b"}} for e in found]), {"signature"}, set()
    ),
    "entry absent": (entries(gone), {"signature", "platform"}, {"platform"}),
    "empty": (entries(lambda *_: []), {"signature", "platform"}, {"platform"}),
    "no list": (entries(lambda *_: None), {"signature", "platform"}, {"platform"}),  # type: ignore[arg-type]
    "no platform": (entries(bare), {"signature"}, set()),
    "other system": (
        entries(lambda found, _: [{**e, "platform": {**AMD64, "os": "windows"}} for e in found]),
        {"signature", "platform"},
        {"platform"},
    ),
    "attestations only": (
        entries(lambda found, _: [{**e, "platform": NOBODY} for e in found]), {"signature", "platform"}, {"platform"}
    ),
    "no image": (
        entries(lambda found, _: [{**e, "mediaType": "application/x.y"} for e in found]), {"signature", "platform"},
        {"platform"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_made_of_a_signed_index_is_found(name: str, place: Place, tmp_path: Path) -> None:
    change, with_key, without = ATTACKS[name]
    tag = re.sub(r"\W+", "-", name)
    put_as_it_is(place, change(place), tag)
    for failed, key in ((with_key, True), (without, False)):
        found = place.findings(tag, tmp_path, key=key)
        assert found
        assert {n for one in found for n, status in one.items() if status is Status.FAILED} == failed, found
        if "platform" not in failed:
            assert all(one["layers"] is Status.PASSED for one in found)  # each image was looked into


def put_as_it_is(place: Place, value: dict[str, Any], tag: str) -> None:
    send, path = place.repository.transport.send, f"{place.repository.path}/manifests"
    what, scope, headers = "attack", place.repository.scope, {"Content-Type": INDEX}
    send("PUT", f"{path}/{tag}", what=what, scope=scope, headers=headers, data=canonical_json(value))
    while place.doomed:
        send("DELETE", f"{path}/{place.doomed.pop()}", what=what, scope=scope)


def test_what_the_signer_made_passes(place: Place, tmp_path: Path) -> None:
    """Without platforms, nested, with an attestation, with an artifact: the images say themselves what they are for."""
    signed = place.index()["manifests"]
    attestation = place.image({**signed[0], "platform": NOBODY}, **NOBODY)
    bill = attach(place.repository, Descriptor.from_json(attestation), Document(kind="a/b", data=b"1")).referrer
    inner = [place.descriptor("2.6"), attestation, bill.descriptor.to_json()]
    for tag, listed in {"bare": bare(signed, place), "inner": inner}.items():
        put_as_it_is(place, {**place.index(), "manifests": listed, "annotations": {"by": "signer"}}, f"by-{tag}")
        where = replace(place.repository, reference=place.repository.reference.tagged(f"by-{tag}"))
        assert len(sign_reference(where, KeySigner(place.key))) == 3
        found = place.findings(f"by-{tag}", tmp_path)
        assert len(found) == 2
        assert all(one[n] is Status.PASSED for one in found for n in ("signature", "platform", "layers", "report"))
        (one,) = place.findings(f"by-{tag}", tmp_path, arch="arm64")
        assert one["platform"] is Status.PASSED


def test_one_architecture_is_asked_for_by_either_word(place: Place, tmp_path: Path) -> None:
    """Docker pulls by the index's word, the kernel runs by the image's own."""
    put_as_it_is(place, ATTACKS["swapped"][0](place), "swapped-one")
    found = place.findings("swapped-one", tmp_path, key=False, arch="arm64")
    assert [one["platform"] for one in found] == [Status.FAILED, Status.FAILED]


def test_nothing_that_is_empty_or_misplaced_gets_a_signature(place: Place) -> None:
    for name in ("empty", "swapped", "attestations only", "other system"):
        tag = f"unsignable-{name.replace(' ', '-')}"
        put_as_it_is(place, ATTACKS[name][0](place), tag)
        done = _sign(place, tag)
        assert done[0] == 8, done
        assert "Traceback" not in done[1]


def _sign(place: Place, tag: str) -> tuple[int, str]:
    from buildctl.ground.errors import LayoutError

    where = replace(place.repository, reference=place.repository.reference.tagged(tag))
    try:
        sign_reference(where, KeySigner(place.key))
    except LayoutError as error:
        return error.exit_code, error.message
    return 0, ""


@pytest.mark.parametrize("name", ["no platform", "other system", "empty", "extra, same platform"])
def test_the_command_line_fails_and_says_why(name: str, place: Place, tmp_path: Path) -> None:
    tag = f"cli-{name.replace(' ', '-').replace(',', '')}"
    put_as_it_is(place, ATTACKS[name][0](place), tag)
    done = buildctl("verify", f"{place.repository.reference.name}:{tag}", "--key", public_key(place, tmp_path))
    assert done.returncode == 1, done.stderr
    first = done.stdout.splitlines()[1]
    assert re.match(r"  FAILED +signature +.* is not signed", first), done.stdout


def public_key(place: Place, folder: Path) -> Path:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    path = folder / "key.pub"
    data = place.key.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("command", ["test", "inspect", "check", "report"])
@pytest.mark.parametrize("name", ["empty", "swapped", "attestations only"])
def test_other_commands_do_not_pass_over_it(command: str, name: str, place: Place) -> None:
    tag = f"{command}-{name.replace(' ', '-')}"
    put_as_it_is(place, ATTACKS[name][0](place), tag)
    done = buildctl(command, f"{place.repository.reference.name}:{tag}", cwd=ROOT)
    if command == "report" and name != "empty":
        return  # the reports of images, whatever an index says about these
    assert done.returncode != 0, done.stdout
    assert done.stderr.startswith("error: "), done.stderr


def test_every_case_is_a_row_of_the_docs() -> None:
    page = (ROOT / "docs" / "signing.md").read_text()
    text = page.partition("## Attacks that `verify` answers")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    said = {row[0]: (row[2], row[3]) for row in rows[1:]}
    assert said.keys() == ATTACKS.keys()
    for name, (_, with_key, without) in ATTACKS.items():
        wanted = tuple(f"FAILED: {', '.join(sorted(found))}" if found else "PASSED" for found in (with_key, without))
        assert said[name] == wanted, name
