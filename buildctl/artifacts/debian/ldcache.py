"""/etc/ld.so.cache, as ldconfig would write it: glibc's new format (sysdeps/generic/dl-cache.h), little-endian.

The loader finds the multiarch folders without it. But `ldconfig -p` answers from it, and that is how ctypes and triton
look for libraries.
"""

from __future__ import annotations

import posixpath
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from buildctl.ground.errors import ArtifactError
from buildctl.matrix.arch import ARCHES
from buildctl.oci.entry import Entry, Kind

MAGIC = b"glibc-ld.so.cache1.1"
LITTLE_ENDIAN = 2
HEADER = 48
RECORD = struct.Struct("<iIIIQ")
EXTENSION_MAGIC = 0xEAA42174
GENERATOR = b"buildctl (glibc's cache format 1.1)"
DT_NULL, DT_STRTAB, DT_SONAME = 0, 5, 14
PT_LOAD, PT_DYNAMIC = 1, 2


@dataclass(frozen=True, slots=True, order=True)
class CachedLibrary:
    soname: str
    path: str


def cache(arch: str, libraries: Iterable[CachedLibrary]) -> bytes:
    """Paths are absolute. Of libraries with one name the loader takes the first, so their order counts."""
    flags = ARCHES[arch].cache_flags
    ordered = sorted(dict.fromkeys(libraries), key=lambda lib: sort_key(lib.soname), reverse=True)
    strings = bytearray()
    base = HEADER + RECORD.size * len(ordered)
    records = bytearray()
    for library in ordered:
        offsets = []
        # ldconfig points at the file name inside the path where both are the same
        path = base + len(strings)
        strings += library.path.encode() + b"\0"
        if library.path.endswith(f"/{library.soname}"):
            offsets = [path + len(library.path.encode()) - len(library.soname.encode()), path]
        else:
            offsets = [base + len(strings), path]
            strings += library.soname.encode() + b"\0"
        records += RECORD.pack(flags, *offsets, 0, 0)
    body = bytes(records + strings)
    padding = -(HEADER + len(body)) % 4
    extension = HEADER + len(body) + padding
    head = MAGIC + struct.pack("<IIB3xI12x", len(ordered), len(strings), LITTLE_ENDIAN, extension)
    section = struct.pack("<IIIIII", EXTENSION_MAGIC, 1, 0, 0, extension + 24, len(GENERATOR))
    return head + body + b"\0" * padding + section + GENERATOR


def sort_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """The order of _dl_cache_libcmp: runs of digits compare as numbers and come after any other character."""
    return tuple((1, int(m[1])) if m[1] else (0, m[2]) for m in re.finditer(r"([0-9]+)|(.)", name))


def libraries(arch: str, tree: Mapping[str, Entry], read: Callable[[Entry], bytes]) -> list[CachedLibrary]:
    """The shared libraries in the loader's default folders. `read` gives the content of a file.

    As with ldconfig, each counts by its SONAME, or its name if it has none; links for the linker (`libz.so`) by theirs.
    """
    multiarch, machine = ARCHES[arch].triplet, ARCHES[arch].elf
    found: dict[str, CachedLibrary] = {}  # by path
    for folder in (f"usr/lib/{multiarch}", "usr/lib"):
        for path in sorted(p for p in tree if p.rpartition("/")[0] == folder and re.search(r"/(lib|ld-)[^/]*\.so", p)):
            name, entry = path.rpartition("/")[2], _target(tree, path)
            data = read(entry) if entry is not None and entry.kind is Kind.FILE else b""
            if not is_library(data, machine):
                continue
            inside = soname(data) or name
            linker = tree[path].kind is Kind.SYMLINK and name.endswith(".so") and inside.startswith(name)
            name = name if linker else inside
            if f"{folder}/{name}" in tree:
                found.setdefault(f"{folder}/{name}", CachedLibrary(name, f"/{_shown(folder)}/{name}"))
    return list(found.values())


def _shown(folder: str) -> str:
    """Ldconfig searches /lib before /usr/lib and knows them to be the same; it writes the first."""
    return folder.removeprefix("usr/")


def _target(tree: Mapping[str, Entry], path: str) -> Entry | None:
    """What a path leads to, through symlinks: alternatives are absolute ones."""
    for _ in range(8):
        entry = tree.get(path)
        if entry is None or entry.kind is not Kind.SYMLINK:
            return entry
        path = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), entry.target)).removeprefix("/")
    return None


def is_library(data: bytes, machine: int) -> bool:
    """Whether it is a 64-bit little-endian ELF shared object for `machine`."""
    return len(data) >= 64 and data[:6] == b"\x7fELF\x02\x01" and struct.unpack_from("<HH", data, 16) == (3, machine)


def soname(data: bytes) -> str | None:
    """DT_SONAME of a shared object. Raises ArtifactError when its tables lead out of it."""
    offset, size, count = struct.unpack_from("<32xQ", data)[0], *struct.unpack_from("<54xHH", data)
    try:
        segments = [struct.unpack_from("<IIQQQQQQ", data, offset + i * size) for i in range(count)]
        tags: dict[int, int] = {}
        for start, length in ((s[2], s[5]) for s in segments if s[0] == PT_DYNAMIC):
            for position in range(start, start + length, 16):
                tag, value = struct.unpack_from("<qQ", data, position)
                if tag == DT_NULL:
                    break
                tags.setdefault(tag, value)
        if DT_SONAME not in tags or DT_STRTAB not in tags:
            return None
        load = next(s for s in segments if s[0] == PT_LOAD and s[3] <= tags[DT_STRTAB] < s[3] + s[5])
        start = load[2] + tags[DT_STRTAB] - load[3] + tags[DT_SONAME]
        return data[start : data.index(b"\0", start)].decode()
    except (struct.error, StopIteration, ValueError) as error:
        raise ArtifactError(f"a damaged ELF file: {error}") from error
