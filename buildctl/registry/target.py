"""What a user may give instead of a matrix name: an OCI layout by path, or a registry reference.

Reads only manifests and configurations, no layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildctl.ground.errors import LayoutError
from buildctl.oci.image import REF_NAME, Descriptor, ImageConfig, Index, Manifest, Platform
from buildctl.oci.layout import CONFIG_TYPES, INDEX_TYPES, MANIFEST_TYPES, Layout

# `buildctl check NAME` must be fast: the registry client is loaded for references only
if TYPE_CHECKING:
    from buildctl.registry.client import Repository

BASE = "org.opencontainers.image.base.name"
TITLE = "org.opencontainers.image.title"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image on one platform. `name` is what the user gave, or a name in a layout."""

    name: str
    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig
    title: str = ""

    @property
    def arch(self) -> str:
        return self.config.platform.architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a text leads to. `indexes` are the annotations of image indexes, by name. Exactly one of `layout` and
    `repository` is set.
    """

    text: str
    images: tuple[Image, ...]
    indexes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    layout: Layout | None = None
    repository: Repository | None = None

    def of(self, arch: str | None) -> tuple[Image, ...]:
        """Its images, for all architectures or one. Raises LayoutError if there are none."""
        found = {i.descriptor.digest: i for i in self.images if arch in {None, i.arch}}
        if not found:
            raise LayoutError(f"{self.text} has no image{f' for {arch}' if arch else ''}")
        return tuple(found.values())


def find_target(text: str) -> Target | None:
    """None for what can only be a matrix name. Raises LayoutError or RegistryError if it does not exist."""
    if found := as_layout(text):
        layout, name = found
        return in_layout(layout, name, text=text)
    if "/" not in text:
        return None
    from buildctl.registry.client import open_repository  # noqa: PLC0415 - see TYPE_CHECKING
    from buildctl.registry.reference import Reference  # noqa: PLC0415

    return in_registry(open_repository(Reference.parse(text)), text)


def points_elsewhere(text: str) -> bool:
    """Whether it cannot be a matrix name; asks no registry. Raises LayoutError."""
    return as_layout(text) is not None or "/" in text


def as_layout(text: str) -> tuple[Layout, str] | None:
    """PATH or PATH:NAME of an OCI layout. Raises LayoutError for what could only be one but is not."""
    path, _, name = text.removeprefix("oci:").rpartition(":")
    for folder, wanted in ((text.removeprefix("oci:"), ""), (path, name)):
        if folder and (Path(folder) / "index.json").is_file():
            return Layout(Path(folder)), wanted
    if text.startswith(("oci:", "/", "./", "../")):
        raise LayoutError(f"{text} is not an OCI layout: it has no index.json", hint="PATH or PATH:NAME")
    return None


def in_layout(layout: Layout, name: str = "", *, text: str = "") -> Target:
    """What `name` leads to, or everything; unnamed images, as crane and skopeo write them, get the folder's name."""
    images: list[Image] = []
    indexes: dict[str, Mapping[str, str]] = {}
    for one, found in [(name, layout.resolve(name))] if name else _named(layout):
        title = ""
        if found.media_type in INDEX_TYPES:
            indexes[one] = layout.index(found).annotations
            title = indexes[one].get(TITLE, "")
        for descriptor in _manifests(layout, found):
            manifest, config = layout.manifest(descriptor), layout.config(descriptor)
            images.append(Image(name=one, descriptor=descriptor, manifest=manifest, config=config, title=title))
    there = tuple(images) if name else _without_parts(images)
    return Target(text=text or name or str(layout.root), images=there, indexes=indexes, layout=layout)


def _named(layout: Layout) -> list[tuple[str, Descriptor]]:
    """The entries of index.json, each digest once per name."""
    folder = layout.root.resolve().name
    found = {(m.annotations.get(REF_NAME) or folder, m.digest): m for m in layout.entries()}
    return [(name, found[name, digest]) for name, digest in sorted(found)]


def _without_parts(images: Sequence[Image]) -> tuple[Image, ...]:
    """Images to run: not the bases of other images here, nor the uv image used by Docker builds."""
    bases = {base for image in images if (base := image.config.labels.get(BASE))}
    parts = tuple(f"{base}-" for base in bases)
    return tuple(i for i in images if i.name not in {*bases, "uv"} and not i.name.startswith((*parts, "uv-")))


def _manifests(layout: Layout, descriptor: Descriptor) -> Iterator[Descriptor]:
    """The images below an index, without attestations (which have no platform) and artifacts."""
    if descriptor.media_type in INDEX_TYPES:
        for child in layout.index(descriptor).manifests:
            if not _attestation(child.platform):
                yield from _manifests(layout, child)
    elif descriptor.media_type in MANIFEST_TYPES and layout.manifest(descriptor).config.media_type in CONFIG_TYPES:
        yield descriptor


def in_registry(repository: Repository, text: str = "") -> Target:
    """What the repository's reference leads to, with the platforms of the images' own configurations.

    Raises RegistryError, and LayoutError also if an index gives another platform.
    """
    from buildctl.registry.members import members  # noqa: PLC0415 - see TYPE_CHECKING

    name = text or str(repository.reference)
    top = repository.manifest(repository.reference.wanted)
    found = members(repository, top)
    said = Index.from_json(top.json()).annotations if top.descriptor.media_type in INDEX_TYPES else {}
    images = (
        Image(
            name=name,
            descriptor=replace(m.descriptor, platform=None),
            manifest=m.manifest,
            config=m.config,
            title=said.get(TITLE, ""),
        )
        for m in found
    )
    indexes = {f"{name} {top.descriptor.digest}": said} if top.descriptor.media_type in INDEX_TYPES else {}
    return Target(text=name, images=tuple(images), indexes=indexes, repository=repository)


def _attestation(platform: Platform | None) -> bool:
    return platform is not None and platform.architecture == "unknown"
