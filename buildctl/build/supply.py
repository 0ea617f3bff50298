"""Material of layers as it arrives: which layers can be made now, and which images can be checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildctl.build.assemble import Recipe
from buildctl.build.cache.session import CacheSession
from buildctl.build.material import fetch_debs_of, locate_materials
from buildctl.build.planner import Planned
from buildctl.build.recipes import artifacts_of, material_size
from buildctl.console.progress import Progress
from buildctl.matrix.project import Project
from buildctl.oci.digest import Digest

if TYPE_CHECKING:
    from buildctl.artifacts.download import Downloads

# A layer that is this much work for its size (pure Python, whose bytecode takes long) is downloaded first.
_WORTH = 2


@dataclass(slots=True, kw_only=True)
class Supply:
    """Answers what the loop that makes layers asks. `unchecked` are images whose wheels `check` has to compare, each as
    soon as its last wheel has arrived.
    """

    session: CacheSession
    downloads: Downloads
    coming: frozenset[Digest]
    unchecked: list[Planned]
    check: Callable[[Planned], None]

    def ready(self, recipe: Recipe) -> bool:
        """Whether everything that the layer is made from has arrived. Hashes it if the layer will be signed."""
        if self._waits([recipe]):
            return False
        self.session.hash_inputs([recipe])
        return True

    def look(self) -> None:
        """Take note of what has arrived. Raises failures of downloads, and what `check` raises."""
        self.coming = self.downloads.still_coming()
        for planned in [p for p in self.unchecked if not self._waits(p.recipe.layers)]:
            self.unchecked.remove(planned)
            self.check(planned)

    def finish(self) -> None:
        """Every layer is there, perhaps made by another process before it was begun here: check the images left."""
        while self.unchecked:
            self.check(self.unchecked.pop())

    def _waits(self, recipes: Iterable[Recipe]) -> bool:
        return bool(self.coming) and any(a.digest in self.coming for r in recipes for a in artifacts_of(r))


@contextmanager
def supplied(
    project: Project,
    session: CacheSession,
    missing: Mapping[str, Recipe],
    unchecked: Sequence[Planned],
    check: Callable[[Planned], None],
    progress: Progress,
) -> Iterator[Supply]:
    """Wheels arrive while the block runs. Everything that can be refused without a download is refused before; then the
    Debian packages are fetched, because one that has vanished changes what is made.
    """
    from buildctl.artifacts.download import Downloads  # noqa: PLC0415 - HTTP: not when every layer is there

    materials = locate_materials(project, session.planned, session.store, missing)
    place: dict[Digest, int] = {}
    for number, recipe in enumerate(in_order(missing.values())):
        for artifact in artifacts_of(recipe):
            place.setdefault(artifact.digest, number)
    wheels = sorted(materials.wheels, key=lambda item: (place[item.digest], -item.size, item.label))
    downloads = Downloads(
        wheels, store=session.store, progress=progress, also=sum(item.size for item in materials.debs)
    )
    fetch_debs_of(materials, session.store, progress)
    with downloads:
        session.prepare()
        coming = downloads.still_coming()
        supply = Supply(session=session, downloads=downloads, coming=coming, unchecked=[*unchecked], check=check)
        yield supply
        supply.finish()


def in_order(recipes: Iterable[Recipe]) -> list[Recipe]:
    """The order of downloads that finishes the last layer earliest: small layers that are much work first, then the
    others by their work, so that what arrives last is made quickly. This is Johnson's rule for two machines in a row
    (S. M. Johnson, 1954), with the download as the first.
    """

    def rank(recipe: Recipe) -> tuple[bool, int, str]:
        size = material_size(recipe)
        quick = recipe.weight >= _WORTH * size
        return not quick, size if quick else -recipe.weight, recipe.key

    return sorted(recipes, key=rank)
