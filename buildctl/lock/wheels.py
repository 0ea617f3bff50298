"""The wheel lock of an image name on an architecture: files that a person reviews and that pip and uv accept as
hash-checked requirements. They pin what, never where from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from buildctl.console.log import say
from buildctl.ground.clock import now, seconds_of, written
from buildctl.ground.errors import LockError, ResolveError, SourceError
from buildctl.ground.net import new_session, redact
from buildctl.lock.index import with_credentials
from buildctl.lock.refusal.outdated import refuse_outdated
from buildctl.lock.torch_build import check_build, declared_build
from buildctl.lock.uv import Found, index_of, resolve
from buildctl.matrix.cells import Cell
from buildctl.oci.digest import Digest
from buildctl.oci.files import write_whole
from buildctl.oci.image import canonical_json

_FORMAT = 1
_TITLE = "# Written by `buildctl lock`. pip and uv read it as requirements with hashes; above each: its file and size."
_HEADER = re.compile(r"# (name|platform|python|inputs|newest|wheels): (\S+)")
_FILE = re.compile(r"# (\S+\.whl) ([1-9][0-9]{0,14})")
_PIN = re.compile(r"([a-z0-9][a-z0-9-]*)==(\S+) --hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedWheel:
    """`name` is normalised (PEP 503), `size` in bytes."""

    name: str
    version: str
    filename: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelLock:
    """All wheels of an image name on a platform, sorted by name; `inputs` is the digest of what they follow from.

    `newest` is when the last of them was uploaded, in seconds since 1970; 0 if the index does not tell.
    """

    name: str
    platform: str
    python: str
    inputs: Digest
    wheels: tuple[LockedWheel, ...]
    newest: int = 0

    @property
    def arch(self) -> str:
        return self.platform.partition("/")[2]

    def wheel(self, name: str) -> LockedWheel | None:
        return next((wheel for wheel in self.wheels if wheel.name == canonicalize_name(name)), None)


def inputs_of(cell: Cell) -> Digest:
    """Over everything in the matrix that the resolution depends on."""
    value = {
        "format": _FORMAT,
        "platform": cell.platform,
        "python": cell.python,
        "requirements": list(cell.requirements),
        "index": cell.accelerator.index,
    }
    return Digest.of(canonical_json(value))


def is_stale(cell: Cell, lock: WheelLock) -> str | None:
    """Why the lock no longer matches the matrix; None if it does."""
    if (lock.name, lock.platform) != (cell.name, cell.platform):
        return f"it is for {lock.name} on {lock.platform}"
    if lock.python != cell.python:
        return f"it is for Python {lock.python}, the matrix has {cell.python}"
    for text in cell.requirements:
        requirement = Requirement(text)
        wheel = lock.wheel(requirement.name)
        if wheel is None:
            return f"the matrix asks for {text}, which the lock lacks"
        if not requirement.specifier.contains(wheel.version, prereleases=True):
            return f"the matrix asks for {text}, the lock has {wheel.version}"
    if lock.inputs != inputs_of(cell):
        return "matrix.yaml changed after it was written (packages or index)"
    return None


def resolve_wheels(
    cell: Cell, *, keep: WheelLock | None = None, glibc: tuple[int, int] | None = None, links: Path | None = None
) -> WheelLock:
    """Resolve with uv for the cell's own platform, keeping the versions in `keep` if possible. `glibc` is the base's,
    None if unknown; `links` a folder of further wheels.

    Raises LockError: no solution, an index that fails or has no SHA-256, or wheels that contradict the name.
    """
    kept = [(wheel.name, wheel.version) for wheel in keep.wheels] if keep else []
    with index_of(cell.accelerator) as index:
        found = resolve(
            cell.requirements,
            python=cell.python,
            platform=cell.platform,
            index=index,
            keep=kept,
            glibc=glibc,
            links=links,
        )
    for note in refuse_outdated(cell, found, now=now(), kept=kept, glibc=glibc):
        say(f"note: {note}")
    wheels = tuple(_locked(wheel, cell.accelerator.index) for wheel in found)
    refuse_another_build(cell, wheels)
    return WheelLock(
        name=cell.name,
        platform=cell.platform,
        python=cell.python,
        inputs=inputs_of(cell),
        wheels=wheels,
        newest=max((int(one.uploaded.timestamp()) for one in found if one.uploaded), default=0),
    )


def _locked(found: Found, index: str | None) -> LockedWheel:
    what = f"{found.name}=={found.version}"
    if found.digest is None:
        raise ResolveError(f"{what}: the index has no SHA-256", hint="use an index that does (PEP 503 or PEP 691)")
    size = found.size if found.size is not None else size_at(found.url, what, index)
    return LockedWheel(name=found.name, version=found.version, filename=found.filename, size=size, digest=found.digest)


def size_at(url: str, what: str, index: str | None) -> int:
    """In bytes, from the server, for indexes whose pages do not say (PEP 503). Raises LockError."""
    if url.startswith("file:"):
        return Path(unquote(urlsplit(url).path)).stat().st_size
    try:
        with new_session() as session:
            answer = session.head(with_credentials(url, index), allow_redirects=True, timeout=60)
        answer.raise_for_status()
        return int(answer.headers["Content-Length"])
    except (OSError, KeyError, ValueError) as error:  # requests' exceptions are OSErrors
        raise SourceError(f"{what}: cannot find out its size: {redact(str(error))}") from error


def refuse_another_build(cell: Cell, wheels: Iterable[LockedWheel]) -> None:
    """Compares torch's own version with the accelerator's claims; what is inside its wheel is compared later.

    Raises LockError.
    """
    versions = {wheel.name: wheel.version for wheel in wheels}
    if "torch" not in versions:
        raise ResolveError(f"{cell.name}-{cell.arch}: no torch among the resolved wheels")
    if (build := declared_build(cell, versions)) is not None:
        check_build(cell, versions, build)


def format_wheel_lock(lock: WheelLock) -> str:
    lines = [
        _TITLE,
        f"# name: {lock.name}",
        f"# platform: {lock.platform}",
        f"# python: {lock.python}",
        f"# inputs: {lock.inputs}",
        *([f"# newest: {written(lock.newest)}"] if lock.newest else []),
        f"# wheels: {len(lock.wheels)}",
    ]
    for wheel in lock.wheels:
        lines += ["", f"# {wheel.filename} {wheel.size}", f"{wheel.name}=={wheel.version} --hash={wheel.digest}"]
    return "\n".join(lines) + "\n"


def write_wheel_lock(path: Path, lock: WheelLock) -> None:
    """In one step: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, format_wheel_lock(lock).encode())


def read_wheel_lock(path: Path) -> WheelLock:
    """Raises LockError, with file and line, for anything that `format_wheel_lock` would not write."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise LockError(f"{path} does not exist", hint="run `buildctl lock`") from error
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"cannot read {path}: {error}") from error
    return parse_wheel_lock(text, str(path))


def parse_wheel_lock(text: str, source: str) -> WheelLock:
    """As `read_wheel_lock`, from text; `source` names it in messages."""
    header: dict[str, str] = {}
    wheels: list[LockedWheel] = []
    file: tuple[str, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{source}:{number}"
        if not line or (number == 1 and line == _TITLE):
            continue
        if not wheels and file is None and (match := _HEADER.fullmatch(line)):
            if match[1] in header:
                raise _malformed(where, f"{match[1]} is given twice")
            header[match[1]] = match[2]
        elif file is None and (match := _FILE.fullmatch(line)):
            file = (match[1], int(match[2]))
        elif file is not None and (match := _PIN.fullmatch(line)):
            wheels.append(_read_wheel(where, match, file))
            if len(wheels) > 1 and wheels[-2].name >= wheels[-1].name:
                raise _malformed(where, f"{wheels[-1].name} is listed twice or out of order")
            file = None
        else:
            raise _malformed(where, f"unexpected: {line[:80]!r}")
    return _read_header(source, header, wheels, open_file=file is not None)


def _read_header(source: str, header: dict[str, str], wheels: list[LockedWheel], *, open_file: bool) -> WheelLock:
    if missing := [key for key in ("name", "platform", "python", "inputs", "wheels") if key not in header]:
        raise _malformed(source, f"the header lacks {', '.join(missing)}")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", header["inputs"]):
        raise _malformed(source, "inputs is not a sha256 digest")
    if open_file or header["wheels"] != str(len(wheels)):
        raise _malformed(source, f"its header has {header['wheels']} wheels, the file {len(wheels)}")
    return WheelLock(
        name=header["name"],
        platform=header["platform"],
        python=header["python"],
        inputs=Digest.parse(header["inputs"]),
        wheels=tuple(wheels),
        newest=_read_newest(source, header),
    )


def _read_newest(source: str, header: dict[str, str]) -> int:
    """Locks of an earlier buildctl have none."""
    try:
        return seconds_of(header["newest"]) if "newest" in header else 0
    except ValueError as error:
        raise _malformed(source, f"newest is not a time: {header['newest']!r}") from error


def _read_wheel(where: str, pin: re.Match[str], file: tuple[str, int]) -> LockedWheel:
    filename, size = file
    try:
        name, version, _, _ = parse_wheel_filename(filename)
        same = name == pin[1] and version == Version(pin[2])
    except (InvalidWheelFilename, InvalidVersion) as error:
        raise _malformed(where, str(error)) from error
    if not same:
        raise _malformed(where, f"{filename} is not {pin[1]}=={pin[2]}")
    return LockedWheel(name=pin[1], version=pin[2], filename=filename, size=size, digest=Digest(pin[3]))


def _malformed(where: str, what: str) -> LockError:
    return LockError(f"{where}: {what}", hint="do not edit locks by hand; `buildctl lock` writes them")


def changes(old: WheelLock | None, new: WheelLock) -> tuple[str, ...]:
    """What differs, one line per package, for people."""
    before = {wheel.name: wheel for wheel in old.wheels} if old else {}
    after = {wheel.name: wheel for wheel in new.wheels}
    out: list[str] = []
    for name in sorted(before | after):
        match before.get(name), after.get(name):
            case None, LockedWheel() as wheel:
                out.append(f"+ {name} {wheel.version}")
            case LockedWheel() as wheel, None:
                out.append(f"- {name} {wheel.version}")
            case LockedWheel() as was, LockedWheel() as now if was.version != now.version:
                out.append(f"~ {name} {was.version} -> {now.version}")
            case LockedWheel() as was, LockedWheel() as now if was != now:
                out.append(f"~ {name} {now.version}: another file ({now.filename})")
    return tuple(out)
