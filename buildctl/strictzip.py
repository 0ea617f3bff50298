"""Zip files read so that no two readers could disagree about what is in them.

`zipfile` accepts most malicious archives. Here the central directory is the truth and everything else has to agree with
it: members lie one after another without gap or overlap from the first byte to the directory, the directory ends at the
end record, the end record ends the file, each local header repeats its directory entry, and sizes and CRC-32 are what
comes out of the stream. Raises ArtifactError that names the archive and the member.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

from isal import igzip_lib, isal_zlib

from buildctl.errors import ArtifactError

_EOCD = struct.Struct("<4s4H2LH")
_EOCD64_LOCATOR = struct.Struct("<4sLQL")
_EOCD64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
# Allowed flags: 1 and 2 how hard the compressor tried, 3 sizes follow the data, 11 names are UTF-8. None of encryption.
_FLAGS = 0x0002 | 0x0004 | 0x0008 | 0x0800
_SIZES_FOLLOW, _UTF8 = 0x0008, 0x0800
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_ZIP64, _UNICODE_NAME = 0x0001, 0x7075
_READ, _INFLATE = 1 << 18, 1 << 20  # bytes per read and per inflated piece
_MAX_DIRECTORY = 1 << 28
_TYPE_MASK, _REGULAR, _DIRECTORY, _SYMLINK = 0o170000, 0o100000, 0o040000, 0o120000
# Deflate cannot do better than 1032:1. Real members above 16 MiB stay below 30:1, real wheels as a whole below 10:1.
_BOMB_SIZE, _BOMB_RATIO = 16 << 20, 200
_UNIX = 3
_DAMAGED = cast("type[Exception]", igzip_lib.IsalError)  # isal's stubs call this class an instance
_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of an archive, as a body of a layer.

    `offset` is that of its local header, `end` where the next member or the directory starts. `mode` are the permission
    bits, 0 when the archive has none. `label` is what errors call the archive.
    """

    archive: Path
    label: str
    name: str
    flags: int
    method: int
    crc32: int
    compressed: int
    size: int
    mode: int
    offset: int
    end: int

    @property
    def is_deflated(self) -> bool:
        return self.method == _DEFLATED

    def chunks(self) -> Iterator[bytes]:
        """The content, in pieces of bounded size, with its size and CRC-32 checked at the end."""
        with self.archive.open("rb", buffering=0) as file:
            check = _Check(self)
            if self.method == _STORED:
                for raw in self._raw(file):
                    check.add(raw)
                    yield raw
            else:
                for _, piece in _inflate(self, self._raw(file)):
                    check.add(piece)
                    yield piece
            check.done()

    def deflated(self, inflated: Callable[[bytes], object]) -> Iterator[bytes]:
        """The raw deflate stream; `inflated` gets the content along the way. Checked like `chunks`."""
        if self.method != _DEFLATED:
            raise self.error("is not deflated")
        with self.archive.open("rb", buffering=0) as file:
            check = _Check(self)
            for raw, piece in _inflate(self, self._raw(file)):
                if piece:
                    check.add(piece)
                    inflated(piece)
                if raw:
                    yield raw
            check.done()

    def read(self, limit: int) -> bytes:
        """The whole content; ArtifactError when it is larger than `limit` bytes."""
        if self.size > limit:
            raise self.error(f"is {self.size} bytes large, which is more than the {limit} allowed here")
        return b"".join(self.chunks())

    def error(self, what: str) -> ArtifactError:
        return ArtifactError(f"{self.label}: {self.name!r} {what}")

    def _raw(self, file: BinaryIO) -> Iterator[bytes]:
        """The bytes as stored, after the local header has been compared with the central directory."""
        file.seek(self.offset)
        self._check_local(file)
        left = self.compressed
        while left:
            raw = file.read(min(_READ, left))
            if not raw:
                raise self.error("is cut off")
            left -= len(raw)
            yield raw

    def _check_local(self, file: BinaryIO) -> None:
        fixed = file.read(_LOCAL.size)
        if len(fixed) < _LOCAL.size or fixed[:4] != b"PK\x03\x04":
            raise self.error("has no local header where the central directory says")
        _, _, flags, method, _, _, crc32, compressed, size, n_name, n_extra = _LOCAL.unpack(fixed)
        name, extra = file.read(n_name), _extra(self, file.read(n_extra))
        if wide := extra.get(_ZIP64):
            if not compressed == size == _FULL_32 or len(wide) != 16:
                raise self.error("has a zip64 field that does not fit its sizes")
            size, compressed = struct.unpack("<2Q", wide)
        said = (name, flags, method)
        if said != (self.name.encode(), self.flags, self.method):
            raise self.error("has a local header that disagrees with the central directory")
        sizes = (crc32, compressed, size)
        follow = bool(flags & _SIZES_FOLLOW)
        if sizes != (self.crc32, self.compressed, self.size) and not (follow and sizes == (0, 0, 0)):
            raise self.error("has a local header whose sizes or checksum disagree with the central directory")
        data = self.offset + _LOCAL.size + n_name + n_extra
        gap = self.end - data - self.compressed
        if gap < 0:
            raise self.error("overlaps with what follows it")
        if gap and not (follow and self._is_descriptor(file, data + self.compressed, gap)):
            raise self.error(f"is followed by {gap} bytes that belong to nothing")
        file.seek(data)

    def _is_descriptor(self, file: BinaryIO, at: int, length: int) -> bool:
        """Whether the `length` bytes there are a data descriptor: CRC-32 and sizes, again."""
        file.seek(at)
        found = file.read(length) if length <= 24 else b""
        body = found.removeprefix(b"PK\x07\x08") if length in {16, 24} else found
        for form in ("<3L", "<LQQ"):
            if struct.calcsize(form) == len(body):
                return bool(struct.unpack(form, body) == (self.crc32, self.compressed, self.size))
        return False


class _Check:
    """Size while the content passes, CRC-32 at its end."""

    def __init__(self, member: Member) -> None:
        self._member, self._crc32, self._size = member, 0, 0

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._member.size:
            raise self._member.error(f"is larger than the {self._member.size} bytes it declares")
        self._crc32 = isal_zlib.crc32(piece, self._crc32)

    def done(self) -> None:
        if self._size != self._member.size:
            raise self._member.error(f"holds {self._size} bytes, not the {self._member.size} it declares")
        if self._crc32 != self._member.crc32:
            raise self._member.error("has a wrong checksum (CRC-32)")


def _inflate(member: Member, source: Iterator[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Pairs of raw bytes read and content inflated; either may be empty. The stream ends where its bytes end."""
    stream = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)
    for raw in source:
        if stream.eof:
            raise member.error("has bytes after the end of its deflate stream")
        given = raw
        try:
            while True:
                piece = stream.decompress(given, _INFLATE)
                yield raw if given else b"", piece
                given = b""
                if stream.eof or stream.needs_input:
                    break
        except _DAMAGED as error:
            raise member.error("has a damaged deflate stream") from error
    if not stream.eof:
        raise member.error("has a deflate stream that is cut off")
    if stream.unused_data:
        raise member.error("has bytes after the end of its deflate stream")


def read_zip(path: Path, *, label: str) -> tuple[Member, ...]:
    """The files of the archive `path`, sorted by name. Directories are left out once they are known to be empty.

    Names are relative and clean, no name is there twice, and no file is where another one needs a directory. Sizes and
    checksums are checked when a member is read. Raises ArtifactError.
    """
    with path.open("rb", buffering=0) as file:
        start, directory, count = _directory(file, label)
    found = sorted(_entries(directory, path, label), key=lambda m: m.offset)
    if len(found) != count:
        raise ArtifactError(f"{label}: the central directory holds {len(found)} entries, its end record says {count}")
    if found and found[0].offset != 0:
        raise ArtifactError(f"{label}: {found[0].offset} bytes before the first member {found[0].name!r}")
    members = []
    for member, end in zip(found, [*(m.offset for m in found[1:]), start], strict=True):
        if end <= member.offset:
            raise member.error("overlaps with what follows it")
        members.append(replace(member, end=end))
    _refuse_bombs(members, path.stat().st_size, label)
    files = sorted((m for m in members if not m.name.endswith("/")), key=lambda m: m.name)
    folders = [m for m in members if m.name.endswith("/")]
    _refuse_conflicts(files, folders)
    for folder in folders:
        folder.read(0)
    return tuple(files)


def _directory(file: BinaryIO, label: str) -> tuple[int, bytes, int]:
    """Where the central directory starts, its bytes, and how many entries it should hold."""
    total = file.seek(0, 2)
    if total < _EOCD.size:
        raise ArtifactError(f"{label}: not a zip file")
    file.seek(end := total - _EOCD.size)
    magic, disk, start_disk, here, count, size, start, comment = _EOCD.unpack(file.read(_EOCD.size))
    if magic != b"PK\x05\x06":
        raise ArtifactError(f"{label}: ends without a zip end record: cut off, not a zip, or with data behind it")
    if disk or start_disk or here != count or comment:
        raise ArtifactError(f"{label}: a zip in several parts or with a comment")
    file.seek(max(0, end - _EOCD64_LOCATOR.size))
    locator = file.read(_EOCD64_LOCATOR.size)
    if end >= _EOCD64_LOCATOR.size and locator[:4] == b"PK\x06\x07":
        end, wide = _end64(file, label, end - _EOCD64_LOCATOR.size, locator)
        for narrow, full, value in zip((count, size, start), (_FULL_16, _FULL_32, _FULL_32), wide, strict=True):
            if narrow not in {full, value}:
                raise ArtifactError(f"{label}: the two end records disagree")
        count, size, start = wide
    elif _FULL_32 in {size, start} or count == _FULL_16:
        raise ArtifactError(f"{label}: the zip64 end record is missing")
    if start + size != end or size > _MAX_DIRECTORY:
        raise ArtifactError(f"{label}: the central directory is not where its end record says")
    file.seek(start)
    directory = b""
    while len(directory) < size and (piece := file.read(size - len(directory))):
        directory += piece
    return start, directory, count


def _end64(file: BinaryIO, label: str, end: int, locator: bytes) -> tuple[int, tuple[int, int, int]]:
    """Where the zip64 end record starts, and (count, size, start) of the directory."""
    _, disk, at, disks = _EOCD64_LOCATOR.unpack(locator)
    if disk or disks > 1 or at + _EOCD64.size != end:
        raise ArtifactError(f"{label}: the zip64 end record is not where its locator says")
    file.seek(at)
    magic, length, _, _, number, start_disk, here, count, size, start = _EOCD64.unpack(file.read(_EOCD64.size))
    if magic != b"PK\x06\x06" or length != _EOCD64.size - 12 or number or start_disk or here != count:
        raise ArtifactError(f"{label}: malformed zip64 end record")
    return at, (count, size, start)


def _entries(directory: bytes, path: Path, label: str) -> Iterator[Member]:
    at = 0
    while at < len(directory):
        fixed = directory[at : at + _CENTRAL.size]
        if len(fixed) < _CENTRAL.size or fixed[:4] != b"PK\x01\x02":
            raise ArtifactError(f"{label}: malformed central directory")
        (_, made_by, _, flags, method, _, _, crc32, compressed, size, n_name, n_extra, n_comment, disk, _, attributes,
         offset) = _CENTRAL.unpack(fixed)  # fmt: skip
        extra_at = at + _CENTRAL.size + n_name
        end = extra_at + n_extra + n_comment
        if end > len(directory):
            raise ArtifactError(f"{label}: malformed central directory")
        raw = directory[at + _CENTRAL.size : extra_at]
        mode = attributes >> 16 if made_by >> 8 == _UNIX else 0
        member = Member(
            archive=path, label=label, name=_name(raw, flags, label), flags=flags, method=method, crc32=crc32,
            compressed=compressed, size=size, mode=mode & 0o7777, offset=offset, end=0,
        )  # fmt: skip
        if disk or n_comment:
            raise member.error("is in another part of the zip or has a comment")
        extra = _extra(member, directory[extra_at : end - n_comment])
        member = _widened(member, extra.get(_ZIP64))
        _check(member, mode & _TYPE_MASK)
        yield member
        at = end


def _name(raw: bytes, flags: int, label: str) -> str:
    """The name, if it is relative, clean and means the same to every reader."""
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{label}: a member name in an unknown encoding: {raw!r}") from error
    parts = name.removesuffix("/").split("/")
    bad = (
        "an empty name" if not name
        else "an absolute path" if name.startswith("/") or _DRIVE.match(name)
        else "a path with '..'" if ".." in parts
        else "a backslash in its name" if "\\" in name
        else "a control character in its name" if _CONTROL.search(name)
        else "a path that is not clean" if "" in parts or "." in parts
        else "too long a name" if len(raw) > 4096 - 256 or max(len(p.encode()) for p in parts) > 255
        else ""
    )  # fmt: skip
    if bad:
        raise ArtifactError(f"{label}: {name!r} has {bad}")
    return name


def _extra(member: Member, data: bytes) -> dict[int, bytes]:
    """Extra fields by number. A few bytes at the end that make up no field are padding (zipalign)."""
    fields: dict[int, bytes] = {}
    while len(data) >= 4:
        number, length = struct.unpack_from("<2H", data)
        if number in fields or len(data) < 4 + length:
            raise member.error("has malformed extra fields")
        fields[number] = data[4 : 4 + length]
        data = data[4 + length :]
    if data.strip(b"\0"):
        raise member.error("has malformed extra fields")
    if _UNICODE_NAME in fields:
        raise member.error("has a second name in its extra fields")
    return fields


def _widened(member: Member, field: bytes | None) -> Member:
    """`member` with what its zip64 field says of sizes and offset: exactly those that need it, in this order."""
    data = field or b""
    if len(data) != 8 * (member.size, member.compressed, member.offset).count(_FULL_32):
        raise member.error("has a zip64 field that does not fit its sizes")
    if not data:
        return member
    values = iter(struct.unpack(f"<{len(data) // 8}Q", data))
    return replace(
        member,
        size=next(values) if member.size == _FULL_32 else member.size,
        compressed=next(values) if member.compressed == _FULL_32 else member.compressed,
        offset=next(values) if member.offset == _FULL_32 else member.offset,
    )


def _check(member: Member, kind: int) -> None:
    if member.flags & ~_FLAGS:
        raise member.error("is encrypted" if member.flags & 0x2041 else "has unknown flags")
    if member.method not in {_STORED, _DEFLATED}:
        raise member.error(f"is compressed by an unsupported method ({member.method})")
    if member.method == _STORED and member.compressed != member.size:
        raise member.error("is stored, but declares two sizes")
    if kind not in {0, _DIRECTORY if member.name.endswith("/") else _REGULAR}:
        raise member.error("is a symbolic link" if kind == _SYMLINK else "is not a regular file")


def _refuse_bombs(members: list[Member], archive_size: int, label: str) -> None:
    for member in members:
        if member.size > _BOMB_SIZE and member.size > _BOMB_RATIO * member.compressed:
            raise member.error(f"declares {member.size} bytes in {member.compressed} compressed: a decompression bomb")
    total = sum(m.size for m in members)
    if total > _BOMB_SIZE and total > _BOMB_RATIO * archive_size:
        raise ArtifactError(f"{label}: declares {total} bytes in an archive of {archive_size}: a decompression bomb")


def _refuse_conflicts(files: list[Member], folders: list[Member]) -> None:
    names: set[str] = set()
    for member in (*files, *folders):
        if member.name in names:
            raise member.error("is there twice")
        names.add(member.name)
    needed = {parent: m for m in (*files, *folders) for parent in _parents(m.name.removesuffix("/"))}
    needed.update({m.name.removesuffix("/"): m for m in folders})
    for member in files:
        if member.name in needed:
            raise member.error(f"is a file where {needed[member.name].name!r} needs a directory")


def _parents(name: str) -> Iterator[str]:
    at = name.rfind("/")
    while at > 0:
        yield name[:at]
        at = name.rfind("/", 0, at)
