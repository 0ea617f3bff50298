"""`buildctl cache verify`: entries of a cache made again from their inputs, and compared."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from buildctl.artifacts.store import RECIPE_VERSION, Store
from buildctl.build.assemble import make_layers
from buildctl.build.cache.inputs import scratch_store
from buildctl.build.cache.session import CacheSession, KnownLayers
from buildctl.build.cache.settings import SharedCache
from buildctl.build.material import fetch_materials
from buildctl.build.planner import Planned, Planner
from buildctl.console.progress import open_progress
from buildctl.console.table import size, table
from buildctl.ground.errors import ExitCode
from buildctl.lock.locked import LockedCell
from buildctl.matrix.project import Project
from buildctl.oci.compression import Compression
from buildctl.oci.image import Layer
from buildctl.registry.cache.read import Hit, look_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """An entry, and what its recipe makes here."""

    label: str
    hit: Hit
    made: Layer

    @property
    def same(self) -> bool:
        return self.made == self.hit.cached.layer

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.hit.cached.key,
            "label": self.label,
            "cache": self.hit.source.name,
            "there": str(self.hit.cached.layer.descriptor.digest),
            "made": str(self.made.descriptor.digest),
            "same": self.same,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`entries` were compared, of `there` that the caches have for the current locks."""

    entries: tuple[Compared, ...]
    there: int

    @property
    def exit_code(self) -> ExitCode:
        """Without anything to compare nothing was shown."""
        if not self.entries:
            return ExitCode.NOT_RUN
        return ExitCode.OK if all(entry.same for entry in self.entries) else ExitCode.FAILED

    def to_json(self) -> dict[str, Any]:
        return {"entries": [entry.to_json() for entry in self.entries], "there": self.there}

    def text(self) -> str:
        if not self.entries:
            return "NOT RUN: no cache has a layer of these images"
        rows = [
            (
                "PASSED" if e.same else "FAILED",
                e.label,
                size(e.made.descriptor.size),
                f"sha256:{e.made.descriptor.digest.short}",
                f"sha256:{e.hit.cached.layer.descriptor.digest.short}",
            )
            for e in self.entries
        ]
        wrong = sum(not entry.same for entry in self.entries)
        said = "all are what their recipes make" if not wrong else f"{wrong} differ from what their recipes make"
        head = ("VERDICT", "LAYER", "SIZE", "MADE HERE", "IN THE CACHE")
        return f"{table(head, rows, right=frozenset({2}))}\n{len(rows)} of {self.there} entries compared: {said}"


def compare(
    project: Project, locked: Sequence[LockedCell], cache: SharedCache, compression: Compression, *, sample: int
) -> Comparison:
    """Make `sample` layers that the caches have for these cells again, chosen at random, from inputs that are hashed
    now. Layers on this machine do not count. Raises BuildctlError.
    """
    store, planner = Store.default(), Planner(project=project, compression=compression)
    planned = [planner.plan(cell) for cell in locked]
    recipes = {recipe.key: recipe for one in planned for recipe in one.recipes}
    found = look_up(cache.sources, (), RECIPE_VERSION, recipes)
    chosen = random.SystemRandom().sample(sorted(found.hits), min(sample, len(found.hits)))
    made = _made(project, [_only(one, set(chosen)) for one in planned], store) if chosen else {}
    entries = tuple(
        Compared(label=recipes[key].label, hit=found.hits[key], made=made[key])
        for key in sorted(chosen, key=lambda key: recipes[key].label)
    )
    return Comparison(entries=entries, there=len(found.hits))


def _only(planned: Planned, keys: set[str]) -> Planned:
    """Less the layers that are not to be made."""
    base = tuple(recipe for recipe in planned.base.recipes if recipe.key in keys)
    above = tuple(recipe for recipe in planned.recipe.layers if recipe.key in keys)
    return replace(planned, base=replace(planned.base, recipes=base), recipe=replace(planned.recipe, layers=above))


def _made(project: Project, planned: Sequence[Planned], store: Store) -> dict[str, Layer]:
    """In a store of its own, of which nothing is kept."""
    with scratch_store(store) as scratch, open_progress("made") as progress:
        layers = KnownLayers(local=scratch)
        fetch_materials(project, planned, store, layers)
        recipes = {recipe.key: recipe for one in planned for recipe in one.recipes}
        session = CacheSession(planned=planned, store=store, layers=layers, scratch=scratch)
        session.prepare()
        session.hash_inputs(recipes.values())
        done = make_layers(recipes.values(), store=scratch, layers=layers, progress=progress)
    return {key: one.layer for key, one in done.items()}
