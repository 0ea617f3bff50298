"""`buildctl cache prune`: which tags of a cache repository nobody needs, and removing what they name.

Kept are the sets that a trusted build used in the last months (a tag says so: `m202611-...`), the sets and entries of
the current locks, and whatever holds a layer of an image that a tag of `used_by` leads to. A set holds its blobs: an
entry that goes too early costs a look-up, never an image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from buildctl.artifacts.store import RECIPE_VERSION
from buildctl.build.planner import Planned
from buildctl.console.table import size
from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Manifest
from buildctl.oci.layout import INDEX_TYPES
from buildctl.registry.cache.entry import ARTIFACT_TYPE, CacheKind, CacheName
from buildctl.registry.client import Fetched, Repository
from buildctl.registry.members import members
from buildctl.registry.problems import AbsentError, RefusedError

WORKERS = 8
_OURS = re.compile(r"(?:[ks][0-9]+|m[0-9]{6})-[0-9a-f]{64}")
_MARK = re.compile(r"m([0-9]{4})([0-9]{2})-([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What one tag of ours names."""

    tag: str
    digest: Digest
    layers: frozenset[Digest]
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """`unused` are to go, `kept` stay. `removed` counts manifests; `refused` is why the registry removes none."""

    cache: str
    kept: int
    unused: tuple[Stored, ...]
    removed: int = 0
    refused: str = ""

    def to_json(self) -> dict[str, Any]:
        unused = [{"tag": s.tag, "digest": str(s.digest), "size": s.size} for s in self.unused]
        return {
            "cache": self.cache,
            "kept": self.kept,
            "unused": unused,
            "removed": self.removed,
            "refused": self.refused or None,
        }

    def text(self) -> str:
        lines = [f"{s.tag}  {size(s.size)}" for s in self.unused]
        lines.append(f"{self.cache}: {self.kept} tags are in use, {len(self.unused)} are not")
        if self.refused:
            lines.append(
                f"the registry removes nothing ({self.refused}): give it a rule for these tags, or remove them"
            )
        elif self.removed:
            lines.append(f"{self.removed} manifests removed; the registry's garbage collection frees the space")
        elif self.unused:
            lines.append("nothing was removed: --delete does it")
        return "\n".join(lines)


def prune(
    cache: Repository,
    planned: Sequence[Planned],
    used_by: Sequence[Repository],
    *,
    months: int,
    today: datetime,
    delete: bool,
) -> Pruning:
    """Raises RegistryError when the cache or a repository of `used_by` cannot be read: then nothing is removed."""
    tags = [tag for tag in cache.tags() if _OURS.fullmatch(tag)]
    with ThreadPoolExecutor(WORKERS) as pool:
        stored = [one for one in pool.map(lambda tag: _stored(cache, tag), tags) if one is not None]
        used = {digest for repository in used_by for digest in _layers_used(repository)}
    keep = _kept(stored, planned, used, months=months, today=today)
    unused = tuple(one for one in stored if one.digest not in keep)
    found = Pruning(cache=cache.reference.name, kept=len(stored) - len(unused), unused=unused)
    return _removed(cache, found) if delete and unused else found


def _kept(
    stored: Iterable[Stored], planned: Sequence[Planned], used: set[Digest], *, months: int, today: datetime
) -> set[Digest]:
    """The manifests that stay, by digest: a mark and its set are one manifest."""
    stored = list(stored)
    current = {_name(CacheKind.SET, p.keys) for p in planned} | {
        _name(CacheKind.ENTRY, (r.key,)) for p in planned for r in p.recipes
    }
    first = today.year * 12 + today.month - months
    keep = {one for one in stored if one.tag in current or _marked_since(one.tag, first) or one.layers & used}
    held = {digest for one in keep if not one.tag.startswith("k") for digest in one.layers}
    # the entries of every set that stays: an image that shares only some of its layers asks for them
    keep |= {one for one in stored if one.tag.startswith("k") and one.layers <= held}
    return {one.digest for one in keep}


def _name(kind: CacheKind, keys: tuple[str, ...]) -> str:
    return CacheName(kind=kind, version=RECIPE_VERSION, keys=keys).tag


def _marked_since(tag: str, first: int) -> bool:
    """`first` in months since the year 0."""
    found = _MARK.fullmatch(tag)
    return found is not None and int(found[1]) * 12 + int(found[2]) > first


def _stored(cache: Repository, tag: str) -> Stored | None:
    """None for what vanished meanwhile, and for what is no artifact of a cache: a repository may hold images, too."""
    found = cache.find(tag)
    if found is None or found.json().get("artifactType") != ARTIFACT_TYPE:
        return None
    try:
        layers = Manifest.from_json(found.json()).layers
    except LayoutError:  # no buildctl wrote it, so none removes it
        return None
    digests = frozenset(layer.digest for layer in layers[::3])  # each with its two documents
    return Stored(tag=tag, digest=found.descriptor.digest, layers=digests, size=sum(layer.size for layer in layers))


def _layers_used(repository: Repository) -> set[Digest]:
    """The layers of all images that tags of the repository lead to."""
    found: set[Digest] = set()
    for tag in repository.tags():
        top = repository.find(tag)
        if top is not None and not tag.startswith("sha256-"):  # signatures and reports, where there is no referrers API
            found |= _layers_of(repository, top)
    return found


def _layers_of(repository: Repository, top: Fetched) -> set[Digest]:
    try:
        if top.descriptor.media_type in INDEX_TYPES:
            return {layer.digest for member in members(repository, top) for layer in member.manifest.layers}
        return {layer.digest for layer in Manifest.from_json(top.json()).layers}
    except LayoutError:  # something else under a tag
        return set()


def _removed(cache: Repository, found: Pruning) -> Pruning:
    removed = 0
    for digest in dict.fromkeys(one.digest for one in found.unused):
        try:
            cache.delete_manifest(digest)
        except AbsentError as error:
            if not removed:  # ECR answers so to every deletion
                return Pruning(cache=found.cache, kept=found.kept, unused=found.unused, refused=error.message)
        except RefusedError as error:
            return Pruning(
                cache=found.cache, kept=found.kept, unused=found.unused, removed=removed, refused=error.message
            )
        removed += 1
    return Pruning(cache=found.cache, kept=found.kept, unused=found.unused, removed=removed)
