"""Blobs that a layout lacks: fetched when they are needed, or streamed on to where they are wanted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from buildctl.console.log import say
from buildctl.console.progress import Progress, open_progress
from buildctl.console.table import counted, size
from buildctl.ground.errors import LayoutError
from buildctl.oci.absent import absent
from buildctl.oci.image import Descriptor
from buildctl.oci.layout import Layout
from buildctl.oci.remote import Place
from buildctl.registry.client import Repository, open_repository
from buildctl.registry.problems import AbsentError, AgainError
from buildctl.registry.pull import WORKERS, fetch_blob
from buildctl.registry.reference import Reference


class LostError(LayoutError):
    """A layer that the layout lacks is no longer where it was."""

    def __init__(self, place: Place) -> None:
        super().__init__(
            f"layer sha256:{place.layer.digest.short} is neither in the layout nor in {place.name} any longer",
            hint="make it again: `buildctl build NAME --no-cache-from`",
        )


def bring_layers(layout: Layout, images: Iterable[Descriptor], what: str) -> int:
    """Fetch the layers of these images and indexes that the layout lacks, and say that `what` needs them. Returns how
    many there were. Raises RegistryError, LostError.
    """
    places = absent(layout, images)
    if not places:
        return 0
    total = sum(place.layer.size for place in places.values())
    names = ", ".join(sorted({place.name for place in places.values()}))
    say(f"{what} needs {count(len(places))} that {is_are(len(places))} not here: fetching {size(total)} from {names}")
    with open_progress("fetched") as progress:
        fetch_places(layout, places.values(), progress)
    return len(places)


def count(layers: int) -> str:
    return counted(layers, "layer")


def is_are(number: int) -> str:
    return "is" if number == 1 else "are"


def fetch_places(layout: Layout, places: Collection[Place], progress: Progress) -> None:
    """Into the layout, the biggest first, each checked against its digest. Raises RegistryError, LostError."""
    repositories = opened(places)
    biggest_first = sorted(places, key=lambda place: -place.layer.size)

    def one(place: Place) -> None:
        try:
            fetch_blob(repositories[place.name], layout, place.layer, progress)
        except AbsentError as error:
            raise LostError(place) from error

    with ThreadPoolExecutor(WORKERS) as pool:
        for future in [pool.submit(one, place) for place in biggest_first]:
            future.result()


def opened(places: Iterable[Place]) -> Mapping[str, Repository]:
    """The repositories of these places, by name."""
    references = {p.name: Reference(registry=p.registry, repository=p.repository) for p in places}
    return {name: open_repository(reference) for name, reference in references.items()}


@dataclass(slots=True)
class RemoteFile:
    """The bytes of a blob in a repository, read as they come; as much of a file as an upload needs.

    An upload opens and closes it for each of its pieces: the stream goes on from one to the next, until `release`.
    `read` raises AgainError when the connection breaks, and LostError if the blob is gone.
    """

    repository: Repository
    place: Place
    _at: int = 0
    _buffer: bytes = b""
    _context: Any = None
    _chunks: Iterator[bytes] | None = field(default=None)

    def seek(self, position: int, /) -> int:
        if position != self._at:
            self.release()
            self._at = position
        return position

    def read(self, amount: int = -1, /) -> bytes:
        if not self._buffer and self._at < self.place.layer.size:
            self._buffer = self._next()
        data = self._buffer if amount < 0 else self._buffer[:amount]
        self._buffer = self._buffer[len(data) :]
        self._at += len(data)
        return data

    def close(self) -> None:
        """See above."""

    def release(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
        self._context, self._chunks, self._buffer = None, None, b""

    def _next(self) -> bytes:
        try:
            if self._chunks is None:
                context = self.repository.open_blob(self.place.layer, self._at)
                self._chunks, self._context = context.__enter__(), context
            chunk = next(self._chunks, b"")
        except AbsentError as error:
            raise LostError(self.place) from error
        except AgainError:
            self.release()
            raise
        if not chunk:
            self.release()
            raise AgainError(f"{self.place.name} sent {self._at} of {self.place.layer.size} bytes")
        return chunk
