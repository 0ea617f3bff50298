"""One wheel, read and checked: which file goes where (PEP 427), and what its RECORD lists.

What the zip, METADATA, WHEEL and the file name say must agree, or the wheel is refused by name. RECORD may be careless,
as pip and uv install it: the lock pins the whole archive. It may not lie about contents.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from configparser import Error as ConfigError
from dataclasses import dataclass
from pathlib import Path

from installer.records import InvalidRecordEntry, RecordEntry, parse_record_file
from installer.utils import parse_entrypoints, parse_metadata_file
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from buildctl.artifacts.wheels.zip import read_zip
from buildctl.artifacts.wheels.zip_member import ZipMember, broken
from buildctl.ground.errors import ArtifactError
from buildctl.oci.entry import Body, Bytes, Entry

_MAX_METADATA = 64 << 20
_HASHES = {"sha256", "sha384", "sha512"}  # PEP 427: sha256 or better
_UNLISTED = {"RECORD", "RECORD.jws", "RECORD.p7s"}
_WRITTEN = _UNLISTED | {"INSTALLER", "REQUESTED"}  # by the installer, whatever the wheel brings
# Above this size (bytes) RECORD's hash is not compared: a third hash of every library would cost a tenth of the build.
# Such a member is still what its CRC-32 and size say, in an archive whose SHA-256 is the locked one.
_MAX_HASHED = 32 << 20
_SCRIPT_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")

# uv's text, so that both engines make the same script
_SCRIPT = """\
#!{interpreter}
# -*- coding: utf-8 -*-
import sys
from {module} import {start}
if __name__ == "__main__":
    if sys.argv[0].endswith("-script.pyw"):
        sys.argv[0] = sys.argv[0][:-11]
    elif sys.argv[0].endswith(".exe"):
        sys.argv[0] = sys.argv[0][:-4]
    sys.exit({attribute}())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where an image's Python keeps things; paths without a leading slash, but for `interpreter`."""

    purelib: str = "usr/local/lib/python3.13/dist-packages"
    scripts: str = "usr/local/bin"
    data: str = "usr/local"
    headers: str = "usr/local/include/python3.13"
    interpreter: str = "/usr/bin/python3.13"
    python: str = "3.13"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A file of a wheel and where it goes. `digest` is RECORD's form of what `body` holds: `sha256=...`, empty where
    the wheel's RECORD has none; `sized` is whether it has the size.
    """

    path: str
    label: str
    size: int
    body: Body
    digest: str
    executable: bool
    sized: bool = True

    def entry(self, body: Body | None = None) -> Entry:
        """`body` is the same content, where it was read already."""
        body = self.body if body is None else body
        return Entry(path=self.path, mode=0o755 if self.executable else 0o644, size=self.size, body=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """`label` is its file name, `dist_info` a path inside the image; `files` leave out what an installer writes.

    `requires` are the names of its requirements, whatever their conditions; `notes` is what is odd and harmless.
    """

    label: str
    name: str
    version: Version
    dist_info: str
    files: tuple[Placed, ...]
    requires: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def read_wheel(path: Path, *, filename: str, site: Site) -> Wheel:
    """Raises ArtifactError naming the wheel, and the member if it is one. Contents are checked when read."""
    try:
        name, version, _, _ = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise ArtifactError(f"not the file name of a wheel: {filename!r} ({error})") from error
    members = {m.name: m for m in read_zip(path, label=filename)}
    stem = _stem(members, filename, name, version)
    info = f"{stem}.dist-info/"
    requires = _check_metadata(members, filename, info, name, version)
    record, notes = _record(_text(members, filename, f"{info}RECORD"), filename)
    notes += _complete_record(members, record, info)
    written = {f"{info}{name}" for name in _WRITTEN}
    files = [_place(m, record[m.name], stem, name, site) for m in members.values() if m.name not in written]
    if f"{info}entry_points.txt" in members:
        files += _entry_points(_text(members, filename, f"{info}entry_points.txt"), filename, site)
    return Wheel(
        label=filename,
        name=name,
        version=version,
        dist_info=f"{site.purelib}/{info[:-1]}",
        files=tuple(files),
        requires=requires,
        notes=tuple(f"{filename}: {note}" for note in notes),
    )


def _stem(members: Mapping[str, ZipMember], label: str, name: str, version: Version) -> str:
    """`NAME-VERSION` in the wheel's own spelling."""
    found = sorted({top for top in (m.partition("/")[0] for m in members) if top.endswith(".dist-info")})
    if len(found) != 1:
        raise broken(label, f"has {len(found)} .dist-info folders, not one: {', '.join(found)}")
    stem = found[0].removesuffix(".dist-info")
    own_name, _, own_version = stem.partition("-")
    if canonicalize_name(own_name) != name or not _is_version(own_version, version):
        raise broken(label, f"{found[0]!r} does not match the file name")
    return stem


def _is_version(text: str, version: Version) -> bool:
    try:
        return Version(text) == version
    except InvalidVersion:
        return False


def _text(members: Mapping[str, ZipMember], label: str, name: str) -> str:
    if name not in members:
        raise broken(label, f"{name!r} is missing")
    try:
        return members[name].read(_MAX_METADATA).decode()
    except UnicodeDecodeError as error:
        raise members[name].error("is not UTF-8") from error


def _check_metadata(
    members: Mapping[str, ZipMember], label: str, info: str, name: str, version: Version
) -> frozenset[str]:
    """The names of what it requires."""
    wheel = parse_metadata_file(_text(members, label, f"{info}WHEEL"))
    if str(wheel["Wheel-Version"] or "").strip().partition(".")[0] != "1":
        raise members[f"{info}WHEEL"].error(f"has an unsupported Wheel-Version: {wheel['Wheel-Version']!r}")
    metadata = parse_metadata_file(_text(members, label, f"{info}METADATA"))
    own_name, own_version = str(metadata["Name"] or ""), str(metadata["Version"] or "")
    if canonicalize_name(own_name) != name or not _is_version(own_version, version):
        raise members[f"{info}METADATA"].error(f"has {own_name} {own_version}, the file name {name} {version}")
    return frozenset(_required(metadata.get_all("Requires-Dist") or ()))


def _required(texts: Iterable[object]) -> Iterator[str]:
    for text in texts:
        with contextlib.suppress(InvalidRequirement):
            yield canonicalize_name(Requirement(str(text)).name)


def _record(text: str, label: str) -> tuple[dict[str, RecordEntry], list[str]]:
    """Its rows by path, and what is odd about them. Of two rows for a path, the one that tells more counts."""
    entries: dict[str, RecordEntry] = {}
    twice: list[str] = []
    try:
        for row in parse_record_file(text.splitlines()):
            entry = RecordEntry.from_elements(*row)
            known = entries.get(entry.path)
            if known is not None:
                if known.hash_ and entry.hash_ and known.hash_ != entry.hash_:
                    raise broken(label, f"RECORD lists {entry.path!r} twice, with different hashes")
                twice.append(entry.path)
            if known is None or known.hash_ is None:
                entries[entry.path] = entry
    except (InvalidRecordEntry, ValueError, csv.Error) as error:
        raise broken(label, f"malformed RECORD: {error}") from error
    return entries, _noted("RECORD lists twice", twice)


def _complete_record(members: Mapping[str, ZipMember], record: dict[str, RecordEntry], info: str) -> list[str]:
    """Give every member a row of `record`, and nothing else; returns what was odd.

    Raises ArtifactError where a row contradicts its member, and for a file that RECORD does not list and that Python
    would run at every start.
    """
    gone = [name for name in record if name not in members and not name.startswith(f"{info}RECORD")]
    unlisted, bare = list[str](), list[str]()
    for name, member in members.items():
        if name.startswith(info) and name.removeprefix(info) in _UNLISTED:
            continue
        entry = record.get(name)
        if entry is None and _runs_at_start(name):
            raise member.error("is not in RECORD, and Python would run it at every start")
        if entry is not None and entry.size is not None and entry.size != member.size:
            raise member.error(f"is {member.size} bytes large, RECORD has {entry.size}")
        if entry is None or entry.hash_ is None or entry.hash_.name not in _HASHES:
            (unlisted if entry is None else bare).append(name)
        record.setdefault(name, RecordEntry(name, None, member.size))  # as uv writes it
    for name in gone:
        del record[name]
    return [
        *_noted("RECORD does not list", unlisted),
        *_noted("RECORD has no SHA-256 of", bare),
        *_noted("RECORD lists what is not there", gone),
    ]


def _noted(what: str, names: Sequence[str]) -> list[str]:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{what}: {names[0]}{more}"] if names else []


def _runs_at_start(name: str) -> bool:
    """Python's `site` runs these in a folder of packages, wherever in the wheel they come from."""
    base = name.rpartition("/")[2]
    return base.endswith(".pth") or base in {"sitecustomize.py", "usercustomize.py"}


def _place(member: ZipMember, record: RecordEntry, stem: str, name: str, site: Site) -> Placed:
    path, scripts = _destination(member, stem, name, site)
    body: Body = DeflatedFile(member, record) if member.is_deflated else _StoredFile(member, record)
    if member.size > _MAX_HASHED and member.is_deflated:
        body = member
    size, digest = member.size, str(record.hash_ or "")
    if scripts and (script := _script(member, body, site)):
        body, size, digest = Bytes(script), len(script), record_digest(script)
    executable = scripts or bool(member.mode & 0o111)
    return Placed(
        path=path,
        label=member.label,
        size=size,
        body=body,
        digest=digest,
        executable=executable,
        sized=bool(digest) or record.size is not None,
    )


def _destination(member: ZipMember, stem: str, name: str, site: Site) -> tuple[str, bool]:
    """The path inside the image, and whether it is one of scripts."""
    folder, _, inside = member.name.partition("/")
    if not folder.endswith(".data"):
        return f"{site.purelib}/{member.name}", False
    scheme, _, rest = inside.partition("/")
    roots = {
        "purelib": site.purelib,
        "platlib": site.purelib,
        "scripts": site.scripts,
        "headers": f"{site.headers}/{name}",
        "data": site.data,
    }
    if folder != f"{stem}.data" or scheme not in roots or not rest:
        raise member.error(f"is not in a known scheme of {stem}.data")
    path = f"{roots[scheme]}/{rest}"
    if path.startswith(f"{site.purelib}/") and path.removeprefix(f"{site.purelib}/").partition("/")[0].endswith(
        ".dist-info"
    ):
        raise member.error("would change the metadata of an installed distribution")
    return path, scheme == "scripts"


def _script(member: ZipMember, body: Body, site: Site) -> bytes | None:
    """The script with the image's interpreter in its first line; None for one that has its own, or is a binary."""
    if next(iter(member.chunks()), b"")[:8] != b"#!python":
        return None
    if member.size > _MAX_METADATA:
        raise member.error("is too large for a script")
    _, newline, rest = b"".join(body.chunks()).partition(b"\n")
    return b"#!" + site.interpreter.encode() + newline + rest


def _entry_points(text: str, label: str, site: Site) -> Iterator[Placed]:
    """Console and GUI scripts of entry_points.txt, which are the same on Linux."""
    try:
        points = sorted(parse_entrypoints(text))
    except (ConfigError, AssertionError, ValueError) as error:  # installer uses assert to validate
        raise broken(label, f"malformed entry_points.txt: {error}") from error
    for name, module, attribute, _ in points:
        if not _SCRIPT_NAME.fullmatch(name) or name in {".", ".."}:
            raise broken(label, f"entry_points.txt names a script {name!r}, which is not a file name")
        data = _SCRIPT.format(
            interpreter=site.interpreter, module=module, start=attribute.partition(".")[0], attribute=attribute
        ).encode()
        yield Placed(
            path=f"{site.scripts}/{name}",
            label=label,
            size=len(data),
            body=Bytes(data),
            digest=record_digest(data),
            executable=True,
        )


def record_digest(data: bytes) -> str:
    return f"sha256={_encoded(hashlib.sha256(data).digest())}"


def _encoded(digest: bytes) -> str:
    return urlsafe_b64encode(digest).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class _StoredFile:
    """A member as a body: its hash is compared with RECORD while it passes, if that has a good one."""

    member: ZipMember
    record: RecordEntry

    def chunks(self) -> Iterator[bytes]:
        check = _Hash(self.member, self.record)
        for chunk in self.member.chunks():
            check.update(chunk)
            yield chunk
        check.done()


class DeflatedFile(_StoredFile):
    """The same, for a member whose deflate stream can be copied."""

    __slots__ = ()

    @property
    def crc32(self) -> int:
        return self.member.crc32

    def deflated(self, inflated: Callable[[bytes], object]) -> Iterator[bytes]:
        check = _Hash(self.member, self.record)

        def both(chunk: bytes) -> None:
            check.update(chunk)
            inflated(chunk)

        yield from self.member.deflated(both)
        check.done()


class _Hash:
    def __init__(self, member: ZipMember, record: RecordEntry) -> None:
        self._member, self._hash = member, None
        if record.hash_ is not None and record.hash_.name in _HASHES:
            self._expected = record.hash_.value.rstrip("=")
            self._hash = hashlib.new(record.hash_.name)

    def update(self, piece: bytes) -> None:
        if self._hash is not None:
            self._hash.update(piece)

    def done(self) -> None:
        if self._hash is not None and _encoded(self._hash.digest()) != self._expected:
            raise self._member.error("does not match RECORD (wrong hash)")
