"""How a layer is compressed, and by what: the same bytes on every machine for one method, level and compressor."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, cast

from buildctl.ground.cores import Threads
from buildctl.ground.errors import UsageError
from buildctl.oci.entry import DeflatedBody, Entry
from buildctl.oci.image import MediaType

if TYPE_CHECKING:
    import zstandard  # the names of what can be chosen are read by `buildctl --help`

FRAME = 1 << 24  # bytes of content in a zstd frame: at 4 MiB wheels grow by 1.6 %, at 16 MiB by 0.3 %
_THREADS = 4  # of one layer: inflating and hashing keeps no more of them busy
# What zstd does without a level: its fast strategy, looking for repetitions of 6 bytes or more in 8 MiB, as far back as
# every client should read (RFC 8878, section 3.1.1.1.2), with a table that fits into a core's own cache. An image for
# GPUs comes out as large as with level 3, for 30 % less CPU, and is decompressed in 8 % less.
_FOR_LIBRARIES = {"window_log": 23, "hash_log": 17, "chain_log": 17, "min_match": 6}
_CONTEXTS = 180_000_000  # bytes of all compressors of one layer: one of level 19 takes 85 million
# Bytes hashed and written at a time. For a write of 9 MB, Linux takes large pages that nobody has used lately; in a
# virtual machine, copying into those was measured to take six times as long.
_PIECE = 1 << 18
_GZIP_PIECE = 1 << 20  # bytes per gzip member of what has to be compressed here
# RFC 1952: magic, method deflate, no flags, no time, no extra flags, unknown system
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class Sink:
    """Where tar bytes go: a file. `sha256` and `size` are those of what was written to it; `annotations` are for the
    layer's descriptor.
    """

    def __init__(self, out: BinaryIO, level: int = 0) -> None:  # noqa: ARG002 - for those that compress
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.annotations: Mapping[str, str] = {}
        self._out = out

    @staticmethod
    def version() -> str:
        """The compressor, with its version and parameters, as far as the bytes depend on them."""
        return ""

    def _emit(self, data: bytes) -> None:
        self.size += len(data)
        for at in range(0, len(data), _PIECE):
            piece = memoryview(data)[at : at + _PIECE]
            self.sha256.update(piece)
            self._out.write(piece)

    def begin(self, entry: Entry, framing: bytes) -> None:  # noqa: ARG002 - for those that keep files apart
        """Before the content of `entry`, if it has any; `framing` is what the tar has before that."""
        self.write(framing)

    def write(self, data: bytes) -> None:
        self._emit(data)

    def close(self) -> None:
        pass


class ZstdSink(Sink):
    """A frame (RFC 8878) for every FRAME bytes, compressed in one call, which takes libzstd a sixth less time than its
    streams do; no checksum (the digest is one).

    Where a frame ends follows from the content alone, so threads may compress several at the same time.
    """

    def __init__(self, out: BinaryIO, level: int) -> None:
        super().__init__(out)
        self._level = level
        self._threads = threads_of(level)
        self._pool = Threads(self._threads)
        self._own = threading.local()  # a compressor, which no two threads may use
        self._frame, self._filled = _frame(), 0
        self._spare = deque[memoryview]()
        self._waiting = deque[tuple[memoryview, Future[bytes]]]()  # in the order of the content

    @staticmethod
    def version() -> str:
        import zstandard  # noqa: PLC0415 - see TYPE_CHECKING

        chosen = " ".join(f"{name} {value}" for name, value in _FOR_LIBRARIES.items())
        return f"{'.'.join(map(str, zstandard.ZSTD_VERSION))} frames {FRAME} {chosen}"

    def write(self, data: bytes) -> None:
        at = 0
        while len(data) - at >= (room := FRAME - self._filled):
            self._frame[self._filled :] = memoryview(data)[at : at + room]
            at, self._filled = at + room, FRAME
            self._compress()
        self._frame[self._filled : self._filled + len(data) - at] = memoryview(data)[at:]
        self._filled += len(data) - at

    def _compress(self) -> None:
        """Hand over the full frame; at most as many wait as there are threads."""
        self._waiting.append((self._frame, self._pool.submit(self._compressed, self._frame[: self._filled])))
        while self._waiting and (self._waiting[0][1].done() or len(self._waiting) > self._threads):
            self._finish()
        self._frame, self._filled = self._spare.pop() if self._spare else _frame(), 0

    def _compressed(self, content: memoryview) -> bytes:
        if not hasattr(self._own, "compressor"):
            self._own.compressor = compressor(self._level)
        return cast("bytes", self._own.compressor.compress(content))

    def _finish(self) -> None:
        frame, compressed = self._waiting.popleft()
        self._emit(compressed.result())
        self._spare.append(frame)

    def close(self) -> None:
        if self._filled:
            self._compress()
        while self._waiting:
            self._finish()
        self._pool.close()


def _frame() -> memoryview:
    # Pages that a small layer does not fill are never touched. Compressing looks back far: in large pages, 5 % faster.
    memory = mmap.mmap(-1, FRAME, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def _parameters(level: int) -> zstandard.ZstdCompressionParameters:
    import zstandard  # noqa: PLC0415

    chosen = {} if level else {"strategy": zstandard.STRATEGY_FAST, **_FOR_LIBRARIES}
    return zstandard.ZstdCompressionParameters.from_level(
        level or 3, write_checksum=False, write_content_size=True, write_dict_id=False, threads=0, **chosen
    )


def compressor(level: int) -> zstandard.ZstdCompressor:
    """What compresses the frames of a zstd layer; `level` as in Compression."""
    import zstandard  # noqa: PLC0415

    return zstandard.ZstdCompressor(compression_params=_parameters(level))


def threads_of(level: int) -> int:
    """How many threads compress one zstd layer, besides who writes it: fewer at levels that need much memory."""
    memory = _parameters(level).estimated_compression_context_size()
    return max(1, min(os.cpu_count() or 1, _THREADS, _CONTEXTS // memory - 1))


class ChunkedSink(Sink):
    """zstd:chunked: a frame for each file, or each chunk of it, with a table of contents at the end."""

    def __init__(self, out: BinaryIO, level: int) -> None:
        from buildctl.oci.chunked.write import ChunkedWriter  # noqa: PLC0415

        super().__init__(out)
        self._writer = ChunkedWriter(self._emit, level, threads_of(level))

    @staticmethod
    def version() -> str:
        import zstandard  # noqa: PLC0415

        from buildctl.oci.chunked.write import CHUNK  # noqa: PLC0415

        return f"{'.'.join(map(str, zstandard.ZSTD_VERSION))} chunks {CHUNK}"

    def begin(self, entry: Entry, framing: bytes) -> None:
        self._writer.begin(entry, framing)

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self.annotations = self._writer.close()


class GzipSink(Sink):
    """Several members: existing deflate streams are copied, everything else is compressed by libdeflate.

    libdeflate, bundled in a wheel of an exact version, yields the same bytes on every machine; builds of zlib do not.
    """

    def __init__(self, out: BinaryIO, level: int) -> None:
        import deflate  # noqa: PLC0415

        super().__init__(out)
        self._deflate = deflate
        self._level = level
        self._pending = bytearray()

    @staticmethod
    def version() -> str:
        import deflate  # noqa: PLC0415

        return f"libdeflate {deflate.__version__}"

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
        compressed = self._deflate.deflate_compress(data, self._level)
        self._emit(_GZIP_HEADER + compressed + _trailer(self._deflate.crc32(data), len(data)))

    def _flush(self) -> None:
        if self._pending:
            self._member(bytes(self._pending))
            self._pending.clear()

    def close(self) -> None:
        self._flush()


def _trailer(crc32: int, size: int) -> bytes:
    return crc32.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """`method` is what containerd, podman and BuildKit call it, `level` the compressor's, one of `levels`, or 0: zstd
    with parameters of our own. `plain` has the same diff ids, and every engine makes it.
    """

    method: str
    media_type: MediaType
    sink: type[Sink]
    level: int = 0
    levels: range = range(0)
    plain: Compression | None = None

    @property
    def identity(self) -> str:
        """What the compressed bytes depend on besides the content: part of a recipe key."""
        return f"{self.method}{f'-{self.level}' if self.level else ''} {self.sink.version()}".strip()

    def at(self, level: int) -> Compression:
        """The same method with one of its `levels`."""
        return replace(self, level=level)

    def open(self, out: BinaryIO) -> Sink:
        return self.sink(out, self.level)


ZSTD = Compression(method="zstd", media_type=MediaType.LAYER_ZSTD, sink=ZstdSink, levels=range(1, 20))
GZIP = Compression(method="gzip", media_type=MediaType.LAYER_GZIP, sink=GzipSink, level=6, levels=range(1, 10))
CHUNKED = replace(ZSTD, method="zstd:chunked", sink=ChunkedSink, level=3, plain=ZSTD)
UNCOMPRESSED = Compression(method="uncompressed", media_type=MediaType.LAYER_TAR, sink=Sink)
COMPRESSIONS: Mapping[str, Compression] = {c.method: c for c in (ZSTD, GZIP, CHUNKED)}  # without a level


def compression_of(method: str, level: str | None = None) -> Compression:
    """What the command line or matrix.yaml names: a method with its usual level, with a number, or with "none", which
    leaves layers uncompressed. Raises UsageError for a level that the method does not have.
    """
    found = COMPRESSIONS[method]
    if level is None:
        return found
    if level == "none" and found.plain is None:
        return UNCOMPRESSED
    if level in map(str, found.levels):
        return found.at(int(level))
    none = "" if found.plain else ", or none for uncompressed layers"
    raise UsageError(
        f"--compression-level: {method} has no level {level!r}", hint=f"{found.levels[0]} to {found.levels[-1]}{none}"
    )
