"""Writing a zstd:chunked layer, in the same pass that makes its tar."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import zstandard
from fastcrc.crc64 import go_iso

from buildctl.oci.chunked.table import FRAME_HEADER, Chunk, Part, Places, described, skippable, table_json
from buildctl.oci.chunked.tarsplit import TarSplit
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Entry, Kind

CHUNK = 4 << 20  # bytes of a large file in one frame; see docs/design.md
_TABLE_LEVEL = 9  # of table and tar-split, which are small


class ChunkedWriter:
    """Takes the bytes of a tar with the entries they belong to, and gives the bytes of the blob to `emit`."""

    def __init__(self, emit: Callable[[bytes], object], level: int) -> None:
        self._emit_to = emit
        self._compressor = zstandard.ZstdCompressor(level=level)
        self._size = 0
        self._split = TarSplit()
        self._records: list[dict[str, Any]] = []
        self._between = bytearray()  # what lies between two files
        self._entry: Entry | None = None  # the file whose content comes
        self._left = 0
        self._pending = bytearray()
        self._chunks: list[Chunk] = []
        self._file, self._crc = hashlib.sha256(), 0

    def begin(self, entry: Entry, framing: bytes) -> None:
        """`framing` is the padding of the file before, and the header of `entry`."""
        self._between += framing
        self._split.segment(framing)
        if entry.kind is Kind.FILE and entry.size:
            self._frame_between()
            self._entry, self._left = entry, entry.size
            self._chunks, self._file, self._crc = [], hashlib.sha256(), 0
        else:
            records = described(entry)
            self._records += records
            self._split.file(records[0]["name"], 0, 0)

    def write(self, data: bytes) -> None:
        """Content of the entry that began last; without one, the end of the tar."""
        if not data:  # how an empty file is read
            return
        if self._entry is None:
            self._between += data
            self._split.segment(data)
            return
        self._left -= len(data)
        self._pending += data
        while len(self._pending) >= CHUNK:
            self._chunk(bytes(self._pending[:CHUNK]))
            del self._pending[:CHUNK]
        if self._left <= 0:
            self._end_file(self._entry)

    def close(self) -> dict[str, str]:
        """The annotations of the layer."""
        self._frame_between()
        split = self._split.data()
        packed_split = self._packed(split)
        table = table_json(self._records, Digest.of(packed_split))
        packed = self._packed(table)
        start = self._size + FRAME_HEADER
        table_part = Part(offset=start, size=len(packed), unpacked=len(table))
        places = Places(
            table=table_part,
            split=Part(offset=table_part.after + FRAME_HEADER, size=len(packed_split), unpacked=len(split)),
            packed=Digest.of(packed),
            unpacked=Digest.of(table),
        )
        for piece in (skippable(packed), skippable(packed_split), places.footers):
            self._emit(piece)
        return places.annotations

    def _end_file(self, entry: Entry) -> None:
        if self._pending:
            self._chunk(bytes(self._pending))
            self._pending.clear()
        digest = self._chunks[0].digest if len(self._chunks) == 1 else Digest(self._file.hexdigest())
        self._records += described(entry, self._chunks, digest)
        self._split.file(entry.path, entry.size, self._crc)
        self._entry = None

    def _chunk(self, data: bytes) -> None:
        if self._entry is not None and self._entry.size > CHUNK:
            self._file.update(data)
        self._crc = go_iso(data, self._crc if self._chunks else None)
        start = self._size
        self._emit(self._compressor.compress(data))
        self._chunks.append(Chunk(start=start, end=self._size, size=len(data), digest=Digest.of(data)))

    def _frame_between(self) -> None:
        if self._between:
            self._emit(self._compressor.compress(bytes(self._between)))
            self._between.clear()

    def _emit(self, data: bytes) -> None:
        self._size += len(data)
        self._emit_to(data)

    @staticmethod
    def _packed(data: bytes) -> bytes:
        return zstandard.ZstdCompressor(level=_TABLE_LEVEL).compress(data)
