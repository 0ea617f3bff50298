"""`buildctl build`: plans, downloads, layers, images, tags. Refusals come before any download."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from buildctl.artifacts.store import Store
from buildctl.build.assemble import source_date_epoch
from buildctl.build.choose import ENGINES
from buildctl.build.engine import Built, Order
from buildctl.build.index import write_indexes
from buildctl.build.origin import note_origin
from buildctl.build.record import keep_record
from buildctl.console.log import say
from buildctl.console.table import size, table
from buildctl.ground.errors import RuntimeUnavailableError
from buildctl.lock.locked import LockedCell
from buildctl.matrix.arch import arch_named
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.compression import ZSTD, Compression
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout

# Docker and each engine are imported where they are used: a build with nothing to do answers in half a second.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    layout: str
    images: tuple[Built, ...]
    loaded: tuple[Loaded, ...]
    seconds: float
    began: float = 0.0

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
                    "made": [
                        {
                            "layer": work.label,
                            "began": round(work.began - self.began, 3),
                            "seconds": round(work.seconds, 3),
                        }
                        for work in image.work
                    ],
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
        layout=project.shown(layout.root), images=tuple(built), loaded=loaded, seconds=seconds, began=start
    )
    keep_record(layout, result.to_json())
    return result


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
