"""Signatures against the real cosign: it accepts what buildctl signs, and buildctl what it signs, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from buildctl.artifacts.bill import SBOM_KIND, bill
from buildctl.artifacts.contents import packages_of
from buildctl.console.progress import Silent
from buildctl.ground.errors import ToolError
from buildctl.lock.locked import LockedCell
from buildctl.matrix.cells import Cell
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, Index, MediaType, canonical_json
from buildctl.publish.move import TagOutcome
from buildctl.publish.provenance import PREDICATE, PROVENANCE_KIND, STATEMENT
from buildctl.publish.publish import PublishOptions, promote, publish
from buildctl.publish.result import Published
from buildctl.publish.sign import BUNDLE_KIND, KeylessSigner, KeySigner, sign_reference
from buildctl.publish.verify import verify
from buildctl.registry.client import Repository, open_repository
from buildctl.registry.keys import PrivateKey, PublicKey
from buildctl.registry.reference import Reference
from buildctl.registry.referrers import Document, attach, fallback_tag, referrers
from buildctl.testing.merge import REPORT_KIND
from buildctl.testing.report import Status
from tests.conftest import buildctl
from tests.support.engine import Unavailable, program
from tests.support.images import config_of, file, tar
from tests.support.projects import Small, small
from tests.support.registry import crane_registry

PASSWORD = "correct horse"
SITE = "usr/local/lib/python3.13/dist-packages"
METADATA = b"Metadata-Version: 2.1\nName: torch\nVersion: 2.6.0\n"


@dataclass(frozen=True)
class Cosign:
    """The real program, with its key pair in `folder` and no service to ask."""

    program: Path
    folder: Path

    def run(self, *args: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "COSIGN_PASSWORD": PASSWORD, "HOME": str(self.folder)}
        return subprocess.run(
            [self.program, *args], cwd=self.folder, env=env, capture_output=True, text=True, timeout=120, check=check
        )

    def sign(self, reference: str, *args: str, key: str = "cosign.key") -> None:
        self.run("sign", "-y", "--key", key, "--signing-config", "none.json", "--allow-http-registry", *args, reference)

    def accepts(self, reference: str, key: Path | str = "cosign.pub", *args: str) -> bool:
        argv = ["verify", "--key", str(key), "--insecure-ignore-tlog=true", "--allow-insecure-registry"]
        return self.run(*argv, *args, reference, check=False).returncode == 0

    @property
    def public(self) -> PublicKey:
        return PublicKey.load(str(self.folder / "cosign.pub"))


@pytest.fixture(scope="module")
def cosign(tmp_path_factory: pytest.TempPathFactory) -> Cosign:
    try:
        found = Cosign(program("cosign"), tmp_path_factory.mktemp("cosign"))
    except Unavailable as reason:
        pytest.skip(f"NOT RUN: {reason}")
    found.run("generate-key-pair")
    services = [f"--no-default-{name}" for name in ("fulcio", "oidc", "rekor", "tsa")]
    found.run("signing-config", "create", *services, "--out", "none.json")
    return found


@pytest.fixture
def key(cosign: Cosign, monkeypatch: pytest.MonkeyPatch) -> PrivateKey:
    monkeypatch.setenv("COSIGN_PASSWORD", PASSWORD)
    return PrivateKey.load(str(cosign.folder / "cosign.key"))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with it."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "data").mkdir()
    with crane_registry(folder) as netloc:
        yield netloc


@pytest.fixture(params=["fallback tag", "referrers API"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    netloc = request.getfixturevalue("upstream" if request.param == "fallback tag" else "new")
    return f"{netloc}/signing/p{Digest.of(str(tmp_path).encode()).short}"


@pytest.fixture
def old_place(upstream: str, tmp_path: Path) -> str:
    return f"{upstream}/signing/p{Digest.of(str(tmp_path).encode()).short}"


@pytest.fixture
def project(tmp_path: Path) -> Small:
    """Both images hold torch 2.6.0 and say so."""
    made = small(tmp_path / "project")
    for cell in made.cells("cuda-2.6-amd64", "cpu-2.6-arm64"):
        put(made, cell, {"dev.buildctl.torch": "2.6.0"})
    return made


def put(project: Small, cell: Cell, labels: dict[str, str], *, metadata: bytes = METADATA) -> Descriptor:
    layers = [project.shared, project.blobs.add(tar(file(f"{SITE}/torch-2.6.0.dist-info/METADATA", metadata)))]
    config = replace(config_of(layers, arch=cell.arch), labels=labels)
    found = project.layout.put_image(name=cell.id, config=config, layers=layers, blob=project.blobs.path)
    project.report(cell.id)
    return found


def documents(project: Small, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Callable[..., Any]:
    """Bill and provenance of an image; `change` is what is done to the former."""

    def made(locked: LockedCell, image: Descriptor) -> list[Document]:
        cell = locked.cell
        value = bill(
            cell.image, image, project.layout.config(image), packages_of(project.layout, image), {}, suite="trixie"
        )
        change(value)
        inputs = {"buildDefinition": {"resolvedDependencies": []}, "runDetails": {"builder": {"id": "urn:test"}}}
        statement = {
            "_type": STATEMENT,
            "subject": [{"name": cell.id, "digest": {"sha256": image.digest.hex}}],
            "predicateType": PREDICATE,
            "predicate": inputs,
        }
        return [
            Document(kind=SBOM_KIND, data=canonical_json(value)),
            Document(kind=PROVENANCE_KIND, data=canonical_json(statement)),
        ]

    return made


def published(project: Small, place: str, signer: Any = None, **options: Any) -> Published:
    repository = open_repository(Reference.parse(place), write=True)
    return publish(
        project.project,
        project.pinned,
        project.cells("cuda-2.6-amd64", "cpu-2.6-arm64"),
        repository,
        PublishOptions(**{"revision": "r", "signer": signer, **options}),
        documents=documents(project),
        progress=Silent(),
    )


def opened(reference: str) -> Repository:
    return open_repository(Reference.parse(reference), write=True)


def findings(
    reference: str, key: PublicKey | None, scratch: Path, arch: str = "arm64"
) -> dict[str, tuple[Status, str]]:
    (found,) = verify(opened(reference), arch=arch, scratch=scratch, progress=Silent(), key=key)
    return {f.name: (f.status, f.detail) for f in found.findings}


def image_of(reference: str, arch: str = "arm64") -> Descriptor:
    top = opened(reference).manifest(Reference.parse(reference).wanted)
    return next(m for m in Index.from_json(top.json()).manifests if m.platform and m.platform.architecture == arch)


def all_passed(found: dict[str, tuple[Status, str]]) -> bool:
    return {status for status, _ in found.values()} == {Status.PASSED}


# buildctl signs


def test_cosign_and_buildctl_accept_what_buildctl_signs(
    place: str, project: Small, key: PrivateKey, cosign: Cosign, tmp_path: Path
) -> None:
    result = published(project, place, KeySigner(key))
    assert {t.outcome for t in result.tags} == {TagOutcome.CREATED}
    names = {t.name for t in result.tags} | {
        f"2.6@{image_of(f'{place}:2.6', arch).digest}" for arch in ("amd64", "arm64")
    }
    for name in sorted(names):
        assert cosign.accepts(f"{place}:{name}"), name
    for tag in ("2.6", "cpu-2.6", "2.6.0-cpu-py3.13-arm64-r"):
        found = findings(f"{place}:{tag}", cosign.public, tmp_path)
        assert all_passed(found), found
    assert "3 documents" in found["signature"][1]
    assert "signed" in found["provenance"][1]
    assert not list(tmp_path.glob("buildctl-verify-*"))


def test_signing_again_sends_nothing(place: str, project: Small, key: PrivateKey, tmp_path: Path) -> None:
    published(project, place, KeySigner(key))
    before = referrers(opened(place), image_of(f"{place}:2.6").digest)
    again = published(project, place, KeySigner(key))
    assert {t.outcome for t in again.tags} == {TagOutcome.UNCHANGED}
    assert referrers(opened(place), image_of(f"{place}:2.6").digest) == before
    assert [r.kind for r in before].count(BUNDLE_KIND) == 1


@pytest.mark.parametrize("kind", ["p256", "ed25519"])
def test_plain_keys_are_keys_too(kind: str, old_place: str, project: Small, cosign: Cosign, tmp_path: Path) -> None:
    made = generate_private_key(SECP256R1()) if kind == "p256" else Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret, public = tmp_path / "key.pem", tmp_path / "key.pub"
    secret.write_bytes(made.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(made.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    published(project, old_place, KeySigner(PrivateKey.load(str(secret))))
    assert cosign.accepts(f"{old_place}:2.6", public)
    assert not cosign.accepts(f"{old_place}:2.6")
    assert all_passed(findings(f"{old_place}:2.6", PublicKey.load(str(public)), tmp_path))
    # the same key in cosign's own envelope
    cosign.run("import-key-pair", "--key", secret, "--output-key-prefix", kind)
    cosign.sign(f"{old_place}@{image_of(f'{old_place}:2.6').digest}", key=f"{kind}.key")
    assert all_passed(findings(f"{old_place}:2.6", PublicKey.load(str(public)), tmp_path))


# cosign signs


def test_buildctl_accepts_what_cosign_signs(place: str, project: Small, cosign: Cosign, tmp_path: Path) -> None:
    published(project, place)
    assert findings(f"{place}:2.6", cosign.public, tmp_path)["signature"][0] is Status.FAILED
    top = opened(f"{place}:2.6").manifest("2.6").descriptor.digest
    cosign.sign(f"{place}@{top}")
    only_index = findings(f"{place}:2.6", cosign.public, tmp_path)["signature"]
    assert only_index == (Status.FAILED, f"image sha256:{image_of(f'{place}:2.6').digest.short} is not signed")
    cosign.sign(f"{place}@{top}", "--recursive")
    found = findings(f"{place}:2.6", cosign.public, tmp_path)
    assert found["signature"][0] is Status.PASSED
    assert found["layers"][0] is found["labels"][0] is Status.PASSED
    # what cosign was not told of is not signed, so it is not called true
    for name in ("bill of materials", "provenance", "report"):
        assert found[name][0] is Status.NOT_RUN
        assert "not signed" in found[name][1]


def test_keyless_signs_everything_before_any_tag(
    old_place: str, project: Small, cosign: Cosign, tmp_path: Path
) -> None:
    """Stands for a workflow: the real cosign, whose identity here is a key and not a certificate."""
    wrapper = tmp_path / "cosign"
    known = f"--key {cosign.folder}/cosign.key --signing-config {cosign.folder}/none.json"
    wrapper.write_text(
        f'#!/bin/sh\nshift\nexport COSIGN_PASSWORD="{PASSWORD}"\nexec {cosign.program} sign {known} "$@"\n'
    )
    wrapper.chmod(0o755)
    published(project, old_place, KeylessSigner(str(wrapper)))
    found = findings(f"{old_place}:2.6", cosign.public, tmp_path)
    assert all_passed(found), found
    listed = found["signature"][1]
    assert "3 documents" in listed


def test_keyless_without_an_identity_sets_no_tag(old_place: str, project: Small, cosign: Cosign) -> None:
    signer = KeylessSigner(str(cosign.program))
    with pytest.raises(ToolError, match="cosign"):
        published(project, old_place, signer)
    assert [t for t in opened(old_place).tags() if not t.startswith("sha256-")] == []


def test_what_is_signed_with_a_certificate_is_not_run_but_says_how(
    old_place: str, project: Small, key: PrivateKey, cosign: Cosign, tmp_path: Path
) -> None:
    """As keyless signatures have one; this one nobody vouches for."""
    published(project, old_place)
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(self_signed(key))
    top = opened(f"{old_place}:2.6").manifest("2.6").descriptor.digest
    cosign.sign(f"{old_place}@{top}", "--certificate", str(certificate))
    status, detail = findings(f"{old_place}:2.6", None, tmp_path)["signature"]
    assert status is Status.NOT_RUN
    assert detail.endswith(
        f"cosign verify --certificate-identity WHO --certificate-oidc-issuer ISSUER {old_place}@{top}"
    )


def self_signed(key: PrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
    now = datetime.now(UTC)
    public = key.key.public_key()
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(public).serial_number(1)
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    names = x509.SubjectAlternativeName([x509.RFC822Name("nobody@example.invalid")])
    return builder.add_extension(names, critical=False).sign(key.key, SHA256()).public_bytes(serialization.Encoding.PEM)


# what must not pass


def test_another_key_does_not_pass(old_place: str, project: Small, key: PrivateKey, tmp_path: Path) -> None:
    published(project, old_place, KeySigner(key))
    other = PrivateKey(generate_private_key(SECP256R1())).public
    status, detail = findings(f"{old_place}:2.6", other, tmp_path)["signature"]
    assert status is Status.FAILED
    assert "signed, but not with this key" in detail


def test_without_a_key_the_signature_is_not_run(
    old_place: str, project: Small, key: PrivateKey, tmp_path: Path
) -> None:
    published(project, old_place)
    assert findings(f"{old_place}:2.6", None, tmp_path)["signature"] == (Status.NOT_RUN, "none attached")
    sign_reference(opened(f"{old_place}:2.6"), KeySigner(key))
    status, detail = findings(f"{old_place}:2.6", None, tmp_path)["signature"]
    assert status is Status.NOT_RUN
    assert "--key" in detail


@dataclass(frozen=True)
class Attack:
    """What somebody does who may push to the repository, but has no key. `reference` is the universal tag."""

    project: Small
    place: str

    @property
    def reference(self) -> str:
        return f"{self.place}:2.6"

    @property
    def image(self) -> Descriptor:
        return image_of(self.reference)

    def another_image(self, labels: dict[str, str], *, torch: bytes = METADATA) -> None:
        cell = self.project.cell("cpu-2.6-arm64")
        put(self.project, cell, {"dev.buildctl.torch": "2.6.0", **labels}, metadata=torch)
        published(self.project, self.place, revision="attack")

    def replace(self, kind: str, change: Callable[[dict[str, Any]], object] | None) -> None:
        """A document, or with no `change` take it away: nobody lists the old one any more."""
        repository, image = opened(self.reference), self.image
        (there,) = referrers(repository, image.digest, kind)
        value = repository.manifest(str(there.descriptor.digest)).json()
        said = json.loads(repository.blob(Descriptor.from_json(value["layers"][0])))
        self.list([r for r in self.listed() if r["artifactType"] != kind])
        if change is not None:
            change(said)
            attach(repository, image, Document(kind=kind, data=canonical_json(said)))

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (
            opened(self.reference).manifest(fallback_tag(self.image.digest)).json()["manifests"]
        )
        return found

    def list(self, manifests: list[dict[str, Any]]) -> None:
        data = canonical_json({"schemaVersion": 2, "mediaType": str(MediaType.INDEX), "manifests": manifests})
        opened(self.reference).put_manifest(data, MediaType.INDEX, fallback_tag(self.image.digest))

    def take_signatures(self) -> None:
        self.list([r for r in self.listed() if r["artifactType"] != BUNDLE_KIND])

    def other_index(self) -> None:
        """Of a signed image, but composed by somebody else."""
        index = Index(manifests=(self.image,), annotations={})
        opened(self.reference).put_manifest(canonical_json(index.to_json()), MediaType.INDEX, "2.6")

    def borrow_signature(self) -> None:
        """An image of their own, with the bundles of the signed one."""
        repository = opened(self.reference)
        true = [self.image, repository.manifest("2.6").descriptor]
        found = [r for subject in true for r in referrers(repository, subject.digest, BUNDLE_KIND)]
        manifests = [repository.manifest(str(r.descriptor.digest)).json() for r in found]
        self.another_image({"evil": "yes"})
        for subject in (self.image, repository.manifest("2.6").descriptor):
            for manifest in manifests:
                data = repository.blob(Descriptor.from_json(manifest["layers"][0]))
                attach(repository, subject, Document(kind=BUNDLE_KIND, data=data))

    def other_signature(self) -> None:
        self.take_signatures()
        sign_reference(opened(self.reference), KeySigner(PrivateKey(generate_private_key(SECP256R1()))))


def _licence(value: dict[str, Any]) -> None:
    value["components"][0]["licenses"] = [{"license": {"name": "do what you want"}}]


def _builder(value: dict[str, Any]) -> None:
    value["predicate"]["runDetails"]["builder"]["id"] = "https://builder.example.invalid/trusted"


def _finding(value: dict[str, Any]) -> None:
    value["findings"].append({"name": "works on the gpu", "status": "PASSED", "detail": "yes", "seconds": 0.0})


@pytest.mark.parametrize(
    ("attack", "failed"),
    [
        (lambda a: a.another_image({"org.opencontainers.image.version": "9"}), {"signature"}),
        (lambda a: a.another_image({}, torch=METADATA + b"Summary: evil\n"), {"signature"}),
        (lambda a: a.take_signatures(), {"signature"}),
        (lambda a: a.other_index(), {"signature"}),
        (lambda a: a.borrow_signature(), {"signature"}),
        (lambda a: a.other_signature(), {"signature"}),
        (lambda a: a.replace(SBOM_KIND, _licence), {"signature", "bill of materials"}),
        (lambda a: a.replace(PROVENANCE_KIND, _builder), {"signature", "provenance"}),
        (lambda a: a.replace(REPORT_KIND, _finding), {"signature", "report"}),
        (lambda a: a.replace(SBOM_KIND, None), {"signature"}),
    ],
    ids=[
        "another label", "another layer", "no signature", "an index of their own", "a signature of another image",
        "a signature of another key", "another bill", "another provenance", "another report", "no bill",
    ],
)  # fmt: skip
def test_what_somebody_without_the_key_can_do_is_found(
    attack: Callable[[Attack], None],
    failed: set[str],
    old_place: str,
    project: Small,
    key: PrivateKey,
    cosign: Cosign,
    tmp_path: Path,
) -> None:
    published(project, old_place, KeySigner(key))
    assert all_passed(findings(f"{old_place}:2.6", cosign.public, tmp_path))
    attack(Attack(project, old_place))
    found = findings(f"{old_place}:2.6", cosign.public, tmp_path)
    assert {name for name, (status, _) in found.items() if status is Status.FAILED} == failed, found
    if "bill of materials" not in failed and "provenance" not in failed and "report" not in failed:
        assert found["layers"][0] is Status.PASSED


def test_a_list_that_lies_about_types_hides_no_report(
    old_place: str, project: Small, key: PrivateKey, cosign: Cosign, tmp_path: Path
) -> None:
    project.report("cpu-2.6-arm64", libraries=Status.FAILED)
    published(project, old_place, KeySigner(key))
    place = f"{old_place}@{project.layout.resolve('cpu-2.6-arm64').digest}"
    repository = opened(place)
    assert repository.reference.digest is not None
    tag = fallback_tag(repository.reference.digest)
    listed = repository.manifest(tag).json()["manifests"]
    hidden = [r | {"artifactType": "x/y"} if r["artifactType"] == REPORT_KIND else r for r in listed]
    data = canonical_json({"schemaVersion": 2, "mediaType": str(MediaType.INDEX), "manifests": hidden})
    repository.put_manifest(data, MediaType.INDEX, tag)
    status, detail = findings(place, cosign.public, tmp_path)["report"]
    assert status is Status.FAILED
    assert "1 failed" in detail


def test_a_document_that_somebody_adds_has_no_say(
    place: str, project: Small, key: PrivateKey, cosign: Cosign, tmp_path: Path
) -> None:
    published(project, place, KeySigner(key))
    lie = Document(kind=SBOM_KIND, data=b'{"components": []}')
    attach(opened(place), image_of(f"{place}:2.6"), lie)
    for data in (b"no bundle", b"{}", b"[" * 100_000, b'{"dsseEnvelope": 7, "verificationMaterial": {}}'):
        attach(opened(place), image_of(f"{place}:2.6"), Document(kind=BUNDLE_KIND, data=data))
    assert findings(f"{place}:2.6", None, tmp_path)["bill of materials"][0] is Status.FAILED
    assert all_passed(findings(f"{place}:2.6", cosign.public, tmp_path))


# tags


def test_a_tag_is_set_after_its_signature(
    old_place: str, project: Small, key: PrivateKey, cosign: Cosign, tmp_path: Path
) -> None:
    """Whatever signature fails, the images' or the indexes': no tag that names what is not signed."""
    cells = len(project.cells("cuda-2.6-amd64", "cpu-2.6-arm64"))
    for working in (0, 1, cells, cells + 1):
        signer = Failing(KeySigner(key), after=working)
        with pytest.raises(RuntimeError, match="no more"):
            published(project, old_place, signer)
        assert [t for t in opened(old_place).tags() if not t.startswith("sha256-")] == []


@dataclass
class Failing:
    signer: KeySigner
    after: int

    def sign(self, repository: Repository, subject: Descriptor, attached: Any = None) -> None:
        if self.after <= 0:
            raise RuntimeError("no more")
        self.after -= 1
        self.signer.sign(repository, subject, attached)

    def covered(self, repository: Repository, subject: Digest) -> frozenset[Digest] | None:
        return self.signer.covered(repository, subject)


def test_what_was_published_without_a_signature_gets_one(
    old_place: str, project: Small, key: PrivateKey, cosign: Cosign, tmp_path: Path
) -> None:
    published(project, old_place)
    result = published(project, old_place, KeySigner(key))
    assert {t.outcome for t in result.tags} == {TagOutcome.UNCHANGED}
    assert cosign.accepts(f"{old_place}:2.6")
    assert all_passed(findings(f"{old_place}:2.6", cosign.public, tmp_path))


def test_an_unsigned_image_is_not_kept_in_a_tag(
    old_place: str, project: Small, key: PrivateKey, cosign: Cosign
) -> None:
    published(project, old_place)
    repository = open_repository(Reference.parse(old_place), write=True)
    put(project, project.cell("cpu-2.6-arm64"), {"dev.buildctl.torch": "2.6.0", "newer": "yes"})
    cells, options = project.cells("cpu-2.6-arm64"), PublishOptions(revision="s", signer=KeySigner(key))

    def outcomes() -> dict[str, TagOutcome]:
        found = publish(
            project.project, project.pinned, cells, repository, options, documents=documents(project), progress=Silent()
        )
        return {t.name: t.outcome for t in found.tags}

    before = repository.manifest("2.6").descriptor.digest
    found = outcomes()
    assert (found["cpu-2.6"], found["2.6"]) == (TagOutcome.MOVED, TagOutcome.REFUSED)
    assert repository.manifest("2.6").descriptor.digest == before
    sign_reference(opened(f"{old_place}:cuda-2.6"), KeySigner(key))
    assert outcomes()["2.6"] is TagOutcome.MOVED
    assert cosign.accepts(f"{old_place}:2.6")


def test_promote_signs_what_it_points_tags_at(
    place: str, project: Small, key: PrivateKey, cosign: Cosign, tmp_path: Path
) -> None:
    """Builders without a key, and a last job that has it."""
    published(project, place, tags="immutable")
    cells = project.cells("cuda-2.6-amd64", "cpu-2.6-arm64")
    options = PublishOptions(revision="r", signer=KeySigner(key))
    result = promote(project.project, project.pinned, cells, opened(place), options)
    assert result.exit_code == 0
    assert cosign.accepts(f"{place}:2.6")
    assert all_passed(findings(f"{place}:2.6", cosign.public, tmp_path))


def test_promote_believes_only_signed_reports_of_signed_images(
    old_place: str, project: Small, key: PrivateKey, tmp_path: Path
) -> None:
    project.report("cpu-2.6-arm64", libraries=Status.NOT_RUN)
    published(project, old_place, KeySigner(key), tags="immutable")
    digest = project.layout.resolve("cpu-2.6-arm64").digest
    repository = opened(f"{old_place}@{digest}")
    lie = project.report("cpu-2.6-arm64", libraries=Status.PASSED)
    image = repository.manifest(str(digest)).descriptor
    attach(repository, image, Document(kind=REPORT_KIND, data=canonical_json(lie.to_json())))
    cells = project.cells("cpu-2.6-arm64")

    def moved(signer: KeySigner | None) -> dict[str, TagOutcome]:
        options = PublishOptions(revision="r", signer=signer, dry_run=True)
        return {t.name: t.outcome for t in promote(project.project, project.pinned, cells, repository, options).tags}

    assert moved(KeySigner(key))["cpu-2.6"] is TagOutcome.REFUSED
    assert moved(None)["cpu-2.6"] is TagOutcome.CREATED


# the command line


def test_the_command_line_signs_and_verifies(old_place: str, project: Small, cosign: Cosign) -> None:
    root, env = project.project.root, {"COSIGN_PASSWORD": PASSWORD}
    secret, public = str(cosign.folder / "cosign.key"), str(cosign.folder / "cosign.pub")
    images = ["cuda-2.6", "cpu-2.6", "--to", old_place, "--no-sbom"]
    wrong = buildctl("publish", *images, "--sign-key", secret, cwd=root, env={"COSIGN_PASSWORD": "wrong"})
    assert wrong.returncode == 13
    assert "COSIGN_PASSWORD" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert opened(old_place).tags() == ()
    plain = buildctl("publish", *images, cwd=root)
    assert plain.returncode == 0, plain.stderr
    assert "signed" not in plain.stdout
    unsigned = buildctl("verify", f"{old_place}:2.6", "--key", public, cwd=root)
    assert unsigned.returncode == 1
    assert "not signed" in unsigned.stdout
    signed = buildctl("sign", f"{old_place}:2.6", "--sign-key", secret, cwd=root, env=env)
    assert signed.returncode == 0, signed.stderr
    assert len(signed.stdout.split()) == 3
    verified = buildctl("verify", f"{old_place}:2.6", "--key", public, "--json", cwd=root)
    assert verified.returncode == 0, verified.stdout
    assert {f["name"]: f["status"] for i in json.loads(verified.stdout) for f in i["findings"]}["signature"] == "PASSED"
    assert cosign.accepts(f"{old_place}:2.6")
    done = buildctl("publish", *images, cwd=root, env={**env, "BUILDCTL_SIGN_KEY": secret})
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("images and indexes are signed")
    assert cosign.accepts(f"{old_place}:cuda-2.6")
