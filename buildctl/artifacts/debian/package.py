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
class BaseLock:
    """The packages of one flavour on one architecture, sorted by name. Devel holds only what it adds to runtime."""

    base: str
    flavour: str
    arch: str
    suite: str
    inputs: str
    packages: tuple[DebPackage, ...]
