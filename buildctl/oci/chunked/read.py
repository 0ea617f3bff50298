"""Reads a zstd:chunked layer through its table of contents, as lazy clients do."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import zstandard
from fastcrc.crc64 import go_iso

from buildctl.ground.errors import LayoutError
from buildctl.oci.chunked.table import LAST, VERSION, Chunk, Part, Places
from buildctl.oci.chunked.tarsplit import CRC_BYTES, SEGMENT
from buildctl.oci.digest import Digest
from buildctl.oci.tarread import is_bomb

_LIMIT = 256 << 20  # bytes of a table or a tar-split; 100,000 files need 60 MB
_VALUES = 6_000_000  # values in them, each of which takes some 60 bytes of memory; 100,000 files have 2 million
_CHUNK_LIMIT = 64 << 20  # bytes of a chunk; ours have 4 MiB
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, LayoutError, zstandard.ZstdError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`records` are in the order of the tar; `chunks` and `digests` are by name of a file with content."""

    records: tuple[Mapping[str, Any], ...]
    chunks: Mapping[str, tuple[Chunk, ...]]
    digests: Mapping[str, Digest]
    split: Digest


def read_table(blob: BinaryIO, places: Places, where: str) -> Table:
    """Raises LayoutError for a table that does not match what the layer's descriptor says, or is malformed."""
    packed = _at(blob, places.table, where)
    data = _document(packed, places.table, f"{where}: its table of contents")
    if (Digest.of(packed), Digest.of(data)) != (places.packed, places.unpacked):
        raise LayoutError(f"{where}: its table of contents does not match the digests in the manifest")
    try:
        value = json.loads(data, object_pairs_hook=_once)
        records, split = value.pop("entries"), Digest.parse(value.pop("tarSplitDigest"))
        if value != {"version": VERSION}:  # another key may be the same one to a client: Go ignores case
            raise ValueError(f"it says {str(value)[:80]}")
        return _table(records, split)
    except _MALFORMED as error:
        raise LayoutError(f"{where}: its table of contents is malformed ({error!r})") from error


def _table(records: list[Mapping[str, Any]], split: Digest) -> Table:
    chunks: dict[str, list[Chunk]] = {}
    digests: dict[str, Digest] = {}
    for record in records:
        name = str(record["name"])
        if record["type"] == "chunk" or record.get("size"):
            chunks.setdefault(name, []).append(_chunk(record))
        if "digest" in record:
            digests[name] = Digest.parse(record["digest"])
    found = {name: tuple(_without_gaps(parts)) for name, parts in chunks.items()}
    return Table(records=tuple(records), chunks=found, digests=digests, split=split)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError if a key is there twice: clients differ in which of them counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key twice in {str(pairs)[:80]}")
    return found


def _chunk(record: Mapping[str, Any]) -> Chunk:
    size, start, end = record.get("chunkSize") or record["size"], record["offset"], record["endOffset"]
    if not (type(size) is type(start) is type(end) is int and 0 < size <= _CHUNK_LIMIT and 0 <= start < end < LAST):
        raise ValueError(f"chunk of {str(record['name'])[:80]!r}")
    return Chunk(start=start, end=end, size=size, digest=Digest.parse(record["chunkDigest"]))


def _without_gaps(parts: list[Chunk]) -> Iterator[Chunk]:
    """The first record of a file ends where the file ends, its first chunk where the next one starts."""
    for chunk, following in zip(parts, [*parts[1:], None], strict=True):
        end = chunk.end if following is None else following.start
        yield Chunk(start=chunk.start, end=end, size=chunk.size, digest=chunk.digest)


class RebuiltTar(io.RawIOBase):
    """The tar as a lazy client rebuilds it from table, tar-split and chunks. Raises LayoutError if they disagree."""

    def __init__(self, blob: BinaryIO, places: Places, table: Table, where: str) -> None:
        self._blob, self._table, self._where = blob, table, where
        packed = _at(blob, places.split, where)
        if Digest.of(packed) != table.split:
            raise LayoutError(f"{where}: its tar-split does not match its table of contents")
        self._lines = io.BytesIO(_document(packed, places.split, f"{where}: its tar-split"))
        self._zstd = zstandard.ZstdDecompressor()
        self._packed, self._given = blob.seek(0, io.SEEK_END), 0  # bytes of the blob, and of the tar so far
        self._pieces = self._tar()
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            try:
                self._rest = memoryview(next(self._pieces))
            except StopIteration:
                return 0
            except _MALFORMED as error:
                if isinstance(error, LayoutError):
                    raise
                raise LayoutError(f"{self._where}: its tar-split is malformed ({error!r})") from error
        count = min(len(buffer), len(self._rest))
        memoryview(buffer)[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._given += count
        if is_bomb(self._packed, self._given):  # many files may be the same chunk
            raise LayoutError(f"{self._where}: its table of contents makes {self._packed} bytes a bomb")
        return count

    def _tar(self) -> Iterator[bytes]:
        for line in self._lines:
            value = json.loads(line)
            if value["type"] == SEGMENT:
                yield base64.b64decode(value["payload"], validate=True)
            elif value.get("size"):
                yield from self._file(str(value["name"]), value["size"], base64.b64decode(value["payload"]))

    def _file(self, name: str, size: int, crc: bytes) -> Iterator[bytes]:
        whole, check, count = hashlib.sha256(), None, 0
        for chunk in self._table.chunks.get(name, ()):
            data = self._content(chunk, name)
            whole.update(data)
            check = go_iso(data, check)
            count += len(data)
            yield data
        if (count, (check or 0).to_bytes(CRC_BYTES, "big")) != (size, crc):
            raise LayoutError(f"{self._where}: {name!r} has another size or checksum in its tar-split")
        if Digest(whole.hexdigest()) != self._table.digests.get(name):
            raise LayoutError(f"{self._where}: {name!r} has another digest in its table of contents")

    def _content(self, chunk: Chunk, name: str) -> bytes:
        place = Part(offset=chunk.start, size=chunk.end - chunk.start, unpacked=chunk.size)
        data = _unpacked(_at(self._blob, place, self._where), place, f"{self._where}: a chunk of {name!r}", self._zstd)
        if Digest.of(data) != chunk.digest:
            raise LayoutError(f"{self._where}: a chunk of {name!r} does not match its digest")
        return data


def _at(blob: BinaryIO, part: Part, where: str) -> bytes:
    if not 0 <= part.size <= _LIMIT:
        raise LayoutError(f"{where}: {part.size} bytes for one part of it")
    blob.seek(part.offset)
    data = blob.read(part.size)
    if len(data) != part.size:
        raise LayoutError(f"{where}: it ends before byte {part.after}, where something should be")
    return data


def _document(data: bytes, part: Part, what: str) -> bytes:
    """JSON that is not too much to read. Every value of it follows one of these."""
    text = _unpacked(data, part, what)
    if sum(map(text.count, (b"{", b"[", b",", b":"))) > _VALUES:
        raise LayoutError(f"{what} has more than {_VALUES} values")
    return text


def _unpacked(data: bytes, part: Part, what: str, zstd: zstandard.ZstdDecompressor | None = None) -> bytes:
    """The content of exactly one frame, which must have the stated size."""
    if part.unpacked > _LIMIT:
        raise LayoutError(f"{what} has {part.unpacked} bytes")
    try:
        frame = zstandard.get_frame_parameters(data)
        if frame.content_size == part.unpacked:
            out = (zstd or zstandard.ZstdDecompressor()).decompress(data, allow_extra_data=False)
            if len(out) == part.unpacked:
                return out
    except zstandard.ZstdError as error:
        raise LayoutError(f"{what} is broken: {error}") from error
    raise LayoutError(f"{what} is not one frame of {part.unpacked} bytes")
