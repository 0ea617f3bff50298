"""Documents about an image, attached to its digest (OCI 1.1 referrers).

Where a registry lacks the API, an index under the tag `sha256-HEX` lists them (distribution-spec, "referrers tag
schema"). Two writers of that tag may overwrite each other, so what was written is read again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from buildctl.console.progress import Silent
from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, MediaType, canonical_json
from buildctl.oci.layout import INDEX_TYPES
from buildctl.registry.client import Repository
from buildctl.registry.problems import AbsentError, ForbiddenError, RefusedError, UnavailableError
from buildctl.registry.upload import Blob, Upload

EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What is attached: `data` of the media type `kind`, which is also the artifact type."""

    kind: str
    data: bytes
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Referrer:
    """An artifact that names the subject; `kind` is its artifact type."""

    descriptor: Descriptor
    kind: str

    def to_json(self) -> dict[str, Any]:
        return {**self.descriptor.to_json(), "artifactType": self.kind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """`fresh` if it was not there before; `sent` in bytes of blobs."""

    referrer: Referrer
    fresh: bool
    sent: int = 0


class Signer(Protocol):
    """Signs digests; the signature is attached to them."""

    def sign(self, repository: Repository, subject: Descriptor, attached: Collection[Digest] | None = None) -> None:
        """Sign the digest, and with it the documents `attached` to it (None: all that are). Raises BuildctlError."""

    def covered(self, repository: Repository, subject: Digest) -> frozenset[Digest] | None:
        """The documents that this signer's signatures list; None if there is no such signature, or it cannot tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What a document is in a registry or layout: the bytes of a manifest that names a subject, and its blobs."""

    data: bytes
    kind: str
    blobs: tuple[Blob, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def referrer(self) -> Referrer:
        descriptor = Descriptor(
            media_type=MediaType.MANIFEST,
            digest=Digest.of(self.data),
            size=len(self.data),
            annotations=self.annotations,
        )
        return Referrer(descriptor=descriptor, kind=self.kind)


def artifact(subject: Descriptor, document: Document) -> Artifact:
    """The same bytes for the same document about the same image."""
    empty, body = Blob.of(b"{}", EMPTY_TYPE), Blob.of(document.data, document.kind)
    value = {
        "schemaVersion": 2,
        "mediaType": str(MediaType.MANIFEST),
        "artifactType": document.kind,
        "config": empty.descriptor.to_json(),
        "layers": [body.descriptor.to_json()],
        "subject": Descriptor(media_type=subject.media_type, digest=subject.digest, size=subject.size).to_json(),
        **({"annotations": dict(document.annotations)} if document.annotations else {}),
    }
    return Artifact(
        data=canonical_json(value), kind=document.kind, blobs=(empty, body), annotations=document.annotations
    )


def attach(repository: Repository, subject: Descriptor, document: Document) -> Attached:
    """Store the document and list it in the subject's referrers, unless it is there. Raises RegistryError."""
    return attach_artifact(repository, subject.digest, artifact(subject, document))


def attach_artifact(repository: Repository, subject: Digest, found: Artifact) -> Attached:
    """As `attach`, for one that exists already: byte for byte, so that signatures of it hold."""
    referrer = found.referrer
    if any(there.descriptor.digest == referrer.descriptor.digest for there in referrers(repository, subject)):
        return Attached(referrer=referrer, fresh=False)
    sent = 0
    for blob in {b.descriptor.digest: b for b in found.blobs}.values():
        upload = Upload(repository, blob, Silent())
        upload.run()
        sent += upload.sent
    if not repository.put_manifest(found.data, MediaType.MANIFEST, str(referrer.descriptor.digest)):
        _list_under_tag(repository, subject, referrer)
    return Attached(referrer=referrer, fresh=True, sent=sent)


def fetch_artifact(repository: Repository, referrer: Referrer) -> Artifact:
    """One that is attached, with its blobs in memory, verified. Raises RegistryError."""
    data = repository.manifest(str(referrer.descriptor.digest)).data
    kind, parts, annotations = parse_artifact(data, str(referrer.descriptor.digest))
    blobs = tuple(Blob(descriptor=part, data=repository.blob(part)) for part in parts)
    return Artifact(data=data, kind=kind or referrer.kind, blobs=blobs, annotations=annotations)


def parse_artifact(data: bytes, where: str) -> tuple[str, tuple[Descriptor, ...], Mapping[str, str]]:
    """Type, blobs and annotations of an artifact's manifest. Raises RefusedError."""
    try:
        value = json.loads(data)
        parts = tuple(Descriptor.from_json(part) for part in (value["config"], *value["layers"]))
        return str(value.get("artifactType", "")), parts, dict(value.get("annotations") or {})
    except (LayoutError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedError(f"{where} is not an artifact: {error}") from error


def referrers(repository: Repository, subject: Digest, kind: str | None = None) -> tuple[Referrer, ...]:
    """What is attached to that digest, of one artifact type or of all; empty when nothing is."""
    path, what = f"{repository.path}/referrers/{subject}", f"referrers of sha256:{subject.short}"
    try:
        found = [referrer for page in repository.pages(path, what) for referrer in _parse(page)]
    except (AbsentError, RefusedError):  # without the API most registries answer 404, some 400, 405 or an HTML page
        found = _tagged(repository, subject)
    return tuple(r for r in found if kind in {None, r.kind})


def document(repository: Repository, referrer: Referrer) -> bytes:
    """The one layer of an artifact, verified. Raises RegistryError."""
    manifest = repository.manifest(str(referrer.descriptor.digest)).json()
    try:
        (layer,) = manifest["layers"]
        return repository.blob(Descriptor.from_json(layer))
    except (KeyError, ValueError, TypeError) as error:
        raise RefusedError(f"{referrer.kind} {referrer.descriptor.digest} is not an artifact with one layer") from error


def kind_of(repository: Repository, referrer: Referrer) -> str:
    """The artifact type from the artifact itself, since others keep the lists. Raises RegistryError."""
    return str(repository.manifest(str(referrer.descriptor.digest)).json().get("artifactType", ""))


def fallback_tag(subject: Digest) -> str:
    return f"sha256-{subject.hex}"


def _tagged(repository: Repository, subject: Digest) -> list[Referrer]:
    """What the fallback tag lists. GitLab resolves that tag to the subject itself, and an image is not a list."""
    try:
        found = repository.manifest(fallback_tag(subject))
    except (AbsentError, ForbiddenError):  # Artifactory answers "forbidden" for what is not there
        return []
    if found.descriptor.digest == subject or found.descriptor.media_type not in INDEX_TYPES:
        return []
    return _parse(found.data)


def _list_under_tag(repository: Repository, subject: Digest, referrer: Referrer) -> None:
    tag = fallback_tag(subject)
    for _ in range(_ROUNDS):
        there = _tagged(repository, subject)
        if any(r.descriptor.digest == referrer.descriptor.digest for r in there):
            return
        listed = sorted([*there, referrer], key=lambda r: (r.kind, r.descriptor.digest))
        index = {"schemaVersion": 2, "mediaType": str(MediaType.INDEX), "manifests": [r.to_json() for r in listed]}
        repository.put_manifest(canonical_json(index), MediaType.INDEX, tag)
        kept = repository.head(tag)
        if kept is not None and kept.digest == subject:
            raise RefusedError(
                f"{repository.reference.registry} has no referrers API, and resolves the tag {tag} to the image itself",
                hint="documents cannot be attached to images there (for example GitLab)",
            )
    raise UnavailableError(
        f"{repository.reference.name}:{tag}: another writer keeps overwriting it", hint="run the same command again"
    )


def _parse(data: bytes) -> list[Referrer]:
    try:
        manifests = json.loads(data)["manifests"]
        return [
            Referrer(descriptor=Descriptor.from_json(m), kind=str(m.get("artifactType", ""))) for m in manifests or ()
        ]
    except (LayoutError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedError(f"a malformed list of referrers ({error!r})") from error
