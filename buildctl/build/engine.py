"""The interface of engines: an engine gets an order for cells and answers with what it has built.

Imports nothing that a build with nothing to do could do without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from buildctl.console.table import size, table

if TYPE_CHECKING:
    from buildctl.artifacts.store import LayerStore
    from buildctl.build.cache.settings import SharedCache
    from buildctl.docker.load import Loaded
    from buildctl.lock.locked import LockedCell
    from buildctl.matrix.cells import Cell
    from buildctl.matrix.project import Project
    from buildctl.oci.compression import Compression
    from buildctl.oci.digest import Digest
    from buildctl.oci.image import Descriptor
    from buildctl.oci.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Cells to build into `layout`, from layers that are in `layers` or will be put there. `epoch` is the time of the
    images in seconds since 1970; None means the time of the newest locked package of each. `jobs` is the number of
    processes (None: one per core). `builder` is a buildx builder, `context` a docker context or the URL of a daemon; an
    engine without Docker ignores both. `cache` has layers that others made.
    """

    project: Project
    locked: tuple[LockedCell, ...]
    layout: Layout
    layers: LayerStore
    compression: Compression
    epoch: int | None
    jobs: int | None = None
    builder: str | None = None
    context: str | None = None
    cache: SharedCache | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(one.cell for one in self.locked)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWork:
    """A layer that was made: `began` on `time.monotonic`'s clock, `seconds` of one process."""

    label: str
    began: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """`size` is the sum of the compressed layers in bytes, `made` and `reused` count layers. `work` are those that were
    made for this image, and `layers` all by recipe key, where the engine knows.
    """

    name: str
    descriptor: Descriptor
    size: int
    made: int
    reused: int
    seconds: float
    work: tuple[LayerWork, ...] = ()
    layers: Mapping[str, Digest] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """The answer of a build. `changed` are the images that the layout did not have with this digest before. `first` is
    what `buildctl run` takes for the first one.
    """

    layout: str
    images: tuple[Built, ...]
    loaded: tuple[Loaded, ...]
    seconds: float
    began: float = 0.0
    changed: frozenset[str] = frozenset()
    first: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "layout": self.layout,
            "seconds": round(self.seconds, 3),
            "images": [
                {
                    "id": image.name,
                    "digest": str(image.descriptor.digest),
                    "size": image.size,
                    "changed": image.name in self.changed,
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
        changed = f"{len(self.changed)} changed" if self.changed else "nothing changed"
        docker = f"\nin Docker: {', '.join(image.tag for image in self.loaded)}" if self.loaded else ""
        return f"{answer}\n{len(rows)} {noun} in {self.layout}, {changed}, {self.seconds:.1f} s{docker}"


class Engine(Protocol):
    def __call__(self, order: Order, /) -> list[Built]:
        """The cells of the order as images, each tagged with its cell's id in the layout, in that order; their bases
        too. Raises BuildctlError, among them VanishedDebError.
        """
