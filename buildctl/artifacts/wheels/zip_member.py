"""One file of a zip: its bytes, checked against the central directory while they are read."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from isal import igzip_lib, isal_zlib

from buildctl.ground.errors import ArtifactError

STORED, DEFLATED = 0, 8
SIZES_FOLLOW = 0x0008
FULL_32 = 0xFFFFFFFF
ZIP64 = 0x0001
_UNICODE_NAME = 0x7075
_LOCAL = struct.Struct("<4s5H3L2H")
# Bytes per read and per inflated piece, which is checked, hashed and copied while it is in a core's own cache.
_READ, _INFLATE = 1 << 18, 1 << 17
_DAMAGED = cast("type[Exception]", igzip_lib.IsalError)  # isal's stubs call this class an instance


@dataclass(slots=True, kw_only=True)
class ZipMember:
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
        return self.method == DEFLATED

    def chunks(self) -> Iterator[bytes]:
        """The content, in pieces of bounded size, with its size and CRC-32 checked at the end."""
        with self.archive.open("rb", buffering=0) as file:
            check = _ContentCheck(self)
            if self.method == STORED:
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
        if self.method != DEFLATED:
            raise self.error("is not deflated")
        with self.archive.open("rb", buffering=0) as file:
            check = _ContentCheck(self)
            for raw, piece in _inflate(self, self._raw(file)):
                if piece:
                    check.add(piece)
                    inflated(piece)
                if raw:
                    yield raw
            check.done()

    def read(self, limit: int) -> bytes:
        """The whole content; ArtifactError if it exceeds `limit` bytes."""
        if self.size > limit:
            raise self.error(f"is {self.size} bytes large, over the limit of {limit}")
        return b"".join(self.chunks())

    def error(self, what: str) -> ArtifactError:
        return broken(self.label, f"{self.name!r} {what}")

    def _raw(self, file: BinaryIO) -> Iterator[bytes]:
        """The bytes as stored, after the local header has been compared with the central directory."""
        file.seek(self.offset)
        first = file.read(min(_READ, self.end - self.offset))  # small members are read in one call
        data = self._check_local(file, first)
        raw, left = first[data : data + self.compressed], self.compressed
        if left > len(raw):
            file.seek(self.offset + len(first))
        while left:
            raw = raw or file.read(min(_READ, left))
            if not raw:
                raise self.error("is truncated")
            left -= len(raw)
            yield raw
            raw = b""

    def _check_local(self, file: BinaryIO, first: bytes) -> int:
        """Where in the member's `first` bytes its data starts."""
        if len(first) < _LOCAL.size or first[:4] != b"PK\x03\x04":
            raise self.error("has no local header at the offset in the central directory")
        _, _, flags, method, _, _, crc32, compressed, size, n_name, n_extra = _LOCAL.unpack_from(first)
        data = int(_LOCAL.size + n_name + n_extra)  # at most 128 KiB
        name, extra = first[_LOCAL.size : data - n_extra], extra_fields(self, first[data - n_extra : data])
        if wide := extra.get(ZIP64):
            # some writers (protobuf's wheels) repeat sizes that fit into 32 bits, which every reader takes for the same
            if len(wide) != 16 or (size, compressed) not in {(FULL_32, FULL_32), struct.unpack("<2Q", wide)}:
                raise self.error("has a zip64 field that does not match its sizes")
            size, compressed = struct.unpack("<2Q", wide)
        said = (name, flags, method)
        if said != (self.name.encode(), self.flags, self.method):
            raise self.error("has a local header that disagrees with the central directory")
        sizes = (crc32, compressed, size)
        follow = bool(flags & SIZES_FOLLOW)
        if sizes != (self.crc32, self.compressed, self.size) and not (follow and sizes == (0, 0, 0)):
            raise self.error("has a local header whose sizes or checksum disagree with the central directory")
        gap = self.end - self.offset - data - self.compressed
        if gap < 0:
            raise self.error("overlaps with what follows it")
        if gap and not (follow and self._is_descriptor(file, self.offset + data + self.compressed, gap)):
            raise self.error(f"is followed by {gap} stray bytes")
        return data

    def _is_descriptor(self, file: BinaryIO, at: int, length: int) -> bool:
        """Whether the `length` bytes there are a data descriptor: CRC-32 and sizes, again."""
        file.seek(at)
        found = file.read(length) if length <= 24 else b""
        body = found.removeprefix(b"PK\x07\x08") if length in {16, 24} else found
        for form in ("<3L", "<LQQ"):
            if struct.calcsize(form) == len(body):
                return bool(struct.unpack(form, body) == (self.crc32, self.compressed, self.size))
        return False


def broken(label: str, what: str) -> ArtifactError:
    """An error about the wheel `label` (its file name), with what a person who wants to build can do."""
    name = label.partition("-")[0]
    return ArtifactError(
        f"{label}: {what}",
        hint=f"ask for another version of {name} under packages in matrix.yaml, or tell its authors what is wrong",
    )


class _ContentCheck:
    """Size while the content passes, CRC-32 at its end."""

    def __init__(self, member: ZipMember) -> None:
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


def _inflate(member: ZipMember, source: Iterator[bytes]) -> Iterator[tuple[bytes, bytes]]:
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
        raise member.error("has a deflate stream that is truncated")
    if stream.unused_data:
        raise member.error("has bytes after the end of its deflate stream")


def extra_fields(member: ZipMember, data: bytes) -> dict[int, bytes]:
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
