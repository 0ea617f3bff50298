"""What an index of a registry leads to: every image, including those in nested indexes, with its real platform."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from buildctl.ground.errors import LayoutError
from buildctl.oci.digest import Digest
from buildctl.oci.image import Descriptor, ImageConfig, Index, Manifest, Platform
from buildctl.oci.layout import CONFIG_TYPES, INDEX_TYPES, MANIFEST_TYPES, parse_object
from buildctl.registry.client import Fetched, Repository

_DEEPEST = 8
_MOST = 1000  # manifests; more than anyone publishes under one name


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """A manifest that an index names, or the one that the reference names itself. `said` is the platform that the
    index gives it, verbatim; None if it gives none.
    """

    descriptor: Descriptor
    said: Platform | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexMember:
    """An entry that was looked at; `descriptor` has the platform of the image's own configuration."""

    descriptor: Descriptor
    said: Platform | None
    fetched: Fetched
    manifest: Manifest
    config: ImageConfig

    @property
    def platform(self) -> Platform:
        return self.config.platform

    @property
    def attestation(self) -> bool:
        """What buildx puts next to an image: both the index and the manifest say it has no platform."""
        return is_unknown(self.platform) and (self.said is None or is_unknown(self.said))

    @property
    def misplaced(self) -> str:
        """How the index and the configuration differ; empty if they agree."""
        if self.said is None or same_platform(self.said, self.platform):
            return ""
        return f"the index says {self.said}, the configuration says {self.platform}"


def entries(repository: Repository, top: Fetched) -> tuple[IndexEntry, ...]:
    """Every manifest below `top`, in order, each (digest and platform) once. Entries of other media types are left out,
    as clients do. Raises LayoutError, RegistryError.
    """
    if top.descriptor.media_type in MANIFEST_TYPES:
        return (IndexEntry(descriptor=top.descriptor),)
    if top.descriptor.media_type not in INDEX_TYPES:
        raise LayoutError(f"{repository.reference}: {top.descriptor.media_type or 'this'} is not an image")
    return tuple(_walk(repository, top, None, set(), 1))


def _walk(
    repository: Repository, index: Fetched, above: Platform | None, seen: set[tuple[Digest, str]], depth: int
) -> Iterator[IndexEntry]:
    for descriptor in Index.from_json(index.json()).manifests:
        said = descriptor.platform or above
        if descriptor.media_type not in INDEX_TYPES | MANIFEST_TYPES or (descriptor.digest, str(said)) in seen:
            continue
        seen.add((descriptor.digest, str(said)))
        if len(seen) > _MOST:
            raise LayoutError(f"{repository.reference} leads to more than {_MOST} manifests")
        if descriptor.media_type in MANIFEST_TYPES:
            yield IndexEntry(descriptor=descriptor, said=said)
        elif depth == _DEEPEST:
            raise LayoutError(f"{repository.reference}: indexes are nested more than {_DEEPEST} deep")
        else:
            yield from _walk(repository, repository.manifest(str(descriptor.digest)), said, seen, depth + 1)


class NotAnImageError(LayoutError):
    """A manifest without a platform and an image configuration: a bill of materials, say, or a chart."""


def look(repository: Repository, entry: IndexEntry) -> IndexMember:
    """Read the manifest and the configuration. Raises NotAnImageError, LayoutError, RegistryError."""
    found = repository.manifest(str(entry.descriptor.digest))
    manifest = Manifest.from_json(found.json())
    if manifest.config.media_type not in CONFIG_TYPES and (entry.said is None or is_unknown(entry.said)):
        raise NotAnImageError(f"{entry.descriptor.digest} is an artifact ({manifest.config.media_type}), not an image")
    data = repository.blob(manifest.config)
    config = ImageConfig.from_json(parse_object(data, f"configuration of {entry.descriptor.digest}"))
    descriptor = replace(found.descriptor, platform=config.platform)
    return IndexMember(descriptor=descriptor, said=entry.said, fetched=found, manifest=manifest, config=config)


def members(repository: Repository, top: Fetched) -> tuple[IndexMember, ...]:
    """Every image below `top`, without attestations. Raises RegistryError, LayoutError also for an image that is not
    for the platform an index gives.
    """
    found = images(repository, top)
    for member in found:
        if member.misplaced:
            raise LayoutError(f"{repository.reference}: {member.descriptor.digest}: {member.misplaced}")
    return found


def images(repository: Repository, top: Fetched) -> tuple[IndexMember, ...]:
    """As `members`, whatever platforms the index gives them."""
    found = []
    for entry in entries(repository, top):
        if entry.said is None or not is_unknown(entry.said):
            with suppress(NotAnImageError):
                found.append(look(repository, entry))
    return tuple(member for member in found if not member.attestation)


def is_unknown(platform: Platform) -> bool:
    return platform.architecture == "unknown"


def same_platform(one: Platform, other: Platform) -> bool:
    """A variant counts if both give one; arm64 has only v8 so far, which most omit."""
    if (one.os, one.architecture) != (other.os, other.architecture):
        return False
    variants = {one.variant, other.variant} - {"", "v8" if one.architecture == "arm64" else ""}
    return len(variants) < 2
