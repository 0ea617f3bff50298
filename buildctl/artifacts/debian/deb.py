"""Debian packages (deb(5), format 2.0): the control archive as values, the file tree as entries of a layer."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Protocol

import zstandard

from buildctl.artifacts.debian.deb822 import parse_stanzas
from buildctl.ground.errors import ArtifactError
from buildctl.oci.digest import Digest
from buildctl.oci.entry import Entry, Kind

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 20
# Debian's largest packages unpack to a few gigabytes; text compresses 100:1 at the very best.
MAX_UNPACKED = 8 << 30
MAX_RATIO = 200
MAX_CONTROL = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The control archive: `fields` of the control file in their order, `files` all other members by name."""

    fields: Mapping[str, str]
    files: Mapping[str, bytes]

    @property
    def package(self) -> str:
        return self.fields["Package"]

    @property
    def version(self) -> str:
        return self.fields["Version"]

    @property
    def architecture(self) -> str:
        return self.fields["Architecture"]

    @property
    def unambiguous(self) -> str:
        """How dpkg names it in its database: `NAME:ARCH` where several architectures may be installed side by side."""
        multi = self.fields.get("Multi-Arch") == "same"
        return f"{self.package}:{self.architecture}" if multi else self.package


@dataclass(frozen=True, slots=True, kw_only=True)
class Deb:
    """An opened package. `names` are the paths as the archive has them (`/.`, `/usr`, ...), in its order.

    The bodies of `entries` read from the temporary file that `open_deb` was given, for as long as that is open.
    """

    control: Control
    entries: tuple[Entry, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """A body inside a larger file, read with pread: any number of readers, any number of times."""

    file: IO[bytes]
    offset: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        position, end = self.offset, self.offset + self.size
        while position < end:
            data = os.pread(self.file.fileno(), min(CHUNK, end - position), position)
            if not data:
                raise ArtifactError(f"the temporary file of a package ended early, at byte {position}")
            position += len(data)
            yield data


class SupportsRead(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    offset: int
    size: int


def read_control(path: Path) -> Control:
    """Only the control archive: cheap."""
    with path.open("rb") as file:
        control, _ = _archive_members(path, file)
        return _control(path, file, control)


def made_at(path: Path) -> int:
    """When the package was made, in seconds since 1970, according to its first member (in reproducible packages, the
    date of their changelog); 0 if that is missing.
    """
    with path.open("rb") as file:
        text = file.read(36)[24:].strip()  # ar(5): 8 bytes of magic, 16 of the name, 12 of the time
    return int(text) if text.isdigit() else 0


def open_deb(path: Path, scratch: IO[bytes], *, digest: Digest | None = None) -> Deb:
    """Read a package, its data unpacked into the empty temporary file `scratch`.

    Raises ArtifactError, naming the file, for anything that dpkg-deb would not make: wrong digest, absolute paths,
    `..`, links out of the tree, duplicates, devices, files below something that is not a directory, truncation, bombs.
    """
    with path.open("rb") as file:
        if digest is not None:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
            if actual != digest.hex:
                raise ArtifactError(f"{path.name}: sha256 is {actual}, the lock has {digest.hex}")
        control_member, data_member = _archive_members(path, file)
        control = _control(path, file, control_member)
        limit = min(MAX_UNPACKED, (16 << 20) + MAX_RATIO * data_member.size)
        size = _decompress(path, file, data_member, scratch.write, limit)
    scratch.flush()
    entries, names = _data_entries(path.name, scratch, size)
    return Deb(control=control, entries=entries, names=names)


def _archive_members(path: Path, file: BinaryIO) -> tuple[_Member, _Member]:
    members = [m for m in _ar_members(path, file) if not m.name.startswith("_")]
    names = [m.name for m in members]
    if len(members) < 3 or names[0] != "debian-binary":
        raise ArtifactError(f"{path.name}: not a Debian package: members {names[:5]}")
    file.seek(members[0].offset)
    version = file.read(min(members[0].size, 64))
    if not version.startswith(b"2."):
        raise ArtifactError(f"{path.name}: unknown package format {version[:10]!r}")
    if not names[1].startswith("control.tar") or not names[2].startswith("data.tar") or len(members) > 3:
        raise ArtifactError(f"{path.name}: unexpected members {names[1:6]}")
    return members[1], members[2]


def _ar_members(path: Path, file: BinaryIO) -> Iterator[_Member]:
    file.seek(0, os.SEEK_END)
    total = file.tell()
    file.seek(0)
    if file.read(8) != b"!<arch>\n":
        raise ArtifactError(f"{path.name}: not a Debian package (no ar archive)")
    offset = 8
    while offset < total:
        file.seek(offset)
        header = file.read(60)
        size = header[48:58].strip()
        if len(header) != 60 or header[58:] != b"`\n" or not size.isdigit():
            raise ArtifactError(f"{path.name}: damaged ar header at byte {offset}")
        member = _Member(header[:16].decode("ascii", "replace").strip().rstrip("/"), offset + 60, int(size))
        if member.offset + member.size > total:
            raise ArtifactError(f"{path.name}: truncated in member {member.name}")
        yield member
        offset = member.offset + member.size + member.size % 2


def _decompress(path: Path, file: BinaryIO, member: _Member, write: Callable[[bytes], object], limit: int) -> int:
    """Returns the number of bytes written; raises if there are more than `limit`."""
    source = io.BufferedReader(_Section(file, member.offset, member.size), CHUNK)
    suffix = member.name.partition(".tar")[2]
    total = 0
    try:
        for block in _blocks(source, suffix, path):
            total += len(block)
            if total > limit:
                raise ArtifactError(f"{path.name}: {member.name} unpacks to more than {limit} bytes")
            write(block)
    except (lzma.LZMAError, zlib.error, zstandard.ZstdError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ArtifactError(f"{path.name}: {member.name} is damaged: {error}") from error
    return total


def _blocks(source: io.BufferedReader[_Section], suffix: str, path: Path) -> Iterator[bytes]:
    stream: SupportsRead
    match suffix:
        case ".xz":
            stream = lzma.LZMAFile(source)  # noqa: SIM115 - closing it would close nothing of ours
        case ".gz":
            stream = gzip.GzipFile(fileobj=source)
        case ".zst":
            stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(source, read_across_frames=True)
        case "":
            stream = source
        case _:
            raise ArtifactError(f"{path.name}: unknown compression {suffix!r}")
    while block := stream.read(CHUNK):
        yield block


class _Section(io.RawIOBase):
    """The bytes of one ar member as a readable file."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        super().__init__()
        self._file, self._left = file, size
        file.seek(offset)

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)[: self._left]
        data = self._file.read(len(view))
        view[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def readable(self) -> bool:
        return True


def _control(path: Path, file: BinaryIO, member: _Member) -> Control:
    data = bytearray()
    _decompress(path, file, member, data.extend, MAX_CONTROL)
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for info in tar:
                name = info.name.removeprefix("./")
                content = tar.extractfile(info) if info.isreg() else None
                if content is not None:
                    files[_control_name(path, name, files)] = content.read()
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise ArtifactError(f"{path.name}: damaged control archive: {error}") from error
    return Control(fields=_control_fields(path, files.pop("control", b"")), files=files)


def _control_name(path: Path, name: str, seen: Iterable[str]) -> str:
    if not name or "/" in name or name in (".", "..") or name in seen:
        raise ArtifactError(f"{path.name}: unexpected or duplicate control file {name!r}")
    return name


def _control_fields(path: Path, text: bytes) -> dict[str, str]:
    stanzas = list(parse_stanzas(text.decode("utf-8", "replace"), f"{path.name}: control"))
    if len(stanzas) != 1:
        raise ArtifactError(f"{path.name}: the control file has {len(stanzas)} paragraphs")
    fields = stanzas[0][1]
    missing = [f for f in ("Package", "Version", "Architecture") if not fields.get(f)]
    if missing:
        raise ArtifactError(f"{path.name}: the control file lacks {', '.join(missing)}")
    return fields


def _data_entries(source: str, scratch: IO[bytes], size: int) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    entries: dict[str, Entry] = {}
    names: list[str] = []
    end = 0
    try:
        scratch.seek(0)
        with tarfile.open(fileobj=scratch, mode="r:") as tar:
            for info in tar:
                path = _clean(source, info.name)
                names.append(f"/{path}" if path else "/.")
                end = info.offset_data + (-(-info.size // 512) * 512 if info.isreg() else 0)
                if end > size:
                    raise ArtifactError(f"{source}: data archive is truncated in {path}")
                if path:
                    _add(source, entries, _entry(source, path, info, scratch))
    except (tarfile.TarError, ValueError, OverflowError) as error:  # tarfile's own for odd numbers in pax headers
        raise ArtifactError(f"{source}: damaged data archive: {error}") from error
    # tarfile takes a damaged header in the middle for the end of the archive.
    if any(any(block) for block in Slice(scratch, end, size - end).chunks()):
        raise ArtifactError(f"{source}: damaged data archive: no valid header at byte {end}")
    return tuple(entries.values()), tuple(names)


def _clean(source: str, name: str) -> str:
    """The path without `./` in front; the root itself is the empty string."""
    path = name.removeprefix("./").rstrip("/")
    if path in ("", "."):
        return ""
    if path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ArtifactError(f"{source}: path escapes the tree or is not clean: {name!r}")
    return path


def _entry(source: str, path: str, info: tarfile.TarInfo, scratch: IO[bytes]) -> Entry:
    entry = Entry(path=path, mode=info.mode & 0o7777, uid=info.uid, gid=info.gid, mtime=int(info.mtime))
    if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
        return replace(entry, size=info.size, body=Slice(scratch, info.offset_data, info.size))
    if info.isdir():
        return replace(entry, kind=Kind.DIRECTORY)
    if info.issym():
        return replace(entry, kind=Kind.SYMLINK, mode=0o777, target=_inside(source, path, info.linkname))
    if info.islnk():
        return replace(entry, kind=Kind.HARDLINK, target=_clean(source, info.linkname))
    raise ArtifactError(f"{source}: {path}: neither file, directory nor link (tar type {info.type!r})")


def _inside(source: str, path: str, target: str) -> str:
    """An absolute target stays inside the image; a relative one must not climb above its root."""
    walked = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if not target or "\0" in target or (not target.startswith("/") and walked.split("/")[0] == ".."):
        raise ArtifactError(f"{source}: symlink {path} escapes the tree: {target!r}")
    return target


def _add(source: str, entries: dict[str, Entry], entry: Entry) -> None:
    if entry.path in entries:
        raise ArtifactError(f"{source}: {entry.path} is in the archive twice")
    parent = posixpath.dirname(entry.path)
    while parent:
        above = entries.get(parent)
        if above is not None and above.kind is not Kind.DIRECTORY:
            raise ArtifactError(f"{source}: {entry.path} is below {parent}, which is a {above.kind}")
        parent = posixpath.dirname(parent)
    if entry.kind is Kind.HARDLINK:
        target = entries.get(entry.target)
        if target is None or target.kind is not Kind.FILE:
            raise ArtifactError(f"{source}: hard link {entry.path} to {entry.target}, which is not an earlier file")
    entries[entry.path] = entry
