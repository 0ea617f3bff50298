"""What a layer is made of: entries of a file tree, whatever archive they come from."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

# Every entry that has no time stamp of its own gets this one: the first moment that a zip can express, so that tools
# which zip an image's files keep working. 1980-01-01T00:00:00Z in seconds since 1970.
EPOCH = 315532800


class Kind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"


class Body(Protocol):
    """The content of a file, readable any number of times, in pieces of bounded size."""

    def chunks(self) -> Iterator[bytes]: ...


@runtime_checkable
class DeflatedBody(Body, Protocol):
    """Content that also exists as a raw deflate stream, which a gzip layer can copy instead of compressing again."""

    @property
    def crc32(self) -> int:
        """CRC-32 of the content."""
        ...

    def deflated(self, inflated: Callable[[bytes], object]) -> Iterator[bytes]:
        """The raw deflate stream in pieces; `inflated` is called with the content, in order, along the way."""
        ...


@dataclass(frozen=True, slots=True)
class Bytes:
    """Content held in memory: small generated files."""

    data: bytes

    def chunks(self) -> Iterator[bytes]:
        yield self.data

    @property
    def crc32(self) -> int:
        return zlib.crc32(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a layer. `path` is relative and clean: no leading slash, no empty, `.` or `..` component.

    `size` is in bytes and must be what `body` yields; `mtime` is in seconds since 1970; `target` is the link target of
    a symlink (as written) or hard link (a path like `path`).
    """

    path: str
    kind: Kind = Kind.FILE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = EPOCH
    target: str = ""
    body: Body | None = None


def file_entry(path: str, data: bytes, *, mode: int = 0o644, mtime: int = EPOCH) -> Entry:
    return Entry(path=path, mode=mode, size=len(data), mtime=mtime, body=Bytes(data))


def directory_entry(path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0, mtime: int = EPOCH) -> Entry:
    return Entry(path=path, kind=Kind.DIRECTORY, mode=mode, uid=uid, gid=gid, mtime=mtime)


def symlink_entry(path: str, target: str, *, mtime: int = EPOCH) -> Entry:
    return Entry(path=path, kind=Kind.SYMLINK, mode=0o777, target=target, mtime=mtime)
