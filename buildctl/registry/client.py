"""One repository of a registry: manifests by tag and digest, blobs by digest. Every byte received is checked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import requests
import urllib3

from buildctl.ground.errors import LayoutError
from buildctl.ground.net import number
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, MediaType
from buildctl.oci.layout import INDEX_TYPES, JSON_LIMIT, MANIFEST_TYPES, parse_object
from buildctl.registry.problems import AbsentError, AgainError, ForbiddenError, RefusedError, RegistryError
from buildctl.registry.reference import Reference
from buildctl.registry.transport import Transport, Tries, brief

_MANIFESTS = INDEX_TYPES | MANIFEST_TYPES
_ACCEPT = ", ".join(sorted(map(str, _MANIFESTS)))
# of one list, all pages together: a million tags; bytes, and seconds
_PAGES, _LIST_LIMIT, _LIST_SECONDS = 1000, 32 << 20, 120.0
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A manifest or index as the registry has it; `descriptor` has no platform."""

    descriptor: Descriptor
    data: bytes

    def json(self) -> dict[str, Any]:
        """Raises LayoutError."""
        return parse_object(self.data, str(self.descriptor.digest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """Safe to use from several threads. `chunk` is what one request of an upload carries, in bytes: where the registry
    can resume, a cut connection loses at most that much.
    """

    reference: Reference
    transport: Transport
    write: bool = False
    mount_from: tuple[str, ...] = ()
    chunk: int = 64 << 20

    @property
    def path(self) -> str:
        return f"/v2/{self.reference.repository}"

    @property
    def scope(self) -> tuple[str, ...]:
        """What a token is asked for (distribution, "token scope")."""
        return (f"repository:{self.reference.repository}:pull" + (",push" if self.write else ""),)

    def mount_scope(self, source: str) -> tuple[str, ...]:
        """To mount from `source`, and for nothing else: some registries give no token if we may not read it."""
        return (*self.scope, f"repository:{source}:pull")

    def ping(self) -> None:
        """Raises RegistryError unless a registry answers and accepts our credentials."""
        try:
            self.transport.send("GET", "/v2/", what="ping", scope=self.scope)
        except AbsentError as error:
            raise RefusedError(
                f"{self.reference.registry} answers, but is not a registry (no /v2/)", hint="check the address"
            ) from error

    def blob_size(self, digest: Digest) -> int | None:
        """In bytes; None when the repository has no such blob."""
        try:
            answer = self.transport.send(
                "HEAD", f"{self.path}/blobs/{digest}", what=f"blob sha256:{digest.short}", scope=self.scope
            )
        except self._absences:
            return None
        return number(answer.headers.get("Content-Length"))

    def head(self, wanted: str) -> Descriptor | None:
        """What a tag or digest points at; None if it does not exist."""
        path, accept = f"{self.path}/manifests/{wanted}", {"Accept": _ACCEPT}
        try:
            answer = self.transport.send("HEAD", path, what=self._named(wanted), scope=self.scope, headers=accept)
        except self._absences:
            return None
        size = number(answer.headers.get("Content-Length"))
        try:
            if size is not None:
                digest = Digest.parse(answer.headers["Docker-Content-Digest"])
                return Descriptor(media_type=_known_type(answer.headers["Content-Type"]), digest=digest, size=size)
        except (KeyError, ValueError, LayoutError):  # headers that a registry may leave out
            pass
        return self.manifest(wanted).descriptor

    def find(self, wanted: str) -> Fetched | None:
        """As `manifest`; None if it does not exist."""
        try:
            return self.manifest(wanted)
        except self._absences:
            return None

    @property
    def _absences(self) -> tuple[type[RegistryError], ...]:
        """Before a write, "forbidden" counts as "not there": Artifactory answers so to users who may deploy but not
        search. If it was meant, the writing is refused.
        """
        return (AbsentError, ForbiddenError) if self.write else (AbsentError,)

    def manifest(self, wanted: str) -> Fetched:
        """By tag or digest, verified against the digest asked for or announced. Raises AbsentError."""
        tries = Tries(self.transport.patience, f"{self.reference.registry}: {self._named(wanted)}")
        while True:
            try:
                return self._manifest(wanted)
            except AgainError as error:
                tries.failed(error)

    def put_manifest(self, data: bytes, media_type: str, wanted: str) -> bool:
        """Store a manifest under a tag or its digest; returns whether the registry processed its `subject`.

        Compares what the registry says it stored with what was sent. Raises RegistryError.
        """
        digest = Digest.of(data)
        what, tries = self._named(wanted), Tries(self.transport.patience, f"{self.reference.registry}: {wanted}")
        while True:
            try:
                answer = self.transport.attempt(
                    "PUT",
                    f"{self.path}/manifests/{wanted}",
                    what=f"storing {what}",
                    scope=self.scope,
                    headers={"Content-Type": media_type},
                    data=data,
                )
                stored = answer.headers.get("Docker-Content-Digest", str(digest))
                if stored != str(digest):
                    raise AgainError(f"it stored {stored} although {digest} was sent")
                return "OCI-Subject" in answer.headers
            except AgainError as error:
                tries.failed(error)
            except RefusedError as error:
                # what arrived is not what was sent: a fault of the way, not of the manifest
                if not {"DIGEST_INVALID", "MANIFEST_INVALID"} & set(error.codes):
                    raise
                if tries.used >= 2:
                    raise
                tries.failed(AgainError(error.message))

    def delete_manifest(self, digest: Digest) -> None:
        """With every tag that names it. Raises RegistryError; many registries refuse."""
        what, path = f"removing sha256:{digest.short}", f"{self.path}/manifests/{digest}"
        self.transport.send("DELETE", path, what=what, scope=self.deletion_scope)

    @property
    def deletion_scope(self) -> tuple[str, ...]:
        return (f"repository:{self.reference.repository}:pull,push,delete",)

    def tags(self) -> tuple[str, ...]:
        """All tags, sorted; empty if there is no such repository."""
        what, found = f"tags of {self.reference.name}", list[str]()
        with suppress(AbsentError):
            for page in self.pages(f"{self.path}/tags/list?n=1000", what):
                found += [str(tag) for tag in parse_object(page, what).get("tags") or ()]
        return tuple(sorted(found))

    def pages(self, path: str, what: str) -> Iterator[bytes]:
        """The pages of a list. Raises RegistryError."""
        seen, size, end = set[str](), 0, time.monotonic() + _LIST_SECONDS
        while path:
            seen.add(path)
            answer = self.transport.send("GET", path, what=what, scope=self.scope)
            yield answer.content
            size += len(answer.content)
            path = answer.links.get("next", {}).get("url", "")
            limits = {
                "never ends": path in seen,
                f"has more than {_PAGES} pages": len(seen) == _PAGES,
                f"is larger than {_LIST_LIMIT >> 20} MiB": size > _LIST_LIMIT,
                f"took longer than {_LIST_SECONDS:g} s": time.monotonic() > end,
            }
            if path and (why := next((text for text, reached in limits.items() if reached), None)):
                raise RefusedError(f"{self.reference.registry}: {what}: the list {why}")

    @contextmanager
    def open_blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[Iterator[bytes]]:
        """One attempt at the bytes from `start` on. Raises AgainError, also midway; the caller checks them."""
        digest = descriptor.digest
        headers = {"Range": f"bytes={start}-{descriptor.size - 1}"} if start else {}  # crane's wants the end said
        answer = self.transport.attempt(
            "GET",
            f"{self.path}/blobs/{digest}",
            what=f"blob sha256:{digest.short}",
            scope=self.scope,
            headers=headers,
            stream=True,
        )
        with answer:
            yield _chunks(answer, skip=start if answer.status_code == 200 else 0)

    def blob(self, descriptor: Descriptor) -> bytes:
        """A small blob, whole and verified. Raises RegistryError."""
        what = f"blob sha256:{descriptor.digest.short}"
        if descriptor.size > JSON_LIMIT:
            raise LayoutError(f"{what}: {descriptor.size} bytes, more than the limit of {JSON_LIMIT}")
        tries = Tries(self.transport.patience, f"{self.reference.registry}: {what}")
        while True:
            try:
                data = self._small(descriptor, what)
                if Digest.of(data) == descriptor.digest:
                    return data
                raise AgainError("the data received does not match its digest")
            except AgainError as error:
                tries.failed(error)

    def _small(self, descriptor: Descriptor, what: str) -> bytes:
        path = f"{self.path}/blobs/{descriptor.digest}"
        with self.transport.attempt("GET", path, what=what, scope=self.scope, stream=True) as answer:
            return self.transport.whole(answer, what, descriptor.size)

    def _manifest(self, wanted: str) -> Fetched:
        path, accept = f"{self.path}/manifests/{wanted}", {"Accept": _ACCEPT}
        answer = self.transport.attempt("GET", path, what=self._named(wanted), scope=self.scope, headers=accept)
        data = answer.content
        digest = Digest.of(data)
        expected = wanted if wanted.startswith("sha256:") else answer.headers.get("Docker-Content-Digest", str(digest))
        if str(digest) != expected:
            raise AgainError(f"received {digest}, not {expected}")
        media_type = document_type(data, answer.headers.get("Content-Type", ""), self._named(wanted))
        return Fetched(descriptor=Descriptor(media_type=media_type, digest=digest, size=len(data)), data=data)

    def _named(self, wanted: str) -> str:
        mark = "@" if wanted.startswith("sha256:") else ":"
        return (
            f"{self.reference.repository}{mark}{wanted[:19]}"
            if mark == "@"
            else f"{self.reference.repository}:{wanted}"
        )


def document_type(data: bytes, content_type: str, what: str) -> str:
    """The kind of a manifest: its own word, else the registry's, else its shape. Some registries call all JSON.

    Raises RefusedError if these contradict each other, because another client would read it as something else.
    """
    try:
        value = parse_object(data, what)
    except LayoutError as error:
        raise RefusedError(f"{error.message} (it came as {content_type[:80]!r})") from error
    is_index, is_image = "manifests" in value, "layers" in value
    if is_index and is_image:
        raise RefusedError(f"{what} is both an image and an index, so clients would disagree about it")
    shape = str(MediaType.INDEX) if is_index else str(MediaType.MANIFEST) if is_image else ""
    own, given = str(value.get("mediaType") or ""), content_type.partition(";")[0].strip()
    said = own or (given if given in _MANIFESTS else shape or given)
    if shape and said in _MANIFESTS and (said in INDEX_TYPES) != is_index:
        raise RefusedError(f"{what} calls itself {said} but looks like {shape}")
    return said


def _known_type(content_type: str) -> str:
    """Raises ValueError for a general type, which does not say whether it is an index."""
    found = content_type.partition(";")[0].strip()
    if found not in _MANIFESTS:
        raise ValueError(found)
    return found


def _chunks(answer: requests.Response, skip: int) -> Iterator[bytes]:
    try:
        for chunk in answer.raw.stream(_CHUNK, decode_content=False):
            if skip >= len(chunk):
                skip -= len(chunk)
                continue
            yield chunk[skip:]
            skip = 0
    except (urllib3.exceptions.HTTPError, requests.RequestException, OSError) as error:
        raise AgainError(brief(error)) from error


def open_repository(
    reference: Reference, *, write: bool = False, plain_http: bool | None = None, mount_from: tuple[str, ...] = ()
) -> Repository:
    """`mount_from` are repositories of the same registry, without its name."""
    transport = Transport(reference.registry, plain_http=plain_http)
    return Repository(reference=reference, transport=transport, write=write, mount_from=mount_from)
