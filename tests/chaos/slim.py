"""The base of the image that is attacked, cut small: a try takes a second where the real packages take four."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from buildctl.artifacts.debian.package import DebPackage
from buildctl.artifacts.store import Store
from buildctl.lock.debian import read_base_lock, write_base_lock
from buildctl.oci.digest import Digest
from tests.support.debs import ar

LARGE = 300_000  # bytes of a package from which on its files are cut
KEPT = 2_000  # bytes of a file


def slim(lock: Path, whole: Store, store: Store) -> None:
    """Lock the same packages with the same files, of which each keeps its beginning, and put them into `store`."""
    base = read_base_lock(lock)
    packages = tuple(_slim(p, whole, store) if p.size > LARGE else p for p in base.packages)
    write_base_lock(lock, replace(base, packages=packages))


def _slim(package: DebPackage, whole: Store, store: Store) -> DebPackage:
    source = whole.artifact(package.digest)
    assert source is not None, f"{package.name}: run `buildctl fetch` first"
    members = dict(_members(source.read_bytes()))
    data, sums = _cut(lzma.decompress(members["data.tar.xz"]))
    control = _with_sums(lzma.decompress(members["control.tar.xz"]), sums)
    made = ar(
        ("debian-binary", members["debian-binary"]),
        ("control.tar.xz", lzma.compress(control, preset=0)),
        ("data.tar.xz", lzma.compress(data, preset=0)),
    )
    store.artifact_path(Digest.of(made)).write_bytes(made)
    return replace(package, size=len(made), digest=Digest.of(made))


def _members(deb: bytes) -> Iterator[tuple[str, bytes]]:
    at = len(b"!<arch>\n")
    while at < len(deb):
        name, size = deb[at : at + 16].decode().strip().rstrip("/"), int(deb[at + 48 : at + 58])
        yield name, deb[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def _cut(tar: bytes) -> tuple[bytes, bytes]:
    """With the lines of its md5sums."""
    sums: list[str] = []

    def cut(member: tarfile.TarInfo, data: bytes) -> bytes:
        if member.name.count("/") != 4 or ".so" not in member.name:  # the loader's cache says what libraries say
            data = b"" if member.name.endswith(".py") and len(data) > KEPT else data[:KEPT]
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        sums.append(f"{digest}  {member.name.removeprefix('./')}\n")
        return data

    return _rewritten(tar, cut), "".join(sums).encode()


def _with_sums(control: bytes, sums: bytes) -> bytes:
    return _rewritten(control, lambda member, data: sums if member.name == "./md5sums" else data)


def _rewritten(tar: bytes, change: Callable[[tarfile.TarInfo, bytes], bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(tar)) as source, tarfile.open(fileobj=out, mode="w") as target:
        for member in source:
            if not member.isfile():
                target.addfile(member)
                continue
            content = source.extractfile(member)
            assert content is not None
            data = change(member, content.read())
            member.size = len(data)
            target.addfile(member, io.BytesIO(data))
    return out.getvalue()
