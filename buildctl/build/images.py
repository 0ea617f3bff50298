"""`buildctl build`: plans, downloads, layers, images, tags. Refusals come before any download."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildctl.artifacts.store import Store
from buildctl.build.assemble import source_date_epoch
from buildctl.build.choose import ENGINES
from buildctl.build.engine import BuildResult, Order
from buildctl.build.index import write_indexes
from buildctl.build.origin import note_origin
from buildctl.build.record import keep_record
from buildctl.console.log import say
from buildctl.ground.errors import LayoutError, RuntimeUnavailableError
from buildctl.lock.locked import LockedCell
from buildctl.matrix.arch import arch_named
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.compression import ZSTD, Compression
from buildctl.oci.digest import Digest
from buildctl.oci.image import REF_NAME, Descriptor
from buildctl.oci.layout import Layout

# Docker and each engine are imported where they are used: most builds have little to do.
if TYPE_CHECKING:
    from buildctl.build.cache.options import CacheOptions
    from buildctl.build.cache.settings import SharedCache
    from buildctl.docker.load import Loaded

REPOSITORY = "pytorch"  # the name of our images in a Docker daemon: pytorch:cuda-2.6


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """`load` None means: if a Docker daemon answers. `context` is a docker context or the URL of a daemon."""

    engine: str = "assemble"
    compression: Compression = ZSTD
    load: bool | None = None
    jobs: int | None = None
    builder: str | None = None
    context: str | None = None
    cache: CacheOptions | None = None


def reach(options: BuildOptions) -> None:
    """Before any work: check that the selected Docker answers. Raises RuntimeUnavailableError."""
    if options.context is not None:
        from buildctl.docker.daemon import connected

        with connected(options.context):
            pass


def build_images(project: Project, locked: Sequence[LockedCell], options: BuildOptions) -> BuildResult:
    """Build these cells from their rendered Dockerfiles into the project's layout, and tag them.

    Raises BuildctlError, among them VanishedDebError.
    """
    start = time.monotonic()
    order = Order(
        project=project,
        locked=tuple(locked),
        layout=Layout(project.layout),
        layers=Store.default(),
        compression=options.compression,
        epoch=source_date_epoch(),
        jobs=options.jobs,
        builder=options.builder,
        context=options.context,
        cache=_cache(project, options),
    )
    cells, layout = order.cells, order.layout
    before = _digests(layout)
    built = ENGINES[options.engine](order)
    images = {cell.id: image.descriptor for cell, image in zip(cells, built, strict=True)}
    for cell in cells:
        note_origin(project, cell, images[cell.id].digest)
    write_indexes(project, images, layout)
    for line in dict.fromkeys(layout.mended):
        say(line)
    loaded = load_images(cells, images, layout, wanted=options.load, context=options.context)
    seconds = time.monotonic() - start
    result = BuildResult(
        layout=project.shown(layout.root),
        images=tuple(built),
        loaded=loaded,
        seconds=seconds,
        began=start,
        changed=frozenset(name for name, image in images.items() if before.get(name) != image.digest),
    )
    keep_record(layout, result.to_json())
    return result


def _digests(layout: Layout) -> dict[str, Digest]:
    """Digests of the images in the layout, by name; empty if there is no readable layout yet."""
    with suppress(LayoutError, OSError):
        return {m.annotations.get(REF_NAME, ""): m.digest for m in layout.entries()}
    return {}


def _cache(project: Project, options: BuildOptions) -> SharedCache | None:
    """Registries are imported only where one is asked."""
    asked = options.cache
    if asked is None or not (asked.write or asked.required or asked.read or project.matrix.cache.read):
        return None
    from buildctl.build.cache.settings import open_cache

    return open_cache(project, asked, options.compression)


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
    from buildctl.registry.remote import bring_layers

    try:
        with connected(context) as client:
            bring_layers(layout, [images[cell.id] for cell in cells], "Docker")
            native = arch_named(str(client.info().get("Architecture")))
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
