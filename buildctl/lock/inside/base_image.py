"""The lock of a base that is an image: its digest, and what was found inside. Nothing of it is typed by hand.

images/bases/NAME/FLAVOUR.ARCH.image, written by `buildctl lock`, which resolves the tag, fetches the image and looks.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from buildctl.artifacts.bytecode import BuildPython
from buildctl.artifacts.store import Store
from buildctl.console.log import say
from buildctl.console.progress import open_progress
from buildctl.ground.errors import LayoutError, LockError, MatrixError, ResolveError
from buildctl.lock.inside.image_python import ImageTree, find_glibc, find_python, find_user
from buildctl.matrix.account import PATH
from buildctl.matrix.arch import ARCHES
from buildctl.matrix.cells import Cell, Flavour, ImageBase
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.files import write_whole
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.oci.trees.unpack import unpack_image
from buildctl.registry.bases import base_from_registry, mirrored, top_digest
from buildctl.registry.problems import RegistryError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLock:
    """`image` is the reference in matrix.yaml, `digest` what it led to (an index, or the image), `manifest` the image
    itself. `user` is UID:GID, empty for root; `path` its PATH. The others are as in `ImagePython`.
    """

    base: str
    flavour: str
    arch: str
    image: str
    digest: str
    manifest: str
    python: str
    interpreter: str
    home: str
    purelib: str
    commands: str
    glibc: str
    user: str
    path: str

    @property
    def reference(self) -> str:
        return f"{self.image.partition('@')[0]}@{self.digest}"

    @property
    def has_python(self) -> bool:
        """Whether `python` is a command in it, and not only `python3`."""
        return "python" in self.commands.split()


def image_of(base: ImageBase, flavour: Flavour) -> str:
    """The reference of a flavour. Raises MatrixError."""
    reference = base.devel if flavour is Flavour.DEVEL else base.image
    if reference is None:
        raise MatrixError(f"bases.{base.name}: no devel image given", hint=f"set bases.{base.name}.devel")
    return reference


def write_image_lock(path: Path, lock: ImageLock) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(asdict(lock), indent=2) + "\n").encode())


def read_image_lock(path: Path) -> ImageLock:
    """Raises LockError with the file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LockError(f"{path}: no such lock", hint="run `buildctl lock`") from None
    except (OSError, ValueError) as error:
        raise LockError(f"{path}: not JSON: {error}", hint="run `buildctl lock`") from error
    names = {field.name for field in fields(ImageLock)}
    if not isinstance(value, dict) or set(value) != names or not all(isinstance(v, str) for v in value.values()):
        raise LockError(f"{path}: must hold the texts {', '.join(sorted(names))}", hint="run `buildctl lock`")
    lock = ImageLock(**value)
    for digest in (lock.digest, lock.manifest):
        Digest.parse(digest)
    return lock


def is_stale(base: ImageBase, flavour: Flavour, lock: ImageLock) -> str | None:
    """Why the lock no longer matches the matrix; None if it does."""
    wanted = image_of(base, flavour)
    if (lock.base, lock.flavour, lock.image) != (base.name, str(flavour), wanted):
        return f"it is for {lock.image}, the matrix has {wanted}"
    return None


def load_image_lock(project: Project, cell: Cell) -> ImageLock | None:
    """Of the image below a cell; None where its base is not an image. Raises LockError."""
    if cell.native or not isinstance(cell.base, ImageBase):
        return None
    return read_image_lock(project.image_lock(cell.base, cell.flavour, cell.arch))


@contextlib.contextmanager
def _named(base: ImageBase, flavour: Flavour) -> Iterator[None]:
    """Adds to errors of the registry the key of matrix.yaml that chose the image."""
    try:
        yield
    except RegistryError as error:
        key = "image" if flavour is Flavour.RUNTIME else "devel"
        raise type(error)(f"bases.{base.name}.{key}: {error.message}", hint=error.hint, codes=error.codes) from error


def lock_image(project: Project, base: ImageBase, flavours: Iterable[Flavour], arch: str) -> Iterator[str]:
    """Write the locks of a base for one architecture; yields a line for each.

    Also one for the other architecture, if the image has it: a machine of that one makes the bytecode with it.
    """
    for flavour in flavours:
        say(f"looking into {image_of(base, flavour)} for {arch}")
        lock = resolve_image(project, base, flavour, arch)
        path = project.image_lock(base, flavour, arch)
        write_image_lock(path, lock)
        yield f"{project.shown(path)}: {lock.reference}, Python {lock.python}, glibc {lock.glibc}"
    for other in ARCHES:
        path = project.image_lock(base, Flavour.RUNTIME, other)
        needed = any(not c.native and c.base == base and c.arch == other for c in project.matrix.cells)
        if other != arch and not needed:
            with contextlib.suppress(LayoutError, ResolveError):
                write_image_lock(path, resolve_image(project, base, Flavour.RUNTIME, other))


def resolve_image(project: Project, base: ImageBase, flavour: Flavour, arch: str) -> ImageLock:
    """Fetch what the reference leads to now, and look inside. Raises RegistryError, LayoutError, ResolveError."""
    image = image_of(base, flavour)
    name, at, digest = image.partition("@")
    if not at:
        if base.layout is not None:
            raise MatrixError(f"bases.{base.name}: an image in a layout is named by digest", hint=f"{name}@sha256:...")
        with _named(base, flavour):
            digest = str(top_digest(mirrored(image, base.mirrors)))
    with _named(base, flavour):
        layout, descriptor = locate(project, base, f"{name}@{digest}", arch)
    config = layout.config(descriptor)
    path = dict(config.env).get("PATH", PATH)
    if config.platform.architecture != arch:
        raise ResolveError(f"bases.{base.name}: {image} is for {config.platform}, but the images need linux/{arch}")
    if triggers := config.docker.get("OnBuild"):
        raise ResolveError(
            f"bases.{base.name}: {image} has ONBUILD triggers, which run in every image on it: {triggers}",
            hint="use an image without them",
        )
    tree = ImageTree(unpacked(layout, descriptor, Store.default()))
    try:
        found, glibc, user = find_python(tree, path), find_glibc(tree), find_user(tree, config.user)
    except ResolveError as error:
        raise ResolveError(
            f"bases.{base.name}: {image} (linux/{arch}) cannot be a base: {error.message}",
            hint="use an image with Python on its PATH and the GNU C library, such as python:3.13-slim, "
            "or a base of Debian packages",
        ) from error
    return ImageLock(
        base=base.name,
        flavour=str(flavour),
        arch=arch,
        image=image,
        digest=digest,
        manifest=str(descriptor.digest),
        python=found.python,
        interpreter=found.interpreter,
        home=found.home,
        purelib=found.purelib,
        commands=" ".join(found.commands),
        glibc=glibc,
        user=user,
        path=path,
    )


def locate(project: Project, base: ImageBase, reference: str, arch: str) -> tuple[Layout, Descriptor]:
    """The image that `reference` (with a digest) names, in its own layout, or pulled into the store, once."""
    if base.layout is not None:
        layout = Layout(project.root / base.layout)
        return layout, layout.resolve(reference.partition("@")[2], arch)
    root, source = Store.default().root / "bases", mirrored(reference, base.mirrors)
    with open_progress("fetched") as progress:
        return base_from_registry(source, arch=arch, root=root, progress=progress)


def tree_path(manifest: str, store: Store) -> Path:
    """Where `unpacked` puts the files of that image."""
    return store.root / "trees" / Digest.parse(manifest).hex


def program_of(tree: ImageTree, lock: ImageLock) -> BuildPython:
    """The Python of an unpacked image as a program of this machine, through its own loader with its own libraries."""
    arch = ARCHES[lock.arch]
    folders = [f"/{top}/{arch.triplet}" for top in ("lib", "usr/lib")]
    folders += [f"/{top}" for top in ("lib64", "usr/lib64", "lib", "usr/lib", "usr/local/lib")]
    folders += [f"{lock.home}/lib"]
    found = dict.fromkeys(tree.place(folder) for folder in folders if tree.names(folder))
    loader = next(f"{folder}/{arch.loader}" for folder in folders if tree.file(f"{folder}/{arch.loader}"))
    libraries = ":".join(str(path) for path in found)
    return BuildPython(
        argv=(
            str(tree.place(loader)),
            "--inhibit-cache",
            "--library-path",
            libraries,
            str(tree.place(lock.interpreter)),
        ),
        tag=f"cpython-{lock.python.replace('.', '')}",
        env={"PYTHONHOME": str(tree.place(lock.home))},
    )


def unpacked(layout: Layout, descriptor: Descriptor, store: Store) -> Path:
    """The files of an image below a folder of the store, unpacked once."""
    target = tree_path(str(descriptor.digest), store)
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        unpack_image(layout, descriptor, target, owner=None)
    return target
