"""Writing a zstd:chunked layer, in the same pass that makes its tar."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import zstandard
from fastcrc.crc64 import go_iso

from buildctl.ground.cores import Threads
from buildctl.oci.chunked.table import FRAME_HEADER, Chunk, Part, Places, described, skippable, table_json
from buildctl.oci.chunked.tarsplit import TarSplit
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Entry, Kind

CHUNK = 4 << 20  # bytes of a large file in one frame; why: docs/lazy.md, "What to expect"
_SMALL = 1 << 16  # bytes that are compressed sooner than handed over
_QUEUE = 16  # frames that wait to be written, of at most CHUNK bytes each
_TABLE_LEVEL = 9  # of table and tar-split, which are small


class ChunkedWriter:
    """Takes the bytes of a tar with the entries they belong to, and gives the bytes of the blob to `emit`.

    Where a frame ends follows from the content alone, so threads may compress several at the same time.
    """

    def __init__(self, emit: Callable[[bytes], object], level: int, threads: int) -> None:
        self._emit_to, self._level = emit, level
        self._size = 0
        self._split = TarSplit()
        self._entries: list[_Written] = []
        self._between = bytearray()  # what lies between two files
        self._file: _File | None = None  # whose content comes
        self._pending = bytearray()
        self._pool = Threads(threads)
        self._own = zstandard.ZstdCompressor(level=level)
        self._spare = deque[zstandard.ZstdCompressor]()  # one may not be used by two threads
        self._waiting = deque[tuple[_Frame, Future[bytes]]]()  # in the order of the content

    def begin(self, entry: Entry, framing: bytes) -> None:
        """`framing` is the padding of the file before, and the header of `entry`."""
        self._between += framing
        self._split.segment(framing)
        written = _Written(entry)
        self._entries.append(written)
        if entry.kind is Kind.FILE and entry.size:
            self._frame_between()
            self._file = _File(written, left=entry.size)
        else:
            self._split.file(described(entry)[0]["name"], 0, 0)

    def write(self, data: bytes) -> None:
        """Content of the entry that began last; without one, the end of the tar."""
        if not data:  # how an empty file is read
            return
        if self._file is None:
            self._between += data
            self._split.segment(data)
            return
        self._file.left -= len(data)
        self._pending += data
        while len(self._pending) >= CHUNK:
            self._chunk(self._file, bytes(self._pending[:CHUNK]))
            del self._pending[:CHUNK]
        if self._file.left <= 0:
            self._end_file(self._file)

    def close(self) -> dict[str, str]:
        """The annotations of the layer."""
        self._frame_between()
        while self._waiting:
            self._finish()
        self._pool.close()
        split = self._split.data()
        packed_split = self._packed(split)
        table = table_json([r for entry in self._entries for r in entry.records()], Digest.of(packed_split))
        packed = self._packed(table)
        part = Part(offset=self._size + FRAME_HEADER, size=len(packed), unpacked=len(table))
        places = Places(
            table=part,
            split=Part(offset=part.after + FRAME_HEADER, size=len(packed_split), unpacked=len(split)),
            packed=Digest.of(packed),
            unpacked=Digest.of(table),
        )
        for piece in (skippable(packed), skippable(packed_split), places.footers):
            self._emit(piece)
        return places.annotations

    def _end_file(self, file: _File) -> None:
        if self._pending:
            self._chunk(file, bytes(self._pending))
            self._pending.clear()
        entry = file.written.entry
        if entry.size > CHUNK:
            file.written.digest = Digest(file.sha256.hexdigest())
        self._split.file(entry.path, entry.size, file.crc or 0)
        self._file = None

    def _chunk(self, file: _File, data: bytes) -> None:
        if file.written.entry.size > CHUNK:
            file.sha256.update(data)
        file.crc = go_iso(data, file.crc)
        file.written.frames.append(self._frame(data))

    def _frame_between(self) -> None:
        if self._between:
            self._frame(bytes(self._between))
            self._between.clear()

    def _frame(self, data: bytes) -> _Frame:
        """Its place and digest are known when it is finished."""
        frame = _Frame(size=len(data))
        if len(data) < _SMALL and not self._waiting:
            self._place(frame, frame.packed(data, self._own))
            return frame
        self._waiting.append((frame, self._pool.submit(self._compressed, frame, data)))
        while self._waiting and (self._waiting[0][1].done() or len(self._waiting) > _QUEUE):
            self._finish()
        return frame

    def _compressed(self, frame: _Frame, data: bytes) -> bytes:
        try:
            compressor = self._spare.pop()
        except IndexError:
            compressor = zstandard.ZstdCompressor(level=self._level)
        packed = frame.packed(data, compressor)
        self._spare.append(compressor)
        return packed

    def _finish(self) -> None:
        frame, packed = self._waiting.popleft()
        self._place(frame, packed.result())

    def _place(self, frame: _Frame, packed: bytes) -> None:
        frame.start = self._size
        self._emit(packed)
        frame.end = self._size

    def _emit(self, data: bytes) -> None:
        self._size += len(data)
        self._emit_to(data)

    @staticmethod
    def _packed(data: bytes) -> bytes:
        return zstandard.ZstdCompressor(level=_TABLE_LEVEL).compress(data)


@dataclass(slots=True, kw_only=True)
class _Frame:
    """In bytes; `digest` is of the content."""

    size: int
    start: int = 0
    end: int = 0
    digest: Digest | None = None

    def packed(self, data: bytes, compressor: zstandard.ZstdCompressor) -> bytes:
        self.digest = Digest.of(data)
        return compressor.compress(data)

    def chunk(self) -> Chunk:
        assert self.digest is not None  # noqa: S101 - it is finished
        return Chunk(start=self.start, end=self.end, size=self.size, digest=self.digest)


@dataclass(slots=True)
class _Written:
    """An entry; `digest` is of its content if that has several frames."""

    entry: Entry
    frames: list[_Frame] = field(default_factory=list)
    digest: Digest | None = None

    def records(self) -> list[dict[str, Any]]:
        chunks = [frame.chunk() for frame in self.frames]
        return described(self.entry, chunks, self.digest or (chunks[0].digest if chunks else None))


@dataclass(slots=True)
class _File:
    """The file whose content is written."""

    written: _Written
    left: int
    sha256: Any = field(default_factory=hashlib.sha256)
    crc: int | None = None
