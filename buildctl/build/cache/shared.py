"""What the shared cache answered about one build, and what it gets from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from buildctl.artifacts.facts import CONTENTS_TYPE, FILES_TYPE, facts_of, parse_files
from buildctl.artifacts.store import RECIPE_VERSION, LayerStore
from buildctl.build.assemble import Made, Recipe
from buildctl.build.cache.overlaps import wheel_recipes
from buildctl.build.cache.settings import SharedCache
from buildctl.build.planner import Planned
from buildctl.console.log import say
from buildctl.console.progress import open_progress
from buildctl.console.table import size
from buildctl.ground.errors import BuildctlError, ExitCode, LayoutError
from buildctl.oci.image import Layer
from buildctl.oci.layout import Layout
from buildctl.oci.remote import note_places
from buildctl.registry.cache.entry import CachedLayer
from buildctl.registry.cache.read import Hit, LookedUp, Source, look_up
from buildctl.registry.cache.write import Fresh, Writer
from buildctl.registry.remote import count
from buildctl.registry.upload import Blob


class MissError(BuildctlError):
    """The cache was required to have everything."""

    exit_code = ExitCode.FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """`files` are the documents about files of the layers that must be compared; `writer` is None where nothing is to
    be written.
    """

    planned: Sequence[Planned]
    found: LookedUp
    files: Mapping[str, bytes] = field(default_factory=dict)
    writer: Writer | None = None

    @property
    def layers(self) -> dict[str, Layer]:
        return {key: hit.cached.layer for key, hit in self.found.hits.items()}

    def note_places(self, layout: Layout) -> None:
        """Of all that the cache has of these images."""
        used = _recipes(self.planned)
        note_places(layout.root, [hit.place for key, hit in self.found.hits.items() if key in used])

    def write(self, made: Mapping[str, Made], layers: LayerStore, layout: Layout) -> None:
        """What was made, then the sets of the images whose layers are all signed by our key. What goes wrong is said,
        and the build stands.
        """
        writer = self.writer
        if writer is None:
            return
        recipes = _recipes(self.planned)
        fresh = [_fresh(recipes[key], one.layer, layers) for key, one in made.items() if one.fresh and key in recipes]
        with open_progress("sent") as progress:
            there = self._own_hits(writer) | writer.entries(fresh, progress)
        for keys in dict.fromkeys(planned.keys for planned in self.planned):
            if keys and all(key in there for key in keys):
                writer.set([there[key] for key in keys], unlapped=True)
        source, hint = Source(repository=writer.repository, trust=writer.trust), writer.key.public.hint
        # so that `publish` mounts what the cache has just got
        note_places(layout.root, [Hit(cached=c, source=source, signer=hint).place for c in there.values()])
        say(f"cache {writer.name}: {writer.written} of {count(len(fresh))} written, {size(writer.sent)}")

    def _own_hits(self, writer: Writer) -> dict[str, CachedLayer]:
        """What the repository that is written has already, said by our own key: a set vouches for nobody else."""
        hint = writer.key.public.hint
        hits = self.found.hits.items()
        return {key: hit.cached for key, hit in hits if (hit.source.name, hit.signer) == (writer.name, hint)}


def _recipes(planned: Sequence[Planned]) -> dict[str, Recipe]:
    return {recipe.key: recipe for one in planned for recipe in one.recipes}


def _fresh(recipe: Recipe, layer: Layer, layers: LayerStore) -> Fresh:
    path = layers.blob(layer.descriptor.digest)

    def documents() -> tuple[Blob, Blob]:
        facts = facts_of(path, layer)
        return Blob.of(facts.contents, CONTENTS_TYPE), Blob.of(facts.files, FILES_TYPE)

    return Fresh(key=recipe.key, label=recipe.label, layer=layer, path=path, documents=documents)


def ask(cache: SharedCache, planned: Sequence[Planned], local: LayerStore) -> Shared:
    """What the caches have of the layers that are missing here; of all, where one is written.

    Raises MissError if the cache is required and has not everything.
    """
    here = {key for key in _recipes(planned) if local.get(key) is not None}
    wanted = [p for p in planned if cache.writer is not None or any(r.key not in here for r in p.recipes)]
    images = [keys for p in wanted if (keys := p.keys)]
    missing = [r.key for p in wanted for r in p.recipes if cache.writer is not None or r.key not in here]
    found = look_up(cache.sources, images, RECIPE_VERSION, missing)
    found, files = _with_files(found, wanted, here)
    _say_found(cache, _recipes(planned), here, found, local)
    failed = {source.name for source in cache.sources if source.failed}
    # what did not say what it has gets nothing: everything would be made again in vain
    writer = cache.writer if cache.writer is not None and cache.writer.name not in failed else None
    return Shared(planned=planned, found=found, files=files, writer=writer)


def _with_files(found: LookedUp, planned: Sequence[Planned], here: set[str]) -> tuple[LookedUp, dict[str, bytes]]:
    """With the lists of files that are needed to compare wheels; a hit whose list cannot be had is a miss."""
    unsure = [p for p in planned if p.keys not in found.unlapped]
    needed = {r.key for p in unsure for r in wheel_recipes(p.recipe)} & set(found.hits) - here
    files = {key: data for key in sorted(needed) if (data := _files(found.hits[key])) is not None}
    hits = {key: hit for key, hit in found.hits.items() if key not in needed or key in files}
    return replace(found, hits=hits), files


def _files(hit: Hit) -> bytes | None:
    data = hit.source.document(hit.cached.files)
    try:
        if data is not None:
            parse_files(data, "")
    except LayoutError:
        return None
    return data


def _say_found(
    cache: SharedCache, recipes: Mapping[str, Recipe], here: set[str], found: LookedUp, local: LayerStore
) -> None:
    """How much of what is missing the caches have, and where one contradicts this machine."""
    missing = set(recipes) - here
    hits = [found.hits[key] for key in sorted(missing & set(found.hits))]
    for name in dict.fromkeys(hit.source.name for hit in hits):
        sizes = [hit.cached.layer.descriptor.size for hit in hits if hit.source.name == name]
        there = f"{len(sizes)} of {count(len(missing))} ({size(sum(sizes))})"
        say(f"cache {name}: has {there}; they stay there until needed")
    for key in sorted(here & set(found.hits)):
        ours, theirs = local.get(key), found.hits[key].cached.layer
        if ours is not None and ours != theirs:
            say(
                f"cache {found.hits[key].source.name}: ALARM: {recipes[key].label} is {theirs.descriptor.digest} there "
                f"and {ours.descriptor.digest} here, from the same inputs; `buildctl cache verify` says which is right"
            )
    lacking = sorted(recipes[key].label for key in missing - set(found.hits))
    if cache.required and lacking:
        raise MissError(f"not in the cache: {', '.join(lacking)}", hint="leave out --require-cache to make them")
