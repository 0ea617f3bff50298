"""The Debian half of the lock: every package of a base pinned by name, version, file, size and SHA-256.

apt itself resolves, in a private root, for any architecture on any machine: no root rights, no foreign packages on the
host, signatures of the archive checked. A lock names no host; `apt_sources` finds out where to fetch from.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from buildctl.artifacts.debian.deb822 import parse_stanzas
from buildctl.artifacts.debian.package import BaseLock, DebPackage
from buildctl.artifacts.debian.recorded import format_recorded, parse_recorded
from buildctl.ground.clock import seconds_of, written
from buildctl.ground.errors import ArtifactError, LockError
from buildctl.lock.apt_sources import ARCHIVES
from buildctl.matrix.cells import DebianBase, Flavour
from buildctl.oci.digest import Digest
from buildctl.oci.files import write_whole
from buildctl.oci.image import canonical_json

FORMAT = 1
FIELDS = ("Package", "Version", "Architecture", "Archive", "Filename", "Size", "SHA256")
HEAD = ("base", "flavour", "arch", "suite", "inputs")
NEWEST = "newest"  # locks of an earlier buildctl have none
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+]")
VERSION = re.compile(r"[A-Za-z0-9.+:~-]+")
FILENAME = re.compile(r"pool/(?:[A-Za-z0-9_+~][A-Za-z0-9_.+~:%-]*/)+[A-Za-z0-9_.+~:%-]+\.deb")


def inputs_of(base: DebianBase, flavour: Flavour, arch: str) -> str:
    """The digest of everything in the matrix that the resolution depends on."""
    value = {
        "format": FORMAT,
        "base": base.name,
        "suite": base.suite,
        "packages": sorted(set(base.packages)),
        "devel": sorted(set(base.devel)) if flavour is Flavour.DEVEL else [],
        "flavour": str(flavour),
        "arch": arch,
    }
    return str(Digest.of(canonical_json(value)))


def is_stale(base: DebianBase, lock: BaseLock) -> str | None:
    """Why the lock no longer matches the matrix; None if it does."""
    if (lock.base, lock.suite) != (base.name, base.suite):
        return f"it is for {lock.base} ({lock.suite}), the matrix has {base.name} ({base.suite})"
    if lock.inputs != inputs_of(base, Flavour(lock.flavour), lock.arch):
        return "matrix.yaml changed after it was written (the packages of the base)"
    return None


def changes(old: BaseLock, new: BaseLock) -> list[str]:
    """For people: `NAME OLD -> NEW`, `NAME VERSION added`, `NAME VERSION removed`, sorted by name."""
    before, after = ({p.name: p.version for p in lock.packages} for lock in (old, new))
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            lines.append(f"{name} {after[name]} added")
        elif name not in after:
            lines.append(f"{name} {before[name]} removed")
        elif before[name] != after[name]:
            lines.append(f"{name} {before[name]} -> {after[name]}")
    return lines


# The locks of the default bases as they come with the package; in a checkout they are those of the project.
PACKAGE = Path(__file__).parents[1]
SHIPPED = (PACKAGE / "lock" / "bases", PACKAGE.parent / "images" / "bases")


def shipped_base(base: DebianBase, arch: str, folders: Sequence[Path] = SHIPPED) -> tuple[BaseLock, ...]:
    """The locks of all flavours of `base` that come with buildctl; none if those are of other packages."""
    folder = next((f / base.name for f in folders if (f / base.name).is_dir()), None)
    flavours = (Flavour.RUNTIME, *([Flavour.DEVEL] if base.devel else []))
    paths = [folder / f"{flavour}.{arch}.packages" for flavour in flavours] if folder else []
    found = tuple(read_base_lock(path) for path in paths if path.is_file())
    return found if len(found) == len(flavours) and not any(is_stale(base, lock) for lock in found) else ()


# ---------------------------------------------------------------------------------------------------- the lock file


def format_base_lock(lock: BaseLock) -> str:
    lines = ["# Written by `buildctl lock`. Debian packages of a base; Filename is below the root of Archive."]
    lines += [f"# {key}: {getattr(lock, key)}" for key in HEAD]
    lines += [f"# {NEWEST}: {written(lock.newest)}"] if lock.newest else []
    for package in lock.packages:
        values = (
            package.name,
            package.version,
            package.architecture,
            package.archive,
            package.filename,
            str(package.size),
            package.digest.hex,
        )
        lines += ["", *(f"{field}: {value}" for field, value in zip(FIELDS, values, strict=True))]
    return "\n".join(lines) + "\n"


def record_of(path: Path) -> Path:
    """Where what the scripts of a lock's packages did is recorded, if they were run."""
    return path.with_suffix(".recorded")


def write_base_lock(path: Path, lock: BaseLock) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, format_base_lock(lock).encode())
    if lock.recorded is not None:
        write_whole(record_of(path), format_recorded(lock).encode())
    else:
        record_of(path).unlink(missing_ok=True)


def dated_as(path: Path, lock: BaseLock) -> BaseLock:
    """With the date of the lock at `path` if that has the same packages."""
    try:
        old = read_base_lock(path)
    except LockError:
        return lock
    return replace(lock, newest=lock.newest or old.newest) if old.packages == lock.packages else lock


def read_base_lock(path: Path) -> BaseLock:
    """Strict: LockError with file and line for anything that write_base_lock would not have written."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LockError(f"{path}: no such lock", hint="run `buildctl lock`") from None
    except UnicodeDecodeError as error:
        raise LockError(f"{path}: not UTF-8: {error}", hint="run `buildctl lock`") from None
    return _with_record(path, _parsed(path, text))


def _with_record(path: Path, lock: BaseLock) -> BaseLock:
    record = record_of(path)
    try:
        text = record.read_text(encoding="utf-8")
    except FileNotFoundError:
        return lock
    except UnicodeDecodeError as error:
        raise LockError(f"{record}: not UTF-8: {error}", hint="restore the file") from None
    return replace(lock, recorded=parse_recorded(text, str(record), lock))


@functools.lru_cache(maxsize=64)
def _parsed(path: Path, text: str) -> BaseLock:
    """A command reads the same few locks again and again."""
    head = _read_head(path, text)
    try:
        packages = tuple(_read_package(path, line, fields) for line, fields in parse_stanzas(text, str(path)))
    except ArtifactError as error:
        raise LockError(error.message, hint="restore the file, or run `buildctl lock`") from error
    try:
        newest = seconds_of(head.pop(NEWEST)) if NEWEST in head else 0
    except ValueError as error:
        raise LockError(f"{path}: malformed {NEWEST}: {error}", hint="run `buildctl lock`") from error
    lock = BaseLock(packages=packages, recorded=None, newest=newest, **head)
    names = [p.name for p in packages]
    # what an image adds (debian_added) may all be in its base already
    if names != sorted(names) or len(set(names)) != len(names) or not (names or "_" in lock.base):
        raise LockError(f"{path}: packages must be listed, sorted by name, each once", hint="run `buildctl lock`")
    if lock.flavour not in tuple(Flavour) or not re.fullmatch(r"sha256:[0-9a-f]{64}", lock.inputs):
        raise LockError(f"{path}:1: malformed flavour or inputs", hint="run `buildctl lock`")
    wrong = [p.name for p in packages if p.architecture not in ("all", lock.arch)]
    if wrong:
        raise LockError(f"{path}: packages for another architecture than {lock.arch}: {', '.join(wrong)}")
    return lock


def _read_head(path: Path, text: str) -> dict[str, str]:
    head: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.startswith("#"):
            break
        key, colon, value = line.removeprefix("# ").partition(": ")
        if colon and key in (*HEAD, NEWEST):
            if key in head:
                raise LockError(f"{path}:{number}: `{key}` is given twice")
            head[key] = value
    missing = [k for k in HEAD if not head.get(k)]
    if missing:
        raise LockError(f"{path}:1: the header lacks {', '.join(missing)}", hint="run `buildctl lock`")
    return head


def _read_package(path: Path, line: int, fields: dict[str, str]) -> DebPackage:
    where = f"{path}:{line}"
    if tuple(fields) != FIELDS:
        raise LockError(f"{where}: fields must be {', '.join(FIELDS)}; found {', '.join(fields)}")
    name, version, architecture, archive, filename, size, sha256 = (fields[f] for f in FIELDS)
    if not NAME.fullmatch(name) or not VERSION.fullmatch(version) or not NAME.fullmatch(architecture):
        raise LockError(f"{where}: malformed package, version or architecture: {name} {version} {architecture}")
    if archive not in ARCHIVES:
        raise LockError(f"{where}: {name}: archive must be one of {', '.join(ARCHIVES)}, not {archive!r}")
    if not FILENAME.fullmatch(filename) or ".." in filename:
        raise LockError(f"{where}: {name}: malformed Filename {filename!r}")
    if not re.fullmatch(r"[1-9][0-9]{0,11}", size) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise LockError(f"{where}: {name}: malformed Size or SHA256")
    return DebPackage(
        name=name,
        version=version,
        architecture=architecture,
        archive=archive,
        filename=filename,
        size=int(size),
        digest=Digest(sha256),
    )


# ------------------------------------------------------------------------------------------------------- resolving
