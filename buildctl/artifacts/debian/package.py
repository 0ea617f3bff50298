"""A locked Debian package, and the locked packages of one base on one architecture."""

from __future__ import annotations

from dataclasses import dataclass

from buildctl.oci.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class DebPackage:
    """`filename` is the path below the archive's root (`pool/...`), `archive` one of ARCHIVES, `size` in bytes."""

    name: str
    version: str
    architecture: str
    archive: str
    filename: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedChange:
    """What scripts did to one path. `text` is the content (in base64 if binary), the target of a link, or lines with +
    or - before them.

    `kind` is file, binary, folder, link, lines (of a file that others change too), same (but for mode and owner),
    capable (the same, with file capabilities: `text` is their value in hex), gone.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    path: str
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What maintainer scripts did when they were run. `scripts` are PACKAGE NAME DIGEST, `compiled` the folders whose
    Python files they compiled.
    """

    scripts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    compiled: tuple[str, ...] = ()
    changes: tuple[RecordedChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseLock:
    """The packages of one flavour on one architecture, sorted by name. Devel holds only what it adds to runtime.

    `recorded` is what their scripts did, where they were run when this was locked; None: they are followed. `newest` is
    when the last of them was made, in seconds since 1970; 0 if that is not known.
    """

    base: str
    flavour: str
    arch: str
    suite: str
    inputs: str
    packages: tuple[DebPackage, ...]
    recorded: Recorded | None = None
    newest: int = 0
