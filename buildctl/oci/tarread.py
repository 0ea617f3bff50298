"""Reading layers: decompress, hash and parse in one pass over bytes, in bounded memory.

Python's tarfile is used for the 512 bytes of a header and for nothing else: it would skip broken headers, and reads
bodies slowly.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO, cast

import zstandard
from isal import igzip, isal_zlib

from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.entry import CAPABILITY

BLOCK = 512
CHUNK = 1 << 20
_ZERO = bytes(BLOCK)
# as for wheels, but layers may be mostly zeros, and are not unpacked into memory
_BOMB_SIZE, _BOMB_RATIO = 1 << 30, 200
_PAX_LIMIT = 1 << 20  # bytes of extended header; real ones hold a path or two
_PATH_LIMIT = 4096  # characters of a name or link target, as Linux takes them
# what is read of extended headers; the rest, of which a header may have thousands, is not kept for each entry
_KEYS = frozenset({"path", "linkpath", "size", "uid", "gid", "mtime", CAPABILITY})
_SPARSE = "GNU.sparse"
_IsalError: type[Exception] = cast("type[Exception]", isal_zlib.error)
_BROKEN = (EOFError, _IsalError, zstandard.ZstdError, igzip.BadGzipFile)
_HEADERS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
_BODILESS = {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE}
_REGULAR = {tarfile.REGTYPE, tarfile.AREGTYPE}


class LayerReader:
    """Iterate over the headers of a layer blob; `read` gives the body of the entry that came last.

    `blob` must be seekable and at its start; `where` starts every message. After the iteration `diff_id` and
    `uncompressed_size` (of the tar), `digest` (with `hash_blob` only) and `size` (of the blob) are final. Raises
    LayoutError for anything but a complete, plain tar; `problems` holds faults that hide no entry.
    """

    def __init__(self, blob: BinaryIO, media_type: str, where: str, *, hash_blob: bool = True) -> None:
        self.where = where
        self.problems: list[str] = []
        self._file, self._media_type = blob, media_type
        self._blob = _Hashed(blob, where, hashing=hash_blob)
        self._tar = _Hashed(cast("BinaryIO", self._blob), where, packed=self._blob)
        self._stream = io.BufferedReader(self._tar, CHUNK)
        self._left = 0  # bytes of the current body that nobody has read
        self._padding = 0
        self._global: dict[str, str] = {}

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        if compression(self._media_type) == "zstd":
            _require_whole_zstd(self._file, self.where)
        self._tar = _Hashed(_decompressed(self._blob, self._media_type), self.where, packed=self._blob)
        self._stream = io.BufferedReader(self._tar, CHUNK)
        while (info := self._next()) is not None:
            yield info
        self._drain()

    def read(self, limit: int = CHUNK) -> bytes:
        """The next bytes of the current body, at most `limit`; empty at its end."""
        data = self._stream.read(min(limit, self._left))
        if not data and self._left:
            raise LayoutError(f"{self.where}: the tar ends {self._left} bytes before the end of an entry's content")
        self._left -= len(data)
        return data

    def finish_blob(self) -> None:
        """Hash what is left of the compressed bytes; for a blob that turned out to be broken."""
        while self._blob.read(CHUNK):
            pass

    @property
    def digest(self) -> Digest:
        return self._blob.digest

    @property
    def size(self) -> int:
        return self._blob.size

    @property
    def diff_id(self) -> Digest:
        return self._tar.digest

    @property
    def uncompressed_size(self) -> int:
        return self._tar.size

    def _next(self) -> tarfile.TarInfo | None:
        extra: dict[str, str] = {}
        while True:
            while self.read():
                pass
            self._exactly(self._padding)
            self._padding = 0
            block = self._stream.read(BLOCK)
            if not block:
                self.problems.append(f"{self.where}: the tar has no end-of-archive blocks")
                return None
            if block == _ZERO:
                if self._stream.read(BLOCK) != _ZERO:
                    self.problems.append(f"{self.where}: the tar has one end-of-archive block instead of two")
                return None
            info = self._header(block)
            self._padding = -info.size % BLOCK
            if info.type not in _HEADERS:
                return self._applied(info, {**self._global, **extra})
            self._extend(info, extra)

    def _header(self, block: bytes) -> tarfile.TarInfo:
        if len(block) != BLOCK:
            raise LayoutError(f"{self.where}: the tar ends inside a header")
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise LayoutError(f"{self.where}: broken tar header: {error}") from error
        if info.size < 0:
            raise LayoutError(f"{self.where}: entry {info.name!r} has a negative size")
        return info

    def _extend(self, info: tarfile.TarInfo, extra: dict[str, str]) -> None:
        """Read an extended header (POSIX pax or GNU long name) into `extra`."""
        if info.size > _PAX_LIMIT:
            raise LayoutError(f"{self.where}: an extended header of {info.size} bytes")
        data = self._exactly(info.size)
        match info.type:
            case tarfile.GNUTYPE_LONGNAME:
                extra["path"] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            case tarfile.GNUTYPE_LONGLINK:
                extra["linkpath"] = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            case tarfile.XGLTYPE:
                self._global.update(_pax_records(data, self.where))
            case _:
                extra.update(_pax_records(data, self.where))

    def _applied(self, info: tarfile.TarInfo, extra: Mapping[str, str]) -> tarfile.TarInfo:
        if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith(_SPARSE) for key in extra):
            raise LayoutError(f"{self.where}: entry {info.name!r} is sparse, which not every unpacker supports")
        try:
            info.name = extra.get("path", info.name)
            info.linkname = extra.get("linkpath", info.linkname)
            info.size = int(extra.get("size", info.size))
            info.uid, info.gid = int(extra.get("uid", info.uid)), int(extra.get("gid", info.gid))
            info.mtime = float(extra["mtime"]) if "mtime" in extra else info.mtime
        except ValueError as error:
            raise LayoutError(f"{self.where}: entry {info.name!r}: malformed pax number: {error}") from error
        if max(len(info.name), len(info.linkname)) > _PATH_LIMIT:
            raise LayoutError(f"{self.where}: an entry's name or link has more than {_PATH_LIMIT} characters")
        info.pax_headers = {key: value for key, value in extra.items() if key == CAPABILITY}
        if info.type in _REGULAR and info.name.endswith("/"):
            info.type = tarfile.DIRTYPE  # as tars were before POSIX
        if info.size < 0 or (info.size and info.type in _BODILESS):
            raise LayoutError(f"{self.where}: entry {info.name!r} has a size of {info.size}, impossible for its type")
        if not (-(2**33) < info.mtime < 2**40 and 0 <= info.uid < 2**32 - 1 and 0 <= info.gid < 2**32 - 1):
            raise LayoutError(f"{self.where}: entry {info.name!r} has an owner or a time that no system can represent")
        self._left, self._padding = info.size, -info.size % BLOCK
        return info

    def _exactly(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise LayoutError(f"{self.where}: the tar ends inside an entry")
        return data

    def _drain(self) -> None:
        hidden = False
        while chunk := self._stream.read(CHUNK):
            hidden = hidden or chunk.count(0) != len(chunk)
        if hidden:
            self.problems.append(f"{self.where}: there is data after the end of the tar")
        self.finish_blob()


def layer_hashes(blob: BinaryIO, media_type: str, where: str) -> tuple[Digest, Digest]:
    """Digest and diff id of a layer, whatever its tar holds. `blob` must be seekable and at its start.

    Raises LayoutError for data that cannot be decompressed.
    """
    if compression(media_type) == "zstd":
        _require_whole_zstd(blob, where)
    packed = _Hashed(blob, where)
    tar = _Hashed(_decompressed(packed, media_type), where, packed=packed)
    for stream in (tar, packed):
        while stream.read(CHUNK):
            pass
    return packed.digest, tar.digest


class _Hashed(io.RawIOBase):
    """Passes bytes on, hashing and counting them; what a broken source raises becomes a LayoutError."""

    def __init__(self, source: BinaryIO, where: str, *, hashing: bool = True, packed: _Hashed | None = None) -> None:
        """`packed` is where the bytes come from before they are decompressed: a bomb is refused."""
        self._source, self._where, self._packed = source, where, packed
        self._hash, self._hashing = hashlib.sha256(), hashing
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)
        try:
            count = self._source.readinto(view)  # type: ignore[attr-defined]
        except _BROKEN as error:
            raise LayoutError(f"{self._where}: broken compressed data: {error}") from error
        if self._hashing:
            self._hash.update(view[:count])
        self.size += count
        if self._packed and is_bomb(self._packed.size, self.size):
            raise LayoutError(f"{self._where}: {self._packed.size} bytes unpack to more than {self.size}: a bomb")
        return cast("int", count)

    @property
    def digest(self) -> Digest:
        return Digest(self._hash.hexdigest())


def is_bomb(packed: int, unpacked: int) -> bool:
    """Whether so many bytes should not become so many."""
    return unpacked > _BOMB_SIZE and unpacked > _BOMB_RATIO * packed


def compression(media_type: str) -> str:
    """`gzip`, `zstd` or `` for a layer's media type, OCI's or Docker's; raises LayoutError for anything else."""
    match media_type.rpartition("layer.v1.")[2] if ".oci." in media_type else media_type.rpartition("rootfs.")[2]:
        case "tar+gzip" | "diff.tar.gzip":
            return "gzip"
        case "tar+zstd" | "diff.tar.zstd":
            return "zstd"
        case "tar" | "diff.tar":
            return ""
    raise LayoutError(f"{media_type} is not a known layer type")


def _decompressed(hashed: _Hashed, media_type: str) -> BinaryIO:
    match compression(media_type):
        case "gzip":
            return cast("BinaryIO", igzip.GzipFile(fileobj=hashed, mode="rb"))  # type: ignore[no-untyped-call]
        case "zstd":
            source = cast("BinaryIO", hashed)
            reader = zstandard.ZstdDecompressor().stream_reader(source, read_size=CHUNK, read_across_frames=True)
            return cast("BinaryIO", reader)
    return cast("BinaryIO", hashed)


def _require_whole_zstd(blob: BinaryIO, where: str) -> None:
    """Walk over the blocks of all frames, without decompressing (RFC 8878, section 3.1).

    The zstandard package takes the end of its input for the end of the data, even inside a frame.
    """
    end = blob.seek(0, io.SEEK_END)
    position = blob.seek(0)
    try:
        while position < end:
            position = _after_frame(blob, position, where)
    finally:
        blob.seek(0)
    if position > end or not end:
        raise LayoutError(f"{where}: broken compressed data: it ends inside a frame")


def _after_frame(blob: BinaryIO, position: int, where: str) -> int:
    blob.seek(position)
    head = blob.read(8).ljust(8, b"\0")
    magic = int.from_bytes(head[:4], "little")
    if magic & 0xFFFFFFF0 == 0x184D2A50:  # skippable
        return position + 8 + int.from_bytes(head[4:], "little")
    if magic != 0xFD2FB528:
        raise LayoutError(f"{where}: broken compressed data: no zstd frame at byte {position}")
    single = head[4] >> 5 & 1
    content_size = (single, 2, 4, 8)[head[4] >> 6]
    position += 5 + (not single) + (0, 1, 2, 4)[head[4] & 3] + content_size
    last = False
    while not last:
        blob.seek(position)
        header = blob.read(3)
        if len(header) < 3:
            return position + 3
        value = int.from_bytes(header, "little")
        last = bool(value & 1)
        position += 3 + (1 if value >> 1 & 3 == 1 else value >> 3)
    return position + 4 * (head[4] >> 2 & 1)


def _pax_records(data: bytes, where: str) -> dict[str, str]:
    """Records of LENGTH, space, KEY=VALUE, newline, where LENGTH counts the whole record; those that are used."""
    out: dict[str, str] = {}
    while data:
        digits, _, _ = data[:20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        key, separator, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not separator or length > len(data) or data[length - 1 : length] != b"\n":
            raise LayoutError(f"{where}: malformed pax header: {data[:40]!r}")
        name = key.decode("utf-8", "surrogateescape")
        if name in _KEYS or name.startswith(_SPARSE):
            out[name] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return out
