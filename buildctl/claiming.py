"""`buildctl claims`: look into torch's locked wheel, in the store or a few pieces of it at the index, without importing
it, and keep what was found in images/NAME/claims.ARCH.json.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from buildctl.archlist import architectures
from buildctl.artifacts.store import Store
from buildctl.artifacts.wheels.zip import read_zip
from buildctl.claims import Claims, WheelFacts, claims_of, claims_path, format_claims, read_claims
from buildctl.console.log import say
from buildctl.ground.errors import ArtifactError, BuildctlError, FetchError, LockError
from buildctl.lock import LockedWheel, WheelLock, read_wheel_lock
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.files import write_whole

VERSION = "torch/version.py"
PYTHON_LIBRARY = re.compile(r"torch/lib/libtorch_python\.(so|dylib)")
CPU_LIBRARY = "torch/lib/libtorch_cpu.dylib"
_HEADER = 1 << 16  # the load commands of a library are in its first pages
_METAL = b"/System/Library/Frameworks/Metal.framework/"
_TIMEOUT = 60.0
_BLOCK = 1 << 20

Read = Callable[[str], Iterator[bytes]]


def wheel_facts(wheel: LockedWheel, names: Iterable[str], read: Read) -> WheelFacts:
    """From the members of torch's wheel. Raises ArtifactError when they are not there or say nothing."""
    return torch_facts(wheel.filename, names, read, wheel=str(wheel.digest))


def torch_facts(label: str, names: Iterable[str], read: Read, *, wheel: str = "") -> WheelFacts:
    """The same from files under these names, relative to where torch is installed; `label` says where in errors."""
    names = set(names)
    if VERSION not in names:
        raise ArtifactError(f"{label} has no {VERSION}")
    said = assignments(b"".join(read(VERSION)), f"{label}: {VERSION}")
    if not said.get("__version__"):
        raise ArtifactError(f"{label}: {VERSION} gives no __version__")
    library = next((name for name in sorted(names) if PYTHON_LIBRARY.fullmatch(name)), None)
    if library is None:
        raise ArtifactError(f"{label} has no libtorch_python")
    cuda = said.get("cuda")
    flags = architectures(read(library), f"{label}: {library}") if cuda else ()
    return WheelFacts(
        wheel=wheel,
        torch=str(said["__version__"]),
        cuda=cuda,
        gpu_architectures=tuple(f for f in flags if f.startswith("sm_")),
        ptx=tuple(f for f in flags if f.startswith("compute_")),
        mps=CPU_LIBRARY in names and links_to_metal(_start(read(CPU_LIBRARY))),
        hip=said.get("hip"),
        sycl=said.get("xpu"),
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
        wanted = min(len(buffer), self.size - self.at)
        if wanted <= 0:
            return 0
        headers = {"Range": f"bytes={self.at}-{self.at + wanted - 1}", "Accept-Encoding": "identity"}
        answer = self.session.get(self.url, headers=headers, timeout=_TIMEOUT)
        if answer.status_code != 206 or len(answer.content) != wanted:
            raise OSError(f"the server gives no ranges (HTTP {answer.status_code})")
        buffer[:wanted] = answer.content
        self.at += wanted
        self.fetched += wanted
        return wanted


@lru_cache(maxsize=64)
def facts_from_index(cell: Cell, wheel: LockedWheel) -> WheelFacts:
    """By a few range requests. What is read so is checked by the zip's CRCs only; the build checks the wheel's hash.

    Once in a process: a lock is compared with the wheel before it is written, the claims are written after it. Raises
    FetchError.
    """
    from buildctl.ground.net import redact  # noqa: PLC0415
    from buildctl.index import with_credentials  # noqa: PLC0415
    from buildctl.resolve import index_of, locate  # noqa: PLC0415

    say(f"looking into {wheel.filename} at the index")
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
    except (OSError, zipfile.BadZipFile) as error:  # requests' exceptions are OSErrors
        raise FetchError(
            f"{wheel.filename} cannot be read in pieces: {redact(str(error))}",
            hint="`buildctl build` fetches the whole wheel; then run `buildctl claims` again",
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    path: Path
    claims: Claims
    changed: bool
    origin: str


def derive(project: Project, cell: Cell, store: Store, *, again: bool = True, lock: WheelLock | None = None) -> Derived:
    """The claims of a cell as its lock has them now, or `lock`, which is not written yet. Without `again`, a wheel that
    the file is about already is not looked into, and one that the index does not give in pieces leaves what is inside
    it unclaimed.
    """
    lock = lock or read_wheel_lock(project.wheel_lock(cell.name, cell.arch))
    path = claims_path(project.images, cell.name, cell.arch)
    old: Claims | None = None
    with contextlib.suppress(LockError):
        old = read_claims(path)
    wheel = lock.wheel("torch")
    if wheel is None:
        raise LockError(f"{cell.id}: the lock holds no torch", hint=f"buildctl lock {cell.name}")
    facts, origin = _facts(cell, wheel, old, store) if again else _quick_facts(cell, wheel, old, store)
    claims = claims_of(cell, lock, facts)
    same = path.exists() and path.read_bytes() == format_claims(claims)
    return Derived(path=path, claims=claims, changed=not same, origin=origin)


def _facts(cell: Cell, wheel: LockedWheel, old: Claims | None, store: Store) -> tuple[WheelFacts, str]:
    if path := store.artifact(wheel.digest):
        return facts_from_file(wheel, path), "the wheel in the store"
    if old is not None and old.facts is not None and old.facts.wheel == str(wheel.digest):
        return old.facts, "an earlier look into the same wheel"
    return facts_from_index(cell, wheel), "pieces of the wheel at the index"


def _quick_facts(cell: Cell, wheel: LockedWheel, old: Claims | None, store: Store) -> tuple[WheelFacts | None, str]:
    if old is not None and old.facts is not None and old.facts.wheel == str(wheel.digest):
        return old.facts, "an earlier look into the same wheel"
    try:
        return _facts(cell, wheel, old, store)
    except FetchError as error:
        say(f"{error.message}\n{cell.id}: what is inside torch's wheel is not claimed yet ({error.hint})")
        return None, "the lock alone"


def write_claims(project: Project, cells: Sequence[Cell], store: Store, *, again: bool = True) -> Iterator[str]:
    """One line for each file, written where it differs; flavours share one. `again`: see `derive`."""
    for cell in {(c.name, c.arch): c for c in cells}.values():
        derived = derive(project, cell, store, again=again)
        shown = project.shown(derived.path)
        if not derived.changed:
            yield f"{shown} is up to date"
            continue
        write_whole(derived.path, format_claims(derived.claims))
        yield f"{shown} written, from {derived.origin}"


def check_claims(project: Project, cells: Sequence[Cell], store: Store) -> int:
    """How many files were checked. Raises LockError that lists all that differ from what the wheels say."""
    problems, count = [], 0
    for cell in {(c.name, c.arch): c for c in cells}.values():
        count += 1
        path = claims_path(project.images, cell.name, cell.arch)
        try:
            written = read_claims(path)
            derived = derive(project, cell, store).claims
            problems += [f"{project.shown(path)}: {line}" for line in differences(derived, written)]
        except BuildctlError as error:
            problems.append(error.message)
    if problems:
        raise LockError(
            f"{len(problems)} claims differ from the locked wheels:\n  " + "\n  ".join(problems),
            hint="run `buildctl claims`, look at the difference, and commit it",
        )
    return count


def stale_claims(project: Project, cells: Sequence[Cell]) -> list[tuple[Path, str]]:
    """Path and reason of every file of claims that is missing, malformed, or not what matrix and lock say.

    Looks into no wheel: what a file says about the inside of the locked one is taken as it is.
    """
    found = []
    for cell in {(c.name, c.arch): c for c in cells}.values():
        path = claims_path(project.images, cell.name, cell.arch)
        if reason := _claims_problem(project, cell, path):
            found.append((path, reason))
    return found


def _claims_problem(project: Project, cell: Cell, path: Path) -> str | None:
    try:
        lock, written = read_wheel_lock(project.wheel_lock(cell.name, cell.arch)), read_claims(path)
        torch = lock.wheel("torch")
        about = written.facts is not None and torch is not None and written.facts.wheel == str(torch.digest)
        lines = differences(claims_of(cell, lock, written.facts if about else None), written)
    except LockError as error:
        return error.message.removeprefix(str(path)).lstrip(": ")
    return "; ".join(lines[:3]) or None


def differences(derived: Claims, written: Claims) -> list[str]:
    """`cuda: the wheels say 12.4, the file says 12.5`, one line a claim."""
    left, right = derived.to_json(), written.to_json()
    return [
        f"{key}: the wheels say {left.get(key)}, the file says {right.get(key)}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]
