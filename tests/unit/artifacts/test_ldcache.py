from __future__ import annotations

import posixpath
import struct

import pytest

from buildctl.artifacts.debian.ldcache import (
    HEADER,
    MAGIC,
    RECORD,
    CachedLibrary,
    cache,
    is_library,
    libraries,
    soname,
    sort_key,
)
from buildctl.ground.errors import ArtifactError
from buildctl.matrix.arch import ARCHES
from buildctl.oci.entry import Entry, file_entry, symlink_entry

FOLDER = "usr/lib/x86_64-linux-gnu"


def elf(name: str | None, *, machine: int = 62) -> bytes:
    """A shared object of one loadable segment with a dynamic section, its addresses 0x1000 above its offsets."""
    strings = b"\0" + (name or "").encode() + b"\0"
    tags = [(5, 0x1000 + 176 + 48)] + ([(14, 1)] if name else []) + [(0, 0)] * (1 if name else 2)
    dynamic = b"".join(struct.pack("<qQ", *tag) for tag in tags)
    total = 176 + len(dynamic) + len(strings)
    segments = struct.pack("<IIQQQQQQ", 1, 4, 0, 0x1000, 0, total, total, 0)
    segments += struct.pack("<IIQQQQQQ", 2, 4, 176, 0x1000 + 176, 0, len(dynamic), len(dynamic), 0)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    return head + segments + dynamic + strings


def parsed(data: bytes) -> list[tuple[str, str, int]]:
    assert data.startswith(MAGIC)
    count, length = struct.unpack_from("<II", data, 20)

    def text(offset: int) -> str:
        return data[offset : data.index(b"\0", offset)].decode()

    records = [RECORD.unpack_from(data, HEADER + i * RECORD.size) for i in range(count)]
    assert all(HEADER + count * RECORD.size <= r[1] < HEADER + count * RECORD.size + length for r in records)
    return [(text(key), text(value), flags) for flags, key, value, _, _ in records]


def test_names_in_the_loaders_order() -> None:
    """It searches in halves, so the order is part of the format: descending, numbers by value and above letters."""
    names = [
        "libz.so.1",
        "libssl.so.3",
        "libssl.so.10",
        "libssl.so.9",
        "lib_a.so",
        "libc.so.6",
        "libc++.so.1",
        "lib1.so",
    ]
    out = [key for key, _, _ in parsed(cache("amd64", [CachedLibrary(n, f"/lib/{n}") for n in names]))]
    assert out == [
        "lib1.so",
        "libz.so.1",
        "libssl.so.10",
        "libssl.so.9",
        "libssl.so.3",
        "libc.so.6",
        "libc++.so.1",
        "lib_a.so",
    ]
    assert sort_key("a10") > sort_key("a9") > sort_key("aa")


def test_the_cache_reads_back() -> None:
    found = [CachedLibrary("libb.so", "/lib/libb.so"), CachedLibrary("liba.so.1", "/elsewhere/other")]
    assert parsed(cache("arm64", found)) == [
        ("libb.so", "/lib/libb.so", 0x0A03),
        ("liba.so.1", "/elsewhere/other", 0x0A03),
    ]
    assert cache("arm64", found) == cache("arm64", found[::-1])
    assert parsed(cache("amd64", found))[0][2] == ARCHES["amd64"].cache_flags == 0x0303


def test_which_files_count() -> None:
    tree: dict[str, Entry] = {}
    for name, data in {
        "libz.so.1.3": elf("libz.so.1"),
        "libplain.so": elf(None),
        "libforeign.so.1": elf("libforeign.so.1", machine=183),
        "libscript.so": b"/* GNU ld script */",
        "libgone.so.1.0": elf("libgone.so.1"),  # ldconfig would make the link; without it nothing can be found
        "notalib.so": elf("notalib.so"),
    }.items():
        tree[f"{FOLDER}/{name}"] = file_entry(f"{FOLDER}/{name}", data)
    for name, target in {
        "libz.so.1": "libz.so.1.3",
        "libz.so": "libz.so.1",
        "libz.so.1.x": "libz.so.1.3",
        "libloop.so": "libloop.so",
        "libaway.so": "/etc/passwd",
        "../libz.so.1": "x86_64-linux-gnu/libz.so.1.3",  # as the loader of arm64 is in /lib as well
    }.items():
        path = posixpath.normpath(f"{FOLDER}/{name}")
        tree[path] = symlink_entry(path, target)
    read = lambda entry: b"".join(entry.body.chunks())  # noqa: E731
    found = libraries("amd64", tree, read)
    assert [lib.path for lib in found] == [
        "/lib/x86_64-linux-gnu/libplain.so",
        "/lib/x86_64-linux-gnu/libz.so",
        "/lib/x86_64-linux-gnu/libz.so.1",
        "/lib/libz.so.1",
    ]
    assert [path for _, path, _ in parsed(cache("amd64", found))][:2] == [
        "/lib/x86_64-linux-gnu/libz.so.1",
        "/lib/libz.so.1",
    ]


def test_the_soname() -> None:
    assert soname(elf("libx.so.2")) == "libx.so.2"
    assert soname(elf(None)) is None
    assert is_library(elf("a"), 62)
    assert not is_library(elf("a"), 183)
    assert not is_library(b"\x7fELF", 62)
    for length in (100, 180, 230):
        with pytest.raises(ArtifactError, match="damaged ELF"):
            soname(elf("libx.so.2")[:length])
