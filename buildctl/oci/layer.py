"""One pass from entries to a layer blob: tar -> sha256 (diff id) -> compress -> sha256 (digest) -> file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import BinaryIO

from buildctl.ground.errors import ArtifactError
from buildctl.oci.compression import Compression, GzipSink, Sink
from buildctl.oci.digest import Digest
from buildctl.oci.entry import DeflatedBody, Entry, Kind
from buildctl.oci.image import Descriptor, Layer
from buildctl.oci.tar import BLOCK, RECORD, header

_REPORT_EVERY = 1 << 20


def write_layer(
    entries: Iterable[Entry],
    out: BinaryIO,
    *,
    compression: Compression,
    on_bytes: Callable[[int], None] | None = None,
) -> Layer:
    """Write `entries` as a layer to `out` and return its descriptor, diff id and size of its tar in bytes.

    `on_bytes` is called with numbers of tar bytes written since the last call. Raises ArtifactError for a path that is
    not clean, a path given twice, and a body whose size differs from its entry's. The bytes depend
    only on the entries and on `compression.identity`.
    """
    sink = compression.open(out)
    tar = _Tar(sink, on_bytes)
    seen: set[str] = set()
    for entry in entries:
        if entry.path in seen:
            raise ArtifactError(f"layer: path given twice: {entry.path!r}")
        seen.add(entry.path)
        tar.add(entry)
    tar.close()
    descriptor = Descriptor(
        media_type=compression.media_type,
        digest=Digest(sink.sha256.hexdigest()),
        size=sink.size,
        annotations=sink.annotations,
    )
    return Layer(descriptor=descriptor, diff_id=Digest(tar.sha256.hexdigest()), uncompressed_size=tar.size)


class _Tar:
    """Frames entries as tar: counts and hashes tar bytes, and hands them to the sink."""

    def __init__(self, sink: Sink, on_bytes: Callable[[int], None] | None) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        self._sink = sink
        self._on_bytes = on_bytes
        self._reported = 0
        self._pad = b""  # of the entry before: goes out with the next header, to save calls

    def _account(self, data: bytes) -> None:
        self.sha256.update(data)
        self.size += len(data)
        if self.size - self._reported >= _REPORT_EVERY:
            self._report()

    def _report(self) -> None:
        if self._on_bytes is not None:
            self._on_bytes(self.size - self._reported)
        self._reported = self.size

    def _write(self, data: bytes) -> None:
        self._account(data)
        self._sink.write(data)

    def add(self, entry: Entry) -> None:
        framing = self._pad + header(entry)
        self._account(framing)
        self._sink.begin(entry, framing)
        self._pad = b""
        if entry.kind is Kind.FILE:
            self._body(entry)
        elif entry.size or entry.body is not None:
            raise ArtifactError(f"layer: a {entry.kind} has no content: {entry.path!r}")

    def _body(self, entry: Entry) -> None:
        body, start = entry.body, self.size
        if body is None:
            if entry.size:
                raise ArtifactError(f"layer: no content for {entry.path!r}")
        elif isinstance(self._sink, GzipSink) and entry.size and isinstance(body, DeflatedBody):
            self._sink.copy(body, entry.size, self._account)
        else:
            for chunk in body.chunks():
                self._write(chunk)
                if self.size - start > entry.size:
                    break
        found = self.size - start
        if found != entry.size:
            more = "more" if found > entry.size else "fewer"
            raise ArtifactError(f"layer: {entry.path!r} has {more} bytes than the {entry.size} declared")
        self._pad = bytes(-entry.size % BLOCK)

    def close(self) -> None:
        end = self.size + len(self._pad) + 2 * BLOCK
        self._write(self._pad + bytes(2 * BLOCK + -end % RECORD))
        self._sink.close()
        self._report()
