"""Signatures of images and indexes as cosign 3 makes and reads them: a Sigstore bundle, attached as an OCI referrer.

What is signed (DSSE) is an in-toto statement about the digest. Its annotation `dev.buildctl.attached` lists the digests
of the documents attached when it was made, each of which names the image as its subject. So one signature
covers image, bill of materials, provenance and report; none can be replaced or removed unnoticed.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from buildctl.ground.errors import LayoutError, ToolError
from buildctl.ground.jsontext import parse_json
from buildctl.ground.run import run, which
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, canonical_json
from buildctl.registry.client import Repository
from buildctl.registry.keys import PrivateKey, PublicKey, SigningError, pre_authentication
from buildctl.registry.members import members
from buildctl.registry.problems import RegistryError, UnavailableError
from buildctl.registry.referrers import EMPTY_TYPE, Document, Referrer, Signer, attach, document, kind_of, referrers

BUNDLE_KIND = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_KIND = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
CLAIM = "https://sigstore.dev/cosign/sign/v1"
ATTACHED = "dev.buildctl.attached"
_COSIGN_DEADLINE = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A signature as the registry has it, unchecked: `signatures` are over `payload`."""

    payload: bytes
    payload_kind: str
    signatures: tuple[bytes, ...]
    certificate: bool

    @classmethod
    def parse(cls, data: bytes) -> Bundle:
        """Raises ValueError, KeyError, TypeError or AttributeError for anything else."""
        value = parse_json(data)
        envelope, material = value["dsseEnvelope"], value["verificationMaterial"]
        return cls(
            payload=base64.b64decode(envelope["payload"], validate=True),
            payload_kind=str(envelope["payloadType"]),
            signatures=tuple(base64.b64decode(s["sig"], validate=True) for s in envelope["signatures"]),
            certificate="publicKey" not in material,
        )

    def covered(self, key: PublicKey, subject: Digest) -> frozenset[Digest] | None:
        """What the statement lists, if `key` signed it for `subject`; else None."""
        data = pre_authentication(self.payload_kind, self.payload)
        if self.payload_kind != PAYLOAD_KIND or not any(key.made(s, data) for s in self.signatures):
            return None
        try:
            value = parse_json(self.payload)
            if (value["_type"], value["predicateType"]) != (STATEMENT, CLAIM):
                return None
            return _listed(value["subject"], subject)
        except (ValueError, KeyError, TypeError, AttributeError, LayoutError):
            return None


@dataclass(frozen=True, slots=True)
class KeySigner:
    key: PrivateKey

    def sign(self, repository: Repository, subject: Descriptor, attached: Collection[Digest] | None = None) -> None:
        listed = documents_of(repository, subject.digest) if attached is None else attached
        attach(repository, subject, signed(self.key, subject.digest, listed))

    def covered(self, repository: Repository, subject: Digest) -> frozenset[Digest] | None:
        return covered(bundles(repository, subject), self.key.public, subject)


@dataclass(frozen=True, slots=True)
class KeylessSigner:
    """The program cosign with the identity that the environment offers, such as a workflow's."""

    program: str

    @classmethod
    def find(cls) -> KeylessSigner:
        """Raises ToolError where cosign is missing."""
        found = which("cosign")
        if found is None:
            raise ToolError(
                "signing without a key needs cosign",
                hint="install cosign 3 (in CI: sigstore/cosign-installer)",
            )
        return cls(str(found))

    def sign(self, repository: Repository, subject: Descriptor, attached: Collection[Digest] | None = None) -> None:
        argv = [self.program, "sign", "--yes"]
        if repository.transport.root.startswith("http:"):
            argv.append("--allow-http-registry")
        listed = documents_of(repository, subject.digest) if attached is None else attached
        if listed:
            argv += ["--annotations", f"{ATTACHED}={_list(listed)}"]
        try:
            run([*argv, f"{repository.reference.name}@{subject.digest}"], timeout=_COSIGN_DEADLINE)
        except ToolError as error:
            hint = "a workflow needs `permissions: id-token: write`; to sign with a key, use --sign-key"
            raise ToolError(error.message, hint=hint) from error

    def covered(self, repository: Repository, subject: Digest) -> frozenset[Digest] | None:  # noqa: ARG002
        return None  # we do not know whose certificate to expect


def signed(key: PrivateKey, subject: Digest, attached: Collection[Digest] = ()) -> Document:
    """The same bytes for the same key and digests."""
    payload = canonical_json(statement(subject, attached))
    envelope = {
        "payload": _base64(payload),
        "payloadType": PAYLOAD_KIND,
        "signatures": [{"sig": _base64(key.sign(pre_authentication(PAYLOAD_KIND, payload)))}],
    }
    bundle = {
        "mediaType": BUNDLE_KIND,
        "verificationMaterial": {"publicKey": {"hint": key.public.hint}},
        "dsseEnvelope": envelope,
    }
    annotations = {"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": CLAIM}
    return Document(kind=BUNDLE_KIND, data=canonical_json(bundle), annotations=annotations)


def statement(subject: Digest, attached: Collection[Digest]) -> dict[str, Any]:
    """What cosign 3 signs; the annotations are what `cosign sign --annotations` puts there."""
    annotations = {ATTACHED: _list(attached)} if attached else {}
    return {
        "_type": STATEMENT,
        "subject": [{"digest": {"sha256": subject.hex}, "annotations": annotations}],
        "predicateType": CLAIM,
        "predicate": {},
    }


def bundles(repository: Repository, subject: Digest) -> tuple[Bundle, ...]:
    """Every readable signature for that digest, not verified."""
    found = (_bundle(repository, r) for r in referrers(repository, subject))
    return tuple(bundle for bundle in found if bundle is not None)


def covered(found: Iterable[Bundle], key: PublicKey, subject: Digest) -> frozenset[Digest] | None:
    """All documents that valid signatures list; None if none is valid."""
    valid = [listed for bundle in found if (listed := bundle.covered(key, subject)) is not None]
    return frozenset().union(*valid) if valid else None


def is_bundle(repository: Repository, referrer: Referrer) -> bool:
    """Under a fallback tag, cosign 3.1 lists its signatures with the type of their empty configuration."""
    return (kind_of(repository, referrer) if referrer.kind == EMPTY_TYPE else referrer.kind) == BUNDLE_KIND


def sign_reference(repository: Repository, signer: Signer) -> tuple[Digest, ...]:
    """Sign what the reference leads to, the images of an index before itself, with all that is attached to each now.

    Raises LayoutError, before anything is signed, for an index without images or with one on a wrong platform.
    """
    top = repository.manifest(repository.reference.wanted)
    found = members(repository, top)
    if not found:
        raise LayoutError(f"{repository.reference} has no images")
    subjects = {m.descriptor.digest: m.descriptor for m in found} | {top.descriptor.digest: top.descriptor}
    for subject in subjects.values():
        signer.sign(repository, subject)
    return tuple(subjects)


def documents_of(repository: Repository, subject: Digest) -> list[Digest]:
    """What is attached to that digest, signatures left out."""
    return [r.descriptor.digest for r in referrers(repository, subject) if not is_bundle(repository, r)]


def open_signer(key: str | None, *, keyless: bool) -> Signer | None:
    """Raises SigningError, ToolError; before any work is done."""
    if key and keyless:
        raise SigningError("cannot sign with a key and keyless at once", hint="use --sign-key or --sign-keyless")
    if keyless:
        return KeylessSigner.find()
    return KeySigner(PrivateKey.load(key)) if key else None


def _bundle(repository: Repository, referrer: Referrer) -> Bundle | None:
    """None for anything but a valid bundle: anyone may attach one, and a broken one signs nothing."""
    try:
        return Bundle.parse(document(repository, referrer)) if is_bundle(repository, referrer) else None
    except UnavailableError:
        raise
    except (RegistryError, LayoutError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _listed(subjects: list[Any], wanted: Digest) -> frozenset[Digest] | None:
    for subject in subjects:
        if subject["digest"].get("sha256") == wanted.hex:
            listed = (subject.get("annotations") or {}).get(ATTACHED, "")
            return frozenset(Digest.parse(text) for text in listed.split())
    return None


def _list(digests: Collection[Digest]) -> str:
    return " ".join(sorted({str(d) for d in digests}))  # for cosign a comma ends an annotation


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
