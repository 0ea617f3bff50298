"""Tar headers: POSIX pax, with ustar alone if an entry fits.

Written here and not by `tarfile`, because what `tarfile` writes has changed between Python releases, and the digest of
a layer must not depend on who makes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from buildctl.ground.errors import ArtifactError
from buildctl.oci.entry import CAPABILITY, Entry, Kind

BLOCK = 512
RECORD = 20 * BLOCK  # POSIX: a tar is a multiple of 10 240 bytes
_TYPE = {Kind.FILE: b"0", Kind.HARDLINK: b"1", Kind.SYMLINK: b"2", Kind.DIRECTORY: b"5"}
_MAX_OCTAL_7, _MAX_OCTAL_11 = 8**7 - 1, 8**11 - 1


def header(entry: Entry) -> bytes:
    """The tar header of `entry`: one block of ustar, after a pax header for what does not fit into it."""
    name = _clean(entry.path)
    target = b""
    match entry.kind:
        case Kind.DIRECTORY:
            name += b"/"
        case Kind.HARDLINK:
            target = _clean(entry.target)
        case Kind.SYMLINK:
            target = _encode(entry.target, entry.path)
            if not target:
                raise ArtifactError(f"layer: symlink without a target: {entry.path!r}")
        case Kind.FILE:
            pass
        case _:
            assert_never(entry.kind)
    pax = dict(_pax_fields(entry, name, target))
    prefix = b""
    if "path" not in pax and len(name) > 100:
        prefix, name = _split(name)
    block = _block(
        name=name[:100],
        mode=entry.mode,
        uid=min(entry.uid, _MAX_OCTAL_7),
        gid=min(entry.gid, _MAX_OCTAL_7),
        size=min(entry.size, _MAX_OCTAL_11),
        mtime=entry.mtime,
        kind=_TYPE[entry.kind],
        target=target[:100],
        prefix=prefix,
    )
    if not pax:
        return block
    data = b"".join(_pax_record(key, value) for key, value in sorted(pax.items()))
    first = _block(name=b"././@PaxHeader", mode=0o644, size=len(data), kind=b"x")
    return first + data + bytes(-len(data) % BLOCK) + block


def root_header(entry: Entry) -> bytes:
    """As `header`, of a directory with the path "", which only a whole file tree has."""
    return _block(
        name=b"./", mode=entry.mode, size=0, kind=_TYPE[Kind.DIRECTORY], uid=entry.uid, gid=entry.gid, mtime=entry.mtime
    )


def _clean(path: str) -> bytes:
    """`path` in UTF-8; raises ArtifactError unless it stays below the root whatever a reader does with it."""
    parts = path.split("/")
    if "" in parts or "." in parts or ".." in parts:
        raise ArtifactError(f"layer: not a clean relative path: {path!r}")
    return _encode(path, path)


def _encode(text: str, path: str) -> bytes:
    if "\0" in text:
        raise ArtifactError(f"layer: NUL in a name: {path!r}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ArtifactError(f"layer: a name that is not Unicode: {path!r}") from error


def _pax_fields(entry: Entry, name: bytes, target: bytes) -> Iterator[tuple[str, bytes]]:
    if not name.isascii() or (len(name) > 100 and _split(name) == (b"", name)):
        yield "path", name
    if not target.isascii() or len(target) > 100:
        yield "linkpath", target
    if entry.size > _MAX_OCTAL_11:
        yield "size", b"%d" % entry.size
    for key, number in (("uid", entry.uid), ("gid", entry.gid)):
        if number > _MAX_OCTAL_7:
            yield key, b"%d" % number
    if entry.capability:
        yield CAPABILITY, entry.capability
    if (
        not 0 <= entry.mtime <= _MAX_OCTAL_11
        or not 0 <= entry.mode <= 0o7777
        or min(entry.uid, entry.gid, entry.size) < 0
    ):
        raise ArtifactError(f"layer: time, mode, owner or size out of range: {entry.path!r}")


def _split(name: bytes) -> tuple[bytes, bytes]:
    """The prefix (155 bytes) and name (100 bytes); (b"", name) if no slash is in the right place."""
    cut = name.rfind(b"/", 0, min(156, len(name) - 1))
    if cut <= 0 or len(name) - cut - 1 > 100:
        return b"", name
    return name[:cut], name[cut + 1 :]


def _block(
    *,
    name: bytes,
    mode: int,
    size: int,
    kind: bytes,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    target: bytes = b"",
    prefix: bytes = b"",
) -> bytes:
    block = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0        %b%bustar\x0000%b0000000\x000000000\0%b" % (
        name.ljust(100, b"\0"),
        mode,
        uid,
        gid,
        size,
        mtime,
        kind,
        target.ljust(100, b"\0"),
        bytes(64),
        prefix.ljust(167, b"\0"),
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _pax_record(key: str, value: bytes) -> bytes:
    """One pax record: its length in bytes, `KEY=VALUE`, a line end; the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key.encode(), value)
