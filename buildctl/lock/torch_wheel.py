"""`buildctl claims`: read torch's locked wheel, from the store or a few parts of it from the index, without importing
it, and keep the result in images/NAME/claims.ARCH.json.
"""

from __future__ import annotations

import ast
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from buildctl.artifacts.wheels.zip import read_zip
from buildctl.console.log import say
from buildctl.ground.errors import ArtifactError, FetchError
from buildctl.lock.claims import WheelFacts
from buildctl.lock.wheels import LockedWheel
from buildctl.matrix.accelerators import kind_of, versions_in
from buildctl.matrix.cells import Cell

VERSION = "torch/version.py"
PYTHON_LIBRARY = re.compile(r"torch/lib/libtorch_python\.(so|dylib)")
CPU_LIBRARY = "torch/lib/libtorch_cpu.dylib"
_HEADER = 1 << 16  # the load commands of a library are in its first pages
_METAL = b"/System/Library/Frameworks/Metal.framework/"
_TIMEOUT = 60.0
_BLOCK = 1 << 20
# what requests (an OSError) and zipfile raise for what a server may send in place of a wheel
_UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError)
_WORD = rb"(?:sm|compute)_\d{1,4}[af]?"
# Only the end is marked, by NUL. The string may follow anything: after merging constants, linkers leave no NUL between
# it and a constant that has none (torch 2.8.0 and 2.9: `std::string ipc_hsm_70 sm_75`).
_RUN = re.compile(rb"%s(?: %s)*" % (_WORD, _WORD))
_LONGEST = 4096
_SHOWN = 3

Read = Callable[[str], Iterator[bytes]]


def wheel_facts(wheel: LockedWheel, names: Iterable[str], read: Read) -> WheelFacts:
    """From the members of torch's wheel. Raises ArtifactError if they are missing or incomplete."""
    return torch_facts(wheel.filename, names, read, wheel=str(wheel.digest))


def torch_facts(label: str, names: Iterable[str], read: Read, *, wheel: str = "") -> WheelFacts:
    """The same from files under these names, relative to where torch is installed; `label` is the place in errors."""
    names = set(names)
    if VERSION not in names:
        raise ArtifactError(f"{label} has no {VERSION}")
    said = assignments(b"".join(read(VERSION)), f"{label}: {VERSION}")
    if not said.get("__version__"):
        raise ArtifactError(f"{label}: {VERSION} has no __version__")
    library = next((name for name in sorted(names) if PYTHON_LIBRARY.fullmatch(name)), None)
    if library is None:
        raise ArtifactError(f"{label} has no libtorch_python")
    versions = versions_in(said)
    flags = architectures(read(library), f"{label}: {library}") if kind_of(versions).architectures else ()
    return WheelFacts(
        wheel=wheel,
        torch=str(said["__version__"]),
        said=versions,
        gpu_architectures=tuple(f for f in flags if f.startswith("sm_")),
        ptx=tuple(f for f in flags if f.startswith("compute_")),
        mps=CPU_LIBRARY in names and links_to_metal(_start(read(CPU_LIBRARY))),
    )


def assignments(source: bytes, label: str) -> dict[str, str | None]:
    """`NAME = 'text'` and `NAME: Optional[str] = None` at the top of a Python file, without running it.

    Raises ArtifactError for what is not Python.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ArtifactError(f"{label} is not Python: {error}") from error
    found: dict[str, str | None] = {}
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str() | None as value)):
                found[name] = value or None
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str() | None as value)):
                found[name] = value or None
    return found


def links_to_metal(header: bytes) -> bool:
    """Whether a Mach-O library's load commands name Apple's Metal framework (mach-o/loader.h, LC_LOAD_DYLIB)."""
    if header[:4] != b"\xcf\xfa\xed\xfe":  # 64-bit, little-endian
        return False
    count, size = struct.unpack_from("<2I", header, 16)
    at, end = 32, min(32 + size, len(header))
    for _ in range(count):
        if at + 8 > end:
            return False
        command, length = struct.unpack_from("<2I", header, at)
        weak = {0xC, 0x80000018, 0x8000001F}  # LC_LOAD_DYLIB, LC_LOAD_WEAK_DYLIB, LC_REEXPORT_DYLIB
        if command in weak and at + 12 <= end:
            (name,) = struct.unpack_from("<I", header, at + 8)  # where in the command it starts
            if header[at + name : at + length].startswith(_METAL):
                return True
        at += max(8, length)
    return False


def _start(chunks: Iterator[bytes]) -> bytes:
    data = b""
    for chunk in chunks:
        data += chunk
        if len(data) >= _HEADER:
            break
    return data[:_HEADER]


def facts_from_file(wheel: LockedWheel, path: Path) -> WheelFacts:
    members = {member.name: member for member in read_zip(path, label=wheel.filename)}
    return wheel_facts(wheel, members, lambda name: members[name].chunks())


class RangedFile(io.RawIOBase):
    """A file at a URL, of known size, read in pieces: the few members wanted of a wheel of 0.8 GB are 10 MB."""

    def __init__(self, url: str, size: int) -> None:
        from buildctl.ground.net import new_session  # noqa: PLC0415 - only here is there a network

        self.url, self.size, self.at = url, size, 0
        self.session = new_session()
        self.fetched = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + {0: 0, 1: self.at, 2: self.size}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        from buildctl.registry.bounded import EndlessError, read_body  # noqa: PLC0415 - only here is there a network

        wanted = min(len(buffer), self.size - self.at)
        if wanted <= 0:
            return 0
        headers = {"Range": f"bytes={self.at}-{self.at + wanted - 1}", "Accept-Encoding": "identity"}
        with self.session.get(self.url, headers=headers, timeout=_TIMEOUT, stream=True) as answer:
            if answer.status_code != 206:  # the whole wheel would follow
                raise OSError(f"the server does not support ranges (HTTP {answer.status_code})")
            try:
                data = read_body(answer, limit=wanted, seconds=_TIMEOUT)
            except EndlessError as error:
                raise OSError(str(error)) from error
        if len(data) != wanted:
            raise OSError(f"the server sent {len(data)} of {wanted} bytes")
        buffer[:wanted] = data
        self.at += wanted
        self.fetched += wanted
        return wanted


@lru_cache(maxsize=64)
def facts_from_index(cell: Cell, wheel: LockedWheel) -> WheelFacts:
    """By a few range requests. This checks only the zip's CRCs; the build checks the wheel's hash.

    Once in a process: a lock is compared with the wheel before it is written, the claims are written after it. Raises
    FetchError.
    """
    from buildctl.ground.net import redact  # noqa: PLC0415
    from buildctl.lock.index import with_credentials  # noqa: PLC0415
    from buildctl.lock.uv import index_of, locate  # noqa: PLC0415

    say(f"reading {wheel.filename} at the index")
    with index_of(cell.accelerator) as index:
        urls = locate([f"{wheel.name}=={wheel.version}"], python=cell.python, index=index)
    if wheel.digest not in urls:
        raise FetchError(f"the package index has no {wheel.filename} with this hash", hint="buildctl lock --upgrade")
    url = with_credentials(urls[wheel.digest], cell.accelerator.index)
    try:
        file = io.BufferedReader(RangedFile(url, wheel.size), _BLOCK)
        with zipfile.ZipFile(file) as archive:

            def read(name: str) -> Iterator[bytes]:
                with archive.open(name) as member:
                    while chunk := member.read(_BLOCK):
                        yield chunk

            return wheel_facts(wheel, archive.namelist(), read)
    except _UNREADABLE as error:
        raise FetchError(
            f"cannot read parts of {wheel.filename}: {redact(str(error))}",
            hint="run `buildctl build`, which downloads the whole wheel, then `buildctl claims`",
        ) from error


def architectures(chunks: Iterable[bytes], label: str) -> tuple[str, ...]:
    """The `sm_..` and `compute_..` words that libtorch_python was compiled for, in its order.

    torch/csrc/cuda/Module.cpp holds them as one C string, which torch._C._cuda_getArchFlags() returns: `sm_80 sm_90
    compute_90`. CMake writes every machine-code architecture (sm_) first, then the PTX ones (compute_), each once.

    One architecture alone is also a word that code uses, so a list of several counts before it. Raises ArtifactError
    if that leaves none or more than one, or if text before the list may have run into it.
    """
    runs = {words for run in _runs(chunks) if (words := _from_first_sm(run.decode().split(" ")))}
    found = {words for words in runs if len(words) > 1} or runs
    if len(found) != 1:
        said = "".join(f"\n  {' '.join(words)}" for words in sorted(found)[:_SHOWN])
        raise ArtifactError(f"{label}: {len(found)} lists of GPU architectures instead of one{said}")
    (words,) = found
    if list(words) != sorted(set(words), key=_order):
        raise ArtifactError(
            f"{label}: cannot separate the list of GPU architectures from the text before it: {' '.join(words)}",
            hint="a list has each architecture once, ascending, sm_ before compute_",
        )
    return words


def _runs(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        end = data.rfind(b"\0") + 1  # a string that is not over yet is looked at once, when it is
        yield from (run[0] for run in _RUN.finditer(data, 0, end) if data[run.end()] == 0)
        rest = data[end:][-_LONGEST:]


def _from_first_sm(words: list[str]) -> tuple[str, ...]:
    """The list starts with machine code; a `compute_` before that belongs to the text before it."""
    first = next((at for at, word in enumerate(words) if word.startswith("sm_")), len(words))
    return tuple(words[first:])


def _order(word: str) -> tuple[bool, int, str]:
    kind, _, number = word.partition("_")
    return kind == "compute", int(number.rstrip("af")), number
