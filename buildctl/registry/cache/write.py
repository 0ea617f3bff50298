"""Filling a cache repository: blobs first, then the entry that names them, then the sets of whole images.

Only what the caller says it has made is signed. What is there already stays: a valid entry with the same layer is
enough, and one with another layer is an alarm, because the same key always gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from buildctl.console.log import say
from buildctl.console.progress import Progress, Silent
from buildctl.ground.clock import now
from buildctl.ground.errors import BuildctlError
from buildctl.oci.image import Layer, MediaType
from buildctl.registry.cache.entry import (
    OVERLAPS,
    CachedLayer,
    CacheKind,
    CacheName,
    DoubtError,
    Trust,
    manifest,
    prove,
)
from buildctl.registry.client import Repository
from buildctl.registry.keys import PrivateKey
from buildctl.registry.referrers import EMPTY_TYPE
from buildctl.registry.upload import Blob, Upload

WORKERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """A layer that was made now, with its blob at `path`; `documents` reads the two about it from there."""

    key: str
    label: str
    layer: Layer
    path: Path
    documents: Callable[[], tuple[Blob, Blob]]


@dataclass(slots=True, kw_only=True)
class Writer:
    """One cache repository that is written. `written` and `sent` count entries and bytes; `alarms` are what a person
    must look at, `failed` is why writing stopped.
    """

    repository: Repository
    key: PrivateKey
    trust: Trust
    version: int
    written: int = 0
    sent: int = 0
    alarms: list[str] = field(default_factory=list)
    failed: str = ""

    @property
    def name(self) -> str:
        return self.repository.reference.name

    def entries(self, fresh: Sequence[Fresh], progress: Progress) -> dict[str, CachedLayer]:
        """Write what is missing; returns what the repository holds of them afterwards, by key."""
        with ThreadPoolExecutor(WORKERS) as pool:
            found = list(pool.map(lambda one: self._entry(one, progress), fresh))
        return {cached.key: cached for cached in found if cached is not None}

    def set(self, layers: Sequence[CachedLayer], *, unlapped: bool) -> None:
        """The set of an image whose layers are all in the repository, marked as used this month."""
        wanted = CacheName(kind=CacheKind.SET, version=self.version, keys=tuple(layer.key for layer in layers))
        try:
            there = self.repository.find(wanted.tag)
            data = manifest(wanted, layers, self.key, [OVERLAPS] if unlapped else [])
            if there is not None and self._agrees(there.data, wanted, layers):
                data = there.data
            elif there is None or there.data != data:
                self.repository.put_manifest(data, MediaType.MANIFEST, wanted.tag)
            mark = f"m{now():%Y%m}-{wanted.name}"
            if self.repository.head(mark) is None:
                self.repository.put_manifest(data, MediaType.MANIFEST, mark)
        except BuildctlError as error:
            self._fail(error.message)

    def _entry(self, fresh: Fresh, progress: Progress) -> CachedLayer | None:
        wanted = CacheName(kind=CacheKind.ENTRY, version=self.version, keys=(fresh.key,))
        try:
            there = self.repository.find(wanted.tag) if not self.failed else None
            known = self._known(there.data, wanted) if there is not None else None
            if known is not None and known.layer == fresh.layer:
                return known
            if known is not None:
                self._alarm(fresh, known)
                return None
            return None if self.failed else self._put(fresh, wanted, progress)
        except BuildctlError as error:
            self._fail(error.message)
            return None

    def _put(self, fresh: Fresh, wanted: CacheName, progress: Progress) -> CachedLayer:
        contents, files = fresh.documents()
        task = progress.add(f"cache: {fresh.label}", fresh.layer.descriptor.size)
        layer = Blob(descriptor=fresh.layer.descriptor, path=fresh.path)
        for blob in (layer, contents, files, Blob.of(b"{}", EMPTY_TYPE)):
            upload = Upload(self.repository, blob, task if blob is layer else Silent())
            upload.run()
            self.sent += upload.sent
        task.finish()
        cached = CachedLayer(key=fresh.key, layer=fresh.layer, contents=contents.descriptor, files=files.descriptor)
        self.repository.put_manifest(manifest(wanted, [cached], self.key), MediaType.MANIFEST, wanted.tag)
        self.written += 1
        return cached

    def _known(self, data: bytes, wanted: CacheName) -> CachedLayer | None:
        """The layer of a valid entry; an invalid one is overwritten."""
        try:
            return prove(data, wanted, self.trust).layers[0]
        except DoubtError:
            return None

    def _agrees(self, data: bytes, wanted: CacheName, layers: Sequence[CachedLayer]) -> bool:
        try:
            there = prove(data, wanted, self.trust).layers
        except DoubtError:
            return False
        return [one.layer for one in there] == [one.layer for one in layers]

    def _alarm(self, fresh: Fresh, known: CachedLayer) -> None:
        ours, theirs = fresh.layer.descriptor.digest, known.layer.descriptor.digest
        self.alarms.append(f"{fresh.label} (key {fresh.key[:12]}): made here {ours}, in the cache {theirs}")
        say(
            f"cache {self.name}: ALARM: {self.alarms[-1]}; both are signed for the same inputs, so one was made by "
            "something else: the entry stays, see docs/cache.md"
        )

    def _fail(self, why: str) -> None:
        if not self.failed:
            say(f"cache {self.name}: {why}; nothing more is written")
        self.failed = self.failed or why
