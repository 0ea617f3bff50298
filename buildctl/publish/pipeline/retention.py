"""Which versions of a package nobody can reach any more: old REVISION tags, and what only they lead to.

Kept is what a moving tag names, what is young, and everything that these lead to: the images of an index, what is
attached to them, the lists of what is attached. The rest may go. If something cannot be read, nothing goes at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from buildctl.oci.chunked.twin import OF
from buildctl.oci.digest import Digest
from buildctl.publish.pipeline.handover import UnexpectedError
from buildctl.registry.client import Repository
from buildctl.registry.problems import AbsentError
from buildctl.registry.referrers import fallback_tag

_REVISION = re.compile(r"-[0-9a-f]{12,64}(-lazy)?$")  # a commit, or a digest where no revision was given


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A manifest of the package, as GitHub lists it; `number` is what it is deleted by."""

    number: int
    digest: Digest
    tags: tuple[str, ...]
    updated: datetime

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError, ValueError or LayoutError."""
        return cls(
            number=int(value["id"]),
            digest=Digest.parse(value["name"]),
            tags=tuple(value["metadata"]["container"]["tags"]),
            updated=datetime.fromisoformat(value["updated_at"]),
        )

    @property
    def moving(self) -> bool:
        """Whether people pull it by a name that moves."""
        return any(not _REVISION.search(tag) and not tag.startswith("sha256-") for tag in self.tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """What a manifest leads to: the members of an index, or a twin's image; the subject of what is attached to
    something.
    """

    members: frozenset[Digest] = frozenset()
    subject: Digest | None = None


def superfluous(
    versions: Sequence[Version], links: Callable[[Digest], Links | None], *, now: datetime, days: int
) -> tuple[Version, ...]:
    """What may be deleted, in the order of `versions`. Raises UnexpectedError for a manifest without `links`."""
    leads = {version.digest: links(version.digest) for version in versions}
    if unknown := [str(digest) for digest, found in leads.items() if found is None]:
        raise UnexpectedError(f"{', '.join(unknown[:3])} cannot be read, so nothing is deleted")
    known = {digest: found for digest, found in leads.items() if found is not None}
    young = now - timedelta(days=days)
    kept = {version.digest for version in versions if version.moving or version.updated >= young}
    while more := set(_reached(versions, known, kept)) - kept:
        kept |= more
    return tuple(version for version in versions if version.digest not in kept)


def _reached(versions: Iterable[Version], links: Mapping[Digest, Links], kept: set[Digest]) -> Iterable[Digest]:
    """One step from what is kept."""
    lists = {fallback_tag(digest) for digest in kept}
    for version in versions:
        found = links[version.digest]
        if version.digest in kept:
            yield from found.members
        elif found.subject in kept or lists & set(version.tags):
            yield version.digest


def links_in(repository: Repository, digest: Digest) -> Links | None:
    """What the registry has under that digest; None if nothing that is read. Raises RegistryError."""
    try:
        value = repository.manifest(str(digest)).json()
        members = {Digest.parse(one["digest"]) for one in value.get("manifests") or ()}
        if (image := (value.get("annotations") or {}).get(OF)) is not None:  # what is attached is about the image
            members.add(Digest.parse(image))
        subject = value.get("subject")
        return Links(members=frozenset(members), subject=Digest.parse(subject["digest"]) if subject else None)
    except (AbsentError, KeyError, TypeError, ValueError, AttributeError):
        return None
