"""What the shared libraries of a wheel export, want and need, read from their ELF files and kept in the store, in
libraries/, under the wheel's digest: reading torch takes seconds, asking again milliseconds.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import zstandard
from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from installer.utils import parse_metadata_file
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from buildctl.artifacts.sealed import sealed, unsealed
from buildctl.artifacts.store import Store
from buildctl.artifacts.wheels.zip import read_zip
from buildctl.artifacts.wheels.zip_member import ZipMember
from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.files import keep_whole

FORMAT = 1
_LIBRARY = re.compile(r".+\.so(\.\d+)*")
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym of the gABI: name, info, other, section, value, size
_MAX_METADATA = 64 << 20
_GLOBAL, _WEAK = 1, 2
_HIDDEN = {1, 2}  # visibility: internal and hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """`needed` are sonames. `wants` are undefined symbols that are neither weak nor bound to a version, `exports` all
    that others may use. `versioned` tells whether it names the versions of what it uses, as anything linked to glibc
    with usual tools does.
    """

    path: str
    soname: str
    needed: tuple[str, ...]
    wants: tuple[str, ...]
    exports: frozenset[str]
    versioned: bool

    @property
    def names(self) -> set[str]:
        """What others may need it by."""
        return {self.path.rpartition("/")[2], *filter(None, [self.soname])}


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelLibraries:
    """`torch` is what METADATA requires of torch: `torch==2.9.0`, empty if nothing."""

    filename: str
    torch: str
    libraries: tuple[Library, ...]


def libraries_of(store: Store, digest: Digest, filename: str) -> WheelLibraries | None:
    """Of a wheel that is in the store or was read before, else None. Raises ArtifactError for a broken wheel."""
    kept = store.root / "libraries" / digest.hex
    if (known := _read_kept(kept)) is not None:
        return known
    path = store.artifact(digest)
    if path is None:
        return None
    found = read_libraries(path, filename=filename, store=store)
    kept.parent.mkdir(parents=True, exist_ok=True)
    keep_whole(kept, zstandard.compress(sealed(kept.name, _to_json(found))))
    return found


def kept_libraries(store: Store) -> Iterator[WheelLibraries]:
    """Of all wheels that were ever read."""
    for path in sorted((store.root / "libraries").glob("*")):
        if (known := _read_kept(path)) is not None:
            yield known


def read_libraries(path: Path, *, filename: str, store: Store) -> WheelLibraries:
    """From the wheel itself. What is no ELF library of 64 bits, little-endian, is left out."""
    members = read_zip(path, label=filename)
    libraries = [_library(m, store) for m in members if _LIBRARY.fullmatch(m.name)]
    return WheelLibraries(
        filename=filename,
        torch=_required_torch({member.name: member for member in members}),
        libraries=tuple(library for library in libraries if library is not None),
    )


def _required_torch(members: Mapping[str, ZipMember]) -> str:
    name = next((n for n in members if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)), None)
    if name is None:
        return ""
    text = members[name].read(_MAX_METADATA).decode("utf-8", "replace")
    for line in parse_metadata_file(text).get_all("Requires-Dist") or ():
        try:
            requirement = Requirement(str(line))
        except InvalidRequirement:
            continue
        if canonicalize_name(requirement.name) == "torch" and requirement.specifier:
            return f"torch{requirement.specifier}"
    return ""


def _library(member: ZipMember, store: Store) -> Library | None:
    """Unpacked to a file, since the parts of an ELF file are all over it, and torch's have a gigabyte."""
    with store.temporary() as path, path.open("w+b") as file:
        for chunk in member.chunks():
            if file.tell() == 0 and chunk[:6] != b"\x7fELF\x02\x01":
                return None
            file.write(chunk)
        file.flush()
        try:
            return _parsed(member.name, file)
        except (ELFError, LayoutError, struct.error, ValueError, KeyError, IndexError, AssertionError, UnicodeError):
            return None  # no loader takes it either; what is inside is the wheel's own business


def _parsed(name: str, file: IO[bytes]) -> Library | None:
    elf = ELFFile(file)
    dynamic = elf.get_section_by_name(".dynamic")
    symbols, names = elf.get_section_by_name(".dynsym"), elf.get_section_by_name(".dynstr")
    if not isinstance(dynamic, DynamicSection) or symbols is None or names is None:
        return None
    versions = elf.get_section_by_name(".gnu.version")
    wants, exports = _symbols(symbols.data(), names.data(), versions.data() if versions else b"")
    tags: list[Any] = list(dynamic.iter_tags())  # soname and needed are set at run time
    return Library(
        path=name,
        soname=next((tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"), ""),
        needed=tuple(tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"),
        wants=tuple(sorted(wants)),
        exports=frozenset(exports),
        versioned=any(isinstance(section, GNUVerNeedSection) for section in elf.iter_sections()),
    )


def _symbols(table: bytes, names: bytes, versions: bytes) -> tuple[set[str], set[str]]:
    """(wanted, exported). Of a wanted symbol with a version the library is known that it comes from: not torch."""
    wants, exports = set[str](), set[str]()
    for number, (at, info, other, section, _, _) in enumerate(_SYMBOL.iter_unpack(table)):
        binding = info >> 4
        if binding not in {_GLOBAL, _WEAK, 10} or not at:  # 10: STB_GNU_UNIQUE
            continue
        name = names[at : names.index(b"\0", at)].decode()
        if section:
            if other & 3 not in _HIDDEN:
                exports.add(name)
        elif binding == _GLOBAL and _version(versions, number) < 2:  # 0 and 1 are no version
            wants.add(name)
    return wants, exports


def _version(versions: bytes, number: int) -> int:
    return struct.unpack_from("<H", versions, 2 * number)[0] & 0x7FFF if versions else 1


def _to_json(found: WheelLibraries) -> dict[str, Any]:
    libraries = [{**asdict(one), "exports": sorted(one.exports)} for one in found.libraries]
    return {"format": FORMAT, "filename": found.filename, "torch": found.torch, "libraries": libraries}


def _read_kept(path: Path) -> WheelLibraries | None:
    try:
        value = unsealed(path.name, zstandard.decompress(path.read_bytes()))
        if value is None or value["format"] != FORMAT:
            return None
        return WheelLibraries(
            filename=value["filename"], torch=value["torch"], libraries=tuple(map(_from_json, value["libraries"]))
        )
    except (OSError, ValueError, KeyError, TypeError, zstandard.ZstdError):
        return None  # absent, or written by another version: read the wheel again


def _from_json(value: Mapping[str, Any]) -> Library:
    lists = {key: tuple(value[key]) for key in ("needed", "wants")}
    return Library(**{**value, **lists, "exports": frozenset(value["exports"])})
