"""Upload blobs: only missing ones, in resumable chunks where supported, checked when complete."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Protocol, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import requests

from buildctl.console.progress import Task
from buildctl.ground.errors import LayoutError
from buildctl.ground.net import brief, number
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor
from buildctl.oci.receipts import doubt
from buildctl.oci.tarread import layer_hashes
from buildctl.registry.client import Repository
from buildctl.registry.problems import AbsentError, AgainError, RefusedError
from buildctl.registry.transport import Tries

# GHCR, with 416 for a PATCH: "the request body is too large and exceeds the maximum permissible limit of 4.00MiB"
_LIMIT = re.compile(r"(?:limit|maximum)\D{0,20}([0-9]{1,12}(?:\.[0-9]+)?) ?([KM]i?B|bytes)\b", re.IGNORECASE)
_UNITS = {"bytes": 1, "kib": 1 << 10, "mib": 1 << 20, "kb": 1000, "mb": 1000**2}
_LEAST = 1 << 16  # a piece; less is not worth a request
_RESTART = frozenset({"DIGEST_INVALID", "SIZE_INVALID", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "RANGE_INVALID"})


class Moved(StrEnum):
    """How a blob got into the repository."""

    THERE = "there"
    MOUNTED = "mounted"
    SENT = "sent"


class Readable(Protocol):
    """What an upload needs of a file."""

    def seek(self, position: int, /) -> int: ...

    def read(self, amount: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A blob as a file, a small one in memory, or one that is read from elsewhere, by `remote`, while it is sent.
    `diff_id` of a layer: what its tar must hash to.
    """

    descriptor: Descriptor
    path: Path | None = None
    data: bytes = b""
    remote: Callable[[], Readable] | None = None
    diff_id: Digest | None = None

    @classmethod
    def of(cls, data: bytes, media_type: str) -> Self:
        return cls(descriptor=Descriptor(media_type=media_type, digest=Digest.of(data), size=len(data)), data=data)

    def open(self) -> Readable:
        """Raises LayoutError."""
        return self._file() if self.remote is None else self.remote()

    def _file(self) -> BinaryIO:
        if self.path is None:
            return io.BytesIO(self.data)
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise LayoutError(f"{self.path}: {error.strerror}", hint="build the image again") from error
        if (size := os.fstat(file.fileno()).st_size) != self.descriptor.size:
            file.close()
            raise LayoutError(f"{self.path} has {size} bytes, not {self.descriptor.size} as in its descriptor")
        return file

    def is_true(self) -> bool:
        """Whether the content matches the digest, and what it unpacks to the diff id."""
        with self._file() as file:
            if self.diff_id is None:
                return Digest.of_stream(file) == self.descriptor.digest
            where = f"layer {self.descriptor.digest}"
            found = layer_hashes(file, self.descriptor.media_type, where)
        return found == (self.descriptor.digest, self.diff_id)

    def refuse_damage(self) -> None:
        """Raises LayoutError for content that is not what the descriptor says: no registry gets to see it. What
        comes from elsewhere is hashed where it goes.
        """
        if self.remote is not None:
            return
        try:
            if self.is_true():
                return
            why = "its content does not match"
        except LayoutError as error:
            why = error.message
        if self.path is not None:
            doubt(self.path)
        where = self.path or self.descriptor.media_type
        raise LayoutError(f"{where} is not the blob {self.descriptor.digest}: {why}", hint="build again")


class _Slice:
    """Bytes `start` to `end` of a blob, as requests sends them; counts what was read."""

    def __init__(self, blob: Blob, start: int, end: int, task: Task) -> None:
        self._file = blob.open()
        self._file.seek(start)
        self._size = self._left = end - start
        self._task = task
        self.sent = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(1 << 16):
            yield chunk

    def read(self, size: int = -1, /) -> bytes:
        if not self._left:
            return b""
        data = self._file.read(self._left if size < 0 else min(max(size, 1 << 16), self._left))
        self._left -= len(data)
        self.sent += len(data)
        self._task.advance(len(data))
        return data

    def close(self) -> None:
        self._file.close()


@dataclass(slots=True)
class Upload:
    """One blob in transit. `sent` counts the bytes sent, including those that did not arrive."""

    repository: Repository
    blob: Blob
    task: Task
    sent: int = 0
    chunk: int = 0
    _url: str = ""
    _offset: int = 0
    _whole: bool = False  # the registry wants no chunks

    def __post_init__(self) -> None:
        largest = self.repository.transport.largest
        self.chunk = min(self.chunk or self.repository.chunk, largest or self.repository.chunk)

    def run(self) -> Moved:
        """Runs until the repository has the blob. Raises RegistryError, or LayoutError if the file is not the blob."""
        descriptor = self.blob.descriptor
        if self.repository.blob_size(descriptor.digest) == descriptor.size:
            return Moved.THERE
        self.blob.refuse_damage()
        tries = Tries(self.repository.transport.patience, f"{self.repository.reference.name}: {self._what}")
        while True:
            before = self._offset
            try:
                if not self._url and self._begin():
                    return Moved.MOUNTED
                self._send()
                self._verify()
                return Moved.SENT
            except AgainError as error:
                if self._offset > before:
                    tries.progressed()
                tries.failed(error)
                self._resume()
            except AbsentError as error:
                if not self._url:  # not a session that was lost: none was opened
                    hint = "create the repository first: some registries, such as ECR, do not create it on push"
                    raise AbsentError(error.message, hint=hint, codes=error.codes) from error
                self._start_over()
                tries.failed(AgainError(f"the upload session is lost ({error.message})"))
            except RefusedError as error:
                if not self._in_smaller_pieces(error):
                    self._refused(error, tries)

    @property
    def _what(self) -> str:
        return f"blob sha256:{self.blob.descriptor.digest.short}"

    def _begin(self) -> bool:
        """Open a session, or mount the blob from a neighbouring repository; returns whether it was mounted.

        A registry that does not mount opens a session all the same (202), and the blob goes there; one that refuses
        (401, 403, 404, 405, some 400) is asked for a session without a mount, and reports the real problem there.
        """
        for source in self.repository.mount_from:
            query = {"mount": str(self.blob.descriptor.digest), "from": source}
            try:
                answer = self._post(self.repository.mount_scope(source), query)
            except (AbsentError, RefusedError):
                continue
            if answer.status_code == 201:
                self._url = ""
                return True
            self._opened(answer)
        if not self._url:
            self._opened(self._post(self.repository.scope, None))
        return False

    def _post(self, scope: tuple[str, ...], query: dict[str, str] | None) -> requests.Response:
        path, what = f"{self.repository.path}/blobs/uploads/", f"upload of {self._what}"
        return self.repository.transport.attempt("POST", path, what=what, scope=scope, params=query, data=b"")

    def _opened(self, answer: requests.Response) -> None:
        self._url = self._location(answer.headers.get("Location"))
        self.chunk = max(self.chunk, number(answer.headers.get("OCI-Chunk-Min-Length")) or 0)

    def _send(self) -> None:
        size = self.blob.descriptor.size
        while not self._whole and size - self._offset > self.chunk:
            end = self._offset + self.chunk
            headers = {"Content-Range": f"{self._offset}-{end - 1}"}
            answer = self._request("PATCH", self._url, self._offset, end, headers)
            self._url = self._location(answer.get("Location"), self._url)
            self._offset = end
        headers = {"Content-Range": f"{self._offset}-{size - 1}"} if self._offset else {}
        url = _with_query(self._url, "digest", str(self.blob.descriptor.digest))
        self._request("PUT", url, self._offset, size, headers)
        self._offset = size

    def _request(self, method: str, url: str, start: int, end: int, headers: dict[str, str]) -> dict[str, str]:
        body = _Slice(self.blob, start, end, self.task)
        try:
            answer = self.repository.transport.attempt(
                method,
                url,
                what=f"upload of {self._what}",
                scope=self.repository.scope,
                headers={"Content-Type": "application/octet-stream", **headers},
                data=body if end > start else b"",
            )
            return {"Location": answer.headers["Location"]} if "Location" in answer.headers else {}
        except BaseException:
            self.task.advance(-body.sent)
            raise
        finally:
            self.sent += body.sent
            body.close()

    def _verify(self) -> None:
        there = self.repository.blob_size(self.blob.descriptor.digest)
        if there != self.blob.descriptor.size:
            self._start_over()
            raise AgainError(f"the registry has {there} bytes of it after the upload")

    def _resume(self) -> None:
        """Ask how far the upload got (204 and a Range); a lost session means: from the start."""
        if not self._url:
            return
        transport = self.repository.transport
        try:
            answer = transport.attempt("GET", self._url, what=f"upload of {self._what}", scope=self.repository.scope)
        except (AgainError, AbsentError, RefusedError):
            self._start_over()
            return
        last = number(answer.headers.get("Range", "").removeprefix("bytes=").removeprefix("0-"))
        arrived = last + 1 if last else 0
        if answer.status_code != 204 or arrived > self.blob.descriptor.size:
            self._start_over()
            return
        self.task.advance(arrived - self._offset)
        self._offset = arrived
        self._url = self._location(answer.headers.get("Location"), self._url)

    def _start_over(self) -> None:
        self.task.advance(-self._offset)
        self._url, self._offset = "", 0

    def _in_smaller_pieces(self, error: RefusedError) -> bool:
        """Whether the registry named the size that it takes, and it is less than what was sent. All later uploads to
        it keep to that.
        """
        found = _LIMIT.search(error.message) if "416" in error.message or "413" in error.message else None
        limit = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
        if not _LEAST <= limit < self.chunk:
            return False
        self.chunk = self.repository.transport.largest = limit
        self._start_over()
        return True

    def _refused(self, error: RefusedError, tries: Tries) -> None:
        """Retry if bytes changed in transit or the session rejects chunks; anything else is final."""
        descriptor = self.blob.descriptor
        if "DIGEST_INVALID" in error.codes:
            self.blob.refuse_damage()
        if not _RESTART & set(error.codes) and (self._whole or self._offset + self.chunk >= descriptor.size):
            raise error
        self._whole |= not {"DIGEST_INVALID", "BLOB_UPLOAD_UNKNOWN"} & set(error.codes)
        self._start_over()
        tries.failed(AgainError(error.message))

    def _location(self, given: str | None, current: str = "") -> str:
        """Where the upload continues; only on the registry's own host, because the content may be private."""
        where = f"{self.repository.reference.registry}: upload of {self._what}"
        if not given and not current:
            raise RefusedError(f"{where}: it gave no upload URL")
        try:
            url = self.repository.transport.url(given or current)
        except ValueError as error:
            raise RefusedError(f"{where}: {brief(error)}") from error
        if urlsplit(url).hostname != urlsplit(self.repository.transport.root).hostname:
            raise RefusedError(f"{where}: it sends the upload to another host, {urlsplit(url).hostname}")
        return url


def _with_query(url: str, key: str, value: str) -> str:
    parts = urlsplit(url)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), (key, value)])
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))
