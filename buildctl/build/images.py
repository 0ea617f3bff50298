"""`buildctl build`: plans, downloads, layers, images, tags. Refusals come before any download."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from buildctl.artifacts.debian.package import DebPackage
from buildctl.artifacts.debian.python import build_arch, python_packages
from buildctl.artifacts.store import Store
from buildctl.build.assemble import Built, Made, Recipe, make_layers, write_image
from buildctl.build.index import write_indexes
from buildctl.build.origin import note_origin
from buildctl.build.planner import Planned, Planner
from buildctl.build.recipes import artifacts_of, base_image, refuse_conflicts
from buildctl.console.log import say
from buildctl.console.progress import Progress, open_progress
from buildctl.console.table import size, table
from buildctl.ground.errors import FetchError, RuntimeUnavailableError, UsageError
from buildctl.lock.locked import LockedCell
from buildctl.lock.wheels import WheelLock
from buildctl.matrix.cells import Cell, DebianBase
from buildctl.matrix.matrix import ARCHES
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest
from buildctl.oci.entry import EPOCH
from buildctl.oci.image import Descriptor
from buildctl.oci.layer import Compression
from buildctl.oci.layout import Layout

# Docker, downloads and rendering are imported where they are used: a build with nothing to do answers in half a second.
if TYPE_CHECKING:
    from buildctl.docker.load import Loaded

REPOSITORY = "pytorch"  # the name of our images in a Docker daemon: pytorch:cuda-2.6


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """`load` None means: when a Docker daemon answers. `context` is a docker context or the URL of a daemon."""

    engine: str = "assemble"
    compression: str = "zstd"
    load: bool | None = None
    jobs: int | None = None
    builder: str | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    layout: str
    images: tuple[Built, ...]
    loaded: tuple[Loaded, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "layout": self.layout,
            "seconds": round(self.seconds, 3),
            "images": [
                {
                    "id": image.name,
                    "digest": str(image.descriptor.digest),
                    "size": image.size,
                    "layersMade": image.made,
                    "layersReused": image.reused,
                    "seconds": round(image.seconds, 3),
                }
                for image in self.images
            ],
            "docker": [{"tag": i.tag, "imageId": i.image_id, "how": i.how, "moved": i.moved} for i in self.loaded],
        }

    def text(self) -> str:
        rows = [
            (
                i.name,
                size(i.size),
                str(i.reused),
                str(i.made),
                f"{i.seconds:.1f} s",
                f"sha256:{i.descriptor.digest.short}",
            )
            for i in self.images
        ]
        answer = table(("CELL", "SIZE", "REUSED", "MADE", "WORK", "DIGEST"), rows, right=frozenset({1, 2, 3, 4}))
        noun = "image" if len(rows) == 1 else "images"
        docker = f"\nin Docker: {', '.join(image.tag for image in self.loaded)}" if self.loaded else ""
        return f"{answer}\n{len(rows)} {noun} in {self.layout}, {self.seconds:.1f} s{docker}"


def reach(options: BuildOptions) -> None:
    """Before any work: the Docker that was named answers. Raises RuntimeUnavailableError."""
    if options.context is not None:
        from buildctl.docker.daemon import connected

        with connected(options.context):
            pass


def build_images(project: Project, locked: Sequence[LockedCell], options: BuildOptions) -> BuildResult:
    """Build these cells from their rendered Dockerfiles into the project's layout, and tag them.

    Raises BuildctlError, among them VanishedDebError.
    """
    start = time.perf_counter()
    store, layout = Store.default(), Layout(project.layout)
    cells = [one.cell for one in locked]
    compression = Compression(options.compression)
    epoch = source_date_epoch()
    if options.engine == "docker":
        from buildctl.build.buildkit_images import docker_images

        build_bases(project, bases_under(cells), store, layout, jobs=options.jobs)
        built = docker_images(
            project,
            cells,
            layout,
            compression=compression,
            epoch=epoch,
            builder=options.builder,
            context=options.context,
        )
    else:
        planner = Planner(project=project, compression=compression)
        planned = [planner.plan(cell) for cell in locked]
        _fetch(project, planned, store)
        made = _make(planned, store, compression, options.jobs)
        _write_bases(planned, made, layout, store, epoch)
        built = []
        for p in planned:
            built.append(write_image(p.recipe, made, layout=layout, store=store, epoch=epoch))
            # the next image finds what this one made
            made |= {r.key: replace(made[r.key], fresh=False) for r in p.recipe.layers}
    images = {cell.id: image.descriptor for cell, image in zip(cells, built, strict=True)}
    for cell in cells:
        note_origin(project, cell, images[cell.id].digest)
    write_indexes(project, images, layout)
    loaded = load_images(cells, images, layout, wanted=options.load, context=options.context)
    return BuildResult(
        layout=project.shown(layout.root), images=tuple(built), loaded=loaded, seconds=time.perf_counter() - start
    )


def build_bases(
    project: Project, cells: Sequence[Cell], store: Store, layout: Layout, *, jobs: int | None = None
) -> tuple[str, ...]:
    """Only the bases of these cells, into the layout, for `FROM base` under Docker; their names.

    Raises BuildctlError, among them VanishedDebError.
    """
    planner = Planner(project=project, compression=Compression.ZSTD)
    planned = [planner.plan_base(cell) for cell in cells]
    _fetch(project, planned, store)
    made = _make(planned, store, Compression.ZSTD, jobs)
    _write_bases(planned, made, layout, store, source_date_epoch())
    return tuple(dict.fromkeys(p.base.name for p in planned))


def bases_under(cells: Iterable[Cell]) -> list[Cell]:
    """Cells that stand for all bases of `cells`, for the architecture of the image and of the machine that builds."""
    found: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        for arch in (cell.arch, build_arch()):
            found[cell.base_image, arch] = replace(cell, arch=arch)
    return list(found.values())


def _make(planned: Sequence[Planned], store: Store, compression: Compression, jobs: int | None) -> dict[str, Made]:
    recipes = list({r.key: r for p in planned for r in p.recipes}.values())
    fresh = [p for p in planned if any(store.layer(r.key) is None for r in p.recipe.layers)]

    def check() -> None:
        for p in {(p.cell.name, p.cell.arch): p for p in fresh}.values():  # flavours share their wheels
            refuse_conflicts(p.recipe, store)

    with open_progress("made") as progress:
        return make_layers(recipes, store=store, compression=compression, jobs=jobs, progress=progress, meanwhile=check)


def load_images(
    cells: Sequence[Cell],
    images: Mapping[str, Descriptor],
    layout: Layout,
    *,
    wanted: bool | None,
    context: str | None = None,
) -> tuple[Loaded, ...]:
    """Into Docker, where `wanted` is None only if a daemon answers or a `context` is named. Every image gets the tag of
    its cell, and the one for the daemon's architecture, or the only one there is, the short tag: pytorch:cuda-2.6.
    `images` are by cell id, in the layout.
    """
    if wanted is False:
        return ()
    from buildctl.docker.daemon import connected
    from buildctl.docker.load import load

    try:
        with connected(context) as client:
            native = {"x86_64": "amd64", "aarch64": "arm64"}.get(str(client.info().get("Architecture")), "")
            loaded = []
            for cell in cells:
                arches = {c.arch for c in cells if c.image == cell.image}
                tags = [cell.id, *([cell.image] if cell.arch == native or len(arches) == 1 else [])]
                say(f"loading {cell.id} into Docker")
                loaded += [load(layout, images[cell.id], f"{REPOSITORY}:{tag}", client=client) for tag in tags]
            return tuple(loaded)
    except RuntimeUnavailableError:
        if wanted or context is not None:
            raise
        return ()


def fetch_images(project: Project, locked: Sequence[LockedCell]) -> int:
    """Bring everything that these cells are made from into the store, layers or no layers; how many artifacts it is.

    Raises BuildctlError, among them VanishedDebError.
    """
    store, planner = Store.default(), Planner(project=project, compression=Compression.ZSTD)
    planned = [planner.plan(cell) for cell in locked]
    _fetch(project, planned, store, everything=True)
    return len({artifact.digest for p in planned for r in p.recipes for artifact in artifacts_of(r)})


class VanishedDebError(FetchError):
    """Debian packages that no mirror has any more; `bases` are those whose locks name them, with the architecture."""

    def __init__(self, error: FetchError, bases: Sequence[tuple[DebianBase, str]]) -> None:
        super().__init__(error.message, hint=error.hint, vanished=True)
        self.bases = tuple(bases)


def _fetch(project: Project, planned: Sequence[Planned], store: Store, *, everything: bool = False) -> None:
    """Only what a missing layer is made from; nothing at all, and no network, when every layer is there."""
    missing = {r.key: r for p in planned for r in p.recipes if everything or store.layer(r.key) is None}
    if not missing:
        return
    wanted = {artifact.digest for recipe in missing.values() for artifact in artifacts_of(recipe)}
    from buildctl.lock.fetch import fetch_wheels

    with open_progress("fetched") as progress:
        _fetch_debs(project, planned, missing, store, progress)
        fetch_wheels(_wanted_locks(planned, wanted), store=store, progress=progress)
    for compiling in {p.compiling for p in planned}:
        compiling.prepare(store)  # once, here, before the workers need it


def _wanted_locks(planned: Sequence[Planned], wanted: set[Digest]) -> list[tuple[Cell, WheelLock]]:
    return [
        (p.cell, replace(p.wheels, wheels=tuple(w for w in p.wheels.wheels if w.digest in wanted)))
        for p in planned
        if p.wheels is not None
    ]


def _fetch_debs(
    project: Project, planned: Sequence[Planned], missing: Mapping[str, Recipe], store: Store, progress: Progress
) -> None:
    locks: dict[tuple[DebianBase, str], dict[Digest, DebPackage]] = {}
    for p in planned:
        needed = [a for r in p.recipes if r.key in missing for a in artifacts_of(r) if isinstance(a, DebPackage)]
        if needed and isinstance(p.cell.base, DebianBase):
            locks.setdefault((p.cell.base, p.cell.arch), {}).update((d.digest, d) for d in needed)
        own = {d.digest: d for d in python_packages(p.compiling.lock)}
        locks.setdefault((p.compiling.base, p.compiling.lock.arch), {}).update(own)
    packages = {k: d for found in locks.values() for k, d in found.items() if store.artifact(k) is None}
    if not packages:
        return
    from buildctl.lock.apt_sources import apt_mirrors
    from buildctl.lock.fetch import fetch_debs

    mirrors = dict(apt_mirrors(project.matrix.debian_mirror))
    try:
        fetch_debs(packages.values(), store=store, mirrors=mirrors, progress=progress)
    except FetchError as error:
        if not error.vanished:
            raise
        # which of the bases lost something: what all of them still lack, since downloads that could go on did
        raise VanishedDebError(
            error, [k for k, v in locks.items() if any(store.artifact(d) is None for d in v)]
        ) from error


def _write_bases(
    planned: Sequence[Planned], made: Mapping[str, Made], layout: Layout, store: Store, epoch: int
) -> None:
    """The bases that are made here, as images, and one index for each over the architectures that are there."""
    bases = {(p.base.name, p.cell.arch): p.base for p in planned if p.base.recipes}
    for base in bases.values():
        write_image(base_image(base), made, layout=layout, store=store, epoch=epoch)
    there = set(layout.names()) if bases else set()
    for name in dict.fromkeys(name for name, _ in bases):
        ids = [f"{name}-{arch}" for arch in ARCHES if f"{name}-{arch}" in there]
        layout.put_index(name=name, manifests=[_with_platform(layout, i) for i in ids])


def _with_platform(layout: Layout, name: str) -> Descriptor:
    """The descriptor of a manifest without its name, as it stands in an index."""
    found = layout.resolve(name)
    return replace(found, annotations={}, platform=found.platform or layout.config(found).platform)


def source_date_epoch() -> int:
    """$SOURCE_DATE_EPOCH in seconds since 1970 (reproducible-builds.org), else a constant."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return EPOCH
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"SOURCE_DATE_EPOCH is not a number of seconds: {text!r}", hint="unset it, or date +%s")
    return int(text)
