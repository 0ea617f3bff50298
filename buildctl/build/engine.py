"""What makes images: an engine gets an order for cells and answers with what it has built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from buildctl.artifacts.store import LayerStore
from buildctl.lock.locked import LockedCell
from buildctl.matrix.cells import Cell
from buildctl.matrix.project import Project
from buildctl.oci.compression import Compression
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout

if TYPE_CHECKING:
    from buildctl.build.cache.settings import SharedCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Cells to build into `layout`, from layers that are in `layers` or will be put there. `epoch` is the time
    of the images in seconds since 1970, None for the time of what is locked for each.

    `jobs` is the number of processes (None: one per core). `builder` is a buildx builder, `context` a docker context or
    the URL of a daemon; an engine without Docker has no use for them. `cache` has layers that others made.
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
    made for this image, where the engine knows.
    """

    name: str
    descriptor: Descriptor
    size: int
    made: int
    reused: int
    seconds: float
    work: tuple[LayerWork, ...] = ()


class Engine(Protocol):
    def __call__(self, order: Order, /) -> list[Built]:
        """The cells of the order as images, each tagged with its cell's id in the layout, in that order; their bases
        too. Raises BuildctlError, among them VanishedDebError.
        """
