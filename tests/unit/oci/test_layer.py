from __future__ import annotations

import functools
import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import deflate
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from buildctl.ground.errors import ArtifactError
from buildctl.oci.compression import CHUNKED, COMPRESSIONS, GZIP, UNCOMPRESSED, ZSTD, Compression, compression_of
from buildctl.oci.digest import Digest
from buildctl.oci.entry import EPOCH, Bytes, Entry, Kind, directory_entry, file_entry, symlink_entry
from buildctl.oci.image import Layer
from buildctl.oci.layer import write_layer
from buildctl.oci.tar import header

METHODS = [*COMPRESSIONS.values(), UNCOMPRESSED]


def written(entries: list[Entry], compression: Compression = UNCOMPRESSED) -> tuple[bytes, Layer]:
    out = io.BytesIO()
    layer = write_layer(entries, out, compression=compression)
    return out.getvalue(), layer


def unpacked(blob: bytes, compression: Compression) -> bytes:
    if compression in (ZSTD, CHUNKED):
        return zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True).read()
    return gzip.decompress(blob) if compression is GZIP else blob


def members(tar: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return [(m, f.read() if m.isreg() and (f := archive.extractfile(m)) else b"") for m in archive]


@dataclass(frozen=True)
class Deflated:
    """Content with its deflate stream, in pieces of a given size."""

    data: bytes
    step: int = 7

    @property
    def crc32(self) -> int:
        return zlib.crc32(self.data)

    @property
    def stream(self) -> bytes:
        return bytes(deflate.deflate_compress(self.data, 9))

    def chunks(self) -> Iterator[bytes]:
        for at in range(0, len(self.data), self.step):
            yield self.data[at : at + self.step]

    def deflated(self, inflated: Callable[[bytes], object]) -> Iterator[bytes]:
        for chunk in self.chunks():
            inflated(chunk)
        for at in range(0, len(self.stream), self.step):
            yield self.stream[at : at + self.step]


EXAMPLE = [
    directory_entry("usr"),
    directory_entry("usr/bin"),
    file_entry("usr/bin/tool", b"#!/bin/sh\n" * 200, mode=0o755),
    symlink_entry("usr/bin/link", "../lib/x"),
    Entry(path="usr/bin/same", kind=Kind.HARDLINK, target="usr/bin/tool"),
    file_entry("usr/empty", b""),
    Entry(path="usr/owned", mode=0o4711, uid=1000, gid=3_000_000, size=5, mtime=1_700_000_000, body=Bytes(b"owned")),
    Entry(path="usr/lib.so", size=60_000, body=Deflated(b"library " * 7500, 999)),
]


@pytest.mark.parametrize("compression", METHODS, ids=lambda c: c.method)
def test_descriptor_and_diff_id_are_those_of_the_bytes(compression: Compression) -> None:
    blob, layer = written(EXAMPLE, compression)
    tar = unpacked(blob, compression)
    assert layer.descriptor.digest == Digest.of(blob)
    assert layer.descriptor.size == len(blob)
    assert layer.descriptor.media_type == compression.media_type
    assert layer.diff_id == Digest.of(tar)
    assert layer.uncompressed_size == len(tar)


def test_the_diff_id_does_not_depend_on_the_compression() -> None:
    assert len({written(EXAMPLE, c)[1].diff_id for c in METHODS}) == 1


def test_bytes_stay_the_same_from_release_to_release() -> None:
    # A change here changes the digest of every layer ever made: it needs another identity, or RECIPE_VERSION raised.
    assert {c.method: written(EXAMPLE, c)[1].descriptor.digest.short for c in METHODS} == GOLDEN


GOLDEN = {
    "zstd:chunked": "8f53a5786102",
    "zstd": "bf9e9c25f40b",
    "gzip": "0b1b898fe248",
    "uncompressed": "5f197ccee03e",
}


@pytest.mark.parametrize(
    ("method", "level", "digest"),
    [
        ("zstd", "1", "792be551c601"),
        ("zstd", "3", "a06d99e9d0de"),
        ("zstd", "9", "d04c5b5ab9d9"),
        ("zstd", "19", "979e8fb4f9e0"),
        ("gzip", "1", "f6078880e181"),
        ("gzip", "9", "8fedc396700a"),
        ("zstd:chunked", "9", "b8b114b9e1cd"),
    ],
)
def test_bytes_of_other_levels_stay_the_same(method: str, level: str, digest: str) -> None:
    assert written(EXAMPLE, compression_of(method, level))[1].descriptor.digest.short == digest


@pytest.mark.parametrize("compression", METHODS, ids=lambda c: c.method)
def test_tarfile_reads_every_field(compression: Compression) -> None:
    found = members(unpacked(written(EXAMPLE, compression)[0], compression))
    assert [m.name for m, _ in found] == [e.path for e in EXAMPLE]
    by_name = {m.name: (m, data) for m, data in found}
    assert by_name["usr"][0].isdir()
    assert by_name["usr/bin/tool"][1] == b"#!/bin/sh\n" * 200
    assert (by_name["usr/bin/link"][0].issym(), by_name["usr/bin/link"][0].linkname) == (True, "../lib/x")
    assert (by_name["usr/bin/same"][0].islnk(), by_name["usr/bin/same"][0].linkname) == (True, "usr/bin/tool")
    owned = by_name["usr/owned"][0]
    assert (owned.mode, owned.uid, owned.gid, owned.mtime) == (0o4711, 1000, 3_000_000, 1_700_000_000)
    assert (owned.uname, owned.gname) == ("", "")
    assert by_name["usr/lib.so"][1] == b"library " * 7500
    assert by_name["usr/empty"][0].mtime == EPOCH


component = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=120)
component = component.filter(lambda c: c not in {".", ".."})
paths = st.lists(component, min_size=1, max_size=5).map("/".join)


@given(st.dictionaries(paths, st.binary(max_size=2000), max_size=6))
def test_any_clean_path_and_content_comes_back(files: dict[str, bytes]) -> None:
    found = members(written([file_entry(path, data) for path, data in files.items()])[0])
    assert [(m.name, data) for m, data in found] == list(files.items())


@given(paths, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=300))
def test_any_link_target_comes_back(path: str, target: str) -> None:
    ((found, _),) = members(written([symlink_entry(path, target)])[0])
    assert (found.name, found.linkname) == (path, target)


@pytest.mark.parametrize("length", [99, 100, 101, 155, 156, 255, 256, 257, 3000])
@pytest.mark.parametrize("kind", [Kind.FILE, Kind.DIRECTORY])
def test_names_around_the_limits_of_ustar(length: int, kind: Kind) -> None:
    for step in (1, 50, 98, 99, 100, 101, 400):
        path = "".join("/" if i % (step + 1) == step else "n" for i in range(length))
        path = path[:-1] + "e" if path.endswith("/") else path
        ((found, _),) = members(written([Entry(path=path, kind=kind)])[0])
        assert (found.name, found.isdir()) == (path, kind is Kind.DIRECTORY)


def test_ordinary_names_need_one_block() -> None:
    assert len(header(file_entry("usr/local/lib/" + "d" * 90 + "/" + "f" * 100, b""))) == 512


def test_a_size_beyond_octal_is_written_as_pax() -> None:
    data = header(Entry(path="huge", size=1 << 40))
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as archive:
        first = archive.next()
    assert first is not None
    assert first.size == 1 << 40


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\0b", "a/\ud800"]
)
def test_paths_that_are_not_clean_are_refused(path: str) -> None:
    with pytest.raises(ArtifactError, match="layer: "):
        written([file_entry(path, b"")])
    with pytest.raises(ArtifactError, match="layer: "):
        written([Entry(path="ok", kind=Kind.HARDLINK, target=path)])


def test_a_path_given_twice_is_refused() -> None:
    with pytest.raises(ArtifactError, match="twice: 'a'"):
        written([file_entry("a", b"1"), file_entry("a", b"2")])


@pytest.mark.parametrize("compression", METHODS, ids=lambda c: c.method)
@pytest.mark.parametrize("wrong", [-1, 1])
@pytest.mark.parametrize("body", [Bytes(b"x" * 600), Deflated(b"x" * 600)])
def test_a_body_of_another_size_is_refused(compression: Compression, wrong: int, body: Bytes) -> None:
    entry = Entry(path="liar", size=600 + wrong, body=body)
    with pytest.raises(ArtifactError, match=r"'liar' has (more|fewer) bytes than the \d+ declared"):
        written([entry], compression)


def test_an_endless_body_is_stopped() -> None:
    class Endless:
        def chunks(self) -> Iterator[bytes]:
            while True:
                yield b"x" * 1000

    with pytest.raises(ArtifactError, match="more bytes"):
        written([Entry(path="endless", size=10, body=Endless())])


def test_only_files_have_content() -> None:
    with pytest.raises(ArtifactError, match="directory has no content"):
        written([replace(directory_entry("d"), size=3, body=Bytes(b"abc"))])
    with pytest.raises(ArtifactError, match="no content for 'f'"):
        written([Entry(path="f", size=3)])


@pytest.mark.parametrize(
    "entry",
    [Entry(path="f", mtime=-1), Entry(path="f", mode=0o10000), Entry(path="f", uid=-1), Entry(path="f", mtime=8**11)],
)
def test_fields_that_tar_cannot_hold_are_refused(entry: Entry) -> None:
    with pytest.raises(ArtifactError, match="out of range"):
        written([entry])


@dataclass(frozen=True)
class Cut:
    """Content cut at given places."""

    data: bytes
    cuts: tuple[int, ...]

    def chunks(self) -> Iterator[bytes]:
        places = [0, *sorted(c % (len(self.data) + 1) for c in self.cuts), len(self.data)]
        for start, end in pairwise(places):
            yield self.data[start:end]


NOISE = b"".join(bytes([i * i % 251, i % 7]) * (i % 50) for i in range(20_000))


@functools.cache
def noise_layer(compression: Compression) -> Layer:
    return written([Entry(path="noise", size=len(NOISE), body=Bytes(NOISE))], compression)[1]


@settings(max_examples=20)
@given(st.lists(st.integers(0, len(NOISE)), max_size=40).map(tuple))
def test_the_bytes_do_not_depend_on_how_content_is_cut(cuts: tuple[int, ...]) -> None:
    cut = Entry(path="noise", size=len(NOISE), body=Cut(NOISE, cuts))
    for compression in METHODS:
        assert written([cut], compression)[1] == noise_layer(compression)


def test_gzip_copies_deflate_streams_unchanged() -> None:
    body = Deflated(NOISE, 1000)
    blob, _ = written([file_entry("before", b"b"), Entry(path="noise", size=len(NOISE), body=body)], GZIP)
    trailer = body.crc32.to_bytes(4, "little") + len(NOISE).to_bytes(4, "little")
    assert body.stream + trailer in blob


def test_gzip_compresses_what_is_not_deflated_yet() -> None:
    blob, layer = written([file_entry("text", b"all work and no play " * 100_000)], GZIP)
    assert len(blob) < layer.uncompressed_size / 50


def test_progress_adds_up_to_the_tar() -> None:
    counts: list[int] = []
    entries = [file_entry(f"f{i}", NOISE) for i in range(9)]
    layer = write_layer(entries, io.BytesIO(), compression=ZSTD, on_bytes=counts.append)
    assert sum(counts) == layer.uncompressed_size
    assert len(counts) > 3


def test_the_identity_names_the_library_that_compressed() -> None:
    assert ".".join(map(str, zstandard.ZSTD_VERSION)) in ZSTD.identity
    assert len({c.identity for c in METHODS}) == len(METHODS)
