"""The table of contents of a zstd:chunked layer: where it is in the blob, and what it says.

Sources: containers/storage, docs/containers-storage-zstd-chunked.md and pkg/chunked; stargz-snapshotter,
docs/estargz.md and estargz/zstdchunked.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.entry import CAPABILITY, Entry, Kind
from buildctl.oci.image import Descriptor, canonical_json

# containers/storage: SHA-256 of the compressed table; OFFSET:SIZE:UNPACKED:TYPE of it; the same of tar-split, no TYPE
CHECKSUM = "io.github.containers.zstd-chunked.manifest-checksum"
POSITION = "io.github.containers.zstd-chunked.manifest-position"
SPLIT_POSITION = "io.github.containers.zstd-chunked.tarsplit-position"
# ours: SHA-256 of the unpacked table, from which `twin` makes what stargz reads
TABLE = "dev.buildctl.toc.digest"

VERSION = 1  # of the table
CRFS = 1  # the type of table that both projects have
FOOTER = struct.Struct("<7Q8s")
SHORT_FOOTER = struct.Struct("<4Q8s")
MAGIC, SHORT_MAGIC = b"GNUlInUx", b"GnUlInUx"
LAST = 1 << 62  # no place in a file is there or behind, nor is the sum of two places more than 64 bits
FRAME_HEADER = 8  # bytes before the content of a skippable frame
_SKIPPABLE = (0x184D2A50).to_bytes(4, "little")  # RFC 8878, section 3.1.2

TYPES: Mapping[Kind, str] = {
    Kind.FILE: "reg",
    Kind.DIRECTORY: "dir",
    Kind.SYMLINK: "symlink",
    Kind.HARDLINK: "hardlink",
}


def skippable(data: bytes) -> bytes:
    """A frame with `data` that decoders pass over."""
    return _SKIPPABLE + len(data).to_bytes(4, "little") + data


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Where something compressed is in the blob; `offset` is of its content, not of the frame around it. In bytes."""

    offset: int
    size: int
    unpacked: int

    @property
    def after(self) -> int:
        return self.offset + self.size

    def __str__(self) -> str:
        return f"{self.offset}:{self.size}:{self.unpacked}"

    @classmethod
    def parse(cls, text: str, *more: str) -> Self:
        """Raises ValueError unless it is three numbers that a file can have, with `more` after them."""
        numbers, rest = text.split(":")[:3], tuple(text.split(":")[3:])
        if len(numbers) != 3 or rest != more or not all(n.isascii() and n.isdigit() for n in numbers):
            raise ValueError(f"{text[:80]!r} is not a position")
        offset, size, unpacked = map(int, numbers)
        if max(offset, size, unpacked) >= LAST:
            raise ValueError(f"{text[:80]!r} is not a position")
        return cls(offset=offset, size=size, unpacked=unpacked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What the annotations of a layer say: where table and tar-split are; digests of the table, packed and unpacked."""

    table: Part
    split: Part
    packed: Digest
    unpacked: Digest

    @property
    def annotations(self) -> dict[str, str]:
        return {
            CHECKSUM: str(self.packed),
            POSITION: f"{self.table}:{CRFS}",
            SPLIT_POSITION: str(self.split),
            TABLE: str(self.unpacked),
        }

    @property
    def footers(self) -> bytes:
        """Both, the one that stargz reads last."""
        table, split = ((p.offset, p.size, p.unpacked) for p in (self.table, self.split))
        long, short = FOOTER.pack(*table, CRFS, *split, MAGIC), SHORT_FOOTER.pack(*table, CRFS, SHORT_MAGIC)
        return skippable(long) + skippable(short)

    @classmethod
    def of(cls, layer: Descriptor) -> Self | None:
        """None for a plain layer, and for one that another program made. Raises LayoutError for what is malformed."""
        said = layer.annotations
        if TABLE not in said:
            return None
        try:
            return cls(
                table=Part.parse(said[POSITION], str(CRFS)),
                split=Part.parse(said[SPLIT_POSITION]),
                packed=Digest.parse(said[CHECKSUM]),
                unpacked=Digest.parse(said[TABLE]),
            )
        except (KeyError, ValueError, LayoutError) as error:
            raise LayoutError(f"layer {layer.digest}: malformed annotations of zstd:chunked: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A frame: `start` to `end` in the blob, `size` bytes of content with that digest. In bytes."""

    start: int
    end: int
    size: int
    digest: Digest


def described(entry: Entry, chunks: Iterable[Chunk] = (), digest: Digest | None = None) -> list[dict[str, Any]]:
    """An entry of a layer in the table: a record, and one more for each chunk after the first of a large file."""
    record: dict[str, Any] = {"type": TYPES[entry.kind], "name": entry.path + "/" * (entry.kind is Kind.DIRECTORY)}
    optional = {"linkName": entry.target, "mode": entry.mode, "size": entry.size, "uid": entry.uid, "gid": entry.gid}
    record |= {key: value for key, value in optional.items() if value}
    if entry.capability:
        name = CAPABILITY.removeprefix("SCHILY.xattr.")
        record["xattrs"] = {name: base64.b64encode(entry.capability).decode()}
    record["modtime"] = datetime.fromtimestamp(entry.mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    parts = list(chunks)
    if not parts:
        return [record]
    record |= {"digest": str(digest), "offset": parts[0].start, "endOffset": parts[-1].end}
    record["chunkDigest"] = str(parts[0].digest)  # stargz wants it even where it is the file's
    if len(parts) > 1:
        record["chunkSize"] = parts[0].size
    more, at = [], parts[0].size
    for chunk in parts[1:]:
        place = {"chunkOffset": at, "chunkSize": chunk.size, "offset": chunk.start, "endOffset": chunk.end}
        more.append({"type": "chunk", "name": record["name"], "chunkDigest": str(chunk.digest), **place})
        at += chunk.size
    return [record, *more]


def table_json(records: list[dict[str, Any]], split: Digest) -> bytes:
    """`split` is of the compressed tar-split."""
    return canonical_json({"version": VERSION, "entries": records, "tarSplitDigest": str(split)})
