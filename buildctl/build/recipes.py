"""From locks and planned Dockerfiles to recipes: which layers an image has, what each is made from, and its key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from buildctl.artifacts.bytecode import BuildPython, Compiler
from buildctl.artifacts.debian.base import base_entries
from buildctl.artifacts.debian.configured import VERSION
from buildctl.artifacts.debian.package import BaseLock, DebPackage
from buildctl.artifacts.debian.python import build_python, prepare_python, python_packages
from buildctl.artifacts.kept_bytecode import KeptCompiler
from buildctl.artifacts.store import Store, recipe_key
from buildctl.artifacts.wheels.layer import WheelFile, estimated_work, group_entries
from buildctl.artifacts.wheels.wheel import Site
from buildctl.build.assemble import ImageRecipe, Recipe
from buildctl.build.plan import FilesLayer, Operation, Plan, Setting, WheelsLayer
from buildctl.ground.errors import ArtifactError, LockError, MatrixError
from buildctl.lock import locked
from buildctl.lock.inside.base_image import ImageLock, locate, program_of, tree_path, unpacked
from buildctl.lock.inside.image_python import ImageTree
from buildctl.lock.wheels import LockedWheel, WheelLock
from buildctl.matrix.accelerators import public_version
from buildctl.matrix.account import PATH
from buildctl.matrix.cells import DebianBase, ImageBase
from buildctl.matrix.project import Project
from buildctl.oci.compression import Compression
from buildctl.oci.digest import Digest
from buildctl.oci.entry import EPOCH, Entry
from buildctl.oci.image import Descriptor, History, ImageConfig, Layer, Platform
from buildctl.oci.layout import Layout

Artifact = LockedWheel | DebPackage


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiling:
    """Whose Python makes the bytecode: that of `base`, as locked for this machine's architecture."""

    base: DebianBase
    lock: BaseLock

    @property
    def identity(self) -> str:
        """The interpreter's Debian version: bytecode depends on it, not on the architecture it ran on."""
        return next(p.version for p in python_packages(self.lock) if p.name.startswith("python"))

    def python(self, store: Store) -> BuildPython:
        """Usable once `prepare` has unpacked it."""
        return build_python(self.lock, store=store)

    def prepare(self, store: Store) -> None:
        """Unpack it into the store once; its packages must be there."""
        prepare_python(self.lock, store=store)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCompiling:
    """As `Compiling`, with the Python of a base that is an image, as locked for this machine's architecture."""

    project: Project
    base: ImageBase
    lock: ImageLock

    @property
    def identity(self) -> str:
        return self.lock.manifest

    def python(self, store: Store) -> BuildPython:
        return program_of(ImageTree(tree_path(self.lock.manifest, store)), self.lock)

    def prepare(self, store: Store) -> None:
        layout, descriptor = locate(self.project, self.base, self.lock.reference, self.lock.arch)
        unpacked(layout, descriptor, store)


Compilers = Compiling | ImageCompiling


def _compiler(compiling: Compilers, store: Store) -> Compiler:
    return KeptCompiler(python=compiling.python(store), identity=compiling.identity, store=store)


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianSource:
    """A layer of a base; `below` are the locks that it goes on top of, the lowest first. `added` are an image's own
    Debian packages.
    """

    lock: BaseLock
    below: tuple[BaseLock, ...]
    compiling: Compilers
    added: bool = False

    def entries(self, store: Store) -> Iterable[Entry]:
        scratch = store.root / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        return base_entries(
            self.lock,
            lambda package: _artifact(store, package),
            below=self.below,
            compiler=_compiler(self.compiling, store),
            scratch=scratch,
            added=self.added,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelsSource:
    """The layer of one install step."""

    wheels: tuple[LockedWheel, ...]
    site: Site
    compiling: Compilers

    def entries(self, store: Store) -> Iterable[Entry]:
        files = [WheelFile(path=_artifact(store, w), filename=w.filename) for w in self.wheels]
        return group_entries(files, site=self.site, bytecode=_compiler(self.compiling, store))


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesSource:
    """The layer of one COPY from the build context."""

    files: tuple[Entry, ...]

    def entries(self, store: Store) -> Iterable[Entry]:  # noqa: ARG002 - the protocol's
        return self.files


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseRecipe:
    """A base image: made here from Debian packages (`recipes`), or found as an image (`layers`, lying in `blobs`)."""

    name: str
    config: ImageConfig
    recipes: tuple[Recipe, ...] = ()
    layers: tuple[Layer, ...] = ()
    blobs: Layout | None = None
    digest: Digest | None = None
    history: tuple[History, ...] = field(default=())
    created: int = EPOCH


def _artifact(store: Store, artifact: Artifact) -> Path:
    path = store.artifact(artifact.digest)
    if path is None:
        raise ArtifactError(f"{artifact.filename} is not in the store", hint="run the build again to fetch it")
    return path


def debian_base(name: str, locks: Sequence[BaseLock], *, compiling: Compilers, compression: Compression) -> BaseRecipe:
    """The recipe of a Debian base: a layer for each lock, the lowest first, each with what it adds."""
    runtime = locks[0]
    sources = [
        DebianSource(lock=lock, below=tuple(locks[:number]), compiling=compiling, added=lock.base != runtime.base)
        for number, lock in enumerate(locks)
        if lock.packages
    ]
    return BaseRecipe(
        name=name,
        config=ImageConfig(
            platform=Platform(architecture=runtime.arch),
            env=(("PATH", PATH),),
            cmd=("bash",),
            labels={"org.opencontainers.image.title": name, "org.opencontainers.image.base.name": "scratch"},
        ),
        recipes=tuple(_debian_recipe(name, source, compression) for source in sources),
        history=tuple(
            History(created_by=f"buildctl: {len(s.lock.packages)} Debian packages ({s.lock.suite}, {s.lock.flavour})")
            for s in sources
        ),
        created=locked.created(None, locks),
    )


def _debian_recipe(name: str, source: DebianSource, compression: Compression) -> Recipe:
    locks = [source.lock, *reversed(source.below)]
    # not by the name of an image: those that add the same packages to the same base share the layer
    facts = [asdict(replace(lock, inputs="", base=locks[-1].base)) for lock in locks]
    for fact in facts:
        del fact["newest"]  # the layer is the same whenever its packages were made
        if fact["recorded"] is None:  # most locks: the key of a layer is as it was before there were records
            del fact["recorded"]
    kind = "debian, added" if source.added else f"debian{', devel' if source.below else ''}, configured {VERSION}"
    return Recipe(
        key=recipe_key(kind, facts, source.compiling.identity, compression.identity),
        label=f"{name} {source.lock.flavour} {source.lock.arch}",
        weight=sum(p.size for p in source.lock.packages) * 4,  # xz unpacks slowly
        source=source,
        compression=compression,
    )


def base_image(base: BaseRecipe) -> ImageRecipe:
    """A Debian base as an image of its own, for `FROM base` elsewhere."""
    return ImageRecipe(
        name=f"{base.name}-{base.config.platform.architecture}",
        layers=base.recipes,
        config=base.config,
        history=base.history,
        annotations={},
        created=base.created,
    )


def image_base(base: ImageBase, reference: str, layout: Layout, descriptor: Descriptor, *, arch: str) -> BaseRecipe:
    """A base that is an image, by the descriptor of its manifest in `layout`. Raises MatrixError, LayoutError."""
    config, manifest = layout.config(descriptor), layout.manifest(descriptor)
    if config.platform.architecture != arch:
        raise MatrixError(f"bases.{base.name}: {reference} is for {config.platform}, but the cell needs linux/{arch}")
    layers = tuple(
        Layer(descriptor=d, diff_id=diff_id, uncompressed_size=0)
        for d, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
    )
    filled = sum(not step.empty_layer for step in config.history)
    history = config.history if filled == len(layers) else tuple(History(created_by="base") for _ in layers)
    return BaseRecipe(
        name=base.name,
        config=replace(config, diff_ids=(), history=()),
        layers=layers,
        blobs=layout,
        digest=descriptor.digest,
        history=history,
    )


def image_recipe(
    name: str,
    plan: Plan,
    base: BaseRecipe,
    locks: Mapping[Path, WheelLock],
    *,
    site: Site,
    compiling: Compilers,
    compression: Compression,
    created: int,
) -> ImageRecipe:
    """All layers of an image, with its history. `locks` are the wheel locks by path, as the Dockerfile names them."""
    recipes: list[Recipe] = []
    history: list[History] = []
    for operation in plan.operations:
        recipe = _operation_recipe(operation, locks, site, compiling, compression)
        if recipe is not None:
            recipes.append(recipe)
        history.append(History(created_by=operation.created_by, empty_layer=recipe is None))
    annotations = {k: v for k, v in plan.config.labels.items() if k.startswith("org.opencontainers.image.")}
    return ImageRecipe(
        name=name,
        base=base.layers,
        layers=(*base.recipes, *recipes),
        config=plan.config,
        history=(*base.history, *history),
        annotations=annotations,
        created=created,
        blobs=base.blobs,
    )


def _operation_recipe(
    operation: Operation,
    locks: Mapping[Path, WheelLock],
    site: Site,
    compiling: Compilers,
    compression: Compression,
) -> Recipe | None:
    match operation:
        case Setting():
            return None
        case FilesLayer():
            return _files_recipe(operation.entries, compression)
        case WheelsLayer():
            wheels = _locked(operation, locks[operation.requirements])
            if not wheels:
                return None
            source = WheelsSource(wheels=wheels, site=site, compiling=compiling)
            files = [(w.filename, w.digest) for w in wheels]
            key = recipe_key("wheels", files, site, compiling.identity, compression.identity)
            weight = estimated_work((w.filename, w.size) for w in wheels)
            label = f"{wheels[0].name} {wheels[0].version}" if len(wheels) == 1 else f"{len(wheels)} small wheels"
            return Recipe(key=key, label=label, weight=weight, source=source, compression=compression)


def _files_recipe(entries: Sequence[Entry], compression: Compression) -> Recipe:
    """Keyed by content, not by where the build context is."""
    facts = []
    for e in entries:
        digest = hashlib.sha256()
        for chunk in e.body.chunks() if e.body else ():
            digest.update(chunk)
        facts.append((e.path, e.kind, e.mode, e.uid, e.gid, e.size, e.target, digest.hexdigest()))
    return Recipe(
        key=recipe_key("files", facts, compression.identity),
        label=(os.path.commonpath([e.path for e in entries]) or f"{len(entries)} files") if entries else "nothing",
        weight=sum(e.size for e in entries),
        source=FilesSource(files=tuple(entries)),
        compression=compression,
    )


def _locked(operation: WheelsLayer, lock: WheelLock) -> tuple[LockedWheel, ...]:
    """The lock's wheels for NAME==VERSION; a local version (+cu124) may be left out, as in PEP 440."""
    found: list[LockedWheel] = []
    for name, version in operation.names:
        wheel = lock.wheel(name)
        if wheel is None or version not in (wheel.version, public_version(wheel.version)):
            has = f"{wheel.version} is locked" if wheel else "it is not locked"
            raise LockError(
                f"{operation.requirements}: the Dockerfile installs {name}=={version}, but {has}",
                hint="run `buildctl render`",
            )
        found.append(wheel)
    return tuple(found)


def material_size(recipe: Recipe) -> int:
    """Bytes of what a layer is made from: its own packages, not those that it goes on top of."""
    source = recipe.source
    own = source.lock.packages if isinstance(source, DebianSource) else artifacts_of(recipe)
    return sum(artifact.size for artifact in own) or recipe.weight


def artifacts_of(recipe: Recipe) -> tuple[Artifact, ...]:
    """What must be in the store before the layer can be made."""
    match recipe.source:
        case DebianSource() as source:
            return tuple(package for lock in (source.lock, *source.below) for package in lock.packages)
        case WheelsSource() as source:
            return source.wheels
        case _:
            return ()
