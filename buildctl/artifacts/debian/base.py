"""Debian bases: locked packages in, the file tree of a base image out, without running a maintainer script."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO

from buildctl.artifacts.bytecode import Compiler, pyc_path
from buildctl.artifacts.debian import ldcache
from buildctl.artifacts.debian.alternatives import alternative_entries
from buildctl.artifacts.debian.configured import configured_entries, is_configured
from buildctl.artifacts.debian.deb import Deb, open_deb
from buildctl.artifacts.debian.dpkg_database import conffile_paths, database_entries
from buildctl.artifacts.debian.package import BaseLock, DebPackage
from buildctl.artifacts.debian.recorded import apply
from buildctl.artifacts.debian.scripts.commands import WAY_OUT, Effects
from buildctl.artifacts.debian.scripts.installed import install
from buildctl.artifacts.debian.sources import apt_sources, example
from buildctl.ground.errors import ArtifactError
from buildctl.oci.entry import Bytes, Entry, Kind, directory_entry, file_entry, symlink_entry

# Documentation, manuals and translations are left out. The image's own dpkg is not told so by path-exclude: it would
# list what it left out, and `dpkg -V` would call that missing.
LEFT_OUT = tuple(f"usr/share/{name}/" for name in ("doc-base", "groff", "info", "linda", "lintian", "locale", "man"))
KEPT = ("usr/share/locale/locale.alias",)
MERGED = ("bin", "sbin", "lib", "lib64")

Debs = Callable[[DebPackage], Path]


def left_out(path: str) -> bool:
    """Whether the base omits `path` (no leading slash)."""
    if path.startswith("usr/share/doc/"):  # each package's own folder and its licence stay
        below = path.split("/")[4:]
        return below not in ([], ["copyright"])
    return path.startswith(LEFT_OUT) and path not in KEPT


def base_entries(
    lock: BaseLock,
    debs: Debs,
    *,
    below: Sequence[BaseLock] = (),
    compiler: Compiler | None = None,
    scratch: Path | None = None,
    added: bool = False,
) -> Iterator[Entry]:
    """The layer of `lock`: parents first, hard links last, otherwise sorted by path.

    With `below` (the locks that this one adds to, the lowest first) only what changes on top of their layers. `added`
    are an image's own packages, whose scripts may be recorded. Bodies can be read while the iterator is being advanced,
    not after its end; the packages are unpacked in `scratch` meanwhile.
    """
    with ExitStack() as stack:
        tree, under, installed = _stacked(stack, lock, debs, below, scratch, added=added)
        fresh = {path: e for path, e in tree.items() if not _same(under.get(path), e)}
        if compiler is not None:
            fresh = with_parents({**fresh, **bytecode(fresh, compiler, also=installed.compiled)}, known=tree)
        yield from _ordered(fresh.values())


def check_scripts(
    lock: BaseLock, debs: Debs, *, below: Sequence[BaseLock], scratch: Path | None = None
) -> tuple[str, ...]:
    """What is skipped in the scripts of added packages, for people. Raises ArtifactError for a script that
    does more than can be done without running it, and for packages whose files conflict.
    """
    with ExitStack() as stack:
        return tuple(_stacked(stack, lock, debs, below, scratch, added=True)[2].notes)


def check_base(
    lock: BaseLock, debs: Debs, *, below: Sequence[BaseLock] = (), scratch: Path | None = None
) -> tuple[str, ...]:
    """As `check_scripts`, for the packages of a base."""
    with ExitStack() as stack:
        return tuple(_stacked(stack, lock, debs, below, scratch, added=False)[2].notes)


def _stacked(
    stack: ExitStack, lock: BaseLock, debs: Debs, below: Sequence[BaseLock], scratch: Path | None, *, added: bool
) -> tuple[dict[str, Entry], dict[str, Entry], Effects]:
    """The tree with `lock` on top, the tree below it, and what scripts did."""
    lower = open_all(stack, [p for lock in below for p in lock.packages], debs, scratch)
    upper = open_all(stack, lock.packages, debs, scratch)
    tree, installed = base_tree(lock, [*lower, *upper], added=upper if added else ())
    under = base_tree(below[-1], lower)[0] if below else {}
    if gone := sorted(set(under) - set(tree)):
        raise ArtifactError(
            f"{lock.base}: {lock.flavour} would remove {', '.join(gone[:5])}, but a layer cannot remove from the base",
            hint=WAY_OUT if added else None,
        )
    return tree, under, installed


def open_all(stack: ExitStack, packages: Sequence[DebPackage], debs: Debs, scratch: Path | None) -> list[Deb]:
    """Unpacked side by side: the decompressors let go of Python's lock."""

    def opened(package: DebPackage, file: IO[bytes]) -> Deb:
        deb = open_deb(debs(package), file, digest=package.digest)
        found = (deb.control.package, deb.control.version, deb.control.architecture)
        if found != (package.name, package.version, package.architecture):
            raise ArtifactError(
                f"{package.filename}: is {' '.join(found)}, not {package.name} {package.version} as locked"
            )
        return deb

    files = [stack.enter_context(tempfile.TemporaryFile(dir=scratch)) for _ in packages]  # noqa: SIM115 - it is one
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(opened, packages, files))


def base_tree(lock: BaseLock, debs: Sequence[Deb], *, added: Sequence[Deb] = ()) -> tuple[dict[str, Entry], Effects]:
    """Everything in the image by path, after the merge of /usr; and what scripts did: those of `added` among `debs`,
    and of all others whose work is not done otherwise.
    """
    tree = _unpacked(debs)

    def read(path: str) -> bytes:
        entry = tree.get(merged(path))
        if entry is None or entry.body is None:
            raise ArtifactError(f"{lock.base}: no file {path} in the packages of this base")
        return _content(entry)

    names = [deb.control.package for deb in debs]
    conffiles = {path for deb in debs for path in conffile_paths(deb.control)}

    def generate(entries: Iterable[Entry]) -> None:
        for entry in list(entries):
            path = merged(entry.path)
            if left_out(path):
                continue
            if path in conffiles:
                raise ArtifactError(f"{lock.base}: {path} is a package's own configuration file")
            tree[path] = replace(entry, path=path)

    def exists(path: str) -> bool:
        return merged(path.removeprefix("/")) in tree

    below = [deb for deb in debs if deb not in added]
    under = [deb for deb in below if is_configured(deb.control.package)]
    followed = [deb for deb in below if deb not in under]
    base = [deb.control.package for deb in below]
    generate(configured_entries(tree, read, packages=base, python=python_version(names)))
    generate(_settings(debs, lock))
    recorded = lock.recorded if added else None
    installed = install([*followed, *(added if recorded is None else ())], tree, under, lock.arch)
    generate(alternative_entries(base, exists=exists, more=installed.alternatives))
    for entry in database_entries(debs, lock.arch, left_out=left_out, content=read):
        tree[entry.path] = entry
    if recorded is not None:
        installed = apply(recorded, tree, lock.arch)
    shared = ldcache.libraries(lock.arch, tree, _content)
    tree["etc/ld.so.cache"] = file_entry("etc/ld.so.cache", ldcache.cache(lock.arch, shared))
    return with_parents(tree), installed


def merged(path: str) -> str:
    return f"usr/{path}" if path.partition("/")[0] in MERGED and "/" in path else path


def _unpacked(debs: Sequence[Deb]) -> dict[str, Entry]:
    """The packages' files over each other. A directory may be in many packages, everything else in one."""
    tree: dict[str, Entry] = {}
    owner: dict[str, str] = {}
    # base-files first: its modes and links are the ones that count for shared directories
    for deb in sorted(debs, key=lambda d: (d.control.package != "base-files", d.control.package)):
        name = deb.control.package
        for entry in deb.entries:
            path = merged(entry.path)
            if left_out(path):
                continue
            known = tree.get(path)
            if known is not None:
                if known.kind is Kind.DIRECTORY and entry.kind is Kind.DIRECTORY:
                    continue
                if known.kind is Kind.SYMLINK and entry.kind is Kind.DIRECTORY and path in MERGED:
                    continue
                raise ArtifactError(f"{path} is in two packages: {owner[path]} and {name}")
            target = merged(entry.target) if entry.kind is Kind.HARDLINK else entry.target
            tree[path], owner[path] = replace(entry, path=path, target=target), name
    tree |= _merge_links(tree)
    _refuse_through_links(tree, owner)
    return tree


def _merge_links(tree: Mapping[str, Entry]) -> dict[str, Entry]:
    """/bin -> usr/bin and the like, where the release leaves them to its installer: base-files has folders there up to
    Debian 12.
    """
    wanted = [name for name in MERGED if f"usr/{name}" in tree or any(p.startswith(f"usr/{name}/") for p in tree)]
    found = {name: tree.get(name) for name in wanted}
    return {
        name: symlink_entry(name, f"usr/{name}")
        for name, entry in found.items()
        if entry is None or entry.kind is Kind.DIRECTORY
    }


def _refuse_through_links(tree: Mapping[str, Entry], owner: Mapping[str, str]) -> None:
    """No package may reach through another one's symlink: an unpacker would follow it."""
    for path in tree:
        parent = path.rpartition("/")[0]
        above = tree.get(parent)
        if parent and above is not None and above.kind is not Kind.DIRECTORY:
            raise ArtifactError(f"{path} ({owner[path]}) is below {parent}, a {above.kind} of {owner[parent]}")


def _content(entry: Entry) -> bytes:
    return b"".join(entry.body.chunks()) if entry.body else b""


def bytecode(tree: Mapping[str, Entry], compiler: Compiler, *, also: Container[str] = ()) -> dict[str, Entry]:
    """For the standard library: Python's packages would compile it when they are configured. And for `also`."""
    sources = sorted(
        p
        for p in tree
        if (p in also or re.fullmatch(r"usr/lib/python3\.[0-9]+/.*\.py", p)) and tree[p].kind is Kind.FILE
    )
    with compiler.open() as compilation:
        for path in sources:
            compilation.add(f"/{path}", _content(tree[path]))
        results = list(compilation.results())
    paths = [pyc_path(path, compiler.tag) for path in sources]
    return {path: file_entry(path, data) for path, data in zip(paths, results, strict=True) if data is not None}


def with_parents(tree: Mapping[str, Entry], known: Container[str] = ()) -> dict[str, Entry]:
    """`tree` with an entry for every folder on the way to its paths, unless that is `known` already."""
    out = dict(tree)
    for path in tree:
        parent = path.rpartition("/")[0]
        while parent and parent not in out and parent not in known:
            out[parent] = directory_entry(parent)
            parent = parent.rpartition("/")[0]
    return out


def _ordered(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda e: (e.kind is Kind.HARDLINK, e.path))


def _same(one: Entry | None, other: Entry) -> bool:
    if one is None or replace(one, body=None) != replace(other, body=None):
        return False
    if isinstance(one.body, Bytes) and isinstance(other.body, Bytes):
        return one.body.data == other.body.data
    return one.body == other.body


def _settings(debs: Sequence[Deb], lock: BaseLock) -> Iterator[Entry]:
    """Ours, not Debian's: how apt, dpkg, pip and uv behave in the image."""
    yield file_entry("etc/dpkg/dpkg.cfg.d/image", b"# A container that crashes is built again.\nforce-unsafe-io\n")
    yield file_entry("etc/apt/apt.conf.d/90image", APT_CONF.encode())
    yield file_entry("etc/apt/sources.list.d/debian.sources", _sources(debs, lock.suite))
    # Services are not started by packages being installed: there is no init in a container (invoke-rc.d(8)).
    yield file_entry("usr/sbin/policy-rc.d", b"#!/bin/sh\nexit 101\n", mode=0o755)
    # PEP 668 guards a system Python; here the system exists for the Python in it.
    yield file_entry("etc/pip.conf", b"[global]\nbreak-system-packages = true\n")
    yield file_entry("etc/uv/uv.toml", b"[pip]\nsystem = true\nbreak-system-packages = true\n")


APT_CONF = """\
// No package cache and no lists beyond what is needed: they would only make layers larger.
APT::Keep-Downloaded-Packages "false";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
APT::AutoRemove::SuggestsImportant "false";
"""


def _sources(debs: Sequence[Deb], suite: str) -> bytes:
    files = {entry.path: (deb, entry) for deb in debs for entry in deb.entries if entry.body is not None}
    path = example(files)
    deb, entry = files[path]
    return apt_sources(_content(entry).decode(), suite, f"{deb.control.package}: {path}").encode()


def pythons(names: Iterable[str]) -> list[str]:
    """`3.13` for each package `python3.13` among `names`."""
    return [match[1] for name in names if (match := re.fullmatch(r"python(3\.[0-9]+)", name))]


def python_version(names: Iterable[str]) -> str:
    """`3.13` from the one package `python3.13` among `names`."""
    found = pythons(names)
    if len(found) != 1:
        raise ArtifactError(f"a base needs exactly one Python, its packages have {', '.join(found) or 'none'}")
    return found[0]
