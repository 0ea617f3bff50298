"""Zip files read so that no two readers could disagree about what is in them.

`zipfile` accepts most malicious archives. Here the central directory is the truth and everything else has to agree with
it: members lie one after another without gap or overlap from the first byte to the directory, the directory ends at the
end record, the end record ends the file, each local header repeats its directory entry, and sizes and CRC-32 are what
comes out of the stream. Raises ArtifactError that names the archive and the member.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from buildctl.artifacts.wheels.zip_member import DEFLATED, FULL_32, STORED, ZIP64, ZipMember, broken, extra_fields

_EOCD = struct.Struct("<4s4H2LH")
_EOCD64_LOCATOR = struct.Struct("<4sLQL")
_EOCD64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
# Allowed flags: 1 and 2 how hard the compressor tried, 3 sizes follow the data, 11 names are UTF-8. None of encryption.
_FLAGS = 0x0002 | 0x0004 | 0x0008 | 0x0800
_UTF8 = 0x0800
_FULL_16 = 0xFFFF
_MAX_DIRECTORY = 1 << 28
_TYPE_MASK, _REGULAR, _DIRECTORY, _SYMLINK = 0o170000, 0o100000, 0o040000, 0o120000
# Deflate cannot do better than 1032:1. Real members above 16 MiB stay below 30:1, real wheels as a whole below 10:1.
_BOMB_SIZE, _BOMB_RATIO = 16 << 20, 200
_UNIX = 3
_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def read_zip(path: Path, *, label: str) -> tuple[ZipMember, ...]:
    """The files of the archive `path`, sorted by name. Directories must be empty and are left out.

    Names are relative and clean, no name appears twice, and no file is where another needs a directory. Sizes and
    checksums are checked when a member is read. Raises ArtifactError.
    """
    with path.open("rb", buffering=0) as file:
        start, directory, count = _directory(file, label)
    found = sorted(_entries(directory, path, label), key=lambda m: m.offset)
    if len(found) != count:
        raise broken(label, f"the central directory holds {len(found)} entries, its end record says {count}")
    if found and found[0].offset != 0:
        raise broken(label, f"{found[0].offset} bytes before the first member {found[0].name!r}")
    if not found:
        raise broken(label, "an empty zip")
    for member, end in zip(found, [*(m.offset for m in found[1:]), start], strict=True):
        if end <= member.offset:
            raise member.error("overlaps with what follows it")
        member.end = end
    _refuse_bombs(found, path.stat().st_size, label)
    files = sorted((m for m in found if not m.name.endswith("/")), key=lambda m: m.name)
    folders = [m for m in found if m.name.endswith("/")]
    _refuse_conflicts(files, folders)
    for folder in folders:
        folder.read(0)
    return tuple(files)


def _directory(file: BinaryIO, label: str) -> tuple[int, bytes, int]:
    """Where the central directory starts, its bytes, and how many entries it should hold."""
    total = file.seek(0, 2)
    if total < _EOCD.size:
        raise broken(label, "not a zip file")
    file.seek(end := total - _EOCD.size)
    magic, disk, start_disk, here, count, size, start, comment = _EOCD.unpack(file.read(_EOCD.size))
    if magic != b"PK\x05\x06":
        raise broken(label, "has no zip end record: truncated, not a zip, or with trailing data")
    if disk or start_disk or here != count or comment:
        raise broken(label, "is split into parts or has a comment")
    file.seek(max(0, end - _EOCD64_LOCATOR.size))
    locator = file.read(_EOCD64_LOCATOR.size)
    if end >= _EOCD64_LOCATOR.size and locator[:4] == b"PK\x06\x07":
        end, wide = _end64(file, label, end - _EOCD64_LOCATOR.size, locator)
        for narrow, full, value in zip((count, size, start), (_FULL_16, FULL_32, FULL_32), wide, strict=True):
            if narrow not in {full, value}:
                raise broken(label, "the two end records disagree")
        count, size, start = wide
    elif FULL_32 in {size, start} or count == _FULL_16:
        raise broken(label, "the zip64 end record is missing")
    if start + size != end or size > _MAX_DIRECTORY:
        raise broken(label, "the central directory is not where its end record says")
    file.seek(start)
    directory = b""
    while len(directory) < size and (piece := file.read(size - len(directory))):
        directory += piece
    return start, directory, count


def _end64(file: BinaryIO, label: str, end: int, locator: bytes) -> tuple[int, tuple[int, int, int]]:
    """Where the zip64 end record starts, and (count, size, start) of the directory."""
    _, disk, at, disks = _EOCD64_LOCATOR.unpack(locator)
    if disk or disks > 1 or at + _EOCD64.size != end:
        raise broken(label, "the zip64 end record is not where its locator says")
    file.seek(at)
    magic, length, _, _, number, start_disk, here, count, size, start = _EOCD64.unpack(file.read(_EOCD64.size))
    if magic != b"PK\x06\x06" or length != _EOCD64.size - 12 or number or start_disk or here != count:
        raise broken(label, "malformed zip64 end record")
    return at, (count, size, start)


def _entries(directory: bytes, path: Path, label: str) -> Iterator[ZipMember]:
    at = 0
    while at < len(directory):
        fixed = directory[at : at + _CENTRAL.size]
        if len(fixed) < _CENTRAL.size or fixed[:4] != b"PK\x01\x02":
            raise broken(label, "malformed central directory")
        (_, made_by, _, flags, method, _, _, crc32, compressed, size, n_name, n_extra, n_comment, disk, _, attributes,
         offset) = _CENTRAL.unpack(fixed)  # fmt: skip
        extra_at = at + _CENTRAL.size + n_name
        end = extra_at + n_extra + n_comment
        if end > len(directory):
            raise broken(label, "malformed central directory")
        raw = directory[at + _CENTRAL.size : extra_at]
        mode = attributes >> 16 if made_by >> 8 == _UNIX else 0
        member = ZipMember(
            archive=path, label=label, name=_name(raw, flags, label), flags=flags, method=method, crc32=crc32,
            compressed=compressed, size=size, mode=mode & 0o7777, offset=offset, end=0,
        )  # fmt: skip
        if disk or n_comment:
            raise member.error("is in another part of a split zip or has a comment")
        extra = extra_fields(member, directory[extra_at : end - n_comment])
        _widen(member, extra.get(ZIP64, b""))
        _check(member, mode & _TYPE_MASK)
        yield member
        at = end


def _name(raw: bytes, flags: int, label: str) -> str:
    """The name, if it is relative, clean and means the same to every reader."""
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError as error:
        raise broken(label, f"a member name in an unknown encoding: {raw!r}") from error
    parts = name.removesuffix("/").split("/")
    bad = (
        "an empty name" if not name
        else "an absolute path" if name.startswith("/") or _DRIVE.match(name)
        else "a path with '..'" if ".." in parts
        else "a backslash in its name" if "\\" in name
        else "a control character in its name" if _CONTROL.search(name)
        else "a path that is not clean" if "" in parts or "." in parts
        else "too long a name" if len(raw) > 255 and (len(raw) > 4096 - 256 or max(map(len, raw.split(b"/"))) > 255)
        else ""
    )  # fmt: skip
    if bad:
        raise broken(label, f"{name!r} has {bad}")
    return name


def _widen(member: ZipMember, field: bytes) -> None:
    """Sizes and offset from the zip64 field: exactly those that need it, in this order."""
    narrow = [name for name in ("size", "compressed", "offset") if getattr(member, name) == FULL_32]
    if len(field) != 8 * len(narrow):
        raise member.error("has a zip64 field that does not match its sizes")
    for name, value in zip(narrow, struct.unpack(f"<{len(narrow)}Q", field), strict=True):
        setattr(member, name, value)


def _check(member: ZipMember, kind: int) -> None:
    if member.flags & ~_FLAGS:
        raise member.error("is encrypted" if member.flags & 0x2041 else "has unknown flags")
    if member.method not in {STORED, DEFLATED}:
        raise member.error(f"uses an unsupported compression method ({member.method})")
    if member.method == STORED and member.compressed != member.size:
        raise member.error("is stored, but declares two sizes")
    if kind not in {0, _DIRECTORY if member.name.endswith("/") else _REGULAR}:
        raise member.error("is a symbolic link" if kind == _SYMLINK else "is not a regular file")


def _refuse_bombs(members: list[ZipMember], archive_size: int, label: str) -> None:
    for member in members:
        if member.size > _BOMB_SIZE and member.size > _BOMB_RATIO * member.compressed:
            raise member.error(f"declares {member.size} bytes in {member.compressed} compressed: a decompression bomb")
    total = sum(m.size for m in members)
    if total > _BOMB_SIZE and total > _BOMB_RATIO * archive_size:
        raise broken(label, f"declares {total} bytes in an archive of {archive_size}: a decompression bomb")


def _refuse_conflicts(files: list[ZipMember], folders: list[ZipMember]) -> None:
    names: set[str] = set()
    for member in (*files, *folders):
        if member.name in names:
            raise member.error("appears twice")
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
