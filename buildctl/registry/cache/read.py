"""Asking cache repositories for layers. Whatever goes wrong here is a miss, with one line that says why."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from buildctl.console.log import say
from buildctl.ground.errors import BuildctlError, LayoutError
from buildctl.ground.net import Patience
from buildctl.oci.image import Descriptor
from buildctl.oci.remote import Place
from buildctl.registry.cache.entry import OVERLAPS, CachedLayer, CacheKind, CacheName, DoubtError, Proven, Trust, prove
from buildctl.registry.client import Repository
from buildctl.registry.reference import Reference
from buildctl.registry.transport import Transport

WORKERS = 16
DEADLINE = 60.0  # seconds for all that one repository is asked in a run
# a cache that is slow to answer costs more than it saves
PATIENCE = Patience(connect=5, read=20, attempts=3, backoff=0.5, longest_wait=10)


@dataclass(slots=True, kw_only=True)
class Source:
    """A cache repository during one run. Once it has failed it is not asked again, and `failed` says why."""

    repository: Repository
    trust: Trust
    deadline: float = DEADLINE
    failed: str = ""
    doubts: int = 0
    _since: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.repository.reference.name

    def find(self, wanted: CacheName) -> Proven | None:
        """None for what is not there, is not believed, or could not be asked. Says the first reason of each kind."""
        data = self._asked(wanted.tag)
        try:
            return None if data is None else prove(data, wanted, self.trust)
        except DoubtError as error:
            self._doubted(f"{wanted.tag[:15]}: {error}")
            return None

    def document(self, descriptor: Descriptor) -> bytes | None:
        """A small blob, verified; None when it cannot be had."""
        if self.failed:
            return None
        try:
            return self.repository.blob(descriptor)
        except BuildctlError as error:
            self._doubted(error.message)
            return None

    def _asked(self, tag: str) -> bytes | None:
        if not self.failed and time.monotonic() - self._since > self.deadline:
            self._fail(f"it took longer than {self.deadline:.0f} s to answer")
        if self.failed:
            return None
        try:
            found = self.repository.find(tag)
        except (BuildctlError, LayoutError) as error:
            self._fail(error.message)
            return None
        return None if found is None else found.data

    def _fail(self, why: str) -> None:
        with self._lock:
            first, self.failed = not self.failed, self.failed or why
        if first:
            say(f"cache {self.name}: {why}; going on without it")

    def _doubted(self, why: str) -> None:
        with self._lock:
            self.doubts += 1
            first = self.doubts == 1
        if first:
            say(f"cache {self.name}: not used: {why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A layer that is in a cache, and who says so."""

    cached: CachedLayer
    source: Source
    signer: str

    @property
    def place(self) -> Place:
        reference = self.source.repository.reference
        return Place(
            registry=reference.registry,
            repository=reference.repository,
            key=self.cached.key,
            signer=self.signer,
            layer=self.cached.layer.descriptor,
            contents=self.cached.contents,
            files=self.cached.files,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedUp:
    """`hits` by key; `sets` are the images that a valid set is about, by their keys, and `unlapped` those of them whose
    layers of wheels were checked against each other.
    """

    hits: dict[str, Hit] = field(default_factory=dict)
    sets: frozenset[tuple[str, ...]] = frozenset()
    unlapped: frozenset[tuple[str, ...]] = frozenset()


def look_up(
    sources: Sequence[Source], images: Iterable[tuple[str, ...]], version: int, missing: Iterable[str]
) -> LookedUp:
    """Ask for the sets of `images`, then one by one for the `missing` keys that no set has. The first source with a
    valid answer wins.
    """
    found, images, missing = LookedUp(), list(dict.fromkeys(images)), list(dict.fromkeys(missing))
    sets: set[tuple[str, ...]] = set()
    unlapped: set[tuple[str, ...]] = set()
    for source in sources:
        wanted = [CacheName(kind=CacheKind.SET, version=version, keys=image) for image in images if image not in sets]
        for one, proven in _parallel(source, wanted):
            sets.add(one.keys)
            if OVERLAPS in proven.checked:
                unlapped.add(one.keys)
            _take(found, source, proven)
        wanted = [
            CacheName(kind=CacheKind.ENTRY, version=version, keys=(key,)) for key in missing if key not in found.hits
        ]
        for _, proven in _parallel(source, wanted):
            _take(found, source, proven)
    return LookedUp(hits=found.hits, sets=frozenset(sets), unlapped=frozenset(unlapped))


def _take(found: LookedUp, source: Source, proven: Proven) -> None:
    for cached in proven.layers:
        found.hits.setdefault(cached.key, Hit(cached=cached, source=source, signer=proven.signer))


def _parallel(source: Source, wanted: Sequence[CacheName]) -> Iterator[tuple[CacheName, Proven]]:
    if not wanted:
        return
    with ThreadPoolExecutor(min(WORKERS, len(wanted))) as pool:
        answers = list(pool.map(source.find, wanted))
    yield from ((one, answer) for one, answer in zip(wanted, answers, strict=True) if answer is not None)


def open_source(reference: Reference, trust: Trust, *, write: bool = False) -> Source:
    transport = Transport(reference.registry, patience=PATIENCE)
    return Source(repository=Repository(reference=reference, transport=transport, write=write), trust=trust)
