"""The Python of a base as a program of the build machine, taken from the base's own locked packages.

It makes the bytecode of all images with that Python, for every architecture. No root, no chroot: the program is started
through its own dynamic loader with its own libraries.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from buildctl.artifacts.bytecode import BuildPython
from buildctl.artifacts.debian.base import merged, python_version
from buildctl.artifacts.debian.deb import open_deb
from buildctl.artifacts.debian.package import BaseLock, DebPackage
from buildctl.artifacts.store import Store, recipe_key
from buildctl.console.log import say
from buildctl.ground import machine
from buildctl.ground.errors import ArtifactError, EngineError, LockError
from buildctl.matrix.arch import ARCHES, Arch, arch_named
from buildctl.oci.entry import Entry, Kind
from buildctl.oci.files import translated
from buildctl.oci.trees.kept import discard_changed, keep_tree


def build_arch() -> str:
    """The architecture whose runtime lock the functions below take. Raises EngineError if that Python cannot run."""
    return _machine().name


def python_packages(lock: BaseLock) -> tuple[DebPackage, ...]:
    """What must be in the store: the interpreter, its standard library, the libraries that both are linked with."""
    version = python_version(p.name for p in lock.packages)
    wanted = {f"python{version}-minimal", f"libpython{version}-minimal", f"libpython{version}-stdlib"}
    wanted |= {"libc6", "zlib1g", "libexpat1", "libgcc-s1"}
    found = tuple(p for p in lock.packages if p.name in wanted)
    if missing := sorted(wanted - {p.name for p in found}):
        raise LockError(f"{lock.base}: the runtime lock lacks {', '.join(missing)}", hint="run `buildctl lock`")
    return found


def build_python(lock: BaseLock, *, store: Store) -> BuildPython:
    """The Python of the runtime lock of `build_arch()`. A value: `prepare_python` puts it where this one points."""
    here = _machine()
    if lock.arch != here.name:
        raise EngineError(f"the Python of {lock.base} for {lock.arch} cannot run on this machine ({here.name})")
    version = python_version(p.name for p in lock.packages)
    root = _place(lock, store)
    libraries, program = root / "usr" / "lib" / here.triplet, root / "usr" / "bin" / f"python{version}"
    return BuildPython(
        argv=(str(libraries / here.loader), "--inhibit-cache", "--library-path", str(libraries), str(program)),
        tag=f"cpython-{version.replace('.', '')}",
        env={"PYTHONHOME": str(root / "usr")},
    )


def prepare_python(lock: BaseLock, *, store: Store) -> None:
    """Unpack it, once per set of packages, atomically; again if it was changed since, because it makes what goes into
    images. `python_packages(lock)` must be in the store.
    """
    target = _place(lock, store)
    with translated(target):
        if discard_changed(target):
            say(f"{target} is not as it was unpacked; unpacking it again")
        if not target.is_dir():
            _make(target, python_packages(lock), store)


def _place(lock: BaseLock, store: Store) -> Path:
    return store.root / "python" / recipe_key("build-python", [p.digest for p in python_packages(lock)])


def _machine() -> Arch:
    machine.require_linux("making layers", machine.NEEDED)
    arch = ARCHES.get(arch_named(machine.machine()))
    if arch is None:
        raise EngineError(
            f"this is {machine.machine()}, and {machine.NEEDED}", hint=f"build on Linux on {' or '.join(ARCHES)}"
        )
    return arch


def _make(target: Path, packages: Sequence[DebPackage], store: Store) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    (store.root / "tmp").mkdir(parents=True, exist_ok=True)
    # `.new` folders of a killed process are swept here: nobody else knows them
    _sweep(target.parent)
    folder = target.parent / f"{target.name}.{os.getpid()}.{secrets.token_hex(4)}.new"
    try:
        for package in packages:
            with tempfile.TemporaryFile(dir=store.root / "tmp") as scratch:
                path = store.artifact(package.digest)
                if path is None:
                    raise ArtifactError(
                        f"{package.filename} is not in the store", hint="run the build again to fetch it"
                    )
                for entry in open_deb(path, scratch, digest=package.digest).entries:
                    _unpack(folder, entry)
        keep_tree(folder, target)
    except OSError:
        if not target.is_dir():  # else another process was first
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    for path in parent.glob("*.new"):
        process = path.name.split(".")[1]
        if process.isdigit() and not _alive(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _unpack(folder: Path, entry: Entry) -> None:
    """Only what a running Python needs; absolute symlinks would lead out of the folder, and none matters here."""
    path = folder / merged(entry.path)
    if entry.kind is Kind.DIRECTORY or not entry.path.startswith(("usr/", "lib")) or path.is_symlink():
        return
    if entry.kind is Kind.SYMLINK and entry.target.startswith("/"):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if entry.kind is Kind.SYMLINK:
        path.symlink_to(entry.target)
    elif entry.kind is Kind.HARDLINK:
        path.hardlink_to(folder / merged(entry.target))
    elif entry.body is not None:
        with path.open("wb") as file:
            for chunk in entry.body.chunks():
                file.write(chunk)
        path.chmod(0o755 if entry.mode & 0o111 else 0o644)
