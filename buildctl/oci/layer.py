"""One pass from entries to a layer blob: tar -> sha256 (diff id) -> compress -> sha256 (digest) -> file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import BinaryIO, assert_never

import deflate
import zstandard

from buildctl.ground.errors import ArtifactError
from buildctl.oci.digest import Digest
from buildctl.oci.entry import DeflatedBody, Entry, Kind
from buildctl.oci.image import Descriptor, Layer, MediaType
from buildctl.oci.tar import BLOCK, RECORD, header

ZSTD_LEVEL = 3
DEFLATE_LEVEL = 6
_REPORT_EVERY = 1 << 20
_GZIP_PIECE = 1 << 20  # bytes per gzip member of what has to be compressed here
# RFC 1952: magic, method deflate, no flags, no time, no extra flags, unknown system
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class Compression(StrEnum):
    ZSTD = "zstd"
    GZIP = "gzip"
    NONE = "none"

    @property
    def media_type(self) -> MediaType:
        match self:
            case Compression.ZSTD:
                return MediaType.LAYER_ZSTD
            case Compression.GZIP:
                return MediaType.LAYER_GZIP
            case Compression.NONE:
                return MediaType.LAYER_TAR
            case _:
                assert_never(self)

    @property
    def identity(self) -> str:
        """What the compressed bytes depend on besides the content: part of a recipe key."""
        match self:
            case Compression.ZSTD:
                return f"zstd-{ZSTD_LEVEL} {'.'.join(map(str, zstandard.ZSTD_VERSION))}"
            case Compression.GZIP:
                return f"gzip-{DEFLATE_LEVEL} libdeflate {deflate.__version__}"
            case Compression.NONE:
                return "none"
            case _:
                assert_never(self)


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
    sink = _open_sink(compression, out)
    tar = _Tar(sink, on_bytes)
    seen: set[str] = set()
    for entry in entries:
        if entry.path in seen:
            raise ArtifactError(f"layer: path given twice: {entry.path!r}")
        seen.add(entry.path)
        tar.add(entry)
    tar.close()
    descriptor = Descriptor(media_type=compression.media_type, digest=Digest(sink.sha256.hexdigest()), size=sink.size)
    return Layer(descriptor=descriptor, diff_id=Digest(tar.sha256.hexdigest()), uncompressed_size=tar.size)


class _Tar:
    """Frames entries as tar: counts and hashes tar bytes, and hands them to the sink."""

    def __init__(self, sink: _Plain, on_bytes: Callable[[int], None] | None) -> None:
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
        self._write(self._pad + header(entry))
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
        elif isinstance(self._sink, _Gzip) and entry.size and isinstance(body, DeflatedBody):
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


def _open_sink(compression: Compression, out: BinaryIO) -> _Plain:
    match compression:
        case Compression.ZSTD:
            return _Zstd(out)
        case Compression.GZIP:
            return _Gzip(out)
        case Compression.NONE:
            return _Plain(out)
        case _:
            assert_never(compression)


class _Plain:
    """Where tar bytes go: a file. `sha256` and `size` are those of what was written to it."""

    def __init__(self, out: BinaryIO) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        self._out = out

    def _emit(self, data: bytes) -> None:
        self.sha256.update(data)
        self.size += len(data)
        self._out.write(data)

    def write(self, data: bytes) -> None:
        self._emit(data)

    def close(self) -> None:
        pass


class _Zstd(_Plain):
    """One frame, no checksum (the digest is one), no threads: the same bytes however the input is cut."""

    def __init__(self, out: BinaryIO) -> None:
        super().__init__(out)
        parameters = zstandard.ZstdCompressionParameters.from_level(
            ZSTD_LEVEL, write_checksum=False, write_content_size=False, write_dict_id=False, threads=0
        )
        self._compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    def write(self, data: bytes) -> None:
        compressed = self._compressor.compress(data)
        if compressed:
            self._emit(compressed)

    def close(self) -> None:
        self._emit(self._compressor.flush())


class _Gzip(_Plain):
    """Several members: existing deflate streams are copied, everything else is compressed by libdeflate.

    libdeflate, bundled in a wheel of an exact version, yields the same bytes on every machine; builds of zlib do not.
    """

    def __init__(self, out: BinaryIO) -> None:
        super().__init__(out)
        self._pending = bytearray()

    def write(self, data: bytes) -> None:
        self._pending += data
        while len(self._pending) >= _GZIP_PIECE:
            self._member(bytes(self._pending[:_GZIP_PIECE]))
            del self._pending[:_GZIP_PIECE]

    def copy(self, body: DeflatedBody, size: int, inflated: Callable[[bytes], object]) -> None:
        """Copy the deflate stream of `body`, whose content is of `size` bytes, into a member of its own."""
        self._flush()
        self._emit(_GZIP_HEADER)
        for piece in body.deflated(inflated):
            self._emit(piece)
        self._emit(_trailer(body.crc32, size))

    def _member(self, data: bytes) -> None:
        self._emit(
            _GZIP_HEADER + deflate.deflate_compress(data, DEFLATE_LEVEL) + _trailer(deflate.crc32(data), len(data))
        )

    def _flush(self) -> None:
        if self._pending:
            self._member(bytes(self._pending))
            self._pending.clear()

    def close(self) -> None:
        self._flush()


def _trailer(crc32: int, size: int) -> bytes:
    return crc32.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")
