"""The assemble engine: executes a rendered Dockerfile without daemon, root or emulation, running nothing from it.

It makes layers in parallel processes and writes images from them: blobs, configuration, manifest, tag.
`plan` decides what to do before any download, `recipes` defines what each layer is made from.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from buildctl.artifacts.store import LayerStore, Store
from buildctl.build.engine import Built, LayerWork
from buildctl.console.progress import Progress
from buildctl.ground.clock import written
from buildctl.ground.errors import UsageError
from buildctl.ground.workers import Workers
from buildctl.oci.compression import Compression
from buildctl.oci.entry import EPOCH, Entry
from buildctl.oci.image import History, ImageConfig, Layer
from buildctl.oci.layout import Layout


class LayerSource(Protocol):
    """What a layer is made from. It is sent to a worker process, so it holds only values and paths."""

    def entries(self, store: Store) -> Iterable[Entry]: ...


LAST_SECOND = 253402300799  # 9999-12-31T23:59:59Z, the last that RFC 3339 can write


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to make one layer. The same `key` always gives the same bytes; `weight` is the work in bytes."""

    key: str
    label: str
    weight: int
    source: LayerSource
    compression: Compression


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A layer for people who wait: what and for which image; about how many bytes, 0 if nobody knows."""

    label: str
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecipe:
    """An image to write: `base` are layers that exist already, in the layout `blobs`; `layers` come on top, from the
    bottom up. `config` has no diff ids. `created` is the time of the image, in seconds since 1970.
    """

    name: str
    layers: tuple[Recipe, ...]
    config: ImageConfig
    history: tuple[History, ...]
    annotations: Mapping[str, str]
    created: int = EPOCH
    base: tuple[Layer, ...] = ()
    blobs: Layout | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A layer in the store; `fresh` if it was made now, which `began` (`time.monotonic`) and took `seconds` of one
    process.
    """

    layer: Layer
    fresh: bool
    seconds: float
    began: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    recipe: Recipe
    store: Store
    layers: LayerStore


def _make(task: _Task, told: Callable[[int], None]) -> Made:
    recipe, pending, start = task.recipe, 0, time.monotonic()
    last = start

    def on_bytes(count: int) -> None:
        nonlocal pending, last
        pending += count
        if (now := time.monotonic()) - last > 0.1:
            told(pending)
            pending, last = 0, now

    layer, fresh = task.layers.put(
        recipe.key, lambda: recipe.source.entries(task.store), compression=recipe.compression, on_bytes=on_bytes
    )
    return Made(layer=layer, fresh=fresh, seconds=time.monotonic() - start, began=start)


def at_hand(recipes: Iterable[Recipe], layers: LayerStore) -> dict[str, Made]:
    """The layers that `layers` already has for these recipes, by key."""
    found = {recipe.key: layers.get(recipe.key) for recipe in {recipe.key: recipe for recipe in recipes}.values()}
    return {key: Made(layer=layer, fresh=False, seconds=0) for key, layer in found.items() if layer is not None}


def make_layers(
    recipes: Iterable[Recipe],
    *,
    store: Store,
    layers: LayerStore,
    jobs: int | None = None,
    progress: Progress,
    ready: Callable[[Recipe], bool] = lambda _: True,
    meanwhile: Callable[[], None] = lambda: None,
    shown: Mapping[str, Shown] = MappingProxyType({}),
) -> dict[str, Made]:
    """Make the layers that `layers` lacks from the artifacts in `store`, in `jobs` processes (default: one per core),
    the heaviest of those that are `ready` first. Returns what was made or found, by key. `meanwhile` is called
    repeatedly while layers are missing. The first failure, also one in `ready` or `meanwhile`, stops the others;
    finished layers are kept.
    """
    wanted = {recipe.key: recipe for recipe in recipes}
    done = at_hand(wanted.values(), layers)
    if missing := {key: recipe for key, recipe in wanted.items() if key not in done}:
        tasks = [
            _Task(recipe=r, store=store, layers=layers)
            for r in sorted(missing.values(), key=lambda r: (-r.weight, r.key))
        ]
        try:
            count = min(jobs or os.cpu_count() or 1, len(tasks))
            done |= _in_processes(tasks, count, progress, ready=ready, meanwhile=meanwhile, shown=shown)
        except BaseException:
            store.sweep()  # what the workers were writing when they were killed
            raise
    return done


def _in_processes(
    tasks: Sequence[_Task],
    jobs: int,
    progress: Progress,
    *,
    ready: Callable[[Recipe], bool],
    meanwhile: Callable[[], None],
    shown: Mapping[str, Shown],
) -> dict[str, Made]:
    known = {t.recipe.key: shown.get(t.recipe.key, Shown(label=t.recipe.label)) for t in tasks}
    bars = {key: progress.add(one.label, one.size, exact=False) for key, one in known.items()}
    made: dict[str, Made] = {}
    workers = Workers[_Task, Made](work=_make, count=jobs)
    results = workers.run(
        tasks,
        told=lambda task, count: bars[task.recipe.key].advance(count),
        ready=lambda task: ready(task.recipe),
        meanwhile=meanwhile,
    )
    with contextlib.closing(results):
        for task, result in results:
            made[task.recipe.key] = result
            bars[task.recipe.key].finish()
    return made


def source_date_epoch() -> int | None:
    """$SOURCE_DATE_EPOCH in seconds since 1970 (reproducible-builds.org), None if it is not set."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"SOURCE_DATE_EPOCH is not a number of seconds: {text!r}", hint="unset it, or date +%s")
    if len(text) > len(str(LAST_SECOND)) or int(text) > LAST_SECOND:  # long numbers are not even read
        raise UsageError(f"SOURCE_DATE_EPOCH is beyond the year 9999: {text[:24]}", hint="unset it, or date +%s")
    return int(text)


def write_image(
    image: ImageRecipe, made: Mapping[str, Made], *, layout: Layout, layers: LayerStore, epoch: int | None
) -> Built:
    """Write one image whose layers are made, and tag it in the layout. `epoch` replaces the image's own time."""
    start = time.perf_counter()
    stack = [*image.base, *(made[recipe.key].layer for recipe in image.layers)]
    created = written(image.created if epoch is None else epoch)
    below = {layer.descriptor.digest: image.blobs for layer in image.base if image.blobs is not None}
    descriptor = layout.put_image(
        name=image.name,
        config=replace(
            image.config, created=created, history=tuple(replace(step, created=created) for step in image.history)
        ),
        layers=stack,
        blob=lambda digest: below[digest].blob_path(digest) if digest in below else layers.blob(digest),
        annotations=image.annotations,
    )
    fresh = {recipe: made[recipe.key] for recipe in image.layers if made[recipe.key].fresh}
    return Built(
        name=image.name,
        descriptor=descriptor,
        size=sum(layer.descriptor.size for layer in stack),
        made=len(fresh),
        reused=len(stack) - len(fresh),
        seconds=sum(m.seconds for m in fresh.values()) + time.perf_counter() - start,
        work=tuple(LayerWork(label=r.label, began=m.began, seconds=m.seconds) for r, m in fresh.items()),
        layers={recipe.key: made[recipe.key].layer.descriptor.digest for recipe in image.layers},
    )
