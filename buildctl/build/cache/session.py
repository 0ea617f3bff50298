"""The shared cache during one build: what the engine makes layers from, which it knows, what it hands over.

Without a cache nothing of a registry is imported: a build with nothing to do answers at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from buildctl.artifacts.debian.python import python_packages
from buildctl.artifacts.facts import KnownFile, parse_files
from buildctl.artifacts.store import LayerStore, OnBytes, Source, Store
from buildctl.build.assemble import Made, Recipe
from buildctl.build.cache.inputs import scratch_store, take_hashed
from buildctl.build.planner import Planned
from buildctl.build.recipes import Compiling, artifacts_of
from buildctl.console.log import say
from buildctl.ground.errors import EngineError
from buildctl.oci.compression import Compression
from buildctl.oci.digest import Digest
from buildctl.oci.image import Layer
from buildctl.oci.layout import Layout

if TYPE_CHECKING:
    from buildctl.build.cache.settings import SharedCache
    from buildctl.build.cache.shared import Shared


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLayers:
    """A `LayerStore` that also knows the layers that are only in the cache; their blobs are not here.

    The layers of `again` are made in any case, into `scratch`: they are here, but only what this run makes is signed.
    """

    local: LayerStore
    remote: Mapping[str, Layer] = field(default_factory=dict)
    again: frozenset[str] = frozenset()
    scratch: Store | None = None

    def get(self, key: str) -> Layer | None:
        return None if key in self.again else self.local.get(key) or self.remote.get(key)

    def put(
        self, key: str, entries: Source, *, compression: Compression, on_bytes: OnBytes = None
    ) -> tuple[Layer, bool]:
        """Raises EngineError if a layer that is made again differs from the one that is here."""
        if key not in self.again or self.scratch is None:
            return self.local.put(key, entries, compression=compression, on_bytes=on_bytes)
        made, fresh = self.scratch.put(key, entries, compression=compression, on_bytes=on_bytes)
        kept = self.local.get(key)
        if kept is not None and kept != made:
            raise EngineError(
                f"the store's layer {kept.descriptor.digest} is not what its recipe makes: {made.descriptor.digest}",
                hint="images with that layer are wrong: `buildctl prune --all` empties the store; build them again",
            )
        return made, fresh

    def blob(self, digest: Digest) -> Path:
        path = self.local.blob(digest)
        return self.scratch.blob(digest) if self.scratch is not None and not path.exists() else path


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSession:
    """What the engine builds with: `layers` are those it knows, `unlapped` the images (by their keys) whose wheels are
    known not to overwrite each other, `files` the files of layers that are in the cache only. `scratch` is a store for
    what will be signed.
    """

    planned: Sequence[Planned]
    store: Store
    layers: KnownLayers
    unlapped: frozenset[tuple[str, ...]] = frozenset()
    files: Mapping[str, bytes] = field(default_factory=dict)
    scratch: Store | None = None
    shared: Shared | None = None

    @property
    def inputs(self) -> Store:
        """Where layers are made from; hashed in this run if what is made will be signed."""
        return self.scratch or self.store

    def prepare(self) -> None:
        """Unpack the Pythons that make bytecode. Their packages must have arrived, and no layer may have been made."""
        compiling = {p.compiling for p in self.planned}
        if self.scratch is not None:  # the layers of an image are hashed as they are unpacked
            debian = [one for one in compiling if isinstance(one, Compiling)]
            take_hashed((p.digest for one in debian for p in python_packages(one.lock)), self.store, self.scratch)
        for one in compiling:
            one.prepare(self.inputs)

    def hash_inputs(self, recipes: Iterable[Recipe]) -> None:
        """Hash the inputs of these layers if they will be signed. The inputs must have arrived."""
        if self.scratch is not None:
            take_hashed((a.digest for recipe in recipes for a in artifacts_of(recipe)), self.store, self.scratch)

    def known_files(self, key: str) -> Sequence[KnownFile] | None:
        """The files of a layer in the cache; None if it is not there."""
        data, layer = self.files.get(key), self.layers.remote.get(key)
        return parse_files(data, f"layer {layer.descriptor.digest.short}") if data and layer else None

    def note_places(self, layout: Layout) -> None:
        """Before images are written: where their layers are."""
        if self.shared is not None:
            self.shared.note_places(layout)

    def write(self, made: Mapping[str, Made], layout: Layout) -> None:
        """Into the cache, what this run has made."""
        if self.shared is not None:
            self.shared.write(made, self.layers, layout)


@contextlib.contextmanager
def opened(
    cache: SharedCache | None, planned: Sequence[Planned], store: Store, layers: LayerStore
) -> Iterator[CacheSession]:
    """Asks the cache for what is missing here; without a cache, or with nothing missing, nothing is asked.

    Raises MissError if the cache is required and has not everything.
    """
    recipes = {recipe.key: recipe for one in planned for recipe in one.recipes}
    here = {key for key in recipes if layers.get(key) is not None} if cache is not None else set[str]()
    if cache is None or (cache.writer is None and len(here) == len(recipes)):
        yield CacheSession(planned=planned, store=store, layers=KnownLayers(local=layers))
        return
    from buildctl.build.cache.shared import ask  # noqa: PLC0415 - see above

    shared = ask(cache, planned, layers)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(scratch_store(store)) if shared.writer is not None else None
        # also what the cache has differently: then this run finds out which of the two is wrong
        same = {key for key, layer in shared.layers.items() if key in here and layers.get(key) == layer}
        again = frozenset(here - same) if shared.writer is not None else frozenset[str]()
        if again:
            say(f"making layers again that are here ({len(again)}): only what this run makes is signed")
        yield CacheSession(
            planned=planned,
            store=store,
            layers=KnownLayers(local=layers, remote=shared.layers, again=again, scratch=scratch),
            unlapped=shared.found.unlapped,
            files=shared.files,
            scratch=scratch,
            shared=shared,
        )
