"""A lazy client of our own, written after the two specifications and not with buildctl's code. It reads layers by
ranges, as stargz-snapshotter does (footer, table of contents) and as podman does (annotations, tar-split), and counts
bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import zstandard
from fastcrc.crc64 import go_iso

PODMAN = "io.github.containers.zstd-chunked."
STARGZ = "containerd.io/snapshot/stargz/toc.digest"
Read = Callable[[int, int], bytes]


@dataclass
class Counted:
    """Bytes of a blob by offset and size; `fetched` are the ranges that were asked for."""

    source: Read
    fetched: list[tuple[int, int]] = field(default_factory=list)

    def read(self, offset: int, size: int) -> bytes:
        self.fetched.append((offset, size))
        data = self.source(offset, size)
        assert len(data) == size
        return data

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.fetched)


def of_file(path: Path) -> Counted:
    def read(offset: int, size: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    return Counted(read)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(kw_only=True)
class LazyLayer:
    """`files` are the records of each path, the first with the metadata; `ends` says where each chunk's bytes end."""

    blob: Counted
    toc: Mapping[str, Any]
    ends: Mapping[int, int]

    @property
    def files(self) -> dict[str, list[Mapping[str, Any]]]:
        found: dict[str, list[Mapping[str, Any]]] = {}
        for record in self.toc["entries"]:
            found.setdefault(record["name"], []).append(record)
        return found

    def chunks(self, path: str) -> Iterator[bytes]:
        """Of a regular file, each fetched now and checked."""
        first, *rest = self.files[path]
        for record in (first, *rest) if first.get("size") else ():
            size = record.get("chunkSize") or first["size"]
            packed = self.blob.read(record["offset"], self.ends[record["offset"]] - record["offset"])
            # what comes after the chunk in that range is the next header, which stargz reads and drops
            data = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).read(size)
            assert sha256(data) == record["chunkDigest"], path
            yield data

    def content(self, path: str) -> bytes:
        data = b"".join(self.chunks(path))
        if data:
            assert sha256(data) == self.files[path][0]["digest"], path
        return data


def stargz_layer(blob: Counted, size: int, annotations: Mapping[str, str]) -> LazyLayer:
    """By the last 40 bytes of a blob of `size` bytes, trusting the annotation alone."""
    assert not any(key.startswith(PODMAN) for key in annotations)
    footer = blob.read(size - 40, 40)
    offset, packed_size, unpacked_size, kind = struct.unpack("<4Q", footer[:32])
    assert (footer[32:], kind) == (b"GnUlInUx", 1)
    table = zstandard.ZstdDecompressor().decompress(blob.read(offset, packed_size))
    assert (len(table), sha256(table)) == (unpacked_size, annotations[STARGZ])
    toc = json.loads(table)
    starts = sorted({record["offset"] for record in toc["entries"] if record.get("offset")})
    return LazyLayer(blob=blob, toc=toc, ends=dict(pairwise([*starts, offset - 8])))


@dataclass(kw_only=True)
class PodmanLayer(LazyLayer):
    split: tuple[int, int, int]

    def tar(self) -> Iterator[bytes]:
        """Put together again from tar-split and the files."""
        offset, packed_size, size = self.split
        packed = self.blob.read(offset, packed_size)
        assert sha256(packed) == self.toc["tarSplitDigest"]
        lines = zstandard.ZstdDecompressor().decompress(packed)
        assert len(lines) == size
        for number, line in enumerate(lines.splitlines()):
            entry = json.loads(line)
            assert entry["position"] == number
            if entry["type"] == 2:
                yield base64.b64decode(entry["payload"])
            elif entry.get("size"):
                crc = None
                for data in self.chunks(entry["name"]):
                    crc = go_iso(data, crc)
                    yield data
                assert struct.pack(">Q", crc) == base64.b64decode(entry["payload"]), entry["name"]
            else:
                assert entry["payload"] is None


def podman_layer(blob: Counted, annotations: Mapping[str, str]) -> PodmanLayer:
    """By the annotations alone."""
    assert STARGZ not in annotations  # "both zstd:chunked and eStargz TOC found"
    offset, packed_size, size, kind = map(int, annotations[f"{PODMAN}manifest-position"].split(":"))
    packed = blob.read(offset, packed_size)
    assert (kind, sha256(packed)) == (1, annotations[f"{PODMAN}manifest-checksum"])
    table = zstandard.ZstdDecompressor().decompress(packed)
    assert len(table) == size
    toc = json.loads(table)
    split = tuple(map(int, annotations[f"{PODMAN}tarsplit-position"].split(":")))
    assert len(split) == 3
    return PodmanLayer(blob=blob, toc=toc, ends=_ends(toc["entries"]), split=split)


def _ends(records: list[Mapping[str, Any]]) -> dict[int, int]:
    """A file's chunks follow each other; the end of the last is that of the file's last record."""
    found: dict[int, int] = {}
    for record, following in pairwise([*records, {"type": ""}]):
        if record.get("offset"):
            more = following["type"] == "chunk"
            found[record["offset"]] = following["offset"] if more else record["endOffset"]
    return found
